"""What every picture is drawn with: methods' looks, figure, style, legend, axes, files.

Matplotlib's own canvas, without pyplot: no window, no state between figures.
"""

import math
import textwrap
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from bench.records import direction, write_atomically
from bench.records.colours import method_colours
from bench.report.plots.scales import Ends
from bench.report.study_report import StudyReport
from bench.report.summary import mean_interval
from bench.report.titles import metric_words

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h", "*", "8", "d")
LINES = ("-", "--", ":", "-.", (0, (3, 1, 1, 1, 1, 1)), (0, (6, 1)), (0, (1, 2.5)))
STYLE: dict[Any, Any] = {
    "font.size": 9, "axes.titlesize": 10, "axes.labelsize": 9, "legend.fontsize": 8.5,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
    "grid.color": "#e6e6e6", "grid.linewidth": 0.6, "axes.axisbelow": True,
    "lines.linewidth": 1.6, "figure.dpi": 100, "pdf.fonttype": 42, "legend.frameon": False,
}  # fmt: skip
DPI = 200


SEEDS, WITHIN = "seeds", "within"
"""What an error bar is of: the 95 % t interval over seeds, or the error within the one seed."""
Z = 1.96
"""Standard errors on each side of a value that hold 95 % of a normal distribution."""
THIN = 0.7
"""Width of bars within one seed, in points; those over seeds are thicker."""
MANY = 6
"""Names beyond this many stand in a column beside the panels, not above them."""


class Skipped(Exception):
    """A picture that cannot be drawn from this study, with the reason."""


class Bar(NamedTuple):
    """Half the length of an error bar, NaN where no error is known, and what it is of."""

    half: float
    kind: str

    @classmethod
    def of(cls, mean: float, half: float, count: int, error: float) -> Self:
        """Choose the interval over seeds, or of one seed ± 1.96 standard errors within it."""
        if count > 1 and math.isfinite(half):
            return cls(half, SEEDS)
        known = count == 1 and math.isfinite(error) and math.isfinite(mean)
        return cls(Z * error, WITHIN) if known else cls(math.nan, "")

    def ends(self, value: float) -> Ends:
        """Return the value between the ends of its bar."""
        half = 0.0 if math.isnan(self.half) else self.half
        return value - half, value, value + half


def bars_told(kinds: Collection[str], without: Sequence[str] = ()) -> str:
    """Say what the error bars of a picture are, and who has none."""
    told = []
    if SEEDS in kinds:
        told.append("Bars: 95 % t interval over seeds.")
    if WITHIN in kinds:
        told.append("Thin bars: ± 1.96 standard errors within the one seed.")
    if without and not kinds:
        return "One seed a method, without a known error."
    if without:
        told.append(f"No error is known for {', '.join(without)}.")
    return " ".join(told)


def save(figure: Figure, path: Path) -> list[Path]:
    """Write a figure as PNG and as PDF without its date: the same numbers give the same file."""
    png, pdf = path.with_name(f"{path.name}.png"), path.with_name(f"{path.name}.pdf")
    lay_out(figure)
    write_atomically(png, lambda file: figure.savefig(file, format="png", dpi=DPI))
    undated = {"CreationDate": None}
    write_atomically(pdf, lambda file: figure.savefig(file, format="pdf", metadata=undated))
    return [png, pdf]


def lay_out(figure: Figure) -> None:
    """Give everything its place, once for all files: else each file is drawn twice for it."""
    for text in figure.findobj(Text):
        # Each font is cut down anew for ligatures, which older versions do not set at all.
        if hasattr(text, "set_fontfeatures"):
            text.set_fontfeatures(("-liga",))
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
        figure.set_layout_engine(None)


def new_figure(
    width: float, height: float, columns: int = 1, rows: int = 1, **options: Any
) -> tuple[Figure, list[Axes]]:
    """Make a figure of so many inches with its axes row by row."""
    figure = Figure(figsize=(width, height), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, **options)
    return figure, list(grid.flat)


def place_legend(figure: Figure, handles: Mapping[str, Any]) -> None:
    """Put a legend above the figure, no wider than it, or many names in a column beside it."""
    if not handles:
        return
    names, shown = list(handles), list(handles.values())
    if len(names) > MANY:
        figure.legend(shown, names, loc="outside right upper", fontsize=8)
        height = figure.get_figheight()
        figure.set_size_inches(
            figure.get_figwidth() + 0.6 + 0.068 * max(map(len, names)),
            max(height, 0.4 + 0.185 * len(names)),
        )
        return
    wide = figure.get_figwidth() / (0.55 + 0.072 * max(map(len, names)))
    columns = max(1, min(len(names), int(wide)))
    rows = -(-len(names) // columns)
    figure.set_figheight(figure.get_figheight() + 0.19 * (rows - 1))
    figure.legend(shown, names, loc="outside upper center", ncols=columns)


def axis_title(metric: str, inches: float = math.inf) -> str:
    """Write a metric in words for an axis, with which way is better, in lines that fit."""
    words = metric_words(metric)
    better = {"↓": ", lower is better", "↑": ", higher is better"}.get(direction(metric), "")
    told = f"{words[:1].upper()}{words[1:]}{better}"
    return told if math.isinf(inches) else textwrap.fill(told, int(14 * inches))


def wrapped(inches: float, told: str) -> str:
    """Break a note of 8 points into lines that fit into a width."""
    return textwrap.fill(told, int(15 * inches))


def note_below(figure: Figure, told: str) -> None:
    """Say below the panels how they are to be read."""
    figure.supxlabel(wrapped(figure.get_figwidth(), told), fontsize=8, color="#444444")


def common_legend(figure: Figure, panels: Sequence[Axes]) -> None:
    """Put one legend for all panels, each method once."""
    handles = handles_of(panels)
    place_legend(figure, {name: handles[name] for name in sorted(handles)})


def handles_of(panels: Sequence[Axes]) -> dict[str, Any]:
    """Return the first of each label's handles."""
    handles: dict[str, Any] = {}
    for axes in panels:
        handles = dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True)) | handles
    return handles


def line_of_means(axes: Axes, points: pd.DataFrame, x: str, column: str, **look: Any) -> list[Ends]:
    """Draw a line through the means over seeds at each ``x``, with their errors; return these."""
    points = points.reindex(columns=[x, column, f"{column}.error"]).astype(float)
    ends: list[Ends] = []
    places, kinds = [], []
    for place, group in points[np.isfinite(points[column])].groupby(x):
        mean, half, count = mean_interval(group[column].tolist())
        bar = Bar.of(mean, half, count, float(group[f"{column}.error"].mean()))
        ends.append(bar.ends(mean))
        places.append(float(str(place)))
        kinds.append(bar.kind)
    if ends:
        bars = np.array([[value - low, high - value] for low, value, high in ends]).T
        wide = SEEDS in kinds
        axes.errorbar(
            places, [value for _, value, _ in ends], yerr=bars if bars.any() else None,
            elinewidth=1.0 if wide else THIN, capsize=2 if wide else 0, **look,
        )  # fmt: skip
    return ends


@dataclass(frozen=True)
class PlottedStudy:
    """A study's report, and how each of its methods looks in every picture."""

    report: StudyReport
    looks: dict[str, dict[str, Any]]
    """Each method's ``color``, ``marker`` and ``linestyle``, as matplotlib takes them."""

    @classmethod
    def of(cls, report: StudyReport) -> Self:
        """Give each method its look: its colour, a marker and a line."""
        colours = method_colours(report.cell_frame["method"])
        families: dict[str, list[str]] = {}
        for method in sorted(report.cell_frame["method"].unique()):
            families.setdefault(method.split(":")[0], []).append(method)
        apart = all(len(family) == 1 for family in families.values())
        looks = {}
        for place, family in enumerate(families.values()):
            for index, method in enumerate(family):
                marker = MARKERS[(place if apart else index) % len(MARKERS)]
                look = {"color": colours[method], "marker": marker}
                looks[method] = look | {"linestyle": LINES[index % len(LINES)]}
        return cls(report, looks)
