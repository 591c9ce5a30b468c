"""Quality against a setting of sampling, as drawn again by ``bench sample --sweep``."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.report.plots import drawing
from bench.report.plots.drawing import (
    PlottedStudy,
    axis_title,
    common_legend,
    line_of_means,
    new_figure,
)
from bench.report.study_report import StudyReport
from bench.report.sweep_table import SweptSetting, swept_settings

WIDE = 12
"""Quotient of the largest value and the smallest above 0 from which the axis is logarithmic."""


def write_sweep_plots(report: StudyReport) -> list[Path]:
    """Draw a picture a swept setting; nothing where there is none with points of two values."""
    written: list[Path] = []
    with rc_context(drawing.STYLE):
        for content in swept_settings(report):
            if content.metrics and content.points["value"].nunique() > 1:
                written += drawing.save(draw(content), report.folder / "plots" / content.name)
    return written


def draw(content: SweptSetting) -> Figure:
    """Draw a panel a metric, a line a method; a ring is the value that the cells ran with."""
    looks, names = PlottedStudy.of(content.report).looks, content.metrics
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure, panels = new_figure(0.8 + 3.0 * columns, 0.9 + 2.4 * rows, columns, rows)
    points = content.points[content.points["reason"] == ""].dropna(subset="value")
    for metric, axes in zip(names, panels, strict=False):
        column = f"metrics.{metric}"
        for method, all_of in points.groupby("method"):
            look = looks[str(method)]
            drawn = all_of[~all_of["own"]]
            line_of_means(axes, drawn, "value", column, label=str(method), **look)
            line_of_means(
                axes, all_of[all_of["own"]], "value", column,
                color=look["color"], marker="o", markersize=11, fillstyle="none", linestyle="none",
            )  # fmt: skip
        axes.set_title(axis_title(metric, inches=2.6), fontsize=9)
        axes.set_xlabel(content.setting)
        _scale(axes, points["value"].tolist())
    for axes in panels[len(names) :]:
        axes.remove()
    told = "The networks are trained once. Rings: the cells as run."
    if points.groupby("method")["seed"].nunique().max() > 1:
        told += " Mean and 95 % t interval over seeds."
    drawing.note_below(figure, told)
    common_legend(figure, panels[: len(names)])
    return figure


def _scale(axes: Axes, values: Sequence[float]) -> None:
    """Space wide values by their logarithm, with room for 0, and mark those that were drawn."""
    positive = [value for value in values if value > 0]
    if positive and max(positive) / min(positive) >= WIDE and min(values) >= 0:
        axes.set_xscale("symlog", linthresh=min(positive), linscale=0.5)
    axes.set_xticks(sorted({*values}), [f"{value:g}" for value in sorted({*values})])
    axes.minorticks_off()
