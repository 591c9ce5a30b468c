"""Fidelity, precision, against diversity, recall: a point for each row of the table."""

import math
from collections.abc import Iterator, Sequence
from itertools import cycle
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.records import metric_family
from bench.report.plots import drawing
from bench.report.plots.drawing import PlottedStudy, Skipped, axis_title, new_figure
from bench.report.plots.quality import measured
from bench.report.summary import TableRow

GIVEN = ("x", "+", "1", "2", "3", "4")
"""Markers of what was not trained here."""


def pairs(names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield each precision among the metrics with the recall that was measured in the same way."""
    for name in names:
        recall = name.replace("precision", "recall", 1)
        if metric_family(name) == "precision" and recall in names:
            yield name, recall


def fidelity(content: PlottedStudy, precision: str, recall: str) -> Figure:
    """Draw precision against recall, in 0 to 1; Skipped where fewer than two methods have both."""
    names = (f"metrics.{recall}", f"metrics.{precision}")
    rows = _with_all(content.report.method_rows, names)
    if len(rows) < 2:
        has = f"only '{rows[0]['method']}' has" if rows else "no finished cell has"
        raise Skipped(f"{has} both '{precision}' and '{recall}'")
    figure, (axes,) = new_figure(4.6, 4.4)
    kinds: set[str] = set()
    for row in rows:
        look = content.looks[row["method"]] | {"markersize": 7.5, "markeredgecolor": "white"}
        kinds |= _point(axes, row, names, **look)
    given = _with_all([*content.report.foreign_rows, *content.report.anchor_rows], names)
    for row, marker in zip(given, cycle(GIVEN), strict=False):
        _point(axes, row, names, color="#555555", marker=marker, markersize=8)
    axes.set_xlabel(axis_title(recall))
    axes.set_ylabel(axis_title(precision))
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal")
    told = drawing.bars_told(kinds, () if kinds else names)
    drawing.note_below(figure, f"Recall: diversity; precision: fidelity. {told}")
    drawing.place_legend(figure, drawing.handles_of([axes]))
    return figure


def _with_all(rows: Sequence[TableRow], names: Sequence[str]) -> list[TableRow]:
    return [row for row in rows if all(math.isfinite(row.get(name, math.nan)) for name in names)]


def _point(axes: Axes, row: TableRow, names: Sequence[str], **style: Any) -> set[str]:
    """Draw a row, its bars cut where no precision and no recall can be; return what they are of."""
    (x, x_bar), (y, y_bar) = (measured(row, name) for name in names)
    ends = [
        None if math.isnan(bar.half) else [[min(bar.half, value)], [min(bar.half, 1 - value)]]
        for value, bar in ((x, x_bar), (y, y_bar))
    ]
    thin = drawing.WITHIN in (x_bar.kind, y_bar.kind)
    axes.errorbar(
        [x], [y], xerr=ends[0], yerr=ends[1], label=str(row["method"]),
        elinewidth=drawing.THIN if thin else 1.2, capsize=2 if thin else 3, clip_on=False,
        zorder=3, **style | {"linestyle": "none"},
    )  # fmt: skip
    return {x_bar.kind, y_bar.kind} - {""}
