"""What only shows: ``bench table``, ``plot``, ``sync``, ``ui``, ``methods`` and ``datasets``."""

import sys
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Literal

from cyclopts import Parameter

from bench.commands.options import Flag, Results, StudyOptions, Whole, check_number
from bench.config import one_line, presets
from bench.records import find_study, studies


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class TableOptions(StudyOptions):
    """Whose table to print, and how."""

    format: Literal["md", "csv", "latex", "json"] | None = None
    """Format to print. Default: what fits on a terminal, Markdown elsewhere."""


def table(options: TableOptions = TableOptions()) -> int:
    """Print a study's comparison table, and write it in every format."""
    from bench.report.nfe_table import write_nfe_tables
    from bench.report.study_report import StudyReport
    from bench.report.sweep_table import write_sweep_tables
    from bench.report.table.formats import render_table, write_tables
    from bench.report.table.terminal import print_table

    report = StudyReport.read(options.folder)
    write_tables(report)
    write_nfe_tables(report)
    write_sweep_tables(report)
    if options.format is None:
        print_table(report)
    else:
        print(render_table(report, options.format))
    return 0


def plot(options: StudyOptions = StudyOptions()) -> int:
    """Draw a study's plots."""
    from bench.report.plots.nfe_curve import write_nfe_plots
    from bench.report.plots.sweep import write_sweep_plots
    from bench.report.plots.write import write_plots
    from bench.report.study_report import StudyReport

    report = StudyReport.read(options.folder)
    drawn = write_plots(report, say=lambda line: print(line, file=sys.stderr))
    for path in [*drawn, *write_nfe_plots(report), *write_sweep_plots(report)]:
        print(path)
    return 0


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class UiOptions:
    """What MLflow's pages are to show, and where."""

    port: Whole = 5000
    """Port to serve on."""
    host: str = "127.0.0.1"
    """Address or name to serve on; 0.0.0.0 for all of this machine's, where others reach it."""
    open: Flag = False
    """Open the charts of the latest data set in a browser."""
    results: Results = Path("results")
    """Folder of all results."""

    def __post_init__(self) -> None:
        check_number("port", self.port, 1, "a port", 2**16 - 1)


def ui(options: UiOptions = UiOptions()) -> int:
    """Start the MLflow UI on the results and print the link to its charts."""
    from bench.tracking.ui import ui as serve

    serve(options.results, options.port, options.host, is_opened=options.open)
    return 0


@Parameter(name="*")
@dataclass(frozen=True)
class SyncOptions:
    """Which studies to bring into MLflow."""

    study: str | None = None
    """Name of a study. Default: all under the results folder."""
    _: KW_ONLY
    results: Results = Path("results")
    """Folder of all results."""


def sync(options: SyncOptions = SyncOptions()) -> int:
    """Bring MLflow up to what the cells' folders say; safe to repeat."""
    from bench.records import settle_study
    from bench.tracking import Tracker

    one = options.study
    folders = [find_study(options.results, one)] if one else studies(options.results)
    # What it warns of is what its trouble says, below.
    tracker = Tracker.open(options.results, warn=lambda line: None)
    for folder in folders:
        settle_study(folder)
        tracker.sync_study(folder)
        if tracker.trouble:
            print(f"bench: {folder.name}: {tracker.trouble}", file=sys.stderr)
            return 1
        print(f"synced {folder.name}")
    return 0


def methods() -> int:
    """List the methods there are, built in and from plug-ins."""
    from bench.commands.method_labels import plugin_faults
    from bench.records.plugins import method_class
    from methods import registry

    faults = plugin_faults()
    for name in registry.names():
        if name in faults and name not in registry.BUILTIN:
            continue
        try:
            kind = method_class(name)
            summary = [*(kind.__doc__ or "").strip().splitlines(), kind.__name__][0]
            variants = ", ".join(f"{name}:{variant}" for variant in sorted(kind.variants))
        except Exception as error:  # Of whatever kind a plug-in's own are.
            summary, variants = f"BROKEN: {one_line(error)}", ""
        print(f"{name:<8} {summary}  [{registry.source(name)}]")
        if variants:
            print(f"{'':<8} variants: {variants}")
    for name, reason in faults.items():
        print(f"{name:<8} BROKEN: {one_line(reason)}")
    return 0


def datasets() -> int:
    """List the data sets there are, with their presets and where they are looked for."""
    from bench.data.catalogue import KNOWN

    own = "any images, cropped and resized to the presets' size; from --data PATH"
    for name in presets.datasets():
        told = str(KNOWN.get(name, own))
        print(f"{name:<14} {told}")
        for preset_name, preset in presets.presets(name).items():
            extractor = preset.evaluation.get("extractor")
            print(f"    {preset_name:<8} budget {preset.budget}, extractor {extractor}")
    print(f"presets in {presets.config_folder()}")
    return 0


@Parameter(name="*")
@dataclass(frozen=True)
class CompletionOptions:
    """Which shell to print for."""

    shell: Literal["bash", "zsh", "fish"]
    """The shell that reads it."""
