"""Which methods are better than which by each metric, and how sure that is.

What the pairs of methods show (see ``certainty``) becomes a range of ranks: methods that do not
separate always share some.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.records import ON_A_SCALE, Status, direction, metric_family
from bench.report.certainty import MIN_SEEDS, MOST_NEEDED, Gap, gaps
from bench.report.frame import of_one_source

SAME = 1e-12
"""Differences within this fraction of the values are rounding."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Pair:
    """Two methods compared by a metric."""

    one: str
    other: str
    gap: Gap
    """Of ``one - other``, on the ranking's scale."""


@dataclass(frozen=True)
class Spread:
    """How far a method's values lie apart, as standard deviations; NaN where not known."""

    between: float
    """Over the seeds."""
    within: float
    """Of one seed, by the jackknife over blocks of its samples."""

    @property
    def ratio(self) -> float:
        """Near 1 more samples would narrow what the seeds say; where it is large, only seeds do."""
        return self.between / self.within if self.within else float("nan")


@dataclass(frozen=True)
class Ranking:
    """What may be said of the order of methods by one metric."""

    metric: str
    is_log: bool
    """Whether logarithms are compared: gaps are then of factors, and spreads relative."""
    ranks: dict[str, tuple[int, int]]
    """The best and the worst rank that a method may have, best first; empty: none is claimed."""
    unranked: dict[str, int]
    """Methods that share too few seeds with any other, and the seeds that they have."""
    pairs: tuple[Pair, ...]
    spreads: dict[str, Spread]

    @property
    def untested(self) -> list[Pair]:
        """Pairs of ranked methods of which nothing can be said."""
        ranked = [pair for pair in self.pairs if {pair.one, pair.other} <= self.ranks.keys()]
        return [pair for pair in ranked if np.isnan(pair.gap.half)]

    def ties(self, method: str) -> dict[str, float]:
        """Return the methods that one is not separated from, and the seeds that would do it.

        By the seeds, the fewest first; infinite for more than ``MOST_NEEDED``.
        """
        found = {
            pair.other if method == pair.one else pair.one: pair.gap.needed
            for pair in self.pairs
            if method in (pair.one, pair.other) and not np.isnan(pair.gap.needed)
        }
        return dict(sorted(found.items(), key=lambda item: item[1]))


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


@np.errstate(over="ignore", invalid="ignore")  # What is beyond any number separates nothing.
def rank_by(frame: pd.DataFrame, metric: str) -> Ranking:
    """Rank methods by finished cells' finite values of a metric with a better direction."""
    names, values, errors = _values(frame, metric)
    finite = values[np.isfinite(values)]
    is_log = metric_family(metric) in ON_A_SCALE and bool((finite > 0).all())
    scaled, inside = values, errors
    if is_log:
        scaled, inside = np.log(values), errors / values
    within = np.array([_mean(row) for row in inside**2])
    found = gaps(scaled, within, SAME if is_log else SAME * np.abs(finite).max(initial=0.0))
    pairs = tuple(Pair(names[gap.one], names[gap.other], gap) for gap in found)
    compared = [gap for gap in found if gap.count >= MIN_SEEDS]
    chosen = sorted({place for gap in compared for place in (gap.one, gap.other)})
    better = np.zeros((len(names), len(names)), bool)
    sign = 1 if direction(metric) == "↓" else -1
    for gap in found:
        better[(gap.one, gap.other) if sign * gap.mean < 0 else (gap.other, gap.one)] = gap.is_apart
    ranges = dict(zip(chosen, rank_ranges(better[np.ix_(chosen, chosen)]), strict=True))
    order = sorted(
        chosen, key=lambda place: (ranges[place], sign * float(np.nanmean(values[place])))
    )
    count = np.isfinite(values).sum(axis=1).tolist()
    spreads = {
        name: Spread(_deviation(row), float(inner) ** 0.5)
        for name, row, inner in zip(names, scaled, within, strict=True)
    }
    return Ranking(
        metric, is_log, {names[place]: ranges[place] for place in order},
        {name: count[place] for place, name in enumerate(names) if place not in ranges},
        pairs, spreads,
    )  # fmt: skip


def _values(frame: pd.DataFrame, metric: str) -> tuple[list[str], Array, Array]:
    """Return the methods, and their values and errors within a seed, (methods, seeds) each."""
    column, error = f"metrics.{metric}", f"metrics.{metric}.error"
    cells = frame[(frame["kind"] == "cell") & (frame["status"] == str(Status.FINISHED))]
    cells = cells.reindex(columns=["method", "seed", "source", column, error])
    cells = cells[of_one_source(cells)]
    cells = cells[np.isfinite(cells[column].to_numpy(dtype=float))]
    tables = [cells.pivot(index="method", columns="seed", values=name) for name in (column, error)]
    values, errors = (table.to_numpy(dtype=float) for table in tables)
    return list(tables[0].index), values, errors


def _mean(values: Array) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def _deviation(values: Array) -> float:
    known = values[np.isfinite(values)]
    return float(known.std(ddof=1)) if len(known) > 1 else float("nan")


def rankings(frame: pd.DataFrame, metrics: Sequence[str]) -> list[Ranking]:
    """Rank by each metric whose better direction is known and that two methods have."""
    found = [rank_by(frame, name) for name in metrics if direction(name)]
    return [one for one in found if len(one.ranks) + len(one.unranked) > 1]


def rank_text(rank: tuple[int, int]) -> str:
    """Write a range of ranks: ``2`` or ``1-3``."""
    best, worst = rank
    return f"{best}" if best == worst else f"{best}-{worst}"


def seeds_text(needed: float) -> str:
    """Write how many seeds would separate two methods."""
    return f"{needed:.0f}" if np.isfinite(needed) else f"over {MOST_NEEDED}"


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
