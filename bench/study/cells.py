"""The cells of a study as work for the runner: laid out, run, and their records kept true."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench import records
from bench.config import to_yaml
from bench.executors import End, Job
from bench.progress.display import Display
from bench.records import CONFIG, LOG, RECORD, CellLock, Record, Status, now, save, write_text
from bench.study.plan import Planned, decide, record_bytes
from bench.study.request import Request
from bench.study.runner import Work


class CellWork(Work[Planned]):
    """Runs the cells of a study."""

    def __init__(
        self, request: Request, prepared: Mapping[str, Any], tracker: Any, display: Display
    ) -> None:
        self.request, self.prepared = request, prepared
        self.tracker, self.display = tracker, display

    def is_new(self, cell: Planned) -> bool:
        """Whether a cell was never run, or cannot be."""
        return cell.action == "fail" or (cell.action == "run" and not cell.seen)

    def announce(self, cell: Planned) -> None:
        """Give a new cell its row in the table."""
        if record_bytes(cell.folder) == cell.seen:
            self.write(cell)

    def renew(self, cell: Planned, *, elsewhere: bool) -> None:
        """Decide anew what is to be done with a cell, which another command may have touched."""
        if record_bytes(cell.folder) != cell.seen or elsewhere:
            # What has just failed elsewhere is not tried again here.
            cell.action, cell.why = decide(cell, frozenset())

    def lay_out(self, cell: Planned) -> Job:
        """Write what a cell's process needs; return its job."""
        self.write(cell)
        return self.request.job("bench.worker", cell.folder, log=LOG, limits=self.request.limits)

    def write(self, cell: Planned) -> None:
        """Write a cell's configuration and pending record; an older result is set aside."""
        if cell.action == "fail":
            record = self.pending(cell)
            record.status, record.reason, record.ended = Status.FAILED, cell.broken, now()
            save(record, cell.folder)
            write_text(cell.folder / LOG, f"{cell.broken}\n")
            self.display.say(f"{cell.folder.name}: {record.status}: {record.reason}")
            self.sync(cell)
        if cell.action == "run":
            if (cell.folder / RECORD).exists() and cell.why != "to do":
                # A stale or failed cell's folder gets out of the way; nothing is deleted.
                replace(cell.folder)
            write_text(cell.folder / CONFIG, to_yaml(cell.config))
            save(self.pending(cell), cell.folder)
            cell.why, cell.seen = "to do", record_bytes(cell.folder)

    def pending(self, cell: Planned) -> Record:
        """The record of a cell before anything is done."""
        return Record(
            study=self.request.name, cell=cell.folder.name, method=cell.config.method,
            seed=cell.config.seed, dataset=self.request.settings.dataset,
            data_variant=self.prepared["data_variant"], preset=self.request.settings.preset,
            key=cell.key, identity=dict(cell.identity),
        )  # fmt: skip

    def stage(self, cell: Planned) -> tuple[str, int] | None:
        """What identifies a cell's first stage, if others may have it too."""
        key = self.prepared["stages"].get(cell.config.method)
        return None if key is None else (key, cell.config.seed)

    def sync(self, cell: Planned) -> None:
        """Have a cell's folder shown in MLflow; nothing waits for that."""
        self.tracker.sync_cell(cell.folder)

    def close(self, cell: Planned, end: End) -> None:
        """Make the record say how the cell ended, or that we ended it, and show it."""
        with contextlib.closing(CellLock(cell.folder)) as lock:
            record = settle(cell, end, self.pending(cell), is_ours=lock.acquire())
        self.display.end(cell.folder.name, record)
        self.sync(cell)


def replace(path: Path) -> None:
    """Move a study's folder or file to ``replaced/``, under a name with the present moment."""
    moment = now().replace(":", "").replace("+0000", "Z")
    place = path.parent / "replaced" / f"{path.stem}-{moment}{path.suffix}"
    place.parent.mkdir(exist_ok=True)
    path.rename(place)


def settle(cell: Planned, end: End, blank: Record, *, is_ours: bool) -> Record:
    """Correct the record of a cell whose process could not do it itself, or that we ended.

    One that is gone, cannot be read or is not of this cell is set aside, and ``blank`` filled in.
    Where the cell is not ours any more, another command has gone on with it; nothing is written.
    """
    if not is_ours:
        blank.status, blank.reason = end.status, end.reason
        return blank
    record = records.readable(cell.folder)
    before = record and record.model_copy(deep=True)
    own = record and (record.cell, record.key) == (cell.folder.name, cell.key)
    lost = "" if own else "; its record could not be read"
    if record is None or lost:
        if (cell.folder / RECORD).exists():
            replace(cell.folder / RECORD)
        record = blank
    is_open = record.status in {Status.RUNNING, Status.PENDING}
    if is_open:
        record.ended = now()
    if is_open or (end.was_asked and record.status not in {Status.FINISHED, end.status}):
        record.status, record.reason = end.status, f"{end.reason}{lost}"
    records.note_end(record, end.pid, end.seconds)
    if record != before:
        save(record, cell.folder)
    return record
