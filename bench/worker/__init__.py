"""The process of one cell: build, train, sample, evaluate, record.

``python -m bench.worker JOB.json`` works in the job's folder, where the cell's ``config.yaml`` and
pending ``record.json`` are; exit codes as in :mod:`bench.executors.codes`. What a study needs
before any training is made by ``python -m bench.worker.preparation JOB.json``.
"""

from bench.worker.build import (
    Built,
    build_cell,
    build_method,
    class_frequencies,
    data_spec,
    device_for,
    load_data,
    open_device,
)
from bench.worker.cell import Cell, read_checkpoint
from bench.worker.examine import Examined, answering, examine
from bench.worker.process import Progress, Stop, explain
from bench.worker.results import GRID_IMAGES
from bench.worker.run import run, run_cell
from bench.worker.train import feed_of
from bench.worker.trained import Trained, load_finished

__all__ = [
    "GRID_IMAGES",
    "Built",
    "Cell",
    "Examined",
    "Progress",
    "Stop",
    "Trained",
    "answering",
    "build_cell",
    "build_method",
    "class_frequencies",
    "data_spec",
    "device_for",
    "examine",
    "explain",
    "feed_of",
    "load_data",
    "load_finished",
    "open_device",
    "read_checkpoint",
    "run",
    "run_cell",
]
