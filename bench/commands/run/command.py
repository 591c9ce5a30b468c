"""``bench run``: from what was asked for to a study, its table, plots and runs."""

import signal
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import psutil

from bench import study
from bench.commands.lifecycle import check_writable, finish, heed_signals, report_lost, tracked
from bench.commands.run import RunOptions
from bench.commands.run.request import resolve
from bench.commands.sample import SampleOptions
from bench.commands.sample.curve import draw_curves
from bench.config import UserError, bench_command
from bench.progress.display import Display
from bench.records import CHECKPOINT, RECORD, Status, readable
from bench.records.nfe_curve import sampler_of

SHORT_PATIENCE = 0.5
"""Seconds that a command which was stopped waits for MLflow; see ``Background.close``."""
LAST_TABLE = 8.0
"""Seconds after a request to stop in which tables are still made; the command ends within ten."""


def run(options: RunOptions) -> int:
    """Run a study, then print its table and where everything is; 1 if a cell failed."""
    request = replace(resolve(options), command_started=psutil.Process().create_time())
    check_writable(request.results)
    display = Display()
    heed_signals()
    with tracked(request.results, options.tracking) as (open_tracker, sync):
        try:
            planned = study.execute(request, open_tracker, display)
            lost = draw_curve(request, planned, display) if options.curve else []
        except KeyboardInterrupt:
            if finished_of(request.folder):
                break_off(request.folder, LAST_TABLE - study.stopping.seconds)
            else:
                tell_begun(request.folder)
            if any(request.folder.glob(f"*/{RECORD}")):
                sync(request.folder, SHORT_PATIENCE)
            raise
        finish(request.folder)
        sync(request.folder)
    print_places(request, options.tracking)
    return report_lost([*failures(planned), *lost])


def draw_curve(
    request: study.Request, planned: Sequence[study.Planned], display: Display
) -> list[str]:
    """Sample the command's finished cells again for the curve; return the failures.

    What keeps that from happening must not cost the table.
    """
    cells = [
        cell.folder.name
        for cell in planned
        if is_finished(cell.folder) and sampler_of(cell.config.method_config) is not None
    ]
    if not cells:
        display.say("note: no finished cell has a sampler to exchange; there is no curve to draw")
        return []
    try:
        return draw_curves(request, SampleOptions(cells=tuple(cells)), display)
    except UserError as error:
        return [f"no curve: {error}"]


def break_off(folder: Path, seconds: float) -> None:
    """Write and print the tables of a study that was stopped, if that takes only so long.

    Plots take too long in any case. No other signal is heeded any more.
    """
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        # Again and again, since an exception is lost where it meets a finaliser.
        signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001), 1.0)
        from bench.report.study_report import StudyReport
        from bench.report.table.formats import write_tables
        from bench.report.table.terminal import print_table

        report = StudyReport.read(folder)
        write_tables(report)
        print_table(report)
    except KeyboardInterrupt:
        table = bench_command("table", folder.name, results=folder.parent)
        print(f"tables   left out for want of time: {table}")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    print(f"plots    {bench_command('plot', folder.name, results=folder.parent)}")


def finished_of(folder: Path) -> list[Path]:
    """Return the folders of a study's finished cells."""
    cells = [path.parent for path in folder.glob(f"*/{RECORD}")]
    return [cell for cell in cells if is_finished(cell)]


def tell_begun(folder: Path) -> None:
    """Say what is kept of a study of which no cell has finished, where a table has no rows."""
    begun, kept = (len(list(folder.glob(f"*/{name}"))) for name in (RECORD, CHECKPOINT))
    print(f"study    {folder.name}: {'no cell has finished' if begun else 'no cell was begun'}")
    if begun:
        print(f"kept     checkpoints of {kept} of {begun} cells, in {folder}")


def print_places(request: study.Request, tracking: bool) -> None:
    """Say where the results are and what to do with them."""
    folder = request.folder
    print(f"tables   {folder}/table.md (.csv .tex .json)")
    if (folder / "nfe-curve.md").exists():
        print(f"curve    {folder}/nfe-curve.md (.csv), plots/nfe-curve-*.png")
    print(f"plots    {folder}/plots/")
    print(f"page     {folder}/report.html")
    print(f"cells    {folder}/<method>-seed<k>/")
    if tracking:
        print(f"MLflow   {bench_command('ui', results=request.results)}")


def failures(planned: Sequence[study.Planned]) -> Iterator[str]:
    """Name the cells without a result, and where to look."""
    for cell in planned:
        if cell.broken or not is_finished(cell.folder):
            told = cell.broken or f"see {cell.folder / study.LOG}"
            yield f"{cell.folder.name} did not finish; {told}"


def is_finished(cell: Path) -> bool:
    """Whether the cell of a folder has a result."""
    record = readable(cell)
    return record is not None and record.status == Status.FINISHED
