"""The options of ``bench new``."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from pathlib import Path

from cyclopts import Parameter


@Parameter(name="*")
@dataclass(frozen=True)
class NewOptions:
    """What to call a new method, and where to write it."""

    name: str
    """Name of the method, and of its module."""
    _: KW_ONLY
    into: Path = Path()
    """Folder to write the method's own folder into."""
