"""``bench sample``: draw finished cells again, and write the curve or the sweep."""

from dataclasses import replace

from bench.commands.sample import SampleOptions


def sample(options: SampleOptions = SampleOptions()) -> int:
    """Sample finished cells again: quality against NFE, or against a setting; trains nothing."""
    from bench import study
    from bench.commands.lifecycle import check_writable, heed_signals, report_lost, show_in_store
    from bench.commands.sample.curve import draw_curves
    from bench.commands.settings import default_jobs
    from bench.progress.display import Display
    from bench.report.nfe_table import render_nfe_table, write_nfe_tables
    from bench.report.plots.nfe_curve import write_nfe_plots
    from bench.report.plots.sweep import write_sweep_plots
    from bench.report.study_report import StudyReport
    from bench.report.sweep_table import render_sweep, write_sweep_tables

    folder = options.folder
    request = study.request_of(folder, options.jobs, options.timeout)
    request = replace(request, jobs=options.jobs or default_jobs(request.settings))
    check_writable(request.results)
    heed_signals()
    lost = draw_curves(request, options, Display())
    report = StudyReport.read(folder)
    if options.sweep:
        text = render_sweep(report, options.sweep.setting)
        paths = [*write_sweep_tables(report), *write_sweep_plots(report)]
    else:
        text = render_nfe_table(report)
        paths = [*write_nfe_tables(report), *write_nfe_plots(report)]
    print(text, *paths, sep="\n")
    if options.tracking:
        show_in_store(folder)
    return report_lost(lost)
