"""The commands that show what there is: tables, plots, comparisons, MLflow's pages."""

from __future__ import annotations

from bench.cli.app import LOOK, app
from bench.commands.compare import CompareOptions
from bench.commands.show import PlotOptions, SyncOptions, TableOptions, UiOptions


@app.command(group=LOOK)
def table(options: TableOptions = TableOptions()) -> int:
    """Print a study's comparison table, and write it in every format."""
    from bench.commands.show.command import table

    return table(options)


@app.command(group=LOOK)
def plot(options: PlotOptions = PlotOptions()) -> int:
    """Draw a study's plots."""
    from bench.commands.show.command import plot

    return plot(options)


@app.command(group=LOOK)
def compare(options: CompareOptions) -> int:
    """Say what moved beyond noise between two studies, and what else differs."""
    from bench.commands.compare.command import compare

    return compare(options)


@app.command(group=LOOK)
def ui(options: UiOptions = UiOptions()) -> int:
    """Start the MLflow UI on the results and print the link to its charts."""
    from bench.commands.show.command import ui

    return ui(options)


@app.command(group=LOOK)
def sync(options: SyncOptions = SyncOptions()) -> int:
    """Bring MLflow up to what the cells' folders say; safe to repeat."""
    from bench.commands.show.command import sync

    return sync(options)
