"""The options of ``bench compare``."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Literal

from cyclopts import Parameter

from bench.commands.options import Results


@Parameter(name="*")
@dataclass(frozen=True)
class CompareOptions:
    """Which two studies to compare."""

    one: str
    """Study to compare with, by name or folder."""
    other: str
    """Study that is compared, by name or folder."""
    _: KW_ONLY
    format: Literal["md", "json", "csv"] = "md"
    """Format to print."""
    results: Results = Path("results")
    """Folder of all results."""
