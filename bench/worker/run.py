"""A cell from its start to its end, whatever that is."""

import sys
import traceback
from contextlib import suppress

from bench.executors import DONE, FAILED, INTERRUPTED, Job
from bench.records import Status
from bench.training import DivergedError, InterruptedTrainingError
from bench.worker.cell import Cell
from bench.worker.progress_and_stop import explain, is_for_memory
from bench.worker.results import evaluate, kept_samples, sample
from bench.worker.train import train


def run(cell: Cell) -> None:
    """Build, train, sample and evaluate a cell; its record is complete when this returns."""
    state = cell.open()
    train(cell, state)
    images, labels = kept_samples(cell) or sample(cell)
    evaluate(cell, images, labels)
    cell.close(Status.FINISHED, "")


def run_cell(job: Job) -> int:
    """Run the cell in a job's folder; whatever happens, the record says what it was."""
    cell = Cell(job)
    try:
        run(cell)
    except InterruptedTrainingError as error:
        cell.close(Status.INTERRUPTED, str(error))
        return INTERRUPTED
    except DivergedError as error:
        cell.close(Status.DIVERGED, str(error))
        return FAILED
    except Exception as error:
        cell.close(Status.MEMORY if is_for_memory(error) else Status.FAILED, explain(error))
        with suppress(OSError):  # The log may lie on a full disk, too.
            traceback.print_exc()
            sys.stderr.flush()
        return FAILED
    return DONE
