"""Fidelity against diversity: precision over recall, of methods, foreign samples and anchors."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.records import metric_family
from bench.report.plots.drawing import PlottedStudy, legend_above, new_figure
from bench.report.summary import TableRow

GREY = "#555555"
GIVEN = ("x", "+", "1", "2", "3", "4")
"""Markers of what was not trained here."""


def pairs(names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield each precision among the metrics with the recall that was measured in the same way."""
    for name in names:
        recall = name.replace("precision", "recall", 1)
        if metric_family(name) == "precision" and recall in names:
            yield name, recall


def fidelity(content: PlottedStudy, precision: str, recall: str) -> Figure:
    """Draw a point for each row of the table; bars are 95 % t intervals over seeds."""
    figure, (axes,) = new_figure(4.6, 4.2)
    for row in _with_both(content.report.method_rows, precision, recall):
        method = str(row["method"])
        colour, marker = content.colours[method], content.markers[method]
        style = {"color": colour, "marker": marker, "markersize": 7.5, "markeredgecolor": "white"}
        _point(axes, row, precision, recall, **style)
    given = [*content.report.foreign_rows, *content.report.anchor_rows]
    for place, row in enumerate(_with_both(given, precision, recall)):
        marker = GIVEN[place % len(GIVEN)]
        _point(axes, row, precision, recall, color=GREY, marker=marker, markersize=8)
    axes.set_xlabel(f"{recall} ↑ (diversity)")
    axes.set_ylabel(f"{precision} ↑ (fidelity)")
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal")
    legend_above(figure, *axes.get_legend_handles_labels(), most=4)
    return figure


def _with_both(rows: Sequence[TableRow], precision: str, recall: str) -> list[TableRow]:
    names = (f"metrics.{precision}", f"metrics.{recall}")
    return [row for row in rows if all(math.isfinite(row.get(name, math.nan)) for name in names)]


def _point(axes: Axes, row: TableRow, precision: str, recall: str, **style: Any) -> None:
    (x, x_half), (y, y_half) = (
        (row[f"metrics.{name}"], row.get(f"metrics.{name}:half", math.nan))
        for name in (recall, precision)
    )
    bars = [None if math.isnan(half) else half for half in (x_half, y_half)]
    axes.errorbar(
        [x], [y], xerr=bars[0], yerr=bars[1], label=str(row["method"]), linestyle="none",
        elinewidth=1.2, capsize=3, clip_on=False, zorder=3, **style,
    )  # fmt: skip
