"""``bench studies``, ``remove`` and ``export``: list studies, remove one, pack one up."""

import sys
from dataclasses import KW_ONLY, dataclass
from pathlib import Path

from cyclopts import Parameter

from bench.commands.options import Flag, Results
from bench.config import UserError, bench_command
from bench.records import find_study, pack, study_folders


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class StudiesOptions:
    """Whose studies to list."""

    results: Results = Path("results")
    """Folder of all results."""


def studies(options: StudiesOptions = StudiesOptions()) -> int:
    """List the studies there are: what is in each, how it stands, its size and when it ran."""
    from rich.console import Console

    from bench.commands.studies.listing import describe, lay_out

    folders = study_folders(options.results)
    if not folders:
        print(f"no study under '{options.results}'; run one: bench run --help")
        return 0
    # Through a pipe nothing is broken into lines.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDEST)
    console.print(lay_out([describe(folder) for folder in folders]))
    return 0


WIDEST = 10_000


@Parameter(name="*")
@dataclass(frozen=True)
class RemoveOptions:
    """Which studies to remove."""

    study: tuple[str, ...]
    """Names of the studies."""
    _: KW_ONLY
    yes: Flag = False
    """Do not ask."""
    results: Results = Path("results")
    """Folder of all results."""


def remove(options: RemoveOptions) -> int:
    """Remove studies with all their cells; MLflow keeps their runs, marked as deleted."""
    from bench.commands.studies.removal import remove_study
    from bench.records import disk_usage
    from bench.report.table.numbers import size

    folders = [find_study(options.results, name) for name in dict.fromkeys(options.study)]
    told = [f"{folder.name} ({size(disk_usage(folder))})" for folder in folders]
    if not options.yes:
        if not sys.stdin.isatty():
            again = bench_command("remove", *options.study, "--yes", results=options.results)
            raise UserError(f"this would remove {', '.join(told)}; if that is meant: {again}")
        if _asked(f"Remove {', '.join(told)}? [y/N] ") not in {"y", "yes"}:
            print("nothing was removed")
            return 1
    for folder, what in zip(folders, told, strict=True):
        marked = remove_study(folder)
        also = f"; {marked} runs marked as deleted in MLflow" if marked else ""
        print(f"removed {what}{also}")
    if (options.results / "index.html").exists():
        from bench.commands.studies.index import list_studies

        list_studies(options.results)
    return 0


def _asked(question: str) -> str:
    """Ask and return the answer; Ctrl-D gives none."""
    try:
        return input(question).strip().lower()
    except EOFError:
        print()
        return ""


@Parameter(name="*")
@dataclass(frozen=True)
class ExportOptions:
    """Which study to pack up, and where."""

    study: str
    """Name of the study."""
    file: Path
    """FILE.zip to write."""
    _: KW_ONLY
    results: Results = Path("results")
    """Folder of all results."""


def export(options: ExportOptions) -> int:
    """Pack a study's records, settings, tables and plots into a zip; no weights, samples or logs.

    Whoever gets it can compare: `bench compare THEIR.zip STUDY`.
    """
    from bench.report.study_report import StudyReport
    from bench.report.table.formats import write_tables
    from bench.report.table.numbers import size

    folder = find_study(options.results, options.study)
    write_tables(StudyReport.read(folder))
    count = pack(folder, options.file)
    print(f"{options.file}: {count} files, {size(options.file.stat().st_size)}")
    return 0
