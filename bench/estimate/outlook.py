"""A forecast put together with the plan: what each cell will cost, the sum, and the wall clock."""

from __future__ import annotations

import heapq
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bench.estimate.steps import known_sum
from bench.estimate.whole import Forecast, Left, Whole
from bench.report.table.numbers import number, scaled

if TYPE_CHECKING:
    from bench.study import Planned

HEAD = ("training", "sampling", "training", "sampling", "evaluation", "other", "total")
UNKNOWN = "?"
MINUTE, HOUR, DAY, YEAR = 60.0, 3600.0, 86_400.0, 31_557_600.0


@dataclass(frozen=True)
class Cost:
    """FLOPs and seconds of a cell, or of several; ``None`` is what is not known."""

    train_flops: float | None = 0.0
    sample_flops: float | None = 0.0
    train: float | None = 0.0
    sample: float | None = 0.0
    evaluate: float | None = 0.0
    other: float | None = 0.0

    @property
    def total(self) -> float | None:
        """Seconds, all in all."""
        return known_sum([self.train, self.sample, self.evaluate, self.other])

    @property
    def known_seconds(self) -> float:
        """Seconds of the parts that are known."""
        parts = (self.train, self.sample, self.evaluate, self.other)
        return sum(part for part in parts if part is not None)


@dataclass(frozen=True)
class Row:
    """A cell, what is done with it, and what that costs."""

    name: str
    method: str
    action: str
    cost: Cost
    trained_by: str = ""
    """The cell that spends the seconds of its first stage, whose FLOPs are charged here too."""


@dataclass(frozen=True)
class Outlook:
    """The costs of a plan."""

    rows: Sequence[Row]
    """All cells, in the order of the plan."""
    jobs: int
    forecast: Forecast

    @property
    def active(self) -> list[Row]:
        """The cells that something is done with."""
        return [row for row in self.rows if row.cost != Cost()]

    @property
    def total(self) -> Cost:
        """All that is to be run; parts that are known of some cells alone are not known."""
        costs = [row.cost for row in self.active]
        parts = (known_sum(getattr(cost, part) for cost in costs) for part in PARTS)
        return Cost(*parts)

    @property
    def is_whole(self) -> bool:
        """Whether every number is known."""
        total = self.total
        known = (total.train_flops, total.sample_flops, total.total, self.forecast.prepare_seconds)
        return None not in known

    @property
    def wall_clock(self) -> float:
        """Seconds of preparing and of all cells, ``jobs`` at a time; what is not known counts 0."""
        slots = [self.forecast.prepare_seconds or 0.0] * max(1, self.jobs)
        for row in self.active:
            heapq.heapreplace(slots, slots[0] + row.cost.known_seconds)
        return max(slots)


PARTS = tuple(Cost.__dataclass_fields__)


def outlook(
    planned: Sequence[Planned], stages: Mapping[str, str | None], forecast: Forecast, jobs: int
) -> Outlook:
    """Cost a plan; ``stages`` are the keys of the methods' first stages, which cells share."""
    trained: dict[tuple[str, int], str] = {}
    rows = []
    for cell in planned:
        name, method, seed = cell.folder.name, cell.config.method, cell.config.seed
        row = Row(name, method, f"{cell.action} ({cell.why})", Cost())
        if not cell.is_idle:
            whole = forecast.methods.get(method, Whole(evaluate_seconds=None))
            left = forecast.cells.get(name, Left())
            left = left if cell.action == "resume" else Left(has_first_stage=left.has_first_stage)
            key = stages.get(method)
            shares = key is not None and cell.config.settings.training.of(method).share_stages
            by = trained.setdefault((key, seed), name) if key is not None and shares else name
            if left.has_first_stage:
                by = "an earlier cell"
            row = replace(row, cost=cost_of(whole, left, by != name))
            if by != name and not left.is_begun:
                row = replace(row, trained_by=by)
        rows.append(row)
    return Outlook(rows, jobs, forecast)


def cost_of(whole: Whole, left: Left, is_shared: bool) -> Cost:
    """What a cell costs from where it stands, with its first stage trained by another or not."""
    train = whole.train_seconds
    if train is not None:
        # A cell that has begun goes on with its own training.
        train = (
            train * left.train if left.is_begun else train - is_shared * whole.first_stage_seconds
        )
    return Cost(
        train_flops=scale(whole.train_flops, left.train),
        sample_flops=scale(whole.sample_flops, left.sample),
        train=train,
        sample=scale(whole.sample_seconds, left.sample),
        evaluate=whole.evaluate_seconds,
        other=whole.other_seconds,
    )


def scale(value: float | None, fraction: float) -> float | None:
    """A fraction of a number, if that is known."""
    return None if value is None else value * fraction


# -- writing it -----------------------------------------------------------------------------------


def lines(found: Outlook) -> list[str]:
    """Write an outlook: a table of the cells, the totals, and where the numbers come from."""
    table = [["", "FLOPs", "FLOPs", *["time"] * 5], ["cell", *HEAD]]
    table += [[f"{row.name}: {row.action}", *texts(row)] for row in found.rows]
    table.append([f"to be run: {len(found.active)} cell(s)", *texts_of(found.total)])
    return [*aligned(table), *totals(found), *provenance(found)]


def texts(row: Row) -> list[str]:
    """A row's numbers; nothing for a cell that nothing is done with."""
    if row.cost == Cost():
        return ["0"] * len(HEAD)
    found = texts_of(row.cost)
    found[2] += "*" if row.trained_by else ""
    return found


def texts_of(cost: Cost) -> list[str]:
    """FLOPs, and seconds of all parts and in total."""
    flops = [cost.train_flops, cost.sample_flops]
    seconds = [cost.train, cost.sample, cost.evaluate, cost.other, cost.total]
    return [*map(operations, flops), *map(duration, seconds)]


def operations(flops: float | None) -> str:
    """Write FLOPs with a prefix."""
    return UNKNOWN if flops is None else scaled(flops, "FLOP")


def duration(seconds: float | None) -> str:
    """Write seconds in the unit that suits them."""
    if seconds is None:
        return UNKNOWN
    for unit, name in ((YEAR, "years"), (DAY, "days"), (HOUR, "h"), (MINUTE, "min")):
        if seconds >= 2 * unit:
            return f"{number(seconds / unit, 2 if seconds < 10 * unit else 3)} {name}"
    return f"{number(seconds, 2)} s" if seconds >= 0.1 else "< 0.1 s"


def aligned(table: Sequence[Sequence[str]]) -> list[str]:
    """Columns of one width, the first to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    written = []
    for first, *others in table:
        cells = [text.rjust(width) for text, width in zip(others, widths[1:], strict=True)]
        written.append("  ".join([first.ljust(widths[0]), *cells]).rstrip())
    return written


def totals(found: Outlook) -> Iterator[str]:
    """The sums of FLOPs and of seconds, and the wall clock."""
    if not found.active:
        return
    total, least = found.total, "" if found.is_whole else "at least "
    known = [flops for flops in (total.train_flops, total.sample_flops) if flops is not None]
    yield f"in total {least}{scaled(math.fsum(known), 'FLOP')} and " + (
        f"{duration(sum(row.cost.known_seconds for row in found.active))} of cells; wall clock "
        f"{least}{duration(found.wall_clock)} with {found.jobs} cell(s) at a time, each taken to "
        "be as fast as one alone"
    )
    preparing = found.forecast.prepare_seconds
    if preparing is None:
        yield "before the cells: reference statistics and anchors, whose time is not known here"
    elif preparing >= 1:
        yield f"before the cells: {duration(preparing)} of reference statistics and anchors"


def provenance(found: Outlook) -> Iterator[str]:
    """Where the numbers come from, and why some are missing."""
    for row in found.rows:
        if row.trained_by:
            yield (
                f"* {row.name}: its first stage is trained by {row.trained_by}; the FLOPs are "
                "charged to each, the time to one"
            )
    active = {row.method for row in found.active}
    for label, whole in found.forecast.methods.items():
        if label in active:
            yield from (f"{label}: {source}" for source in whole.sources)
            yield from (f"{label}: {trouble}" for trouble in whole.troubles)
    cores = os.cpu_count() or 1
    if found.forecast.load > cores:
        yield (
            f"the machine was busy (load {found.forecast.load:.1f} on {cores} cores): times that "
            "were measured are longer than they need be"
        )
    if found.forecast.at:
        yield f"not known: the estimate ended at {found.forecast.at}, which ended its process"
    yield from found.forecast.notes
    for name, left in found.forecast.cells.items():
        if left.trouble:
            yield f"{name}: {left.trouble}; charged in full"
