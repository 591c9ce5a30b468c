"""Timing a study's finished cells together, in turn: what is timed, and the process that does it.

One process holds the final weights of all cells (:mod:`bench.commands.time.worker`). If it is
ended by a cell, it is started again without that cell. What was there before is kept under
``replaced/``.
"""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench import study
from bench.commands.finished_cells import choose_cells
from bench.config import UserError, bench_command
from bench.executors import DONE, INTERRUPTED, End, LocalExecutor, follow
from bench.progress.display import Display
from bench.records import hold, interleaved, only_command, read_json, read_study
from bench.records.interleaved import Timing

NAME = "timing"
"""What the process is called where its progress is shown."""


def time_cells(
    folder: Path, names: Sequence[str] | None, rounds: int, batch: int | None, display: Display
) -> Timing:
    """Time cells together and keep what was found; those without times are in ``failed``.

    Without ``names`` all finished ones; without ``batch`` the protocol's. UserError where a cell
    that was named cannot be timed, or none can.
    """
    request = study.request_of(folder, jobs=1, timeout=None)
    data_sha256 = read_study(folder).prepared.data_sha256
    with only_command(folder):
        cells, refused = choose(folder, names, data_sha256)
        batch = batch or request.settings.sampling.batch
        told = ", ".join(cell.name for cell in cells)
        display.say(f"plan: {rounds} rounds of {told}, there and back, batch {batch}")
        body = {"study": folder.name, "data_sha256": data_sha256, "rounds": rounds, "batch": batch}
        body["device"] = request.settings.device
        with hold(cells), display:
            timing = without_the_fallen(request, body, cells, display)
        timing.failed = refused | timing.failed
        if not timing.cells:
            log = folder / interleaved.LOG
            raise UserError(f"no cell could be timed: {_listed(timing.failed)}; see {log}")
        if (folder / interleaved.FILE).exists():
            study.replace(folder / interleaved.FILE)
        interleaved.save(timing, folder)
    return timing


def choose(
    folder: Path, names: Sequence[str] | None, data_sha256: str
) -> tuple[list[Path], dict[str, str]]:
    """Return the cells to time, and why others that are finished cannot be; UserError if none."""
    cells, refused = choose_cells(folder, names, data_sha256)
    if not cells:
        see = bench_command("table", folder.name, results=folder.parent)
        nothing = f"study '{folder.name}' has no finished cell to time; see: {see}"
        raise UserError(_listed(refused) or nothing)
    return [path for path, _ in cells], refused


def _listed(reasons: Mapping[str, str]) -> str:
    return "; ".join(f"{name}: {reason}" for name, reason in reasons.items())


def without_the_fallen(
    request: study.Request, body: dict[str, object], cells: Sequence[Path], display: Display
) -> Timing:
    """Time the cells; where one ends the process for all, start again without it."""
    left, fallen = list(cells), dict[str, str]()
    while True:
        found, at, end = run(request, body | {"cells": [str(cell) for cell in left]}, display)
        if found is not None:
            found.failed = fallen | found.failed
            return found
        fallen[at] = reason = end.reason
        left = [cell for cell in left if cell.name != at]
        if at not in {cell.name for cell in cells} or not left:
            raise UserError(f"timing ended at {at or 'its start'}: {reason}")
        display.say(f"{at}: {reason}; the others are timed without it")


def run(
    request: study.Request, body: dict[str, object], display: Display
) -> tuple[Timing | None, str, End]:
    """Run the process to its end; return what it found, the last cell it came to, and its end."""
    with tempfile.TemporaryDirectory() as scratch:
        log = request.folder / interleaved.LOG
        job = request.job("bench.commands.time.worker", Path(scratch), log=log, request=body)
        display.start(NAME, "")
        try:
            end = follow(LocalExecutor().start(job), lambda told: display.update(NAME, told))
        finally:
            display.close(NAME, "ended")
        if end.code == INTERRUPTED:
            raise KeyboardInterrupt
        found = read_json(job.answer, Timing, "time again") if end.code == DONE else None
        at = job.folder / interleaved.AT
        return found, at.read_text("utf-8", "replace") if at.exists() else "", end
