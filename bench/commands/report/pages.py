"""The pages of studies, and the list of all studies beside them."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.commands.studies.listing import HEAD, describe
from bench.records import study_folders
from bench.report.page.write import write_index, write_page
from bench.report.study_report import StudyReport


def write_pages(studies: Sequence[Path]) -> Iterator[Path]:
    """Write each study's page, and then the list of all in their results folder."""
    for folder in studies:
        yield write_page(StudyReport.read(folder))
    yield list_studies(studies[0].parent)


def list_studies(results: Path) -> Path:
    """Write the list of all studies of a results folder."""
    return write_index(results, [describe(folder) for folder in study_folders(results)], HEAD)
