"""A study's pictures: quality against cost, curves, seconds by part, samples side by side."""

from bench.report.plots.write import write_plots

__all__ = ["write_plots"]
