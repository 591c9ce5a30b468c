"""``bench time``: time finished cells in turn, and write what was found."""

from __future__ import annotations

from bench.commands.shared import check_writable, heed_signals, report_lost, show_in_store
from bench.commands.time import interleave
from bench.commands.time.options import TimeOptions
from bench.progress.display import Display


def time_together(options: TimeOptions) -> int:
    """Time a study's finished cells in turn, print the times; 1 if a cell could not be timed."""
    from bench.commands.time.report import render_timing, write_timing
    from bench.report.plots import write_plots
    from bench.report.study_report import StudyReport
    from bench.report.table import write_tables

    folder = options.folder
    check_writable(folder.parent)
    heed_signals()
    found = interleave.execute(folder, options, Display())
    write_timing(folder)
    print(render_timing(found))
    report = StudyReport.read(folder)
    write_tables(report)
    write_plots(report)
    if options.tracking:
        show_in_store(folder)
    print(f"timing   {folder}/timing.md (.json), and the times of {folder}/table.md")
    return report_lost([f"{name}: {reason}" for name, reason in found.failed.items()])
