"""Quality against network evaluations, as drawn again by ``bench sample``."""

import math
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.records import direction
from bench.records.grid import PALETTE
from bench.report.nfe_table import REAL, NfePoints, load_points, sampler_order
from bench.report.plots import drawing
from bench.report.plots.drawing import axis_title, handles_of, line_of_means, new_figure
from bench.report.plots.scales import ANCHOR_STYLES, Ends, cost_axis, quality_axis
from bench.report.study_report import StudyReport


def write_nfe_plots(report: StudyReport) -> list[Path]:
    """Draw each distance against the evaluations counted; nothing where there are no points."""
    content = load_points(report)
    if content is None:
        return []
    names = [name for name in content.metrics if direction(name) == "↓"] or content.metrics[:1]
    folder = report.folder / "plots"
    with rc_context(drawing.STYLE):
        written = [drawing.save(draw(content, n), folder / f"nfe-curve-{n}") for n in names]
    return [path for paths in written for path in paths]


def draw(content: NfePoints, metric: str) -> Figure:
    """Draw a panel a method, a line a sampler; methods without one are a point in every panel."""
    column = f"metrics.{metric}"
    methods = sorted(content.drawn["method"].unique())
    samplers = sorted(content.drawn["sampler"].unique(), key=sampler_order)
    others = content.points[~content.points["method"].isin(methods)].groupby("method")
    columns = min(3, len(methods))
    rows = -(-len(methods) // columns)
    inches = (1.6 + 3.4 * columns, 1.2 + 2.7 * rows)
    figure, panels = new_figure(*inches, columns, rows, sharex=True, sharey=True)
    ends: list[Ends] = []
    for method, axes in zip(methods, panels, strict=False):
        for place, sampler in enumerate(samplers):
            points = content.line(method, sampler)
            look = _sampler_look(place) | {"label": sampler}
            ends += line_of_means(axes, points[~points["own"]], "nfe", column, **look)
        # What has no sampler to exchange is the one point of its record.
        for marker, (name, points) in zip(cycle(drawing.MARKERS), others, strict=False):
            look = {"fmt": marker, "label": str(name), "markersize": 7, "linestyle": "none"}
            look |= {"fillstyle": "none", "zorder": 3}
            ends += line_of_means(axes, points, "nfe", column, color="#555555", **look)
        axes.set_title(method)
    shown = panels[: len(methods)]
    for axes in shown[-columns:]:
        axes.tick_params(labelbottom=True)
        axes.set_xlabel("network evaluations per image, counted")
    for axes in panels[::columns][:rows]:
        axes.set_ylabel(axis_title(metric, inches=2.2))
    for axes in panels[len(methods) :]:
        axes.remove()
    seeds = content.points.groupby("method")["seed"].nunique()
    errors = content.points.reindex(columns=[f"{column}.error"]).notna().any(axis=None)
    kinds = ["seeds"] * bool(seeds.max() > 1) + ["within"] * bool(seeds.min() == 1 and errors)
    if told := drawing.bars_told(kinds):
        drawing.note_below(figure, told)
    _axes(shown, content, metric, ends, columns)
    _legend(figure, shown, samplers)
    return figure


def _sampler_look(place: int) -> dict[str, Any]:
    turns, colour = divmod(place, len(PALETTE))
    return {
        "color": PALETTE[colour], "marker": drawing.MARKERS[place % len(drawing.MARKERS)],
        "linestyle": ("-", *ANCHOR_STYLES)[turns % 4], "linewidth": 1.2, "markersize": 6,
        "markeredgecolor": "white", "markeredgewidth": 0.3,
    }  # fmt: skip


def _axes(
    panels: Sequence[Axes], content: NfePoints, metric: str, ends: Sequence[Ends], columns: int
) -> None:
    """Make both axes logarithmic and draw the anchor of real images, named at the right."""
    levels = content.report.levels(metric)
    anchors = {name: level for name, level in levels.items() if name.startswith(REAL)}
    again = {*content.drawn["method"]}
    points = content.points[~content.points["own"] | ~content.points["method"].isin(again)]
    evaluations = [(x, x, x) for x in points["nfe"] if math.isfinite(x)]
    for place, axes in enumerate(panels):
        cost_axis(axes, "x", evaluations)
        is_last = place % columns == columns - 1 or place == len(panels) - 1
        quality_axis(axes, metric, ends, anchors, told=is_last)


def _legend(figure: Figure, panels: Sequence[Axes], samplers: Sequence[str]) -> None:
    """Put one legend above all panels: the samplers, then the methods that are one point."""
    handles = handles_of(panels)
    names = sorted(handles, key=lambda name: (name not in samplers, *sampler_order(name)))
    drawing.place_legend(figure, {name: handles[name] for name in names})
