"""The list of all studies as a page."""

from pathlib import Path

from bench.commands.studies.listing import HEAD, describe
from bench.records import study_folders
from bench.report.page.write import write_index


def list_studies(results: Path) -> Path:
    """Write ``index.html``, the list of all studies of a results folder; return its path."""
    return write_index(results, [describe(folder) for folder in study_folders(results)], HEAD)
