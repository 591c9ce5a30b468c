"""What commands begin and end with: signals and disk before; tables, plots and MLflow after."""

import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from bench import study
from bench.config import UserError, bench_command
from bench.records import RESERVE
from bench.tracking import Background, NullTracker, Tracker, has_store
from bench.tracking.tracker import PATIENCE

SMALLEST_FREE = 64 * 2**20
"""Bytes that must be free where results go, before anything starts."""


def heed_signals() -> None:
    """Let a scheduler's or a closed terminal's signal end the command as Ctrl-C does."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)


def interrupt(number: int, frame: object) -> None:
    """Interrupt what the command does; the event is for where that is lost, in a finaliser."""
    study.stopping.set()
    if not study.deaf.is_set():
        raise KeyboardInterrupt


def check_writable(results: Path) -> None:
    """UserError if the results folder cannot be made or written, or its disk is full."""
    try:
        results.mkdir(parents=True, exist_ok=True)
        probe = results / f".probe-{os.getpid()}"
        probe.write_text("")
        probe.unlink()
        free = shutil.disk_usage(results).free
    except OSError as error:
        raise UserError(
            f"results folder '{results}' cannot be written ({error.strerror}); "
            "give another one with --results"
        ) from error
    if free < SMALLEST_FREE:
        raise UserError(f"only {free >> 20} MiB are free at '{results}'; give another --results")


@contextmanager
def tracked(
    results: Path, wanted: bool
) -> Iterator[tuple[Callable[[], Background | NullTracker], Callable[..., None]]]:
    """Yield what opens MLflow's tracker and what brings it up to date; dropped after an error."""
    trackers: list[Background | NullTracker] = []

    def open_tracker() -> Background | NullTracker:
        trackers.append(background(results) if wanted else NullTracker())
        return trackers[-1]

    def sync(folder: Path, patience: float = PATIENCE) -> None:
        for tracker in trackers:
            tracker.sync_study(folder)
            tracker.close(patience)

    try:
        yield open_tracker, sync
    except BaseException:
        for tracker in trackers:
            tracker.drop()
        raise


def background(results: Path) -> Background:
    """Open MLflow's tracker of a results folder in a thread of its own."""
    again = bench_command("sync", results=results)
    return Background(partial(Tracker.open, results), again=again)


def finish(folder: Path) -> None:
    """Write and print the tables, draw the plots, and write the page."""
    from bench.commands.studies.index import list_studies
    from bench.report.nfe_table import render_nfe_table, write_nfe_tables
    from bench.report.page.write import write_page
    from bench.report.plots.nfe_curve import write_nfe_plots
    from bench.report.plots.sweep import write_sweep_plots
    from bench.report.plots.write import write_plots
    from bench.report.study_report import StudyReport
    from bench.report.sweep_table import write_sweep_tables
    from bench.report.table.formats import write_tables
    from bench.report.table.terminal import print_table

    report = StudyReport.read(folder)
    try:
        write_tables(report)
    except OSError:
        # On a full disk the tables take the room that was kept for the records.
        (folder / RESERVE).unlink(missing_ok=True)
        write_tables(report)
    print_table(report)
    write_plots(report)
    if write_nfe_tables(report):
        write_nfe_plots(report)
        print(render_nfe_table(report))
    write_sweep_tables(report)
    write_sweep_plots(report)
    write_page(report)
    list_studies(folder.parent)


def show_in_store(folder: Path) -> None:
    """Bring MLflow up to date with a study, where studies are tracked."""
    if has_store(folder.parent):
        tracker = background(folder.parent)
        tracker.sync_study(folder)
        tracker.close()


def report_lost(lost: Sequence[str]) -> int:
    """Print what could not be drawn or timed; return the exit code."""
    for line in lost:
        print(f"bench: {line}", file=sys.stderr)
    return 1 if lost else 0
