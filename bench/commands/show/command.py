"""``bench table``, ``plot``, ``sync`` and ``ui``: show what lies on disk."""

from __future__ import annotations

import sys

from bench.commands.show.options import PlotOptions, SyncOptions, TableOptions, UiOptions
from bench.records.study_file import find_study, studies


def table(options: TableOptions) -> int:
    """Print a study's table in one format, and write it in all; and that of the curve."""
    from bench.report.nfe import write_nfe_tables
    from bench.report.study_report import StudyReport
    from bench.report.table import render_table, write_tables

    report = StudyReport.read(options.folder)
    print(render_table(report, options.format))
    write_tables(report)
    write_nfe_tables(report)
    return 0


def plot(options: PlotOptions) -> int:
    """Draw a study's plots and name the files."""
    from bench.report.plots import write_plots
    from bench.report.plots.nfe import write_nfe_plots
    from bench.report.study_report import StudyReport

    report = StudyReport.read(options.folder)
    for path in [*write_plots(report, say=complain), *write_nfe_plots(report)]:
        print(path)
    return 0


def complain(line: str) -> None:
    """Say what could not be drawn."""
    print(line, file=sys.stderr)


def sync(options: SyncOptions) -> int:
    """Bring MLflow up to date with the studies; 1 if it could not be."""
    from bench.records.orphans import settle_study
    from bench.tracking import Tracker

    one = options.study
    folders = [find_study(options.results, one)] if one else studies(options.results)
    tracker = Tracker.open(options.results)
    for folder in folders:
        settle_study(folder)
        tracker.sync_study(folder)
        if tracker.trouble:
            print(f"bench: {folder.name}: {tracker.trouble}", file=sys.stderr)
            return 1
        print(f"synced {folder.name}")
    return 0


def ui(options: UiOptions) -> int:
    """Serve MLflow's pages on the results until stopped, and print the link to the charts."""
    from bench.tracking.ui import ui as serve

    serve(options.results, port=options.port)
    return 0
