"""What every picture is drawn with: methods' looks, figure, style, legend, axes, files.

Matplotlib's own canvas, without pyplot: no window, no state between figures.
"""

import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from bench.records import write_atomically
from bench.records.grid import PALETTE
from bench.report.study_report import StudyReport
from bench.report.summary import mean_interval
from bench.report.table.numbers import number, scaled

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h", "*", "8", "d")
LINES = ("-", "--", ":", "-.", (0, (3, 1, 1, 1, 1, 1)), (0, (6, 1)), (0, (1, 2.5)))
ANCHOR_STYLES = ("--", ":", "-.")
STYLE: dict[Any, Any] = {
    "font.size": 9, "axes.titlesize": 10, "axes.labelsize": 9, "legend.fontsize": 8.5,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
    "grid.color": "#e6e6e6", "grid.linewidth": 0.6, "axes.axisbelow": True,
    "lines.linewidth": 1.6, "figure.dpi": 100, "pdf.fonttype": 42, "legend.frameon": False,
}  # fmt: skip
DPI = 200


class Skipped(Exception):
    """A picture that cannot be drawn from this study, with the reason."""


def save(figure: Figure, path: Path) -> list[Path]:
    """Write a figure as PNG and as PDF without its date: the same numbers give the same file."""
    png, pdf = path.with_name(f"{path.name}.png"), path.with_name(f"{path.name}.pdf")
    write_atomically(png, lambda file: figure.savefig(file, format="png", dpi=DPI))
    figure.set_layout_engine("none")  # as it lies now: to lay it out anew takes half of the time
    undated = {"CreationDate": None}
    write_atomically(pdf, lambda file: figure.savefig(file, format="pdf", metadata=undated))
    return [png, pdf]


def new_figure(
    width: float, height: float, columns: int = 1, rows: int = 1, **options: Any
) -> tuple[Figure, list[Axes]]:
    """Make a figure of so many inches with its axes row by row."""
    figure = Figure(figsize=(width, height), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, **options)
    return figure, list(grid.flat)


def legend_above(
    figure: Figure, handles: Sequence[Any], names: Sequence[str], *, most: int
) -> None:
    """Put a legend above the figure, no wider than it, and make room for its rows."""
    wide = figure.get_figwidth() / (0.55 + 0.072 * max(map(len, names)))
    columns = max(1, min(most, len(names), int(wide)))
    rows = -(-len(names) // columns)
    figure.set_figheight(figure.get_figheight() + 0.19 * (rows - 1))
    figure.legend(handles, names, loc="outside upper center", ncols=columns)


def wrapped(inches: float, told: str) -> str:
    """Break a note of 8 points into lines that fit into a width."""
    return textwrap.fill(told, int(15 * inches))


def note_below(figure: Figure, told: str) -> None:
    """Say below the panels how they are to be read."""
    figure.supxlabel(wrapped(figure.get_figwidth(), told), fontsize=8, color="#444444")


def common_legend(figure: Figure, panels: Sequence[Axes]) -> None:
    """Put one legend above all panels, each method once."""
    handles = handles_of(panels)
    names = sorted(handles)
    legend_above(figure, [handles[name] for name in names], names, most=6)


def handles_of(panels: Sequence[Axes]) -> dict[str, Any]:
    """Return the first of each label's handles."""
    handles: dict[str, Any] = {}
    for axes in panels:
        handles = dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True)) | handles
    return handles


def draw_level(axes: Axes, name: str, level: float, style: str = ANCHOR_STYLES[0]) -> None:
    """Draw what has no cost, an anchor, as a line across, and write its name on it."""
    axes.axhline(level, color="#555555", linestyle=style, linewidth=1.1, zorder=1)
    axes.annotate(
        f"{name}: {number(level)}", (0.995, level), (0, 3), va="bottom", ha="right",
        xycoords=("axes fraction", "data"), textcoords="offset points", color="#444444",
        fontsize=8,
    )  # fmt: skip


def line_of_means(
    axes: Axes, points: pd.DataFrame, x: str, column: str, shift: float = 1.0, **look: Any
) -> None:
    """Draw a line through the means over seeds at each ``x``, with their intervals as bars."""
    finite = points[points[column].map(math.isfinite).astype(bool)].groupby(x)[column]
    means = [mean_interval(group.tolist()) for _, group in finite]
    halves = [0.0 if math.isnan(half) else half for _, half, _ in means]
    below = [min(half, 0.9 * abs(y)) for half, (y, *_) in zip(halves, means, strict=True)]
    if means:
        places = [float(str(place)) * shift for place, _ in finite]
        bars = [below, halves] if any(halves) else None
        axes.errorbar(places, [y for y, *_ in means], yerr=bars, elinewidth=0.8, capsize=2, **look)


def log_scale(axes: Axes, axis: str, values: Sequence[float], padding: float) -> None:
    """Make an axis logarithmic with labels in plain numbers, and leave room at both ends."""
    low, high = min(values), max(values)
    if low <= 0:
        return
    axes.set(**{f"{axis}scale": "log", f"{axis}lim": (low / padding, high * padding)})
    part = axes.xaxis if axis == "x" else axes.yaxis
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


def log_if_wide(axes: Axes, values: Iterable[float]) -> None:
    """Make the upright axis logarithmic where positive values differ by more than a factor 12."""
    finite = [value for value in values if math.isfinite(value)]
    if finite and min(finite) > 0 and max(finite) / min(finite) > 12:
        log_scale(axes, "y", finite, padding=1.15)


@dataclass(frozen=True)
class PlottedStudy:
    """A study's report, and how each of its methods looks in every picture."""

    report: StudyReport
    looks: dict[str, dict[str, Any]]
    """Each method's ``color``, ``marker`` and ``linestyle``, as matplotlib takes them."""

    @classmethod
    def of(cls, report: StudyReport) -> Self:
        """Give each method its colour, marker and line; variants share their method's colour."""
        families: dict[str, list[str]] = {}
        for method in sorted(report.cell_frame["method"].unique()):
            families.setdefault(method.split(":")[0], []).append(method)
        apart = all(len(family) == 1 for family in families.values())
        looks = {}
        for place, family in enumerate(families.values()):
            for index, method in enumerate(family):
                marker = MARKERS[(place if apart else index) % len(MARKERS)]
                look = {"color": PALETTE[place % len(PALETTE)], "marker": marker}
                looks[method] = look | {"linestyle": LINES[index % len(LINES)]}
        return cls(report, looks)
