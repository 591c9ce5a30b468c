"""The Python interface: run studies, read them, draw from what they trained, measure images.

What is wrong with a value raises ``bench.config.errors.UserError``, as one line; nothing exits.

    study = bench.run(methods=["sde", "cdm"], dataset="digits", seeds=[0, 1, 2])
    study = bench.open_study("results/digits-quick")
    study.frame()                                   # a row per cell, as a pandas DataFrame
    study.plot("fd_digits_500", x="train_flops")
    study.cell("sde", 0).samples(16)                # uint8 (16, 1, 8, 8)
"""

from bench.api.images import evaluate
from bench.api.studies import FailedCellsError, Study, StudyCell, open_study, run
