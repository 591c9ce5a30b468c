"""Signs of life, and cells whose process ended without saying so: what their records tell."""

import contextlib
import socket
import stat
import time
from pathlib import Path

from pydantic import BaseModel, Field, FiniteFloat, NonNegativeFloat

from bench.records.locks import CellLock
from bench.records.record import RECORD, SIGN, Attempt, Record, Status, readable, save, stamp

SIGN_BYTES = 4096
"""A sign of life that is longer than this is none."""


class Sign(BaseModel, frozen=True):
    """What a process tells of itself in its file; what else there may be in it is not heard."""

    phase: str = Field("", max_length=200)
    stage: str | None = Field(None, max_length=200)
    fraction: FiniteFloat = 0.0
    images: FiniteFloat | None = None
    rate: FiniteFloat | None = None
    loss: float | None = None
    """May be NaN: that is news, too."""
    pid: int | None = None
    seconds: NonNegativeFloat = Field(0.0, allow_inf_nan=False)
    """Since its start."""


def read_sign(path: Path) -> Sign | None:
    """Read a sign of life; ``None`` where there is none or it is of no use."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return None
        with path.open("rb") as file:
            content = file.read(SIGN_BYTES + 1)
        # Before 0.2 the file held the bare number.
        bare = {"seconds": content.decode()} if content[:1].isdigit() else None
        return Sign.model_validate(bare) if bare else Sign.model_validate_json(content)
    except (OSError, ValueError):
        return None


def settle_study(folder: Path) -> None:
    """Mark as interrupted the running cells whose lock is free; the next run goes on with them."""
    for cell in (path.parent for path in folder.glob(f"*-seed*/{RECORD}")):
        lock = CellLock(cell)
        if is_running(cell) and lock.acquire():
            with contextlib.closing(lock):
                record = readable(cell)
                if record is not None and record.status == Status.RUNNING:
                    note_death(record, cell)
                    record.status, record.reason = Status.INTERRUPTED, "its command was ended"
                    save(record, cell)


def is_running(folder: Path) -> bool:
    """Whether a cell's record says that a process works on it."""
    record = readable(folder)
    return record is not None and record.status == Status.RUNNING


def note_death(record: Record, folder: Path) -> None:
    """Give a last attempt that nobody saw the end of the time that its last sign of life tells."""
    if not record.attempts or record.attempts[-1].seconds is not None:
        return
    attempt = record.attempts[-1]
    attempt.seconds, attempt.ended = 0.0, Status.KILLED
    told = read_sign(folder / SIGN)
    # Before 0.2 it told no process.
    if told is not None and told.pid in {None, attempt.pid}:
        attempt.seconds = told.seconds


def note_end(record: Record, pid: int, seconds: float) -> None:
    """Note how long a process worked on a cell that could not tell it itself."""
    if not record.attempts or record.attempts[-1].pid != pid:
        began = stamp(time.time() - seconds)
        record.attempts.append(Attempt(started=began, pid=pid, host=socket.gethostname()))
    attempt = record.attempts[-1]
    if attempt.seconds is None:
        attempt.seconds, attempt.ended = seconds, record.status
