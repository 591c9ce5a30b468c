"""Where the seconds of a cell went, part by part."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.report.plots.content import PlottedStudy
from bench.report.plots.drawing import Skipped, new_figure
from bench.report.table.numbers import number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PARTS = ("compile", "train", "sample", "evaluate", "log", "checkpoint", "other")
PART_COLOURS = ("#999999", "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#DDDDDD")


def ledger(content: PlottedStudy) -> Figure:
    """Draw the seconds of a cell by part, one bar per method, the mean over its seeds."""
    summary = content.report.summary
    parts = [part for part in PARTS if f"ledger.{part}" in summary.columns]
    known = summary[summary["seeds"] > 0]
    if not parts or known.empty:
        raise Skipped("no finished cell has a ledger")
    figure, (axes,) = new_figure(6.4, 1.5 + 0.42 * len(known))
    left = known["seeds"] * 0.0
    for part in parts:
        width = known[f"ledger.{part}"].fillna(0.0)
        colour = PART_COLOURS[PARTS.index(part)]
        axes.barh(known["method"], width, left=left, label=part, color=colour, height=0.62)
        left = left + width
    for method, total in zip(known["method"], left, strict=True):
        axes.annotate(
            f"{number(total)} s", (total, method), (4, 0), textcoords="offset points", va="center"
        )
    axes.set_xlim(0, max(left) * 1.13 or 1)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("seconds per cell (mean over finished seeds)")
    figure.legend(loc="outside upper center", ncols=len(parts), columnspacing=1.0, handlelength=1.0)
    return figure
