"""Two studies beside each other: what moved beyond noise, what did not, and what cannot be told.

Methods are matched by their labels. Quality and measured costs are tested, by seed where both
studies have the same seeds, by Welch's test where they do not; quality from one seed alone, by the
jackknife's error within it. Holm's correction holds the chance of any false move of a metric at
5 %; it is done apart for measured costs, whose tests know nothing of another day. What is counted
is compared exactly, and what is equal to the bit is no test's matter.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.commands.compare.differences import differences
from bench.commands.compare.significance import by_errors, choose, over_seeds
from bench.config import UserError
from bench.records import direction
from bench.report.frame import difference
from bench.report.ranking import LEVEL, Difference, holm
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
    if chosen.is_equal:
        test, how = Difference(0.0, math.nan, math.nan, len(one)), ""
    elif kind == "metric" and len(chosen.one) == len(chosen.other) == 1:
        pair = (*chosen.one, *chosen.other)
        errors = [
            values(side, method, f"{column}.error").get(seed, math.nan)
            for side, seed in zip(sides, pair, strict=True)
        ]
        test = by_errors(over_seeds(chosen)[0].mean, errors)
        how = "within seed {}" if pair[0] == pair[1] else "within seeds {} and {}"
        how = how.format(*pair)
    else:
        test, how = over_seeds(chosen)
    return Compared(
        method=method,
        what=what,
        kind=kind,
        one=chosen.means[0],
        other=chosen.means[1],
        difference=test.mean,
        half=test.half,
        p=test.p,
        p_holm=math.nan,
        how="" if math.isnan(test.p) else how,
        verdict=EQUAL if chosen.is_equal else UNKNOWN,
        is_better=None if sign is None or test.mean == 0 else sign * test.mean > 0,
    )


def compare(one: Path, other: Path) -> Comparison:
    """Compare two studies; UserError if they are one, or one's values were not measured alike."""
    if one.resolve() == other.resolve():
        raise UserError(f"'{one}' is the same study twice; give two")
    sides = (StudyReport.read(one), StudyReport.read(other))
    methods = [name for name in sides[0].by_method if name in sides[1].by_method]
    metrics, apart = _metrics(sides)
    tests = [
        *_corrected(_metric_rows(sides, methods, metrics)),
        *_corrected([row for name in methods for row in _measured_rows(sides, name, apart)]),
    ]
    counts = [row for name in methods for row in _counted_rows(sides, name)]
    told, only = tuple(differences(*sides)), tuple(_only(sides, methods, metrics))
    return Comparison(one, other, told, (*tests, *counts), only, tuple(apart))


def _metrics(sides: Sides) -> tuple[list[str], list[str]]:
    """Return the metrics that may be compared, and why others that both have may not."""
    left, right = (side.metrics for side in sides)
    alike, apart = [], []
    for name in [name for name in left if name in right]:
        told = difference(*(side.provenance.get(name, {}) for side in sides))
        if told:
            apart.append(f"{name}: not measured alike, {told}")
        else:
            alike.append(name)
    return alike, apart


def _metric_rows(
    sides: Sides, methods: Sequence[str], metrics: Sequence[str]
) -> Iterator[Compared | None]:
    for method in methods:
        for name in metrics:
            sign = {"↓": -1, "↑": 1}.get(arrow := direction(name))
            what = f"{name} {arrow}".rstrip()
            yield compare_column(sides, method, f"metrics.{name}", what, "metric", sign=sign)


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
    adjusted = holm([row.p for row in family])
    return [
        row if math.isnan(p) else replace(row, p_holm=p, verdict=MOVED if p <= LEVEL else STAYED)
        for row, p in zip(family, adjusted, strict=True)
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
        there = set(rest.metrics)
        yield from (f"{letter}: {name}" for name in side.metrics if name not in there)
        for method in methods:
            for name in metrics:
                column = f"metrics.{name}"
                if values(side, method, column) and not values(rest, method, column):
                    yield f"{letter}: {name} of {method}"
