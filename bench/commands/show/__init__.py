"""What only shows: the tables and plots of studies, MLflow's pages, and what there is to run."""

from bench.commands.show.options import PlotOptions, SyncOptions, TableOptions, UiOptions

__all__ = ["PlotOptions", "SyncOptions", "TableOptions", "UiOptions"]
