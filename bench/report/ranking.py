"""Which methods are better than which: every pair compared on the seeds that both have.

The same seed means the same order of data and streams of noise, and the reference is common to
all, so that two methods are compared by their differences, seed by seed. Each pair has a t test,
Holm's correction holds the chance of any false separation by a metric at 5 %, and what follows is
a range of ranks: methods that do not separate always share some.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

from bench.records import Status, direction
from bench.report.frame import of_one_source

MIN_SEEDS = 3
"""Seeds that two methods must share to be compared."""
LEVEL = 0.05
"""Chance of any false separation among all pairs by one metric, at most."""
SAME = 1e-12
"""Differences within this fraction of the values are rounding."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """A difference with its 95 % interval and two-sided p value; NaN where there is none."""

    mean: float
    half: float
    p: float
    count: int
    """Seeds that it rests on."""


@np.errstate(over="ignore", invalid="ignore")
def paired(one: Array, other: Array) -> Difference:
    """Test the mean of ``one - other`` against zero; both (S,), the same seeds in the same order.

    Seeds that either lacks, by NaN or infinity, do not count. Differences that are all zero have
    p = 1. Where they do not vary and are not zero there is no test: no variance was seen.
    """
    both = np.isfinite(one) & np.isfinite(other)
    differences, count = one[both] - other[both], int(both.sum())
    if count == 0:
        return Difference(np.nan, np.nan, np.nan, 0)
    mean = float(differences.mean())
    rounding = SAME * float(np.abs([one[both], other[both]]).max())
    if np.abs(differences).max() <= rounding:
        return Difference(mean, 0.0, 1.0, count)
    if count == 1 or np.ptp(differences) <= rounding:
        return Difference(mean, np.nan, np.nan, count)
    error = float(differences.std(ddof=1)) / count**0.5
    p = 2 * float(stdtr(count - 1, -abs(mean) / error))
    return Difference(mean, float(stdtrit(count - 1, 0.975)) * error, p, count)


def holm(p: Sequence[float]) -> list[float]:
    """Return p values corrected for their number (Holm 1979); NaN stays and does not count."""
    order = [place for place in np.argsort(p) if not np.isnan(p[place])]
    adjusted, largest = [float("nan")] * len(p), 0.0
    for done, place in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - done) * p[place]))
        adjusted[place] = largest
    return adjusted


@dataclass(frozen=True)
class Pair:
    """Two methods compared by a metric; the test is of ``one - other``."""

    one: str
    other: str
    test: Difference
    adjusted: float
    """The p value corrected for all pairs; NaN where there is no test."""

    @property
    def is_apart(self) -> bool:
        """Whether the two separate."""
        return self.adjusted <= LEVEL


@dataclass(frozen=True)
class Ranking:
    """What may be said of the order of methods by one metric."""

    metric: str
    ranks: dict[str, tuple[int, int]]
    """The best and the worst rank that a method may have, best first; empty: none is claimed."""
    unranked: dict[str, int]
    """Methods that share too few seeds with any other, and the seeds that they have."""
    pairs: tuple[Pair, ...]

    @property
    def hurdle(self) -> tuple[int, int, float]:
        """The most seeds of a pair, the tests, and the t value that the clearest pair needs."""
        tests = [pair.test.count for pair in self.pairs if not np.isnan(pair.adjusted)]
        seeds = max(tests, default=0)
        if seeds < 2:
            return seeds, 0, float("nan")
        return seeds, len(tests), float(stdtrit(seeds - 1, 1 - LEVEL / (2 * len(tests))))

    @property
    def untested(self) -> list[Pair]:
        """Pairs of ranked methods without a test."""
        ranked = [pair for pair in self.pairs if {pair.one, pair.other} <= self.ranks.keys()]
        return [pair for pair in ranked if np.isnan(pair.test.p)]


def compare_all(values: Array) -> list[tuple[int, int, Difference, float]]:
    """Compare every two rows of values (methods, seeds): their places, test and corrected p."""
    tests = [(i, j, paired(values[i], values[j])) for i, j in combinations(range(len(values)), 2)]
    corrected = holm([test.p if test.count >= MIN_SEEDS else np.nan for *_, test in tests])
    return [(*test, adjusted) for test, adjusted in zip(tests, corrected, strict=True)]


def rank_ranges(better: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return each method's best and worst rank; ``better[i, j]``: i was found better than j.

    What follows from what was found is added, i better than k and k than j, and a contradiction
    drops out. So the found order is transitive, and the ranges of any two methods that it leaves
    apart overlap.
    """
    found = better.copy()
    for k in range(len(found)):
        found |= np.outer(found[:, k], found[k])
    found &= ~found.T
    ahead, behind = found.sum(axis=0), found.sum(axis=1)
    return [(int(a) + 1, len(found) - int(b)) for a, b in zip(ahead, behind, strict=True)]


def rank_by(frame: pd.DataFrame, metric: str) -> Ranking:
    """Rank methods by finished cells' finite values of a metric with a better direction."""
    column = f"metrics.{metric}"
    cells = frame[["kind", "status", "method", "seed", "source", column]]
    cells = cells[(cells["kind"] == "cell") & (cells["status"] == str(Status.FINISHED))]
    cells = cells[of_one_source(cells)]
    cells = cells[np.isfinite(cells[column].to_numpy(dtype=float))]
    table = cells.pivot(index="method", columns="seed", values=column)
    names, values = list(table.index), table.to_numpy(dtype=float)
    sign = 1 if direction(metric) == "↓" else -1
    results = compare_all(values)
    pairs = tuple(Pair(names[i], names[j], test, p) for i, j, test, p in results)
    partnered = {
        name for pair in pairs if pair.test.count >= MIN_SEEDS for name in (pair.one, pair.other)
    }
    chosen = [place for place, name in enumerate(names) if name in partnered]
    better = np.zeros((len(names), len(names)), bool)
    for (i, j, test, _), pair in zip(results, pairs, strict=True):
        better[(i, j) if sign * test.mean < 0 else (j, i)] = pair.is_apart
    ranges = dict(zip(chosen, rank_ranges(better[np.ix_(chosen, chosen)]), strict=True))
    means = {place: float(np.nanmean(values[place])) for place in chosen}
    order = sorted(chosen, key=lambda place: (ranges[place], sign * means[place]))
    seeds = dict(zip(names, (~np.isnan(values)).sum(axis=1).tolist(), strict=True))
    unranked = {name: count for name, count in seeds.items() if name not in partnered}
    return Ranking(metric, {names[place]: ranges[place] for place in order}, unranked, pairs)


def rankings(frame: pd.DataFrame, metrics: Sequence[str]) -> list[Ranking]:
    """Rank by each metric whose better direction is known and that two methods have."""
    found = [rank_by(frame, name) for name in metrics if direction(name)]
    return [one for one in found if len(one.ranks) + len(one.unranked) > 1]


def rank_text(rank: tuple[int, int]) -> str:
    """Write a range of ranks: ``2`` or ``1-3``."""
    best, worst = rank
    return f"{best}" if best == worst else f"{best}-{worst}"


def sentence(ranking: Ranking) -> str:
    """Write a ranking in a sentence; methods of one range stand together."""
    groups: dict[str, list[str]] = {}
    for name, rank in ranking.ranks.items():
        groups.setdefault(rank_text(rank), []).append(name)
    told = "; ".join(f"{rank} {', '.join(names)}" for rank, names in groups.items())
    text = f"Rank by {ranking.metric}: {told}."
    if ranking.unranked:
        left = ", ".join(f"{name} ({count})" for name, count in ranking.unranked.items())
        text += f" With fewer than {MIN_SEEDS} shared seeds no rank is claimed for {left}."
    if ranking.untested:
        left = ", ".join(f"{pair.one} and {pair.other}" for pair in ranking.untested)
        text += f" Without a test (too few shared seeds, or no variance), so tied: {left}."
    return text
