"""Cells whose process ended without saying so: what their records are to tell."""

import contextlib
import json
import socket
import time
from pathlib import Path

from bench.records.locks import CellLock
from bench.records.record import RECORD, SIGN, Attempt, Record, Status, readable, save, stamp


def settle_study(folder: Path) -> None:
    """Mark as interrupted the running cells whose lock is free; the next run goes on with them."""
    for path in folder.glob(f"*-seed*/{RECORD}"):
        lock = CellLock(path.parent)
        if is_running(path.parent) and lock.acquire():
            with contextlib.closing(lock):
                record = readable(path.parent)
                if record is not None and record.status == Status.RUNNING:
                    note_death(record, path.parent)
                    record.status, record.reason = Status.INTERRUPTED, "its command was ended"
                    save(record, path.parent)


def is_running(folder: Path) -> bool:
    """Whether a cell's record says that a process works on it."""
    record = readable(folder)
    return record is not None and record.status == Status.RUNNING


def note_death(record: Record, folder: Path) -> None:
    """Give a last attempt that nobody saw the end of the time of its last sign of life.

    The sign is a content and no file's time, which a copy of the folder would change.
    """
    if not record.attempts or record.attempts[-1].seconds is not None:
        return
    attempt = record.attempts[-1]
    attempt.seconds, attempt.ended = 0.0, Status.KILLED
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        told = json.loads((folder / SIGN).read_bytes())
        # Before 0.2 the file held the bare number.
        if isinstance(told, float) or told["pid"] == attempt.pid:
            attempt.seconds = float(told if isinstance(told, float) else told["seconds"])


def note_end(record: Record, pid: int, seconds: float) -> None:
    """Note how long a process worked on a cell that could not tell it itself."""
    if not record.attempts or record.attempts[-1].pid != pid:
        began = stamp(time.time() - seconds)
        record.attempts.append(Attempt(started=began, pid=pid, host=socket.gethostname()))
    attempt = record.attempts[-1]
    if attempt.seconds is None:
        attempt.seconds, attempt.ended = seconds, record.status
