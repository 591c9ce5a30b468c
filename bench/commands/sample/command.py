"""``bench sample``: draw finished cells again, and write the curve."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from bench import study
from bench.commands.sample import sweep
from bench.commands.sample.options import SampleOptions
from bench.commands.settings import default_jobs
from bench.commands.shared import check_writable, heed_signals, report_lost, show_in_store
from bench.config.errors import unknown
from bench.progress.display import Display
from bench.records import nfe_curve
from methods.samplers import SAMPLERS


def sample(options: SampleOptions) -> int:
    """Sample a study's finished cells again, print the curve's table; 1 if a point failed."""
    folder, wanted = options.folder, resolve_samples(options)
    request = study.request_of(folder, options.jobs, options.timeout)
    request = replace(request, jobs=options.jobs or default_jobs(request.settings))
    check_writable(request.results)
    heed_signals()
    lost = sweep.execute(request, wanted, Display())
    write_curve(folder)
    if options.tracking:
        show_in_store(folder)
    return report_lost(lost)


def resolve_samples(options: SampleOptions) -> sweep.Sweep:
    """Say what to sample with, by the usual samplers and evaluations where none are named."""
    samplers = options.samplers or nfe_curve.SAMPLERS
    for name in samplers:
        if name not in SAMPLERS:
            raise unknown("sampler", name, SAMPLERS)
    return sweep.Sweep(
        samplers=samplers,
        nfe=sorted({*(options.nfe or nfe_curve.NFE)}),
        samples=options.samples,
        cells=options.cells,
    )


def write_curve(folder: Path) -> None:
    """Write and print the curve's table, draw its plots and name the files."""
    from bench.report.nfe import render_nfe_table, write_nfe_tables
    from bench.report.plots.nfe import write_nfe_plots
    from bench.report.study_report import StudyReport

    report = StudyReport.read(folder)
    tables = write_nfe_tables(report)
    print(render_nfe_table(report))
    for path in [*tables, *write_nfe_plots(report)]:
        print(path)
