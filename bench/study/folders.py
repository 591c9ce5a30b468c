"""What is done with the files of a study as a whole."""

from __future__ import annotations

from pathlib import Path

from bench.records.orphans import readable
from bench.records.record import RECORD, RESERVE, Status, now


def replace(path: Path) -> None:
    """Move a study's folder or file to ``replaced/``, under a name with the present moment."""
    moment = now().replace(":", "").replace("+0000", "Z")
    place = path.parent / "replaced" / f"{path.stem}-{moment}{path.suffix}"
    place.parent.mkdir(exist_ok=True)
    path.rename(place)


def drop_reserve(folder: Path) -> None:
    """Give back the room that was kept for records, unless another command has cells running."""
    rows = [readable(path.parent) for path in folder.glob(f"*-seed*/{RECORD}")]
    if not any(row is not None and row.status == Status.RUNNING for row in rows):
        (folder / RESERVE).unlink(missing_ok=True)
