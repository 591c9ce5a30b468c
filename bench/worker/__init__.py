"""The process of one cell: build, train, sample, evaluate, record.

``python -m bench.worker JOB.json`` works in the job's folder, where the cell's ``config.yaml`` and
pending ``record.json`` are; it ends with one of the exit codes of :mod:`bench.executors`.
``python -m bench.worker.preparation JOB.json`` makes what a study needs before any training.
"""

# isort: off
from bench.worker.build import (
    Built, Trained, data_spec, device_for, load_finished, open_device, read_checkpoint,
)  # fmt: skip
from bench.worker.progress_and_stop import Progress, excused, stoppable
from bench.worker.run import GRID_IMAGES, feed_of, run_cell
