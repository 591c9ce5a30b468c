"""The process of one cell: build, train, sample, evaluate, record.

``python -m bench.worker JOB.json`` works in the job's folder, where the cell's ``config.yaml`` and
pending ``record.json`` are; exit codes as in :mod:`bench.executors.job`. What a study needs before
any training is made by ``python -m bench.worker.preparation JOB.json``.
"""

# A face, as dense as its ``__all__``.
# isort: off
from bench.worker.build import (
    Built, Trained, data_spec, device_for, load_finished, open_device, read_checkpoint,
)  # fmt: skip
from bench.worker.progress_and_stop import Progress, excused, stoppable
from bench.worker.run import GRID_IMAGES, feed_of, run_cell

__all__ = [
    "GRID_IMAGES", "Built", "Progress", "Trained", "data_spec", "device_for", "excused", "feed_of",
    "load_finished", "open_device", "read_checkpoint", "run_cell", "stoppable",
]  # fmt: skip
