"""Finding studies under a folder of results."""

from __future__ import annotations

from pathlib import Path

from bench.config.errors import UserError, unknown
from bench.records.study_file import STUDY, is_study


def studies(results: Path) -> list[Path]:
    """Return the studies under a results folder, the latest last."""
    found = [path.parent for path in results.glob(f"*/{STUDY}")]
    if not found:
        raise UserError(f"no study under '{results}'; run one first: bench run --help")
    return sorted(found, key=lambda folder: (folder / STUDY).stat().st_mtime)


def find_study(results: Path, name: str | None) -> Path:
    """Return the folder of a study by name, or of the latest; UserError if there is none."""
    found = studies(results)
    if name is None:
        return found[-1]
    for folder in found:
        if folder.name == name:
            return folder
    raise unknown("study", name, [folder.name for folder in found])


def study_at(results: Path, given: str) -> Path:
    """Return a study's folder, given as such or by name; UserError if there is none."""
    folder = Path(given)
    return folder if is_study(folder) else find_study(results, given)
