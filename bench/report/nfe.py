"""Quality against network evaluations, from sampling finished cells again: a table and a plot."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import curve
from bench.errors import UserError
from bench.record import Record, Status, write_text
from bench.report.frame import device, direction, headline, metric_names, refuse_difference
from bench.report.grid import PALETTE
from bench.report.plots.drawing import ANCHOR_STYLES, MARKERS, STYLE, log_scale, new_figure, save
from bench.report.study_report import StudyReport
from bench.report.summary import mean_interval
from bench.report.table.markdown import markdown_table
from bench.report.table.numbers import NOTHING, number, plus_minus

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TABLES = ("nfe-curve.md", "nfe-curve.csv")
AS_RUN = "as run"
TOO_FEW = "too few"
FAILED = "failed"
REAL = "real"
"""Beginning of the name of the anchor that samples should come near to."""


@dataclass(frozen=True)
class NfePoints:
    """The points of a study's finished cells, and the report of their own records."""

    points: pd.DataFrame
    """One row a point: method, seed, cell, sampler, steps, samples, nfe, ms_per_image, reason,
    ``metrics.<name>``; ``own`` tells the cells' own records; ``asked`` is a tuple."""
    too_few: dict[tuple[str, str], set[int]]
    """For method and sampler, the evaluations that do not make a step."""
    report: StudyReport

    @property
    def drawn(self) -> pd.DataFrame:
        """The points that were drawn again."""
        return self.points[~self.points["own"]]

    @property
    def budgets(self) -> list[int]:
        """All numbers of evaluations that were asked for."""
        asked = {n for found in self.points["asked"] for n in found}
        return sorted(asked.union(*self.too_few.values()))

    @property
    def metrics(self) -> list[str]:
        """The metrics that were measured on the points and are worth a table of their own."""
        return headline(metric_names(self.drawn))

    @property
    def lines(self) -> list[tuple[str, str]]:
        """Method and sampler of each line, samplers in the order of their default list."""
        found = {*zip(self.points["method"], self.points["sampler"], strict=True), *self.too_few}
        return sorted(found, key=lambda line: (line[0], sampler_order(line[1])))

    def line(self, method: str, sampler: str) -> pd.DataFrame:
        """The points of one line, the cells' own among them."""
        points = self.points
        return points[(points["method"] == method) & (points["sampler"] == sampler)]


def sampler_order(name: str) -> tuple[int, str]:
    """Sort the default samplers in their own order, then the others."""
    known = curve.SAMPLERS.index(name) if name in curve.SAMPLERS else len(curve.SAMPLERS)
    return known, name


def load_points(report: StudyReport) -> NfePoints | None:
    """Read the points of a study's finished cells; ``None`` if none was sampled again.

    Raises:
        UserError: a file cannot be read, or values were not measured alike.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    too_few: dict[tuple[str, str], set[int]] = {}
    sampled = False
    for folder, record in report.cells:
        if record.status != Status.FINISHED:
            continue
        stored = _stored(folder, record)
        sampled = sampled or bool(stored.points or stored.too_few)
        rows += [_own(folder, record), *(_row(folder, record, p) for p in stored.points)]
        _refuse_differences(folder.name, record, stored)
        for sampler, asked in stored.too_few.items():
            too_few.setdefault((record.method, sampler), set()).update(asked)
    return NfePoints(pd.DataFrame(told(rows)), too_few, report) if sampled else None


def _refuse_differences(cell: str, record: Record, stored: curve.Curve) -> None:
    """Refuse points that were measured otherwise than the cell's own samples."""
    for point in stored.points:
        owner = f"{cell}, {point.sampler['name']}"
        for name, value in point.metrics.items():
            if name in record.metrics:
                own = record.metrics[name].provenance
                refuse_difference(name, (cell, own), (owner, value.provenance))


def told(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leave out the methods that have a sampler to exchange and were not sampled again."""
    again = {row["method"] for row in rows if not row["own"]}
    return [row for row in rows if row["method"] in again or row["sampler"] == NOTHING]


def _stored(folder: Path, record: Record) -> curve.Curve:
    try:
        return curve.read(folder, record)
    except ValueError as error:
        path = folder / curve.FILE
        raise UserError(f"'{path}' cannot be read; remove it and sample again") from error


def _row(folder: Path, record: Record, point: curve.Point) -> dict[str, Any]:
    return {
        **_place(folder, record, point.sampler),
        "own": False,
        "samples": point.samples,
        "asked": tuple(point.asked),
        "nfe": math.nan if point.nfe is None else point.nfe,
        "ms_per_image": point.ms_per_image.median if point.ms_per_image else math.nan,
        "device": device(point.environment),
        "reason": point.reason,
        **{f"metrics.{name}": value.value for name, value in point.metrics.items()},
    }


def _own(folder: Path, record: Record) -> dict[str, Any]:
    """A cell's own record as a point; a method without a sampler has no other."""
    cost = record.cost
    provenance = next((value.provenance for value in record.metrics.values()), {})
    return {
        **_place(folder, record, provenance.get("sampler") or {}),
        "own": True,
        "samples": provenance.get("n"),
        "asked": (),
        "nfe": math.nan if cost.nfe is None else cost.nfe,
        "ms_per_image": cost.ms_per_image.median if cost.ms_per_image else math.nan,
        "device": device(record.environment),
        "reason": "",
        **{f"metrics.{name}": value.value for name, value in record.metrics.items()},
    }


def _place(folder: Path, record: Record, sampler: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "method": record.method,
        "seed": record.seed,
        "cell": folder.name,
        "sampler": str(sampler.get("name", NOTHING)),
        "steps": sampler.get("steps"),
    }


# The table --------------------------------------------------------------------------------------


def markdown(content: NfePoints) -> str:
    """Write a table for each metric and one of milliseconds, failures, and what they mean."""
    parts = []
    for name in content.metrics:
        column = f"metrics.{name}"
        parts.append(f"{name} {direction(name)}".rstrip() + "\n")
        parts.append(_table(content, lambda points, c=column: _quality(points, c)))  # type: ignore[misc]
    parts += ["ms/image\n", _table(content, _milliseconds)]
    if failures := _failures(content):
        parts += ["Failed:\n", markdown_table(["cell", "sampler", "steps", "reason"], failures)]
    return "\n".join([*parts, "\n".join(f"- {note}" for note in notes(content)) + "\n"])


Fill = Callable[["pd.DataFrame"], str]


def _table(content: NfePoints, fill: Fill) -> str:
    head = ["method", "sampler", AS_RUN, *map(str, content.budgets)]
    rows = []
    for method, sampler in content.lines:
        points = content.line(method, sampler)
        own = points[points["own"]]
        row = [method, sampler, _as_run(own, fill)]
        for budget in content.budgets:
            if budget in content.too_few.get((method, sampler), ()):
                row.append(TOO_FEW)
            else:
                row.append(_at(points, budget, fill))
        rows.append(row)
    return markdown_table(head, rows)


def _as_run(own: pd.DataFrame, fill: Fill) -> str:
    text = fill(own) if len(own) else ""
    return f"{text} (NFE {own['nfe'].mean():g})" if text else ""


def _at(points: pd.DataFrame, budget: int, fill: Fill) -> str:
    """What stands for one budget: the seeds' value, and how many lack it for what reason."""
    here = points[points["asked"].map(lambda asked: budget in asked).astype(bool)]
    failed = int((here["reason"] != "").sum())
    text = fill(here[here["reason"] == ""])
    if failed:
        return f"{text} ({failed} {FAILED})" if text else FAILED
    return text


def _quality(points: pd.DataFrame, column: str) -> str:
    values = points[column].dropna().tolist()
    mean, half, count = mean_interval(values)
    return plus_minus(mean, half) if count else ""


def _milliseconds(points: pd.DataFrame) -> str:
    median = float(points["ms_per_image"].median()) if len(points) else math.nan
    return "" if math.isnan(median) else number(median)


def _failures(content: NfePoints) -> list[list[str]]:
    failed = content.points[content.points["reason"] != ""]
    return [
        [str(row[name]) for name in ("cell", "sampler", "steps", "reason")]
        for _, row in failed.iterrows()
    ]


def notes(content: NfePoints) -> list[str]:
    """Return the sentences under the table."""
    seeds = content.drawn.groupby("method")["seed"].nunique()
    spread = "; ± is the half-width of the 95 % t interval over seeds" if seeds.max() > 1 else ""
    told = ", ".join(f"{method} {count}" for method, count in seeds.items())
    devices = sorted({str(name) for name in content.drawn["device"].dropna()})
    return [
        "Columns: at most so many network evaluations an image, those of all networks counted "
        f"together. The exact counts are in {TABLES[1]}; '{TOO_FEW}': not enough for one step.",
        f"{AS_RUN}: the cell's own record, with its own sampler; a method without one has no other "
        "point.",
        f"Seeds: {told}{spread}.",
        f"Further metrics of each point are in {TABLES[1]}. "
        "Nothing was trained again, so metrics that train a network or look at the denoiser are "
        "left out. Noise levels and all else are the cell's own.",
        "ms/image: median over the batches drawn, after one batch of warm-up; over seeds, the "
        f"median. Device: {'; '.join(devices) or 'unknown'}.",
        "The best of many samplers on one set of samples looks better than it is: compare it again "
        "on other seeds.",
    ]


def csv(content: NfePoints) -> str:
    """Write every point of every cell with its raw numbers at full precision."""
    points = content.points.copy()
    points["asked"] = [" ".join(map(str, asked)) or AS_RUN for asked in points["asked"]]
    return points.to_csv(index=False)


def render_nfe_table(report: StudyReport) -> str:
    """Write the table as Markdown; empty where no cell was sampled again."""
    content = load_points(report)
    return markdown(content) if content else ""


def write_nfe_tables(report: StudyReport) -> list[Path]:
    """Write the tables into the study, each atomically; none where no cell was sampled again."""
    content = load_points(report)
    if content is None:
        return []
    paths = [report.folder / name for name in TABLES]
    for path, write in zip(paths, (markdown, csv), strict=True):
        write_text(path, write(content))
    return paths


# The plot ---------------------------------------------------------------------------------------

DODGE = 0.012
"""Shift between neighbouring lines, as a fraction of a value: bars at one place stay legible."""


def write_nfe_plots(report: StudyReport) -> list[Path]:
    """Draw each distance against the evaluations counted; nothing where there are no points."""
    from matplotlib import rc_context

    content = load_points(report)
    if content is None:
        return []
    names = [name for name in content.metrics if direction(name) == "↓"] or content.metrics[:1]
    with rc_context(STYLE):
        return [
            path
            for name in names
            for path in save(draw(content, name), report.folder / "plots" / f"nfe-curve-{name}")
        ]


def draw(content: NfePoints, metric: str) -> Figure:
    """Draw a panel a method, a line a sampler; methods without one are a point in every panel."""
    column = f"metrics.{metric}"
    methods = sorted(content.drawn["method"].unique())
    samplers = sorted(content.drawn["sampler"].unique(), key=sampler_order)
    columns = min(3, len(methods))
    rows = -(-len(methods) // columns)
    figure, panels = new_figure(
        1.2 + 3.9 * columns, 1.0 + 2.9 * rows, columns, rows, sharex=True, sharey=True
    )
    for method, axes in zip(methods, panels, strict=False):
        for place, sampler in enumerate(samplers):
            _line(axes, content.line(method, sampler), column, place, sampler)
        _singles(axes, content, methods, column)
        axes.set_title(method)
        axes.set_xlabel("network evaluations an image, counted")
    for axes in panels[::columns][:rows]:
        axes.set_ylabel(f"{metric} {direction(metric)}".rstrip())
    for axes in panels[len(methods) :]:
        axes.remove()
    if content.points.groupby("method")["seed"].nunique().max() > 1:
        told = "Mean and 95 % t interval over seeds; lines stand a little apart to stay legible."
        figure.supxlabel(told, fontsize=8, color="#444444")
    _axes(panels[: len(methods)], content, metric)
    _legend(figure, panels[: len(methods)], samplers)
    return figure


def _line(axes: Axes, points: pd.DataFrame, column: str, place: int, label: str) -> None:
    """Draw a sampler's line through the means over seeds, with their intervals as bars."""
    x, y, bars = _means(points[~points["own"]], column)
    if not x:
        return
    colour = PALETTE[place % len(PALETTE)]
    turns = place // len(PALETTE)
    shift = 1 + DODGE * (place - 3)
    axes.errorbar(
        [value * shift for value in x], y, yerr=bars, label=label, color=colour,
        marker=MARKERS[place % len(MARKERS)], markersize=6, linewidth=1.2,
        linestyle=("-", *ANCHOR_STYLES)[turns % 4], elinewidth=0.8, capsize=2,
        markeredgecolor="white", markeredgewidth=0.3,
    )  # fmt: skip


def _means(points: pd.DataFrame, column: str) -> tuple[list[float], list[float], Any]:
    """Return evaluations, means and intervals over seeds, by the evaluations counted."""
    x, y, halves = [], [], []
    finite = points[points[column].map(math.isfinite).astype(bool)]
    for nfe, group in finite.groupby("nfe"):
        mean, half, _ = mean_interval(group[column].tolist())
        x.append(float(str(nfe)))
        y.append(mean)
        halves.append(0.0 if math.isnan(half) else half)
    below = [min(half, 0.9 * abs(mean)) for half, mean in zip(halves, y, strict=True)]
    return x, y, [below, halves] if any(halves) else None


def _singles(axes: Axes, content: NfePoints, drawn: Sequence[str], column: str) -> None:
    """Draw the methods that have no sampler to exchange, each as the one point of its record."""
    if column not in content.points.columns:
        return
    others = content.points[~content.points["method"].isin(drawn)]
    for place, (method, points) in enumerate(others.groupby("method")):
        x, y, bars = _means(points, column)
        if not x:
            continue
        marker = MARKERS[place % len(MARKERS)]
        axes.errorbar(
            x, y, yerr=bars, fmt=marker, label=str(method), color="#777777",
            markersize=8, elinewidth=0.8, capsize=2, linestyle="none",
        )  # fmt: skip


def _axes(panels: Sequence[Axes], content: NfePoints, metric: str) -> None:
    """Make both axes logarithmic and draw the anchor of real images."""
    anchors = {
        name: level
        for name, level in content.report.levels(metric).items()
        if name.startswith(REAL)
    }
    points = content.points[content.points[f"metrics.{metric}"].map(math.isfinite).astype(bool)]
    levels = [*points[f"metrics.{metric}"], *anchors.values()]
    for axes in panels:
        log_scale(axes, "x", points["nfe"].tolist(), padding=1.25)
        log_scale(axes, "y", levels, padding=1.3)
        for name, level in anchors.items():
            axes.axhline(level, color="#555555", linestyle="--", linewidth=1.1, zorder=1)
            axes.annotate(
                f"{name}: {number(level)}", (0.995, level), (0, 3), va="bottom", ha="right",
                xycoords=("axes fraction", "data"), textcoords="offset points", color="#444444",
                fontsize=8,
            )  # fmt: skip


def _legend(figure: Figure, panels: Sequence[Axes], samplers: Sequence[str]) -> None:
    """Put one legend above all panels: the samplers, then the methods that are one point."""
    handles: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    names = sorted(handles, key=lambda name: (name not in samplers, *sampler_order(name)))
    figure.legend(
        [handles[name] for name in names],
        names,
        loc="outside upper center",
        ncols=min(3 * min(3, len(panels)), len(names)),
    )
