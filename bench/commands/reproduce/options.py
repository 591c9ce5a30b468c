"""The options of ``bench reproduce``."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from pathlib import Path

from cyclopts import Parameter

from bench.commands.options import Results, Tracking


@Parameter(name="*")
@dataclass(frozen=True)
class ReproduceOptions:
    """Which cell to make again."""

    record: str
    """A finished cell: STUDY/CELL, its folder, or its record.json."""
    _: KW_ONLY
    data: Path | None = None
    """Where the data set's images are, if not where they were."""
    results: Results = Path("results")
    """Folder of all results."""
    tracking: Tracking = True
    """Log to MLflow."""
