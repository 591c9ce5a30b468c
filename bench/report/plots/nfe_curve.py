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
from bench.report.plots.drawing import (
    draw_level,
    handles_of,
    line_of_means,
    log_scale,
    new_figure,
)
from bench.report.study_report import StudyReport

DODGE = 0.012
"""Shift between neighbouring lines, as a fraction of a value: bars at one place stay legible."""


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
    inches = (1.2 + 3.9 * columns, 1.0 + 2.9 * rows)
    figure, panels = new_figure(*inches, columns, rows, sharex=True, sharey=True)
    for method, axes in zip(methods, panels, strict=False):
        for place, sampler in enumerate(samplers):
            points, shift = content.line(method, sampler), 1 + DODGE * (place - 3)
            look = _sampler_look(place) | {"label": sampler}
            line_of_means(axes, points[~points["own"]], "nfe", column, shift, **look)
        # What has no sampler to exchange is the one point of its record.
        for marker, (name, points) in zip(cycle(drawing.MARKERS), others, strict=False):
            look = {"fmt": marker, "label": str(name), "markersize": 8, "linestyle": "none"}
            line_of_means(axes, points, "nfe", column, color="#777777", **look)
        axes.set_title(method)
        axes.set_xlabel("network evaluations an image, counted")
    for axes in panels[::columns][:rows]:
        axes.set_ylabel(f"{metric} {direction(metric)}".rstrip())
    for axes in panels[len(methods) :]:
        axes.remove()
    if content.points.groupby("method")["seed"].nunique().max() > 1:
        told = "Mean and 95 % t interval over seeds; lines stand a little apart to stay legible."
        drawing.note_below(figure, told)
    _axes(panels[: len(methods)], content, metric)
    _legend(figure, panels[: len(methods)], samplers)
    return figure


def _sampler_look(place: int) -> dict[str, Any]:
    turns, colour = divmod(place, len(PALETTE))
    return {
        "color": PALETTE[colour], "marker": drawing.MARKERS[place % len(drawing.MARKERS)],
        "linestyle": ("-", *drawing.ANCHOR_STYLES)[turns % 4], "linewidth": 1.2, "markersize": 6,
        "markeredgecolor": "white", "markeredgewidth": 0.3,
    }  # fmt: skip


def _axes(panels: Sequence[Axes], content: NfePoints, metric: str) -> None:
    """Make both axes logarithmic and draw the anchor of real images."""
    levels = content.report.levels(metric)
    anchors = {name: level for name, level in levels.items() if name.startswith(REAL)}
    points = content.points[content.points[f"metrics.{metric}"].map(math.isfinite).astype(bool)]
    heights = [*points[f"metrics.{metric}"], *anchors.values()]
    for axes in panels:
        log_scale(axes, "x", points["nfe"].tolist(), padding=1.25)
        log_scale(axes, "y", heights, padding=1.3)
        for name, level in anchors.items():
            draw_level(axes, name, level)


def _legend(figure: Figure, panels: Sequence[Axes], samplers: Sequence[str]) -> None:
    """Put one legend above all panels: the samplers, then the methods that are one point."""
    handles = handles_of(panels)
    names = sorted(handles, key=lambda name: (name not in samplers, *sampler_order(name)))
    columns = min(3 * min(3, len(panels)), len(names))
    shown = [handles[name] for name in names]
    figure.legend(shown, names, loc="outside upper center", ncols=columns)
