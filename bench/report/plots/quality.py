"""A point per method: quality against cost, or side by side where all cost the same."""

import math
from collections.abc import Sequence
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
HEAP = 3
"""Methods a counted cost, on average, from which they stand in groups, not on an axis."""
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
    strip, width, height = _strip_of(points, cost), 5.8, 3.9
    if strip:
        longest = max(len(point.method) for point in points)
        turned = longest * LETTER > SLOT
        width = max(4.2, 2.4 + (NARROW if turned else SLOT) * (len(points) + len(strip) - 1))
        height += turned * longest * LETTER
    figure, (axes,) = new_figure(width, height)
    told = draw_quality(axes, content, metric, cost)
    drawing.note_below(figure, told)
    if not strip:
        drawing.place_legend(figure, drawing.handles_of([axes]))
    return figure


def draw_quality(axes: Axes, content: PlottedStudy, metric: str, cost: CostAxis) -> str:
    """Draw what ``quality`` does into given axes, without legend and note; return the note.

    Skipped without a point.
    """
    points = points_of(content, metric, cost)
    if not points:
        raise Skipped(f"no finished cell has both '{metric}' and {cost.name}")
    if strip := _strip_of(points, cost):
        _draw_strip(axes, content, strip, cost)
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


def of_equal_cost(points: Sequence[MethodPoint]) -> list[list[MethodPoint]]:
    """Group methods whose costs are equal by design, the cheapest group first."""
    groups: list[list[MethodPoint]] = []
    for point in sorted(points, key=lambda point: point.cost[1]):
        if not groups or point.cost[1] * (1 - EQUAL) >= groups[-1][0].cost[1]:
            groups.append([])
        groups[-1].append(point)
    return [sorted(group) for group in groups]


def _strip_of(points: Sequence[MethodPoint], cost: CostAxis) -> list[list[MethodPoint]]:
    """Return the groups to draw side by side; none where an axis of cost says more.

    It does unless all cost the same, or counted costs are few and would heap methods up.
    """
    groups = of_equal_cost(points)
    is_heap = cost in (FLOPS, NFE) and len(points) >= HEAP * len(groups)
    return groups if len(points) > 1 and (len(groups) == 1 or is_heap) else []


def _cost(row: Any, cost: CostAxis) -> Ends:
    if cost is not TIME:
        value, half = (row.get(f"{cost.column}{part}", math.nan) for part in ("", ":half"))
        return Bar(half, "").ends(value)
    low, value, high = (row.get(f"time.{cost.column}.{x}") for x in ("low", "median", "high"))
    return (math.nan, math.nan, math.nan) if value is None else (low, value, high)


def _scatter(
    axes: Axes, content: PlottedStudy, points: Sequence[MethodPoint], cost: CostAxis
) -> None:
    for point in points:
        low, x, high = point.cost
        _bars(axes, content, point, x, xerr=[[x - low], [high - x]] if high > low else None)
        _marker(axes, content, point, x)
    axes.set_xlabel(cost.label)
    cost_axis(axes, "x", [point.cost for point in points])


def _draw_strip(
    axes: Axes, content: PlottedStudy, groups: Sequence[Sequence[MethodPoint]], cost: CostAxis
) -> None:
    """Draw the methods of each group side by side, each with its seeds beside it."""
    names: dict[int, str] = {}
    for index, group in enumerate(groups):
        first = len(names) + index  # A place stays empty between two groups.
        for place, point in enumerate(group, first):
            names[place] = point.method
            _bars(axes, content, point, place)
            _marker(axes, content, point, place)
            if len(point.seeds) > 1:
                look = {"color": content.looks[point.method]["color"], "markersize": 3}
                beside = [place + 0.24] * len(point.seeds)
                axes.plot(beside, point.seeds, "o", alpha=0.6, zorder=2, **look)
        if len(groups) > 1:
            axes.text(
                first + (len(group) - 1) / 2, 1.02, f"{_mean_cost(group)} {cost.unit}",
                transform=axes.get_xaxis_transform(), ha="center", va="bottom", fontsize=8,
            )  # fmt: skip
    turned = max(map(len, names.values())) * LETTER > SLOT
    axes.set_xticks([*names], [*names.values()], rotation=90 if turned else 0)
    axes.set_xlim(-0.6, max(names) + 0.6)
    axes.grid(visible=False, axis="x")
    costs = [point.cost[1] for group in groups for point in group]
    spread = (max(costs) - min(costs)) / max(costs)
    within = f", within {percent(spread)}" if spread else ""
    alone = f"all at {_mean_cost(groups[0])} {cost.unit} of {cost.words}{within}"
    axes.set_xlabel(alone if len(groups) == 1 else f"by {cost.words}, equal in each group")


def _mean_cost(group: Sequence[MethodPoint]) -> str:
    return amount(sum(point.cost[1] for point in group) / len(group))


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


def _note(points: Sequence[MethodPoint], cost: CostAxis) -> str:
    """Say what bars and dots are, and for which methods drawn the machine was not fit."""
    kinds = {point.bar.kind for point in points} - {""}
    without = [point.method for point in points if not point.bar.kind]
    told = [drawing.bars_told(kinds, without)]
    if cost is TIME:
        told.append("Bars across: 95 % interval of the median time, the widest over seeds.")
        if unfit := [point.method for point in points if not point.is_fit]:
            told.append(f"Machine not fit: {', '.join(unfit)}.")
    elif _strip_of(points, cost) and any(len(point.seeds) > 1 for point in points):
        told.append("Small dots: the seeds.")
    return " ".join(filter(None, told))
