"""What two sides' times and counts mean: which benchmarks became slower, are new, are missing.

With a_p and b_p the logarithms of the medians over rounds of process p of the base and of the
current tree, the ratio is exp(mean b - mean a). Its noise is the largest of three estimates of the
standard deviation of its logarithm:

- from the rounds: a bootstrap that draws rounds, the same for all processes, as they were paired;
- from this benchmark's processes: with variance v a process, each squared difference of two of the
  same code has mean 2 v, and the ratio of two means of two has variance v;
- from those of all benchmarks of the job: the median of the latter, over that of a chi-square with
  two degrees of freedom divided by two, ln 2. Two differences alone may agree by chance.

A benchmark is slower if its ratio is above 1 + floor and above exp(3 noise), that is, if the lower
end of its interval exp(+-3 noise) is above 1; and if it is so again when measured once more.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from tests.speed.interleave import Counts, Measured, Times

FLOOR = 0.10
WIDTH = 3.0
"""Standard deviations from the ratio to an end of its interval."""
RESAMPLES = 200


class Verdict(StrEnum):
    """What is said of a benchmark."""

    SLOWER = "SLOWER"
    MORE_WORK = "MORE WORK"
    MISSING = "MISSING"
    BROKEN = "BROKEN"
    INCOMPARABLE = "not comparable"
    NEW = "new"
    FASTER = "faster"
    SAME = "ok"


RED = {Verdict.SLOWER, Verdict.MORE_WORK, Verdict.MISSING, Verdict.BROKEN}


@dataclass(frozen=True)
class Comparison:
    """One benchmark's times on two sides; ``noise`` is that of the ratio's logarithm."""

    base: float
    current: float
    """Seconds a call: geometric means of the processes' medians."""
    noise: float
    floor: float = FLOOR

    @property
    def ratio(self) -> float:
        """Current over base."""
        return self.current / self.base

    @property
    def interval(self) -> tuple[float, float]:
        """Where the ratio lies, ``WIDTH`` standard deviations to both sides."""
        width = math.exp(WIDTH * self.noise)
        return self.ratio / width, self.ratio * width

    @property
    def threshold(self) -> float:
        """The ratio above which the current tree is slower."""
        return max(1 + self.floor, math.exp(WIDTH * self.noise))

    @property
    def slower(self) -> bool:
        """Whether the current tree is slower by more than noise and floor."""
        return self.ratio > self.threshold

    @property
    def faster(self) -> bool:
        """Whether it is faster by as much."""
        return self.ratio < 1 / self.threshold


@dataclass(frozen=True)
class Row:
    """A benchmark in the report."""

    name: str
    verdict: Verdict
    first: Comparison | None = None
    again: Comparison | None = None
    """Measured once more, where the first time was red."""
    seconds: float | None = None
    """Of a call, where there is nothing to compare with."""
    notes: tuple[str, ...] = ()
    accepted: bool = False

    @property
    def red(self) -> bool:
        """Whether the check fails for it."""
        return self.verdict in RED and not self.accepted


def medians(processes: list[list[float]]) -> NDArray[np.float64]:
    """Logarithms of the processes' medians, (P,)."""
    return np.log([np.median(times) for times in processes])


def between_processes(times: Times) -> float:
    """Variance of the ratio's logarithm as processes of the same code tell it."""
    variances = [medians(side).var(ddof=1) / len(side) for side in times.values()]
    return float(sum(variances))


def within_processes(times: Times) -> float:
    """Variance of the ratio's logarithm as its rounds tell it, by a bootstrap of whole rounds."""
    rounds = min(len(values) for side in times.values() for values in side)
    drawn = np.random.default_rng(0).integers(rounds, size=(RESAMPLES, rounds))

    def logs(side: str) -> NDArray[np.float64]:
        return np.mean([np.log(np.median(np.array(v)[drawn], axis=1)) for v in times[side]], axis=0)

    return float(np.var(logs("current") - logs("base"), ddof=1))


def common_noise(all_times: Collection[Times]) -> float:
    """Variance between processes that is typical of the job's benchmarks."""
    return float(np.median([between_processes(times) for times in all_times]) / math.log(2))


def compare(times: Times, common: float, floor: float = FLOOR) -> Comparison:
    """Compare one benchmark's two sides; ``common`` is :func:`common_noise` of the job."""
    variance = max(common, between_processes(times), within_processes(times))
    base, current = (float(np.exp(medians(times[side]).mean())) for side in ("base", "current"))
    return Comparison(base, current, math.sqrt(variance), floor)


def compare_all(measured: Measured, floor: float, common: float = 0.0) -> dict[str, Comparison]:
    """Compare all that both sides have timed; ``common`` noise is at least what is given."""
    both = {name: times for name, times in measured.times.items() if len(times) == 2}
    common = max(common, common_noise(both.values())) if both else common
    return {name: compare(times, common, floor) for name, times in both.items()}


def changed_counts(base: Counts, current: Counts) -> tuple[list[str], bool]:
    """Tell what changed among numbers without a clock, and whether one has grown."""
    told, grew = [], False
    for name in sorted({*base, *current}):
        before, after = base.get(name), current.get(name)
        if before != after:
            shown = ["-" if value is None else f"{value:,.10g}" for value in (before, after)]
            told.append(f"{name}: {shown[0]} -> {shown[1]}")
        grew = grew or (before is not None and after is not None and after > before)
    return told, grew


@dataclass(frozen=True)
class Job:
    """All that was measured."""

    first: Measured
    again: Measured = field(default_factory=Measured)
    """What was slower in ``first``, once more and by new processes."""
    own: frozenset[str] = frozenset()
    """Benchmarks that the base's own definitions have."""
    by_own: frozenset[str] = frozenset()
    """Those that the base ran by its own definition, since it could not run the current one."""


def suspects(measured: Measured, floor: float) -> set[str]:
    """Benchmarks to be measured once more."""
    return {name for name, found in compare_all(measured, floor).items() if found.slower}


def judge(job: Job, *, floor: float = FLOOR, accepted: Collection[str] = ()) -> list[Row]:
    """Judge every benchmark that either side has, red ones first among equals in order."""
    first = compare_all(job.first, floor)
    both = [times for times in job.first.times.values() if len(times) == 2]
    again = compare_all(job.again, floor, common_noise(both) if both else 0.0)
    current = job.first.collected.get("current", [])
    base = {*job.first.collected.get("base", []), *job.own}
    rows = [_present(name, job, first.get(name), again.get(name)) for name in current]
    new = [row.name for row in rows if row.verdict is Verdict.NEW]
    rows += [_missing(name, new) for name in sorted(base - set(current))]
    return [replace(row, accepted=row.name in accepted) for row in rows]


def _missing(name: str, new: list[str]) -> Row:
    like = get_close_matches(name, new, n=1, cutoff=0.6)
    notes = [f"renamed to {like[0]}?"] if like else []
    return Row(name, Verdict.MISSING, notes=("the base has it", *notes))


def _present(name: str, job: Job, first: Comparison | None, again: Comparison | None) -> Row:
    """Judge a benchmark that the current tree has."""
    measured = job.first
    errors = measured.errors.get(name, {})
    if "current" in errors or name not in {*measured.times, *measured.errors}:
        return Row(name, Verdict.BROKEN, notes=(errors.get("current", "it was not run"),))
    if "base" in errors:
        return Row(name, Verdict.INCOMPARABLE, notes=(f"base: {errors['base']}",))
    if first is None:
        seconds = float(np.exp(medians(measured.times[name]["current"]).mean()))
        why = measured.uncollected.get("base")
        if why is not None or name in job.own:
            told = why or "it does not run the current definition"
            return Row(name, Verdict.INCOMPARABLE, seconds=seconds, notes=(f"base: {told}",))
        return Row(name, Verdict.NEW, seconds=seconds)
    return _timed(name, job, first, again)


def _timed(name: str, job: Job, first: Comparison, again: Comparison | None) -> Row:
    counts = job.first.counts.get(name, {})
    notes, grew = changed_counts(counts.get("base", {}), counts.get("current", {}))
    if name in job.by_own:
        notes.append("each side by its own definition")
    verdict = Verdict.SAME
    if first.slower and (again is None or again.slower):
        verdict = Verdict.SLOWER
    elif grew:
        verdict = Verdict.MORE_WORK
    elif first.faster:
        verdict = Verdict.FASTER
    if first.slower and verdict is not Verdict.SLOWER:
        notes.append("slower at first, not when measured once more")
    return Row(name, verdict, first, again, notes=tuple(notes))
