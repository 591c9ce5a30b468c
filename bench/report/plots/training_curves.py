"""What a training went through: losses, and quality over FLOPs, seconds and images."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.report.plots import drawing
from bench.report.plots.drawing import PlottedStudy, Skipped, axis_title, new_figure
from bench.report.plots.scales import log_if_wide, round_ticks
from bench.report.training_flops import FINAL, LOSS

WINDOW = 0.05
"""Share of a curve's points in the centred moving average."""
ALONG = {
    "flops": "training compute (FLOP)", "seconds": "training time (s)", "images": "images seen",
}  # fmt: skip
"""What quality is drawn over, as columns of the curves."""


def losses(content: PlottedStudy) -> Figure:
    """Draw a panel for each logged ``loss/...``: a method's mean over its seeds and their range."""
    curves = content.report.curves
    shared = curves.groupby("name")["method"].nunique().sort_values(ascending=False, kind="stable")
    names = [str(name) for name in shared.index if str(name).startswith(LOSS)]
    if not names:
        raise Skipped("no cell has logged a 'loss/...' curve")
    columns = 2 if len(names) == 4 else min(3, len(names))
    rows = -(-len(names) // columns)
    figure, panels = new_figure(3.3 * columns + 0.4, 2.6 * rows + 0.7, columns, rows)
    bands = False
    for name, axes in zip(names, panels, strict=False):
        chosen = curves[curves["name"] == name]
        for method, seeds in _by_seed(chosen):
            look = {key: content.looks[method][key] for key in ("color", "linestyle")}
            bands |= _draw_loss(axes, [_smooth(line) for line in seeds], seeds, method, look)
        axes.set_title(name.removeprefix(LOSS))
        axes.set_xlabel(ALONG["images"])
        round_ticks(axes.xaxis)
        log_if_wide(axes, chosen["value"])
    for axes in panels[: len(names) : columns]:
        axes.set_ylabel("loss")
    for axes in panels[len(names) :]:
        axes.remove()
    told = f"Lines: centred moving average over {100 * WINDOW:.0f} % of the points"
    told += ", mean over seeds; bands: their range." if bands else "; thin: as logged."
    drawing.note_below(figure, told)
    drawing.common_legend(figure, panels[: len(names)])
    return figure


def _by_seed(curves: pd.DataFrame) -> Iterator[tuple[str, list[pd.DataFrame]]]:
    """Yield each method with its seeds' finite points, images ascending."""
    finite = curves[np.isfinite(curves["value"].to_numpy(dtype=float))]
    for method, rows in finite.groupby("method"):
        yield str(method), [line for _, line in rows.groupby("seed")]


def _smooth(line: pd.DataFrame) -> "pd.Series[float]":
    """Return a curve's moving average by its images."""
    window = max(3, round(WINDOW * len(line)))
    values = line.set_index("images")["value"]
    return values.rolling(window, center=True, min_periods=1).mean()


def _draw_loss(
    axes: Axes,
    smooth: Sequence["pd.Series[float]"],
    raw: Sequence[pd.DataFrame],
    method: str,
    look: dict[str, Any],
) -> bool:
    """Draw a method's loss; return whether it is a mean over seeds with its range as a band."""
    together = pd.concat(smooth, axis=1).dropna() if len(smooth) > 1 else pd.DataFrame()
    if len(together) > 1:
        mean = together.mean(axis=1)
        low, high = together.min(axis=1), together.max(axis=1)
        axes.fill_between(mean.index, low, high, color=look["color"], alpha=0.16, linewidth=0)
        axes.plot(mean.index, mean, linewidth=1.3, alpha=0.95, label=method, **look)
        return True
    for index, (line, average) in enumerate(zip(raw, smooth, strict=True)):
        axes.plot(line["images"], line["value"], color=look["color"], linewidth=0.6, alpha=0.25)
        label = None if index else method
        axes.plot(average.index, average, linewidth=1.3, alpha=0.9, label=label, **look)
    return False


def metric_curve(content: PlottedStudy, metric: str) -> Figure:
    """Draw a metric over FLOPs, seconds and images: finished cells, mean and range over seeds.

    Without the FLOPs where the records do not tell them at each point; see ``training_flops``.
    """
    done = content.report.finished[["method", "seed"]].drop_duplicates()
    curves = content.report.curves.merge(done, on=["method", "seed"])
    curves = curves.sort_values(["method", "seed", "name", "images"])
    chosen = curves[curves["name"] == metric]
    lines = [(method, seeds) for method, seeds in _by_seed(chosen) if max(map(len, seeds)) > 1]
    if not lines:
        raise Skipped(f"no finished cell has logged '{metric}' twice during training")
    drawn = pd.concat([line for _, seeds in lines for line in seeds])
    along = [column for column in ALONG if drawn[column].notna().all()]
    figure, panels = new_figure(0.6 + 3.1 * len(along), 3.3, len(along), sharey=True)
    begun = _boundaries(curves[curves["method"].isin([method for method, _ in lines])])
    bands, alpha = any(len(seeds) > 1 for _, seeds in lines), 0.5 / (3 + len(lines))
    for axes, column in zip(panels, along, strict=True):
        for method, seeds in lines:
            _draw_quality(axes, seeds, column, content.looks[method] | {"label": method}, alpha)
        for method, _, place in begun[["method", "stage", column]].itertuples(index=False):
            colour = content.looks[method]["color"]
            axes.axvline(place, color=colour, linestyle=(0, (1, 2)), linewidth=1.0, zorder=1)
        axes.set_xlabel(ALONG[column])
        axes.set_xlim(left=0)
        round_ticks(axes.xaxis)
    log_if_wide(panels[0], drawn["value"])
    panels[0].set_ylabel(axis_title(metric, inches=2.2))
    drawing.note_below(figure, _told(begun, bands))
    drawing.common_legend(figure, panels)
    return figure


def _draw_quality(
    axes: Axes, seeds: Sequence[pd.DataFrame], column: str, look: dict[str, Any], alpha: float
) -> None:
    """Draw the mean over seeds of each snapshot that all have, and their range as a band.

    Without such snapshots, where seeds stopped apart, each seed is a line.
    """
    together = _snapshots(seeds)
    for index, lines in enumerate([together] if together else [[line] for line in seeds]):
        x, y = (np.array([line[name].to_numpy() for line in lines]) for name in (column, "value"))
        shown = {"color": look["color"], "alpha": alpha, "linewidth": 0}
        axes.fill_between(x.mean(axis=0), y.min(axis=0), y.max(axis=0), **shown)
        looked = look if index == 0 else {**look, "label": None}
        axes.plot(x.mean(axis=0), y.mean(axis=0), markersize=4, linewidth=1.2, alpha=0.9, **looked)


def _snapshots(seeds: Sequence[pd.DataFrame]) -> list[pd.DataFrame]:
    """Return the points that all seeds have, at the same images or by their order; else none.

    A seed has none from a stage that another cell has trained for it.
    """
    common = set.intersection(*({*line["images"]} for line in seeds))
    if len(common) > 1:
        return [line[line["images"].isin(common)] for line in seeds]
    return list(seeds) if len({len(line) for line in seeds}) == 1 else []


def _boundaries(curves: pd.DataFrame) -> pd.DataFrame:
    """Return where each method's later stages begin: method, stage, images, seconds, FLOPs."""
    trained = curves[curves["stage"].notna() & (curves["stage"] != FINAL)]
    ends = trained.groupby(["method", "seed", "stage"])[[*ALONG]].max().reset_index()
    ends = ends.sort_values(["method", "seed", "images"])
    ends["stage"] = ends.groupby(["method", "seed"])["stage"].shift(-1)
    later = ends.dropna(subset="stage")
    return later.groupby(["method", "stage"])[[*ALONG]].mean().reset_index()


def _told(begun: pd.DataFrame, bands: bool) -> str:
    told = ["Mean over seeds at each snapshot; bands: their range."] if bands else []
    stages = {
        str(stage): sorted({str(method).split(":")[0] for method in rows["method"]})
        for stage, rows in begun.groupby("stage")
    }
    if stages:
        names = "; ".join(f"'{stage}' of {', '.join(of)}" for stage, of in stages.items())
        told.append(f"Dotted: a stage begins ({names}).")
    return " ".join(told) or "One seed a method."
