"""A point per method: quality against cost, and fidelity, precision, against diversity, recall."""

import math
from collections.abc import Iterator, Sequence
from itertools import cycle
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.records import direction, metric_family
from bench.report.plots import drawing
from bench.report.plots.drawing import PlottedStudy, Skipped, new_figure
from bench.report.summary import TableRow
from bench.report.table.numbers import MARK

Point = tuple[str, float, float, Any, Any]
"""Method, cost, quality, and the bars of both."""
GIVEN = ("x", "+", "1", "2", "3", "4")
"""Markers of what was not trained here."""
NEAR = 1.04
"""Points whose costs differ by less than this factor are drawn a little apart."""
FAN = 1.25
"""The factor between the first and the last of such points, at most."""


class CostAxis(NamedTuple):
    """A cost that quality is drawn against: name, column, axis label."""

    name: str
    column: str
    label: str


TIME = CostAxis("ms_per_image", "ms_per_image", "sampling time per image (ms)")
FLOPS = CostAxis("train_flops", "cost.train_flops", "training compute (FLOP)")
SECONDS = CostAxis("train_seconds", "ledger.train", "training time (s)")
NFE = CostAxis("nfe", "cost.nfe", "network evaluations an image, counted")
COSTS = {axis.name: axis for axis in (TIME, FLOPS, SECONDS, NFE)}
"""What quality can be drawn against, by name."""


def quality(content: PlottedStudy, metric: str, cost: CostAxis) -> Figure:
    """Draw one point per method: a metric against a cost, bars over seeds, anchors as lines."""
    figure, (axes,) = new_figure(5.2, 3.7)
    draw_quality(axes, content, metric, cost)
    drawing.legend_above(figure, *axes.get_legend_handles_labels(), most=5)
    return figure


def draw_quality(axes: Axes, content: PlottedStudy, metric: str, cost: CostAxis) -> None:
    """Draw what ``quality`` does into given axes, without a legend; Skipped without a point."""
    points = _points(content, metric, cost)
    if not points:
        raise Skipped(f"no finished cell has both '{metric}' and {cost.name}")
    drawn = spread(points)
    for method, x, y, x_error, y_error in sorted(drawn, key=lambda point: point[0]):
        colour, marker = (content.looks[method][key] for key in ("color", "marker"))
        axes.errorbar(
            [x], [y], xerr=x_error, yerr=y_error, fmt="none", ecolor=colour, elinewidth=1.2,
            capsize=3.5, capthick=1.2, zorder=2,
        )  # fmt: skip
        axes.plot(
            [x], [y], marker, label=method, color=colour, markersize=7.5,
            markeredgecolor="white", markeredgewidth=0.8, zorder=3,
        )  # fmt: skip
    axes.set_xlabel(cost.label + fitness(content, cost))
    axes.set_ylabel(f"{metric} {direction(metric)}".rstrip())
    if content.report.finished.groupby("method")["seed"].nunique().max() > 1:
        told = "mean and 95 % t interval over seeds"
        moved = drawn != sorted(points, key=lambda point: point[1])
        told += "; points of equal cost stand a little apart" if moved else ""
        inches = axes.get_window_extent().width / axes.figure.dpi
        axes.set_title(drawing.wrapped(inches, told), fontsize=8, color="#444444")
    anchors = content.report.levels(metric)
    heights = [y for _, _, y, *_ in points] + list(anchors.values())
    drawing.log_scale(axes, "x", [x for _, x, *_ in points], padding=1.6)
    drawing.log_scale(axes, "y", heights, padding=1.35)
    for (name, level), style in zip(anchors.items(), cycle(drawing.ANCHOR_STYLES), strict=False):
        drawing.draw_level(axes, name, level, style)


def spread(points: Sequence[Point]) -> list[Point]:
    """Move points of nearly equal cost a little apart, so that each can be seen."""
    clusters: list[list[Point]] = []
    for point in sorted(points, key=lambda point: point[1]):
        if not clusters or point[1] > clusters[-1][-1][1] * NEAR:
            clusters.append([])
        clusters[-1].append(point)
    return [moved for cluster in clusters for moved in fanned(cluster)]


def fanned(cluster: Sequence[Point]) -> list[Point]:
    """Fan points out around their common cost, in the order of their names."""
    middle = (len(cluster) - 1) / 2
    step = min(NEAR, FAN ** (1 / max(1, len(cluster) - 1)))
    named = sorted(cluster, key=lambda point: point[0])
    return [(m, x * step ** (i - middle), y, dx, dy) for i, (m, x, y, dx, dy) in enumerate(named)]


def _points(content: PlottedStudy, metric: str, cost: CostAxis) -> list[Point]:
    points = []
    for row in content.report.method_rows:
        y, half = row.get(f"metrics.{metric}", math.nan), row.get(f"metrics.{metric}:half")
        x, x_error = _cost(row, cost)
        if math.isfinite(x) and math.isfinite(y) and x > 0:
            points.append((str(row["method"]), x, y, x_error, _bar(y, half)))
    return points


def _cost(row: Any, cost: CostAxis) -> tuple[float, Any]:
    if cost is not TIME:
        value = row.get(cost.column, math.nan)
        return value, _bar(value, row.get(f"{cost.column}:half"))
    median, low, high = (row.get(f"time.{cost.column}.{p}") for p in ("median", "low", "high"))
    return (math.nan, None) if median is None else (median, [[median - low], [high - median]])


def _bar(value: float, half: float | None) -> Any:
    """Return the error bar, its lower end cut where a logarithmic axis could not show it."""
    if half is None or not math.isfinite(half) or half == 0:
        return None
    return [[min(half, 0.9 * abs(value))], [half]]


def fitness(content: PlottedStudy, cost: CostAxis) -> str:
    """Say of a timing's axis for which methods the machine was not fit, beside its label."""
    named = [str(row["method"]) for row in content.report.method_rows if row["time.unfit"]]
    return f"\n{MARK} machine not fit: {', '.join(named)}" if named and cost is TIME else ""


def pairs(names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield each precision among the metrics with the recall that was measured in the same way."""
    for name in names:
        recall = name.replace("precision", "recall", 1)
        if metric_family(name) == "precision" and recall in names:
            yield name, recall


def fidelity(content: PlottedStudy, precision: str, recall: str) -> Figure:
    """Draw a point for each row of the table; bars are 95 % t intervals over seeds, in 0 to 1."""
    figure, (axes,) = new_figure(4.6, 4.2)
    names = (f"metrics.{recall}", f"metrics.{precision}")
    for row in _with_all(content.report.method_rows, names):
        look = content.looks[row["method"]] | {"markersize": 7.5, "markeredgecolor": "white"}
        _point(axes, row, names, **look)
    given = _with_all([*content.report.foreign_rows, *content.report.anchor_rows], names)
    for row, marker in zip(given, cycle(GIVEN), strict=False):
        _point(axes, row, names, color="#555555", marker=marker, markersize=8)
    axes.set_xlabel(f"{recall} ↑ (diversity)")
    axes.set_ylabel(f"{precision} ↑ (fidelity)")
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal")
    drawing.legend_above(figure, *axes.get_legend_handles_labels(), most=4)
    return figure


def _with_all(rows: Sequence[TableRow], names: Sequence[str]) -> list[TableRow]:
    return [row for row in rows if all(math.isfinite(row.get(name, math.nan)) for name in names)]


def _point(axes: Axes, row: TableRow, names: Sequence[str], **style: Any) -> None:
    x, y = (row[name] for name in names)
    halves = [row.get(f"{name}:half", math.nan) for name in names]
    # Cut where no precision and no recall can be.
    x_bar, y_bar = (
        None if math.isnan(half) else [[min(half, value)], [min(half, 1 - value)]]
        for value, half in zip((x, y), halves, strict=True)
    )
    axes.errorbar(
        [x], [y], xerr=x_bar, yerr=y_bar, label=str(row["method"]), elinewidth=1.2, capsize=3,
        clip_on=False, zorder=3, **style | {"linestyle": "none"},
    )  # fmt: skip
