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
    from bench.commands.report.pages import write_pages

    names = dict.fromkeys(options.study)
    folders = [find_study(options.results, name) for name in names or [None]]
    for path in write_pages(folders):
        print(path)
    return 0
