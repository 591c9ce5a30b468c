"""A study's pictures: quality against cost, curves, seconds by part, samples side by side.

Drawn with matplotlib's own canvas, without pyplot: no window, no state between figures. Every
chart is written as PNG and as PDF for a paper; the sample grid as PNG alone, pixel by pixel.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.record import Status, read_curves, write_atomically
from bench.report.frame import aggregate, direction, load_frame, metric_names
from bench.report.grid import PALETTE, grid_image, is_points, scale_for, scatter_image
from bench.report.tables import MARK, method_rows, number, scaled

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h", "*", "8", "d")
LINES = ("-", "--", ":", "-.", (0, (3, 1, 1, 1, 1, 1)), (0, (6, 1)), (0, (1, 2.5)))
LEGEND_ROW = 0.19
"""Inches that a row of the legend takes."""
NEAR = 1.04
"""Points whose costs differ by less than this factor are drawn a little apart."""
FAN = 1.25
"""The factor between the first and the last of such points, at most."""
ANCHOR_STYLES = ("--", ":", "-.")
PARTS = ("compile", "train", "sample", "evaluate", "log", "checkpoint", "other")
PART_COLOURS = ("#999999", "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#DDDDDD")
STYLE: dict[Any, Any] = {
    "font.size": 9, "axes.titlesize": 10, "axes.labelsize": 9, "legend.fontsize": 8.5,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
    "grid.color": "#e6e6e6", "grid.linewidth": 0.6, "axes.axisbelow": True,
    "lines.linewidth": 1.6, "figure.dpi": 100, "pdf.fonttype": 42, "legend.frameon": False,
}  # fmt: skip
DPI = 200
WINDOW = 0.05
"""Share of a curve's points in the centred moving average; the raw ones stay visible behind."""
SAMPLES = 64
SAMPLE_TILE = 64
ROOM = 12.0
"""A ratio between largest and smallest value above which an axis becomes logarithmic."""

Say = Callable[[str], object]


class Skipped(Exception):
    """A picture that cannot be drawn from this study, with the reason."""


@dataclass(frozen=True)
class Study:
    """What the pictures are drawn from, read once."""

    frame: pd.DataFrame
    curves: pd.DataFrame
    """One row per cell, name and logged point: method, seed, images, seconds, name, value."""
    colours: dict[str, str]
    markers: dict[str, str]
    lines: dict[str, Any]

    @property
    def finished(self) -> pd.DataFrame:
        """The cells whose numbers may be compared."""
        frame = self.frame
        return frame[(frame["kind"] == "cell") & (frame["status"] == str(Status.FINISHED))]


def write_plots(study: Path, say: Say | None = None) -> list[Path]:
    """Draw every picture the study has the numbers for into ``plots/``.

    Args:
        study: the study's folder.
        say: called with one line for each picture left out; to stderr by default.

    Returns:
        The files written, each atomically; PNG before PDF.

    Raises:
        UserError: no cells, or values that were not measured alike.
    """
    from matplotlib import rc_context

    say = say or (lambda line: print(line, file=sys.stderr))
    content = load_study(study)
    paths: list[Path] = []
    with rc_context(STYLE):
        for name, draw in pictures(content, study):
            try:
                paths += draw(study / "plots" / name)
            except Skipped as reason:
                say(f"plot '{name}' left out: {reason}")
    return paths


def load_study(study: Path) -> Study:
    """Read the study's frame and curves and give each method its colour and marker."""
    frame = load_frame(study)
    methods = sorted(frame.loc[frame["kind"] == "cell", "method"].unique())
    return Study(frame, load_curves(frame), *appearances(methods))


def appearances(methods: Sequence[str]) -> tuple[dict[str, str], dict[str, str], dict[str, Any]]:
    """Give each method a colour, a marker and a line; variants share their method's colour."""
    families: dict[str, list[str]] = {}
    for method in methods:
        families.setdefault(method.split(":")[0], []).append(method)
    apart = len(families) == len(methods)
    colours, markers, lines = {}, {}, {}
    for place, family in enumerate(families.values()):
        for index, method in enumerate(family):
            colours[method] = PALETTE[place % len(PALETTE)]
            markers[method] = MARKERS[(place if apart else index) % len(MARKERS)]
            lines[method] = LINES[index % len(LINES)]
    return colours, markers, lines


def load_curves(frame: pd.DataFrame) -> pd.DataFrame:
    """Read all cells' curves; a point logged again after a resumption counts once, the last."""
    import pandas as pd

    names = ["method", "seed", "images", "seconds", "name", "value"]
    rows = [
        (cell.method, cell.seed, line["images"], line["seconds"], name, value)
        for cell in frame[frame["kind"] == "cell"].itertuples()
        for line in read_curves(Path(str(cell.log)).parent)
        for name, value in line["values"].items()
    ]
    curves = pd.DataFrame(rows, columns=names)
    last = curves.drop_duplicates(["method", "seed", "name", "images"], keep="last")
    return last.sort_values(["method", "seed", "name", "images"], ignore_index=True)


def pictures(content: Study, study: Path) -> Iterator[tuple[str, Callable[[Path], list[Path]]]]:
    """Yield each picture's name and the function that writes it to that path without ending."""
    from bench.report import fidelity

    names = metric_names(content.frame)
    for metric in [name for name in names if direction(name) == "↓"] or names[:1]:
        for cost in (TIME, FLOPS):
            yield f"{metric}-{cost.name}", _chart(quality, content, metric, cost)
    for precision, recall in fidelity.pairs(content.frame):
        yield f"{precision}-recall", _chart(fidelity.fidelity, content, precision, recall)
    yield "losses", _chart(losses, content)
    for metric in _with_a_course(content.curves) or names[:1]:
        yield f"curve-{metric}", _chart(metric_curve, content, metric)
    yield "ledger", _chart(ledger, content)
    yield "samples", lambda path: [samples(content, study, path)]


def _with_a_course(curves: pd.DataFrame) -> list[str]:
    """Names of the metrics that some cell has taken more than once in training."""
    points = curves.groupby(["name", "method", "seed"]).size().groupby("name").max()
    return sorted(name for name in points[points > 1].index if direction(name))


def _chart(draw: Callable[..., Figure], *arguments: Any) -> Callable[[Path], list[Path]]:
    def write(path: Path) -> list[Path]:
        return save(draw(*arguments), path)

    return write


def save(figure: Figure, path: Path) -> list[Path]:
    """Write a figure as PNG and PDF (without its date: the same numbers give the same file)."""
    png, pdf = path.with_name(f"{path.name}.png"), path.with_name(f"{path.name}.pdf")
    write_atomically(png, lambda file: figure.savefig(file, format="png", dpi=DPI))
    undated = {"CreationDate": None}
    write_atomically(pdf, lambda file: figure.savefig(file, format="pdf", metadata=undated))
    return [png, pdf]


def new_figure(
    width: float, height: float, columns: int = 1, rows: int = 1, **options: Any
) -> tuple[Figure, list[Axes]]:
    """Make a figure of so many inches with its axes row by row."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, **options)
    return figure, list(grid.flat)


# Quality against cost ---------------------------------------------------------------------------


@dataclass(frozen=True)
class CostAxis:
    """A cost that quality is drawn against: file name, column, axis label."""

    name: str
    column: str
    label: str


TIME = CostAxis("ms_per_image", "ms_per_image", "sampling time per image (ms)")
FLOPS = CostAxis("train_flops", "cost.train_flops", "training compute (FLOP)")


def quality(content: Study, metric: str, cost: CostAxis) -> Figure:
    """Draw one point per method: a metric against a cost, bars over seeds, anchors as lines."""
    points = _points(content, metric, cost)
    if not points:
        raise Skipped(f"no finished cell has both '{metric}' and {cost.name}")
    figure, (axes,) = new_figure(5.2, 3.7)
    for method, x, y, x_error, y_error in sorted(spread(points), key=lambda point: point[0]):
        colour = content.colours[method]
        axes.errorbar(
            [x], [y], xerr=x_error, yerr=y_error, fmt="none", ecolor=colour, elinewidth=1.2,
            capsize=3.5, capthick=1.2, zorder=2,
        )  # fmt: skip
        axes.plot(
            [x], [y], content.markers[method], label=method, color=colour, markersize=7.5,
            markeredgecolor="white", markeredgewidth=0.8, zorder=3,
        )  # fmt: skip
    _quality_axes(axes, content, metric, cost, points)
    legend_above(figure, *axes.get_legend_handles_labels(), most=5)
    return figure


def legend_above(
    figure: Figure, handles: Sequence[Any], names: Sequence[str], *, most: int
) -> None:
    """Put a legend above the figure, no wider than it, and make room for its rows."""
    wide = figure.get_figwidth() / (0.55 + 0.072 * max(map(len, names)))
    columns = max(1, min(most, len(names), int(wide)))
    rows = -(-len(names) // columns)
    figure.set_figheight(figure.get_figheight() + LEGEND_ROW * (rows - 1))
    figure.legend(handles, names, loc="outside upper center", ncols=columns)


def spread(points: Sequence[Point]) -> list[Point]:
    """Move points of nearly equal cost a little apart, so that each can be seen."""
    placed: list[Point] = []
    cluster: list[Point] = []
    for point in sorted(points, key=lambda point: point[1]):
        if cluster and point[1] > cluster[-1][1] * NEAR:
            placed, cluster = placed + fanned(cluster), []
        cluster.append(point)
    return placed + fanned(cluster)


def crowded(points: Sequence[Point]) -> bool:
    """Whether some points are moved to be seen."""
    return spread(points) != sorted(points, key=lambda point: point[1])


def fanned(cluster: Sequence[Point]) -> list[Point]:
    """Fan points out around their common cost, in the order of their names."""
    middle = (len(cluster) - 1) / 2
    step = min(NEAR, FAN ** (1 / max(1, len(cluster) - 1)))
    named = sorted(cluster, key=lambda point: point[0])
    return [(m, x * step ** (i - middle), y, dx, dy) for i, (m, x, y, dx, dy) in enumerate(named)]


Point = tuple[str, float, float, Any, Any]


def _points(content: Study, metric: str, cost: CostAxis) -> list[Point]:
    points = []
    for row in method_rows(content.frame):
        y, half = row.get(f"metrics.{metric}", math.nan), row.get(f"metrics.{metric}:half")
        x, x_error = _cost(row, cost)
        if math.isfinite(x) and math.isfinite(y) and x > 0:
            points.append((str(row["method"]), x, y, x_error, _bar(y, half)))
    return points


def _cost(row: Any, cost: CostAxis) -> tuple[float, Any]:
    if cost is not TIME:
        value = row.get(cost.column, math.nan)
        return value, _bar(value, row.get(f"{cost.column}:half"))
    median, low, high = (row.get(f"time.{cost.column}.{part}") for part in INTERVAL)
    return (math.nan, None) if median is None else (median, [[median - low], [high - median]])


INTERVAL = ("median", "low", "high")


def _bar(value: float, half: float | None) -> Any:
    """Return the error bar, its lower end cut where a logarithmic axis could not show it."""
    if half is None or not math.isfinite(half) or half == 0:
        return None
    return [[min(half, 0.9 * abs(value))], [half]]


def _quality_axes(
    axes: Axes, content: Study, metric: str, cost: CostAxis, points: Sequence[Point]
) -> None:
    axes.set_xlabel(cost.label + fitness(content, cost))
    axes.set_ylabel(f"{metric} {direction(metric)}".rstrip())
    if content.finished.groupby("method")["seed"].nunique().max() > 1:
        told = "mean and 95 % t interval over seeds"
        told += "; points of equal cost stand a little apart" if crowded(points) else ""
        axes.set_title(told, fontsize=8, color="#444444")
    anchors = anchor_levels(content.frame, metric)
    levels = [y for _, _, y, _, _ in points] + list(anchors.values())
    log_scale(axes, "x", [x for _, x, _, _, _ in points], padding=1.6)
    log_scale(axes, "y", levels, padding=1.35)
    for place, (name, level) in enumerate(anchors.items()):
        style = ANCHOR_STYLES[place % len(ANCHOR_STYLES)]
        axes.axhline(level, color="#555555", linestyle=style, linewidth=1.1, zorder=1)
        axes.annotate(
            f"{name}: {number(level)}", (0.995, level), (0, 3), va="bottom", ha="right",
            xycoords=("axes fraction", "data"), textcoords="offset points", color="#444444",
            fontsize=8,
        )  # fmt: skip


def fitness(content: Study, cost: CostAxis) -> str:
    """Say of a timing's axis for which methods the machine was not fit, beside its label."""
    named = [str(row["method"]) for row in method_rows(content.frame) if row["time.unfit"]]
    return f"\n{MARK} machine not fit: {', '.join(named)}" if named and cost is TIME else ""


def anchor_levels(frame: pd.DataFrame, metric: str) -> dict[str, float]:
    """Return a metric's values of anchors and foreign samples, which have no cost, by name."""
    column = f"metrics.{metric}"
    if column not in frame.columns:
        return {}
    rows = frame[frame["kind"].isin(["anchor", "foreign"])].dropna(subset=[column])
    means = rows.groupby("method", sort=False)[column].mean()
    return {str(name): float(level) for name, level in means.items()}


def log_scale(axes: Axes, axis: str, values: Sequence[float], padding: float) -> None:
    """Make an axis logarithmic with labels in plain numbers, and leave room at both ends."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = min(values), max(values)
    if low <= 0:
        return
    part = axes.xaxis if axis == "x" else axes.yaxis
    (axes.set_xscale if axis == "x" else axes.set_yscale)("log")
    limits = (low / padding, high * padding)
    (axes.set_xlim if axis == "x" else axes.set_ylim)(limits)
    steps = (1.0,) if high / low > 300 else (1.0, 2.0, 5.0)
    part.set_major_locator(LogLocator(subs=steps, numticks=12))
    part.set_major_formatter(FuncFormatter(lambda value, _: plain(value)))
    part.set_minor_formatter(NullFormatter())


def plain(value: float) -> str:
    """Write a tick's value shortly: 0.02, 5, 200, 20 k, 12 T."""
    if value == 0:
        return "0"
    text = scaled(value, "") if value >= 1000 else number(value)
    digits, _, prefix = text.partition(" ")
    digits = digits.rstrip("0").rstrip(".") if "." in digits else digits
    return f"{digits} {prefix}".strip()


# Curves -----------------------------------------------------------------------------------------


def losses(content: Study) -> Figure:
    """Draw a panel for each logged ``loss/...``: methods in colour, every seed a line."""
    curves = content.curves
    shared = curves.groupby("name")["method"].nunique().sort_values(ascending=False, kind="stable")
    names = [str(name) for name in shared.index if str(name).startswith("loss/")]
    if not names:
        raise Skipped("no cell has logged a 'loss/...' curve")
    columns = 2 if len(names) == 4 else min(3, len(names))
    rows = -(-len(names) // columns)
    figure, panels = new_figure(3.3 * columns + 0.4, 2.6 * rows + 0.7, columns, rows)
    for name, axes in zip(names, panels, strict=False):
        for method, seed, line in _lines(curves, name):
            look = {"color": content.colours[method], "linestyle": content.lines[method]}
            _loss_line(axes, line, look, method, first=seed)
        _image_axis(axes, name.removeprefix("loss/"))
        _log_if_wide(axes, curves.loc[curves["name"] == name, "value"])
    for axes in panels[: len(names) : columns]:
        axes.set_ylabel("loss")
    for axes in panels[len(names) :]:
        axes.remove()
    figure.supxlabel(
        f"Thin: as logged. Bold: centred moving average over {WINDOW:.0%} of the points.",
        fontsize=8, color="#444444",
    )  # fmt: skip
    _legend(figure, panels[: len(names)])
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


def _loss_line(
    axes: Axes, line: pd.DataFrame, look: dict[str, Any], method: str, first: bool
) -> None:
    axes.plot(line["images"], line["value"], color=look["color"], linewidth=0.6, alpha=0.25)
    window = max(3, round(WINDOW * len(line)))
    smooth = line["value"].rolling(window, center=True, min_periods=1).mean()
    label = method if first else None
    axes.plot(line["images"], smooth, linewidth=1.3, alpha=0.9, label=label, **look)


def _image_axis(axes: Axes, title: str) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.set_title(title)
    axes.set_xlabel("images seen")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: plain(value)))


def _log_if_wide(axes: Axes, values: pd.Series[float]) -> None:
    finite = [value for value in values if math.isfinite(value)]
    if finite and min(finite) > 0 and max(finite) / min(finite) > ROOM:
        log_scale(axes, "y", finite, padding=1.15)


def _legend(figure: Figure, panels: Sequence[Axes]) -> None:
    """Put one legend above all panels, each method once."""
    handles: dict[str, Any] = {}
    for axes in panels:
        handles |= {
            label: handle
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
            if label not in handles
        }
    names = sorted(handles)
    legend_above(figure, [handles[name] for name in names], names, most=6)


def metric_curve(content: Study, metric: str) -> Figure:
    """Draw a metric's curve twice: over images seen and over training seconds."""
    curves = content.curves[content.curves["name"] == metric]
    if curves.empty:
        raise Skipped(f"no cell has logged '{metric}' during training")
    figure, panels = new_figure(7.0, 3.2, 2, sharey=True)
    for axes, column in zip(panels, ("images", "seconds"), strict=True):
        for method, first, line in _lines(curves, metric):
            axes.plot(
                line[column], line["value"], color=content.colours[method], markersize=3.5,
                marker=content.markers[method], linestyle=content.lines[method], linewidth=1.2,
                alpha=0.85,
                label=method if first else None,
            )  # fmt: skip
        _log_if_wide(axes, curves["value"])
    _image_axis(panels[0], "")
    panels[1].set_xlabel("training time (s)")
    panels[0].set_ylabel(f"{metric} {direction(metric)}")
    _legend(figure, panels)
    return figure


# Seconds ----------------------------------------------------------------------------------------


def ledger(content: Study) -> Figure:
    """Draw the seconds of a cell by part, one bar per method, the mean over its seeds."""
    summary = aggregate(content.frame)
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


# Samples ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Panel:
    """One method's samples with their title."""

    title: str
    image: NDArray[np.uint8]


def samples(content: Study, study: Path, path: Path) -> Path:
    """Draw each method's first 64 samples of the same seed, and real images where stored.

    Every pixel of a sample is a square of whole pixels in the file: nothing is interpolated. Points
    are drawn as scatter plots, up to 2000 of them.
    """
    panels = _panels(content, study)
    if not panels:
        raise Skipped("no finished cell has kept its samples")
    target = path.with_name(f"{path.name}.png")
    figure = side_by_side(panels)
    write_atomically(target, lambda file: figure.savefig(file, format="png", dpi=DPI))
    return target


def _panels(content: Study, study: Path) -> list[Panel]:
    cells = content.finished
    cells = cells[[(Path(log).parent / "samples.npz").exists() for log in cells["log"]]]
    if cells.empty:
        return []
    # The seed that most methods have; of several such, the first.
    seed = cells["seed"].value_counts().sort_index().idxmax()
    metric = next(iter(metric_names(content.frame)), None)
    panels = [
        Panel(_title(row, metric), _tiles(Path(row["log"]).parent / "samples.npz"))
        for _, row in cells[cells["seed"] == seed].sort_values("method").iterrows()
    ]
    real = study / "real.npz"
    return panels + ([Panel("real\n", _tiles(real))] if real.exists() else [])


def _title(row: pd.Series[Any], metric: str | None) -> str:
    value = row[f"metrics.{metric}"] if metric else math.nan
    told = f"\n{metric} {number(value)}" if math.isfinite(value) else "\n"
    return f"{row['method']}, seed {row['seed']}{told}"


def _tiles(path: Path) -> NDArray[np.uint8]:
    import numpy as np

    with np.load(path) as stored:
        images = stored["images"]
        labels = stored.get("labels")
    if is_points(images):
        return scatter_image(images, labels)
    return grid_image(images[:SAMPLES], 8, scale=scale_for(min(images.shape[2:]), SAMPLE_TILE))


def side_by_side(panels: Sequence[Panel], columns: int = 4) -> Figure:
    """Put panels into rows on a canvas counted in pixels, so that none is resampled."""
    from matplotlib.figure import Figure

    height, width = (max(panel.image.shape[axis] for panel in panels) for axis in (0, 1))
    margin, head = 36, 96
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    total = (columns * (width + margin) + margin, rows * (height + head + margin))
    figure = Figure(figsize=(total[0] / DPI, total[1] / DPI), dpi=DPI, facecolor="white")
    for place, panel in enumerate(panels):
        left = margin + place % columns * (width + margin)
        top = total[1] - place // columns * (height + head + margin) - head
        figure.figimage(panel.image, left, top - panel.image.shape[0])
        figure.text(
            (left + panel.image.shape[1] / 2) / total[0], (top + 10) / total[1], panel.title,
            ha="center", va="bottom", fontsize=9,
        )  # fmt: skip
    return figure
