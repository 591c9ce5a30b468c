"""Timing a study's finished cells together, in turn: what is timed, and the process that does it.

One process holds the final weights of all cells (:mod:`bench.commands.time.worker`). If it is
ended by a cell, it is started again without that cell. What was there before is kept under
``replaced/``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench import study
from bench.commands.sample.sweep import refusal
from bench.commands.time.options import TimeOptions
from bench.config.errors import UserError, unknown
from bench.executors import DONE, INTERRUPTED, End, Job, LocalExecutor, follow
from bench.progress.display import Display
from bench.records import interleaved
from bench.records.interleaved import Timing
from bench.records.locks import hold, only_command
from bench.records.record import Record, Status
from bench.records.study_file import read_study
from bench.report.frame import read_records

NAME = "timing"
"""What the process is called where its progress is shown."""


def choose(
    folder: Path, names: Sequence[str] | None, data_sha256: str
) -> tuple[list[Path], dict[str, str]]:
    """Return the cells to time, and why others that are finished cannot be.

    Raises:
        UserError: a cell that was named is unknown or cannot be timed, or none can.
    """
    cells = {path.name: (path, record) for path, record in read_records(folder)[0]}
    for name in names or ():
        if name not in cells:
            raise unknown(f"cell of study '{folder.name}'", name, cells)
        reason = refusal(*cells[name], data_sha256)
        if reason is not None:
            raise UserError(f"{name}: {reason}")
    chosen = names or [name for name, (_, record) in cells.items() if is_finished(record)]
    reasons = {name: refusal(*cells[name], data_sha256) for name in chosen}
    refused = {name: reason for name, reason in reasons.items() if reason is not None}
    if not chosen:
        raise UserError(f"study '{folder.name}' has no finished cell to time; see: bench table")
    if len(refused) == len(chosen):
        raise UserError("; ".join(f"{name}: {reason}" for name, reason in refused.items()))
    return [cells[name][0] for name in chosen if name not in refused], refused


def is_finished(record: Record) -> bool:
    """Whether a cell has a result."""
    return record.status == Status.FINISHED


def execute(folder: Path, options: TimeOptions, display: Display) -> Timing:
    """Time the cells together and keep what was found; cells without times are in ``failed``.

    Raises:
        UserError: nothing can be timed, a cell that was named cannot, or all of them failed.
    """
    request = study.request_of(folder, jobs=1, timeout=None)
    data_sha256 = read_study(folder).prepared.data_sha256
    with only_command(folder):
        cells, refused = choose(folder, options.cells, data_sha256)
        batch = options.batch or request.settings.sampling.batch
        names = ", ".join(cell.name for cell in cells)
        display.say(f"plan: {options.rounds} rounds of {names}, there and back, batch {batch}")
        body = {
            "study": folder.name,
            "data_sha256": data_sha256,
            "device": request.settings.device,
            "rounds": options.rounds,
            "batch": batch,
        }
        with hold(cells), display:
            timing = without_the_fallen(request, body, cells, display)
        timing.failed = refused | timing.failed
        if not timing.cells:
            told = "; ".join(f"{name}: {reason}" for name, reason in timing.failed.items())
            raise UserError(f"no cell could be timed: {told}; see {folder / interleaved.LOG}")
        if (folder / interleaved.FILE).exists():
            study.replace(folder / interleaved.FILE)
        interleaved.save(timing, folder)
    return timing


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
        end = show(job, display)
        if end.code == INTERRUPTED:
            raise KeyboardInterrupt
        found = Timing.model_validate_json(job.answer.read_bytes()) if end.code == DONE else None
        at = job.folder / interleaved.AT
        return found, at.read_text() if at.exists() else "", end


def show(job: Job, display: Display) -> End:
    """Start the process, show how it goes on, and return its end."""
    display.start(NAME, "")
    try:
        return follow(LocalExecutor().start(job), lambda told: display.update(NAME, told))
    finally:
        display.close(NAME, "ended")
