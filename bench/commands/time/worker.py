"""Timing finished cells together, in a process of its own.

The final weights of all cells are loaded, each cell is warmed up, and then they take turns. A cell
that fails is left out with its reason; the others go on. Exit codes: 0 done, 75 interrupted.
"""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench.costs.intervals import interval
from bench.costs.machine.fitness import Watch
from bench.executors import DONE, Job, serve
from bench.records import now, write_text
from bench.records.environment import describe
from bench.records.interleaved import AT, TimedCell, Timing, ratios
from bench.sampling.source import Source, timed
from bench.sampling.timing import WarmUp, warm_up, warm_up_facts, warm_up_reasons
from bench.worker import Progress, device_for, excused, load_finished, stoppable

Clock = Callable[[Source, int, int], "tuple[float, tuple[torch.Tensor, Any]]"]


@dataclass
class Taken:
    """One cell's source and the times taken of it."""

    name: str
    key: str
    source: Source
    take_turn: Callable[[], object]
    batch_ms: list[float] = field(default_factory=list)
    single_ms: list[float] = field(default_factory=list)
    warm_ups: dict[str, WarmUp] = field(default_factory=dict)

    def warm_up(self, batch: int) -> None:
        """Draw until the times are stable, at the protocol's batch and at a single image."""
        self.take_turn()
        self.warm_ups = {"batch": warm_up(self.source, batch), "latency": warm_up(self.source, 1)}

    def visit(self, batch: int, clock: Clock = timed) -> None:
        """Time one batch and one single image.

        An untimed image goes before: the caches and the allocator are another method's still.
        """
        self.take_turn()
        index = len(self.batch_ms)
        clock(self.source, 1, index)
        seconds, (images, _) = clock(self.source, batch, index)
        single, _ = clock(self.source, 1, index)
        self.source.on_host(images)
        self.batch_ms.append(1000 * seconds / batch)
        self.single_ms.append(1000 * single)

    def result(self, batch: int) -> TimedCell:
        """Summarise the times."""
        return TimedCell(
            cell=self.name, key=self.key, batch_ms=self.batch_ms, single_ms=self.single_ms,
            ms_per_image=interval(self.batch_ms, batch=batch),
            latency_ms=interval(self.single_ms, batch=1), warm_up=warm_up_facts(self.warm_ups),
            unfit=warm_up_reasons(self.warm_ups),
        )  # fmt: skip


class Turns:
    """Cells that take turns; what fails is left out and named."""

    def __init__(self, note: Callable[[str], object]) -> None:
        self.note = note
        """Called with a cell's name before anything is done with it."""
        self.taken: list[Taken] = []
        self.failed: dict[str, str] = {}

    def attempt(self, name: str) -> AbstractContextManager[None]:
        """Do something with a cell; whatever goes wrong leaves the cell out."""
        self.note(name)
        return excused(partial(self.leave_out, name))

    def leave_out(self, name: str, reason: str) -> None:
        """Go on without a cell."""
        self.failed[name] = reason
        self.taken = [cell for cell in self.taken if cell.name != name]

    def open(self, folder: Path, cache: Path, data_sha256: str) -> None:
        """Load a cell, to take part."""
        with self.attempt(folder.name):
            cell = load_finished(folder, cache, data_sha256)
            source = cell.build().source("timing")
            # What is the process's and not the method's: threads, and arithmetic.
            take_turn = partial(device_for, cell.config)
            self.taken.append(Taken(folder.name, cell.record.key, source, take_turn))

    def warm_up(self, batch: int) -> None:
        """Warm up every cell."""
        for cell in list(self.taken):
            with self.attempt(cell.name):
                cell.warm_up(batch)

    def round(self, batch: int, clock: Clock = timed) -> None:
        """Visit every cell twice, A B C C B A."""
        for cell in [*self.taken, *reversed(self.taken)]:
            if cell.name not in self.failed:
                with self.attempt(cell.name):
                    cell.visit(batch, clock)


def take(job: Job) -> Timing:
    """Time the cells that a job names together."""
    progress, request = Progress(job), job.request
    batch, rounds = int(request["batch"]), int(request["rounds"])
    turns, started = Turns((job.folder / AT).write_text), now()
    folders = [Path(folder) for folder in request["cells"]]
    for index, folder in enumerate(folders):
        progress("loading", fraction=index / len(folders), stage=f"loading {folder.name}")
        turns.open(folder, job.cache, request["data_sha256"])
    device = torch.device(request["device"])
    progress("warming up", fraction=0.0)
    turns.warm_up(batch)
    with Watch(device, work=lambda: keep_busy(turns, batch)) as watch:
        for number in range(rounds):
            progress("timing", fraction=number / rounds)
            turns.round(batch)
    cells = [cell.result(batch) for cell in turns.taken]
    return Timing(
        study=request["study"], started=started, ended=now(), rounds=rounds, batch=batch,
        cells=cells, failed=turns.failed, ratios=ratios(cells),
        environment=describe(device, command=job.command, jobs=job.jobs), machine=watch.facts(),
        unfit=watch.unfit(),
    )  # fmt: skip


def keep_busy(turns: Turns, batch: int) -> None:
    """Give the device something to do while it is asked about its clocks."""
    if turns.taken:
        timed(turns.taken[0].source, batch, 0)
    else:
        time.sleep(0.01)


@stoppable
def retime(job: Job) -> int:
    """Time what a job asks for, into its answer."""
    write_text(job.answer, take(job).model_dump_json())
    return DONE


if __name__ == "__main__":
    serve(retime)
