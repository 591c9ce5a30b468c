"""A point per method: quality against cost, or side by side where all cost the same."""

import math
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.report.plots import drawing
from bench.report.plots.drawing import Bar, PlottedStudy, Skipped, axis_title, new_figure
from bench.report.plots.scales import Ends, cost_axis, plain, quality_axis
from bench.report.summary import TableRow
from bench.report.table.numbers import percent

EQUAL = 0.04
"""Costs that differ by less than this share of the largest are equal by design."""
SLOT, NARROW = 0.75, 0.42
"""Inches for a method where methods stand side by side; narrow where their names are turned."""
LETTER = 0.085
"""Inches of a letter of a name."""


class CostAxis(NamedTuple):
    """A cost that quality is drawn against: name, column, words, unit."""

    name: str
    column: str
    words: str
    unit: str

    @property
    def label(self) -> str:
        """The cost's words with its unit, for an axis."""
        return f"{self.words} ({self.unit})"


TIME = CostAxis("ms_per_image", "ms_per_image", "sampling time per image", "ms")
FLOPS = CostAxis("train_flops", "cost.train_flops", "training compute", "FLOP")
SECONDS = CostAxis("train_seconds", "ledger.train", "training time", "s")
NFE = CostAxis("nfe", "cost.nfe", "network evaluations per image", "counted")
COSTS = {axis.name: axis for axis in (TIME, FLOPS, SECONDS, NFE)}
"""What quality can be drawn against, by name."""


class MethodPoint(NamedTuple):
    """A method's mean cost and quality, with the bars of both."""

    method: str
    cost: Ends
    quality: Ends
    bar: Bar
    is_fit: bool
    """Whether the machine was fit to time the method on."""
    seeds: list[float]
    """The quality of each seed."""


def quality(content: PlottedStudy, metric: str, cost: CostAxis) -> Figure:
    """Draw a metric against a cost; Skipped where fewer than two methods have both."""
    points = points_of(content, metric, cost)
    if len(points) < 2:
        has = f"only '{points[0].method}' has" if points else "no finished cell has"
        raise Skipped(f"{has} both '{metric}' and {cost.name}")
    is_strip, width, height = are_equal(points), 5.8, 3.9
    if is_strip:
        longest = max(len(point.method) for point in points)
        turned = longest * LETTER > SLOT
        width = max(4.2, 2.4 + (NARROW if turned else SLOT) * len(points))
        height += turned * longest * LETTER
    figure, (axes,) = new_figure(width, height)
    told = draw_quality(axes, content, metric, cost)
    drawing.note_below(figure, told)
    if not is_strip:
        drawing.place_legend(figure, drawing.handles_of([axes]))
    return figure


def draw_quality(axes: Axes, content: PlottedStudy, metric: str, cost: CostAxis) -> str:
    """Draw what ``quality`` does into given axes, without legend and note; return the note.

    Skipped without a point.
    """
    points = points_of(content, metric, cost)
    if not points:
        raise Skipped(f"no finished cell has both '{metric}' and {cost.name}")
    if len(points) > 1 and are_equal(points):
        _strip(axes, content, points, cost)
    else:
        _scatter(axes, content, points, cost)
    axes.set_ylabel(axis_title(metric, inches=2.6))
    quality_axis(axes, metric, [point.quality for point in points], content.report.levels(metric))
    return _note(points, cost)


def points_of(content: PlottedStudy, metric: str, cost: CostAxis) -> list[MethodPoint]:
    """Return a point for each method that has both, methods by name."""
    points = []
    for row in content.report.method_rows:
        value, bar = measured(row, f"metrics.{metric}")
        paid = _cost(row, cost)
        if math.isfinite(paid[1]) and math.isfinite(value) and paid[1] > 0:
            method, ends = str(row["method"]), bar.ends(value)
            seeds = content.report.by_method[method][f"metrics.{metric}"].dropna().tolist()
            points.append(MethodPoint(method, paid, ends, bar, not row["time.unfit"], seeds))
    return points


def measured(row: TableRow, name: str) -> tuple[float, Bar]:
    """Return a row's mean of a column of metrics and its error bar."""
    value, half, count, error = (
        row.get(f"{name}{part}", math.nan) for part in ("", ":half", ":n", ".error")
    )
    return value, Bar.of(value, half, count, error)


def are_equal(points: list[MethodPoint]) -> bool:
    """Whether all methods cost the same by design."""
    costs = [point.cost[1] for point in points]
    return (max(costs) - min(costs)) / max(costs) < EQUAL


def _cost(row: Any, cost: CostAxis) -> Ends:
    if cost is not TIME:
        value, half = (row.get(f"{cost.column}{part}", math.nan) for part in ("", ":half"))
        return Bar(half, "").ends(value)
    low, value, high = (row.get(f"time.{cost.column}.{x}") for x in ("low", "median", "high"))
    return (math.nan, math.nan, math.nan) if value is None else (low, value, high)


def _scatter(axes: Axes, content: PlottedStudy, points: list[MethodPoint], cost: CostAxis) -> None:
    for point in points:
        low, x, high = point.cost
        _bars(axes, content, point, x, xerr=[[x - low], [high - x]] if high > low else None)
        _marker(axes, content, point, x)
    axes.set_xlabel(cost.label)
    cost_axis(axes, "x", [point.cost for point in points])


def _strip(axes: Axes, content: PlottedStudy, points: list[MethodPoint], cost: CostAxis) -> None:
    """Draw the methods side by side, each with its seeds beside it."""
    for place, point in enumerate(points):
        colour = content.looks[point.method]["color"]
        _bars(axes, content, point, place)
        _marker(axes, content, point, place)
        if len(point.seeds) > 1:
            beside = [place + 0.24] * len(point.seeds)
            axes.plot(beside, point.seeds, "o", color=colour, markersize=3, alpha=0.6, zorder=2)
    names = [point.method for point in points]
    turned = max(map(len, names)) * LETTER > SLOT
    axes.set_xticks(range(len(names)), names, rotation=90 if turned else 0)
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.grid(visible=False, axis="x")
    costs = [point.cost[1] for point in points]
    spread = percent((max(costs) - min(costs)) / max(costs))
    within = "" if max(costs) == min(costs) else f", within {spread}"
    axes.set_xlabel(f"all at {amount(sum(costs) / len(costs))} {cost.unit} of {cost.words}{within}")


def amount(value: float) -> str:
    """Write a cost in a sentence: 4.36e11, 0.61, 36."""
    return f"{value:.2e}".replace("e+", "e") if value >= 1e5 else plain(value)


def _bars(axes: Axes, content: PlottedStudy, point: MethodPoint, x: float, **bars: Any) -> None:
    low, y, high = point.quality
    thick = 0.7 if point.bar.kind == drawing.WITHIN else 1.2
    axes.errorbar(
        [x], [y], yerr=[[y - low], [high - y]] if high > low else None, fmt="none",
        ecolor=content.looks[point.method]["color"], elinewidth=thick, capthick=thick,
        capsize=2.0 if point.bar.kind == drawing.WITHIN else 3.5, zorder=2, **bars,
    )  # fmt: skip


def _marker(axes: Axes, content: PlottedStudy, point: MethodPoint, x: float) -> None:
    look = {key: content.looks[point.method][key] for key in ("color", "marker")}
    axes.plot(
        [x], [point.quality[1]], label=point.method, markersize=7.5, markeredgecolor="white",
        markeredgewidth=0.8, linestyle="none", zorder=3, **look,
    )  # fmt: skip


def _note(points: list[MethodPoint], cost: CostAxis) -> str:
    """Say what bars and dots are, and for which methods drawn the machine was not fit."""
    kinds = {point.bar.kind for point in points} - {""}
    without = [point.method for point in points if not point.bar.kind]
    told = [drawing.bars_told(kinds, without)]
    if cost is TIME:
        told.append("Bars across: 95 % interval of the median time, the widest over seeds.")
        if unfit := [point.method for point in points if not point.is_fit]:
            told.append(f"Machine not fit: {', '.join(unfit)}.")
    elif len(points) > 1 and are_equal(points) and any(len(point.seeds) > 1 for point in points):
        told.append("Small dots: the seeds.")
    return " ".join(filter(None, told))
