"""Two studies beside each other: what moved beyond noise, what did not, and what cannot be told.

Methods are matched by their labels. Quality and measured costs are tested, by seed where both
studies have the same seeds, by Welch's test where they do not; quality from one seed alone, by the
jackknife's error within it. Holm's correction holds the chance of any false move of a metric at
5 %; it is done apart for measured costs, whose tests know nothing of another day. What is counted
is compared exactly, and what is equal to the bit is no test's matter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.commands.compare.differences import differences
from bench.commands.compare.significance import by_errors, choose, over_seeds
from bench.config.errors import UserError
from bench.records.metric_names import direction
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
Verdict = str
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
    verdict: Verdict
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

    def of(self, verdict: Verdict) -> list[Compared]:
        """The rows with a verdict."""
        return [row for row in self.rows if row.verdict == verdict]

    def tested(self, kind: str) -> int:
        """How many tests there were of a kind."""
        return sum(row.kind == kind and not math.isnan(row.p) for row in self.rows)


# Values -----------------------------------------------------------------------------------------


def values(side: StudyReport, method: str, column: str) -> dict[int, float]:
    """Return a column's finite values of a method's finished cells by seed."""
    if column not in side.frame.columns:
        return {}
    if method not in side.by_method:
        return {}
    cells = side.by_method[method]
    found = zip(cells["seed"], cells[column], strict=True)
    return {int(seed): float(value) for seed, value in found if math.isfinite(value)}


Errors = Callable[[StudyReport, str, int], float]
"""Gives the standard error of one cell's value: of a side, a method and a seed."""


@dataclass(frozen=True)
class Found:
    """A column of a method in two studies: the means compared, the test and what it rests on."""

    one: float
    other: float
    test: Difference
    how: str
    is_equal: bool = False


def compare_column(
    sides: tuple[StudyReport, StudyReport], method: str, column: str, errors: Errors | None = None
) -> Found | None:
    """Compare a column of a method; ``None`` where one study has no value."""
    one, other = (values(side, method, column) for side in sides)
    if not one or not other:
        return None
    chosen = choose(one, other)
    if chosen.is_equal:
        return Found(*chosen.means, Difference(0.0, math.nan, math.nan, len(one)), "", True)
    test, how = over_seeds(chosen)
    if errors is not None and len(chosen.one) == len(chosen.other) == 1:
        pair = (*chosen.one, *chosen.other)
        told = [errors(side, method, seed) for side, seed in zip(sides, pair, strict=True)]
        test, how = by_errors(test.mean, told), _within(pair)
    return Found(*chosen.means, test, "" if math.isnan(test.p) else how)


def _within(pair: Sequence[int]) -> str:
    one, other = pair
    return f"within seed {one}" if one == other else f"within seeds {one} and {other}"


def jackknife_error(metric: str) -> Errors:
    """Return the errors within a seed of a metric."""
    return lambda side, method, seed: values(side, method, f"metrics.{metric}.error").get(
        seed, math.nan
    )


# The comparison ---------------------------------------------------------------------------------


def compare(one: Path, other: Path) -> Comparison:
    """Compare two studies, folder by folder.

    Raises:
        UserError: the same folder twice, no study there, or values within one that were not
            measured alike.
    """
    if one.resolve() == other.resolve():
        raise UserError(f"'{one}' is the same study twice; give two")
    sides = (StudyReport.read(one), StudyReport.read(other))
    methods = [name for name in sides[0].by_method if name in sides[1].by_method]
    metrics, apart = _metrics(sides)
    tests = [
        *_corrected(_metric_rows(sides, methods, metrics)),
        *_corrected([row for name in methods for row in _measured_rows(sides, name)]),
    ]
    counts = [row for name in methods for row in _counted_rows(sides, name)]
    places = [line for name in methods for line in _elsewhere(sides, name)]
    return Comparison(
        one,
        other,
        tuple(differences(*sides)),
        (*tests, *counts),
        tuple(_only(sides, methods, metrics)),
        (*apart, *places),
    )


def _metrics(sides: tuple[StudyReport, StudyReport]) -> tuple[list[str], list[str]]:
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
    sides: tuple[StudyReport, StudyReport], methods: Sequence[str], metrics: Sequence[str]
) -> Iterator[Compared]:
    for method in methods:
        for name in metrics:
            found = compare_column(sides, method, f"metrics.{name}", jackknife_error(name))
            if found is not None:
                sign = {"↓": -1, "↑": 1}.get(direction(name))
                yield _row(method, f"{name} {direction(name)}".rstrip(), "metric", found, sign)


def _measured_rows(sides: tuple[StudyReport, StudyReport], method: str) -> Iterator[Compared]:
    if _devices(sides, method)[0] != _devices(sides, method)[1]:
        return
    for column, title in MEASURED.items():
        field = column.removesuffix(".median")
        if (
            field != column
            and _batches(sides, method, field)[0] != _batches(sides, method, field)[1]
        ):
            continue
        # One seed has no test: the batches of a process share its moment of the machine.
        found = compare_column(sides, method, column)
        if found is not None:
            row = _row(method, title, "measured", found, -1)
            unfit = any(_unfit(side, method) for side in sides)
            yield replace(row, p=math.nan, how="machine not fit") if unfit else row


def _row(method: str, what: str, kind: str, found: Found, sign: int | None) -> Compared:
    test = found.test
    return Compared(
        method=method,
        what=what,
        kind=kind,
        one=found.one,
        other=found.other,
        difference=test.mean,
        half=test.half,
        p=test.p,
        p_holm=math.nan,
        how=found.how,
        verdict=EQUAL if found.is_equal else UNKNOWN,
        is_better=None if sign is None or test.mean == 0 else sign * test.mean > 0,
    )


def _corrected(rows: Iterator[Compared] | Sequence[Compared]) -> list[Compared]:
    """Correct the p values of one family, and say what moved."""
    family = [*rows]
    adjusted = holm([row.p for row in family])

    return [
        row if math.isnan(p) else replace(row, p_holm=p, verdict=MOVED if p <= LEVEL else STAYED)
        for row, p in zip(family, adjusted, strict=True)
    ]


def _counted_rows(sides: tuple[StudyReport, StudyReport], method: str) -> Iterator[Compared]:
    """Compare counts seed by seed where seeds are shared, else by their means."""
    for column, title in COUNTED.items():
        found = compare_column(sides, method, column)
        if found is not None:
            # Nothing is random in a count: no test, and no interval.
            nothing = Difference(found.test.mean, math.nan, math.nan, found.test.count)
            same = found.is_equal or found.test.mean == 0
            row = _row(method, title, "counted", replace(found, test=nothing, how=""), None)
            yield replace(row, verdict=EQUAL if same else CHANGED)


def _devices(sides: tuple[StudyReport, StudyReport], method: str) -> list[str]:
    cells = [side.by_method[method] for side in sides]
    return ["; ".join(sorted({str(name) for name in rows["device"]})) for rows in cells]


def _batches(sides: tuple[StudyReport, StudyReport], method: str, field: str) -> list[set[float]]:
    return [{*values(side, method, f"{field}.batch").values()} for side in sides]


def _unfit(side: StudyReport, method: str) -> bool:
    return any(side.by_method[method]["unfit"])


def _elsewhere(sides: tuple[StudyReport, StudyReport], method: str) -> Iterator[str]:
    """Say why a method's measured costs are not compared."""
    devices = _devices(sides, method)
    if devices[0] != devices[1]:
        yield f"times and memory of {method}: measured on {devices[0]} and on {devices[1]}"
        return
    for field, title in (("cost.ms_per_image", "ms/image"), ("cost.latency_ms", "latency ms")):
        one, other = _batches(sides, method, field)
        if one and other and one != other:
            yield f"{title} of {method}: measured at batches of {_list(one)} and {_list(other)}"


def _list(numbers: set[float]) -> str:
    return ", ".join(f"{value:g}" for value in sorted(numbers))


def _only(
    sides: tuple[StudyReport, StudyReport], methods: Sequence[str], metrics: Sequence[str]
) -> Iterator[str]:
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
