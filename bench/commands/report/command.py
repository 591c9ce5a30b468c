"""``bench report``: write a page for each study, and the list of all studies."""

from dataclasses import KW_ONLY, dataclass
from pathlib import Path

from cyclopts import Parameter

from bench.commands.options import Results
from bench.records import find_study


@Parameter(name="*")
@dataclass(frozen=True)
class ReportOptions:
    """Which studies' pages to write."""

    study: tuple[str, ...] = ()
    """Names of studies under the results folder. Default: the latest."""
    _: KW_ONLY
    results: Results = Path("results")
    """Folder of all results."""


def report(options: ReportOptions = ReportOptions()) -> int:
    """Write a study's page, one file that needs no network, and the list of all studies."""
    from bench.commands.studies.index import list_studies
    from bench.report.page.write import write_page
    from bench.report.study_report import StudyReport

    names = dict.fromkeys(options.study)
    for folder in [find_study(options.results, name) for name in names or [None]]:
        print(write_page(StudyReport.read(folder)))
    print(list_studies(options.results))
    return 0
