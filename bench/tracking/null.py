"""Nothing is tracked: where that was wanted, and where MLflow is in trouble."""

import sys
from collections.abc import Callable
from pathlib import Path

PATIENCE = 20.0
"""Seconds that a command waits at its end for a store that logs nothing meanwhile."""
Warn = Callable[[str], object]


def to_stderr(line: str) -> None:
    """Print a line beside the command's output."""
    print(line, file=sys.stderr)


class NullTracker:
    """Tracks nothing, with the interface of ``Tracker``: for ``--no-tracking`` and for trouble."""

    seconds = moved = 0.0

    def __init__(self, trouble: str | None = None) -> None:
        """Keep why nothing is tracked, or ``None`` where the user wanted it so."""
        self.trouble = trouble

    @property
    def is_lost(self) -> bool:
        """Whether it stands for a store that could not be opened."""
        return self.trouble is not None

    def sync_cell(self, folder: Path, study: Path | str | None = None) -> bool:
        """Do nothing; whether that was wanted."""
        return self.trouble is None

    def sync_study(self, study: Path) -> bool:
        """Do nothing; whether that was wanted."""
        return self.trouble is None

    def close(self, patience: float = PATIENCE) -> bool:
        """Do nothing; whether that was wanted."""
        return self.trouble is None

    def drop(self) -> None:
        """Do nothing."""


def first_line(error: BaseException) -> str:
    """Name an error and what it says first."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
