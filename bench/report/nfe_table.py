"""Quality against network evaluations, from sampling finished cells again: a table and a plot."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from bench.config import UserError
from bench.records import Record, Status, direction, headline, nfe_curve, write_text
from bench.report.frame import device, metric_names, refuse_difference
from bench.report.study_report import StudyReport
from bench.report.summary import mean_interval
from bench.report.table.formats import markdown_table
from bench.report.table.numbers import NOTHING, number, plus_minus

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
    known = nfe_curve.SAMPLERS
    return known.index(name) if name in known else len(known), name


def load_points(report: StudyReport) -> NfePoints | None:
    """Read the points of a study's finished cells; ``None`` if none was sampled again."""
    rows: list[dict[str, Any]] = []
    too_few: dict[tuple[str, str], set[int]] = {}
    sampled = False
    for folder, record, stored in drawn_again(report):
        points = [point for point in stored.points if not point.swept]
        sampled = sampled or bool(points or stored.too_few)
        rows += [point_row(folder, record, point) for point in (None, *points)]
        for sampler, asked in stored.too_few.items():
            too_few.setdefault((record.method, sampler), set()).update(asked)
    # A method that has a sampler to exchange and was not sampled again is left out.
    again = {row["method"] for row in rows if not row["own"]}
    told = [row for row in rows if row["method"] in again or row["sampler"] == NOTHING]
    return NfePoints(pd.DataFrame(told), too_few, report) if sampled else None


def drawn_again(report: StudyReport) -> Iterator[tuple[Path, Record, nfe_curve.Curve]]:
    """Yield each finished cell with what it gave when it was sampled again, which may be nothing.

    UserError where that cannot be read, or was measured otherwise than the cell.
    """
    for folder, record in report.cells:
        if record.status != Status.FINISHED:
            continue
        try:
            stored = nfe_curve.read(folder, record)
        except ValueError as error:
            path = folder / nfe_curve.FILE
            raise UserError(f"'{path}' cannot be read; remove it and sample again") from error
        for point in stored.points:
            for name in [name for name in point.metrics if name in record.metrics]:
                own, other = record.metrics[name].provenance, point.metrics[name].provenance
                owner = f"{folder.name}, {point.title}"
                refuse_difference(name, (folder.name, own), (owner, other))
        yield folder, record, stored


def point_row(folder: Path, record: Record, point: nfe_curve.Point | None) -> dict[str, Any]:
    """A point that was drawn again; without one, the cell's own record as a point."""
    origin, cost = (record, record.cost) if point is None else (point, point)
    own = next((value.provenance for value in record.metrics.values()), {})
    # A method without a sampler has no point but its own.
    sampler = own.get("sampler") or {} if point is None else point.sampler
    return {
        "method": record.method, "seed": record.seed, "cell": folder.name,
        "sampler": str(sampler.get("name", NOTHING)), "steps": sampler.get("steps"),
        "own": point is None,
        "samples": own.get("n") if point is None else point.samples,
        "asked": () if point is None else tuple(point.asked),
        "nfe": math.nan if cost.nfe is None else cost.nfe,
        "ms_per_image": cost.ms_per_image.median if cost.ms_per_image else math.nan,
        "device": device(origin.environment),
        "reason": "" if point is None else point.reason,
        **{f"metrics.{name}": value.value for name, value in origin.metrics.items()},
    }  # fmt: skip


def markdown(content: NfePoints) -> str:
    """Write a table for each metric and one of milliseconds, failures, and what they mean."""
    parts = []
    for name in content.metrics:
        fill = partial(_quality, column=f"metrics.{name}")
        parts += [f"{name} {direction(name)}".rstrip() + "\n", _table(content, fill)]
    parts += ["ms/image\n", _table(content, _milliseconds)]
    failed = content.points[content.points["reason"] != ""]
    if len(failed):
        head = ["cell", "sampler", "steps", "reason"]
        parts += ["Failed:\n", markdown_table(head, failed[head].map(str).to_numpy().tolist())]
    return "\n".join([*parts, "\n".join(f"- {note}" for note in notes(content)) + "\n"])


def _table(content: NfePoints, fill: Callable[[pd.DataFrame], str]) -> str:
    """Write what ``fill`` makes of the seeds' points, and how many of them lack it."""

    def at(points: pd.DataFrame, budget: int) -> str:
        here = points[points["asked"].map(lambda asked: budget in asked).astype(bool)]
        failed, text = int((here["reason"] != "").sum()), fill(here[here["reason"] == ""])
        if failed:
            return f"{text} ({failed} {FAILED})" if text else FAILED
        return text

    rows = []
    for method, sampler in content.lines:
        points = content.line(method, sampler)
        own = points[points["own"]]
        as_run = fill(own) if len(own) else ""
        told = f"{as_run} (NFE {own['nfe'].mean():g})" if as_run else ""
        few = content.too_few.get((method, sampler), ())
        again = [TOO_FEW if n in few else at(points, n) for n in content.budgets]
        rows.append([method, sampler, told, *again])
    return markdown_table(["method", "sampler", AS_RUN, *map(str, content.budgets)], rows)


def _quality(points: pd.DataFrame, column: str) -> str:
    mean, half, count = mean_interval(points[column].dropna().tolist())
    return plus_minus(mean, half) if count else ""


def _milliseconds(points: pd.DataFrame) -> str:
    median = float(points["ms_per_image"].median()) if len(points) else math.nan
    return "" if math.isnan(median) else number(median)


def notes(content: NfePoints) -> list[str]:
    """Return the sentences under the table."""
    seeds = content.drawn.groupby("method")["seed"].nunique()
    spread = "; ± is the half-width of the 95 % t interval over seeds" if seeds.max() > 1 else ""
    told = ", ".join(f"{method} {count}" for method, count in seeds.items())
    devices = sorted({str(name) for name in content.drawn["device"].dropna()})
    return [
        f"Study: {content.report.folder.name}.",
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
    asked = [" ".join(map(str, asked)) or AS_RUN for asked in content.points["asked"]]
    return content.points.assign(asked=asked).to_csv(index=False)


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
