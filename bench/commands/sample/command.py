"""``bench sample``: draw finished cells again, and write the curve."""

from dataclasses import replace

from bench.commands.sample import SampleOptions


def sample(options: SampleOptions = SampleOptions()) -> int:
    """Sample finished cells again: quality against NFE for several samplers; trains nothing."""
    from bench import study
    from bench.commands.lifecycle import check_writable, heed_signals, report_lost, show_in_store
    from bench.commands.sample.curve import draw_curves
    from bench.commands.settings import default_jobs
    from bench.progress.display import Display
    from bench.report.nfe_table import render_nfe_table, write_nfe_tables
    from bench.report.plots.nfe_curve import write_nfe_plots
    from bench.report.study_report import StudyReport

    folder = options.folder
    request = study.request_of(folder, options.jobs, options.timeout)
    request = replace(request, jobs=options.jobs or default_jobs(request.settings))
    check_writable(request.results)
    heed_signals()
    lost = draw_curves(request, options, Display())
    report = StudyReport.read(folder)
    paths = [*write_nfe_tables(report), *write_nfe_plots(report)]
    print(render_nfe_table(report), *paths, sep="\n")
    if options.tracking:
        show_in_store(folder)
    return report_lost(lost)
