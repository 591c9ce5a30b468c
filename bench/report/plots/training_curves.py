"""What a training went through: losses, metrics on the way, and where the seconds went."""

import math
from collections.abc import Iterator

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from bench.records import direction
from bench.report.plots import drawing
from bench.report.plots.drawing import PlottedStudy, Skipped, new_figure
from bench.report.table.numbers import number

WINDOW = 0.05
"""Share of a curve's points in the centred moving average; the raw ones stay visible behind."""
PART_COLOURS = {
    "compile": "#999999", "train": "#0072B2", "sample": "#E69F00", "evaluate": "#009E73",
    "log": "#CC79A7", "checkpoint": "#56B4E9", "other": "#DDDDDD",
}  # fmt: skip


def losses(content: PlottedStudy) -> Figure:
    """Draw a panel for each logged ``loss/...``: methods in colour, every seed a line."""
    curves = content.report.curves
    shared = curves.groupby("name")["method"].nunique().sort_values(ascending=False, kind="stable")
    names = [str(name) for name in shared.index if str(name).startswith("loss/")]
    if not names:
        raise Skipped("no cell has logged a 'loss/...' curve")
    columns = 2 if len(names) == 4 else min(3, len(names))
    rows = -(-len(names) // columns)
    figure, panels = new_figure(3.3 * columns + 0.4, 2.6 * rows + 0.7, columns, rows)
    for name, axes in zip(names, panels, strict=False):
        for method, first, line in _lines(curves, name):
            look = {key: content.looks[method][key] for key in ("color", "linestyle")}
            colour, label = look["color"], method if first else None
            axes.plot(line["images"], line["value"], color=colour, linewidth=0.6, alpha=0.25)
            window = max(3, round(WINDOW * len(line)))
            smooth = line["value"].rolling(window, center=True, min_periods=1).mean()
            axes.plot(line["images"], smooth, linewidth=1.3, alpha=0.9, label=label, **look)
        _image_axis(axes, name.removeprefix("loss/"))
        drawing.log_if_wide(axes, curves.loc[curves["name"] == name, "value"])
    for axes in panels[: len(names) : columns]:
        axes.set_ylabel("loss")
    for axes in panels[len(names) :]:
        axes.remove()
    told = f"Thin: as logged. Bold: centred moving average over {WINDOW:.0%} of the points."
    drawing.note_below(figure, told)
    drawing.common_legend(figure, panels[: len(names)])
    return figure


def _lines(curves: pd.DataFrame, name: str) -> Iterator[tuple[str, bool, pd.DataFrame]]:
    """Yield method, whether it is the method's first line, and its finite points."""
    seen: set[str] = set()
    chosen = curves[curves["name"] == name]
    for (method, _), line in chosen.groupby(["method", "seed"]):
        finite = line[line["value"].map(math.isfinite)]
        if len(finite):
            yield str(method), str(method) not in seen, finite
            seen.add(str(method))


def _image_axis(axes: Axes, title: str) -> None:
    axes.set_title(title)
    axes.set_xlabel("images seen")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: drawing.plain(value)))


def metric_curve(content: PlottedStudy, metric: str) -> Figure:
    """Draw a metric's curve twice: over images seen and over training seconds."""
    curves = content.report.curves[content.report.curves["name"] == metric]
    if curves.empty:
        raise Skipped(f"no cell has logged '{metric}' during training")
    figure, panels = new_figure(7.0, 3.2, 2, sharey=True)
    for axes, column in zip(panels, ("images", "seconds"), strict=True):
        for method, first, line in _lines(curves, metric):
            axes.plot(
                line[column], line["value"], markersize=3.5, linewidth=1.2, alpha=0.85,
                label=method if first else None, **content.looks[method],
            )  # fmt: skip
        drawing.log_if_wide(axes, curves["value"])
    _image_axis(panels[0], "")
    panels[1].set_xlabel("training time (s)")
    panels[0].set_ylabel(f"{metric} {direction(metric)}")
    drawing.common_legend(figure, panels)
    return figure


def ledger(content: PlottedStudy) -> Figure:
    """Draw the seconds of a cell by part, one bar per method, the mean over its seeds."""
    summary = content.report.summary
    parts = [part for part in PART_COLOURS if f"ledger.{part}" in summary.columns]
    known = summary[summary["seeds"] > 0]
    if not parts or known.empty:
        raise Skipped("no finished cell has a ledger")
    figure, (axes,) = new_figure(6.4, 1.5 + 0.42 * len(known))
    left = known["seeds"] * 0.0
    for part in parts:
        width, colour = known[f"ledger.{part}"].fillna(0.0), PART_COLOURS[part]
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
