"""Two studies beside each other: what moved beyond noise, what did not, and what cannot be told.

Methods are matched by their labels. Quality and measured costs are tested, by seed where both
studies have the same seeds, by Welch's test where they do not; quality from one seed alone, by the
jackknife's error within it. Holm's correction holds the chance of any false move of a metric at
5 %; it is done apart for measured costs, whose tests know nothing of another day. What is counted
is compared exactly, and what is equal to the bit is no test's matter.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import ndtr, stdtr, stdtrit

from bench.commands.compare.paired import SAME, Difference, holm, paired
from bench.commands.compare.surroundings import differences
from bench.config import UserError
from bench.records import direction
from bench.report.certainty import LEVEL, MIN_SEEDS
from bench.report.frame import difference
from bench.report.study_report import StudyReport

COUNTED = {
    "cost.nfe": "NFE",
    "cost.sample_flops_per_image": "sampling FLOPs an image",
    "cost.train_flops": "training FLOPs",
    "cost.steps": "steps",
    "cost.images_seen": "images seen",
    "cost.parameters": "parameters",
}
MEASURED = {
    "cost.ms_per_image.median": "ms/image",
    "cost.latency_ms.median": "latency ms",
    "ledger.train": "train s",
    "ledger.wall": "total s",
    "cost.peak_memory_bytes": "peak memory, bytes",
}
"""Costs that depend on the machine, and are compared on the same device alone."""
Z = 1.959963984540054
"""Standard errors on either side of a normal 95 % interval."""
MOVED, STAYED, UNKNOWN = "moved", "not moved", "no interval"
CHANGED, EQUAL = "changed", "equal"


@dataclass(frozen=True)
class Compared:
    """One number of one method in both studies; the difference is of the second less the first."""

    method: str
    what: str
    kind: str
    """``metric``, ``measured`` or ``counted``."""
    one: float
    """Mean over the first study's seeds."""
    other: float
    difference: float
    half: float
    """Half-width of the difference's 95 % interval, by itself; NaN without one."""
    p: float
    p_holm: float
    how: str
    """What the interval rests on."""
    verdict: str
    is_better: bool | None
    """Whether the second is the better by the difference; ``None``: equal, or nobody knows."""


@dataclass(frozen=True)
class Comparison:
    """All that there is to say of two studies."""

    one: Path
    other: Path
    differences: tuple[str, ...]
    rows: tuple[Compared, ...]
    only: tuple[str, ...]
    """What only one of them has."""
    left_out: tuple[str, ...]
    """What both have and cannot be compared, and why."""

    def of(self, verdict: str) -> list[Compared]:
        """The rows with a verdict."""
        return [row for row in self.rows if row.verdict == verdict]

    def tested(self, kind: str) -> int:
        """How many tests there were of a kind."""
        return sum(row.kind == kind and not math.isnan(row.p) for row in self.rows)


BySeed = Mapping[int, float]


@dataclass(frozen=True)
class Chosen:
    """The values of two studies that are compared, by seed; paired where these are the same."""

    one: BySeed
    other: BySeed
    is_paired: bool

    @property
    def is_equal(self) -> bool:
        """Whether they are the same to the bit, seed by seed."""
        return self.is_paired and self.one == self.other

    @property
    def means(self) -> tuple[float, float]:
        """Both means."""
        one, other = (float(np.mean([*side.values()])) for side in (self.one, self.other))
        return one, other


def choose(one: BySeed, other: BySeed) -> Chosen:
    """Choose what is compared: the same seeds where there are enough, else all that there are."""
    shared = sorted(one.keys() & other.keys())
    alone = min(len(one), len(other)) < 2
    if one.keys() == other.keys() or len(shared) >= MIN_SEEDS or (shared and alone):
        left, right = ({seed: side[seed] for seed in shared} for side in (one, other))
        return Chosen(left, right, is_paired=True)
    return Chosen(one, other, is_paired=False)


def over_seeds(chosen: Chosen) -> tuple[Difference, str]:
    """Test ``other - one`` over seeds, paired where they are the same, and say how."""
    one, other = (np.array([*side.values()]) for side in (chosen.one, chosen.other))
    if chosen.is_paired:
        return paired(other, one), f"paired, {len(one)} seeds"
    return welch(one, other), f"Welch, {len(one)} and {len(other)} seeds"


def welch(one: Any, other: Any) -> Difference:
    """Test the difference of means, ``other - one``, of independent values (N,) and (M,).

    Source: Welch 1947. No test where either has one value, or neither varies.
    """
    mean, count = float(other.mean() - one.mean()), len(one) + len(other)
    if min(len(one), len(other)) < 2:
        return Difference(mean, math.nan, math.nan, count)
    parts = [float(side.var(ddof=1)) / len(side) for side in (one, other)]
    square = sum(parts)
    if square <= (SAME * max(abs(one.mean()), abs(other.mean()))) ** 2:
        return Difference(mean, math.nan, math.nan, count)
    divisors = (len(one) - 1, len(other) - 1)
    freedom = square**2 / sum(part**2 / d for part, d in zip(parts, divisors, strict=True))
    p = 2 * float(stdtr(freedom, -abs(mean) / square**0.5))
    return Difference(mean, float(stdtrit(freedom, 0.975)) * square**0.5, p, count)


def by_errors(mean: float, errors: Sequence[float]) -> Difference:
    """Test a difference of two values against their standard errors, as of normal ones."""
    error = math.hypot(*errors)
    if math.isnan(error) or error == 0:
        return Difference(mean, math.nan, math.nan, 1)
    return Difference(mean, Z * error, 2 * float(ndtr(-abs(mean) / error)), 1)


def values(side: StudyReport, method: str, column: str) -> dict[int, float]:
    """Return a column's finite values of a method's finished cells by seed."""
    if column not in side.frame.columns or method not in side.by_method:
        return {}
    cells = side.by_method[method]
    found = zip(cells["seed"], cells[column], strict=True)
    return {int(seed): float(value) for seed, value in found if math.isfinite(value)}


Sides = tuple[StudyReport, StudyReport]


def compare_column(
    sides: Sides, method: str, column: str, what: str, kind: str, *, sign: int | None = None
) -> Compared | None:
    """Compare a column of the frame, called ``what``; ``None`` where one study has no value.

    A metric of one seed is held against the jackknife's errors within it; the others of one seed
    have no test. ``sign`` is 1 where more is better, -1 where less is, ``None``: nobody knows.
    """
    one, other = (values(side, method, column) for side in sides)
    if not one or not other:
        return None
    chosen = choose(one, other)
    test, how = over_seeds(chosen)
    if chosen.is_equal:
        test = Difference(0.0, math.nan, math.nan, len(one))
    elif kind == "metric" and len(chosen.one) == len(chosen.other) == 1:
        pair = (*chosen.one, *chosen.other)
        beside = (values(side, method, f"{column}.error") for side in sides)
        errors = [each.get(seed, math.nan) for each, seed in zip(beside, pair, strict=True)]
        test = by_errors(test.mean, errors)
        how = "within seed {}" if pair[0] == pair[1] else "within seeds {} and {}"
    return Compared(
        method, what, kind, *chosen.means, test.mean, test.half, test.p, p_holm=math.nan,
        how="" if math.isnan(test.p) else how.format(*chosen.one, *chosen.other),
        verdict=EQUAL if chosen.is_equal else UNKNOWN,
        is_better=None if sign is None or test.mean == 0 else sign * test.mean > 0,
    )  # fmt: skip


def compare(one: Path, other: Path) -> Comparison:
    """Compare two studies; UserError if they are one, or one's values were not measured alike."""
    if one.resolve() == other.resolve():
        raise UserError(f"'{one}' is the same study twice; give two")
    sides = (StudyReport.read(one), StudyReport.read(other))
    methods = [name for name in sides[0].by_method if name in sides[1].by_method]
    metrics, apart = [], []
    for name in (name for name in sides[0].metrics if name in sides[1].metrics):
        if told := difference(*(side.provenance.get(name, {}) for side in sides)):
            apart.append(f"{name}: not measured alike, {told}")
        else:
            metrics.append(name)
    rows = (
        *_corrected(_metric_row(sides, *each) for each in product(methods, metrics)),
        *_corrected(row for name in methods for row in _measured_rows(sides, name, apart)),
        *(row for name in methods for row in _counted_rows(sides, name)),
    )
    only = tuple(_only(sides, methods, metrics))
    return Comparison(one, other, tuple(differences(*sides)), rows, only, tuple(apart))


def _metric_row(sides: Sides, method: str, name: str) -> Compared | None:
    sign = {"↓": -1, "↑": 1}.get(arrow := direction(name))
    what = f"{name} {arrow}".rstrip()
    return compare_column(sides, method, f"metrics.{name}", what, "metric", sign=sign)


def _measured_rows(sides: Sides, method: str, apart: list[str]) -> Iterator[Compared]:
    """Compare measured costs where device and batch are the same; else note why not."""
    cells = [side.by_method[method] for side in sides]
    here, there = ("; ".join(sorted({str(name) for name in rows["device"]})) for rows in cells)
    if here != there:
        apart.append(f"times and memory of {method}: measured on {here} and on {there}")
        return
    for column, title in MEASURED.items():
        batch = f"{column.removesuffix('.median')}.batch"
        one, other = (sorted({*values(side, method, batch).values()}) for side in sides)
        if one != other:
            if one and other:
                told = (", ".join(f"{size:g}" for size in sizes) for sizes in (one, other))
                apart.append(f"{title} of {method}: measured at batches of {' and '.join(told)}")
            continue
        # One seed has no test: the batches of a process share its moment of the machine.
        row = compare_column(sides, method, column, title, "measured", sign=-1)
        if row is not None:
            unfit = any(any(rows["unfit"]) for rows in cells)
            yield replace(row, p=math.nan, how="machine not fit") if unfit else row


def _corrected(rows: Iterable[Compared | None]) -> list[Compared]:
    """Correct the p values of one family, and say what moved."""
    family = [row for row in rows if row is not None]
    return [
        row if math.isnan(p) else replace(row, p_holm=p, verdict=MOVED if p <= LEVEL else STAYED)
        for row, p in zip(family, holm([row.p for row in family]), strict=True)
    ]


def _counted_rows(sides: Sides, method: str) -> Iterator[Compared]:
    """Compare counts seed by seed where seeds are shared, else by their means."""
    for column, title in COUNTED.items():
        row = compare_column(sides, method, column, title, "counted")
        if row is not None:
            # Nothing is random in a count: no test, and no interval.
            verdict = EQUAL if row.verdict == EQUAL or row.difference == 0 else CHANGED
            yield replace(row, half=math.nan, p=math.nan, how="", verdict=verdict)


def _only(sides: Sides, methods: Sequence[str], metrics: Sequence[str]) -> Iterator[str]:
    """Say what only one study has; an unfinished method is said to be."""
    for side, rest, letter in zip(sides, reversed(sides), "AB", strict=True):
        begun = {row.method for _, row in rest.cells}
        for name in side.by_method:
            if name not in methods:
                told = ", without a finished cell in the other" if name in begun else ""
                yield f"{letter}: method {name}{told}"
        yield from (f"{letter}: {name}" for name in side.metrics if name not in rest.metrics)
        for method, name in product(methods, metrics):
            here, there = (values(each, method, f"metrics.{name}") for each in (side, rest))
            if here and not there:
                yield f"{letter}: {name} of {method}"
