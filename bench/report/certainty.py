"""How sure the gaps between methods are: one model of all methods and seeds for each metric.

The same seed means the same order of data and streams of noise, and one reference serves all: a
value is its method's mean, its seed's effect and a residual, so that two methods are compared by
their differences, seed by seed. Three seeds say too little of one pair's variance; that of all
pairs says more, and is never taken for less than the pair's own. Tukey's studentised range keeps
the chance of any false separation by a metric at 5 %. Its degrees of freedom are those that the
variances leave (Satterthwaite 1946), for methods need not spread alike. With two methods this is
the paired t test. Simulations of its error and power stand in ``tests/test_certainty.py``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from scipy.optimize import newton
from scipy.special import stdtrit
from scipy.stats import studentized_range

MIN_SEEDS = 3
"""Seeds that two methods must share to be compared."""
LEVEL = 0.05
"""Chance of any false separation among all pairs by one metric, at most."""
MOST_NEEDED = 100
"""Seeds up to which it is looked how many would separate two methods."""
POWER_SCORE = 0.8416
"""The normal distribution's quantile at 80 %, the chance at which seeds are said to separate."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Gap:
    """A difference between two rows of values with its simultaneous 95 % interval.

    NaN where there is none, for want of shared seeds or of any variance.
    """

    one: int
    other: int
    mean: float
    """Over the shared seeds, of ``one - other``."""
    half: float
    count: int
    """Seeds that it rests on."""
    needed: float
    """Seeds that separate the two 8 times of 10 if gap and spread stay; infinite beyond 100."""

    @property
    def is_apart(self) -> bool:
        """Whether the two separate."""
        return abs(self.mean) > self.half


@lru_cache
def critical(methods: int) -> Callable[[Array], Array]:
    """The studentised range's 95 % point by its degrees of freedom, 2 or more, over sqrt 2.

    It takes scipy a tenth of a second, so one curve in 1 / df is drawn through a few, to 1e-4.
    """
    if methods == 2:
        return lambda df: np.asarray(stdtrit(df, 1 - LEVEL / 2))
    inverse = np.array([0, 0.02, 0.05, 0.1, 0.16, 0.22, 0.28, 0.33, 0.38, 0.44, 0.5])
    found = [float(studentized_range.ppf(1 - LEVEL, methods, np.inf))]
    for degrees in 1 / inverse[1:]:
        # log sf is close to a line in log q, so few steps are enough.
        def above(log_q: float, df: float = degrees) -> float:
            return float(np.log(studentized_range.sf(np.exp(log_q), methods, df) / LEVEL))

        found.append(float(np.exp(newton(above, np.log(found[-1]), tol=1e-5))))
    curve = CubicSpline(inverse, np.log(found))
    return lambda df: np.exp(curve(1 / df)) / 2**0.5


@np.errstate(divide="ignore", over="ignore", invalid="ignore")
def gaps(values: Array, within: Array, rounding: float) -> list[Gap]:
    """Compare every two rows of values (methods, seeds); NaN or infinite ones do not count.

    ``within`` (methods,) are variances within a seed, which no variance over seeds is below; NaN
    where they are not known. Where nothing varies by more than ``rounding`` there is no interval.
    """
    one, other = np.triu_indices(len(values), 1)
    differences = np.where(np.isfinite(values), values, np.nan)
    differences = differences[one] - differences[other]
    there = ~np.isnan(differences)
    count = there.sum(axis=1)
    mean = np.where(there, differences, 0).sum(axis=1) / count
    squares = np.where(there, differences - mean[:, None], 0) ** 2
    variance, degrees, methods = _variances(values, one, other, count, squares.sum(axis=1) / 2)
    inside = np.nan_to_num(within)
    variance = np.maximum(variance, (inside[one] + inside[other]) / 2)
    # No variance seen is no proof that there is none.
    variance[~(variance > rounding**2)] = np.nan
    half = np.full(len(one), np.nan)
    if tested := np.flatnonzero(count >= MIN_SEEDS).tolist():
        bound = critical(methods)(degrees[tested])
        half[tested] = bound * np.sqrt(2 * variance[tested] / count[tested])
    needed = np.full(len(one), np.nan)
    tied = np.flatnonzero(np.abs(mean) <= half)
    if len(tied):
        free = degrees[tied] / (count[tied] - 1)
        needed[tied] = _needed(np.abs(mean[tied]), variance[tied], free, methods)
    parts = (one, other, mean, half, count, needed)
    return [Gap(*each) for each in zip(*(part.tolist() for part in parts), strict=True)]


def _variances(
    values: Array, one: NDArray[np.int64], other: NDArray[np.int64], count: NDArray[np.int64],
    squares: Array,
) -> tuple[Array, Array, int]:  # fmt: skip
    """Return each pair's variance and degrees of freedom, and how many methods are compared.

    The larger of its own and of all pairs'. Where its own is, the degrees are those of its two
    methods' residuals; else of all methods', but twice the pair's own at most.
    """
    tested, free = count >= MIN_SEEDS, np.maximum(count - 1, 1)
    chosen = np.union1d(one[tested], other[tested])
    if not len(chosen):
        return np.full(len(one), np.nan), np.full(len(one), np.nan), 0
    own, pooled = squares / free, squares[tested].sum() / free[tested].sum()
    spread = np.full(len(values), np.nan)
    spread[chosen] = _residual_variances(values[chosen])
    methods, known = len(chosen), spread[chosen]
    pair = (spread[one] + spread[other]) ** 2 / (spread[one] ** 2 + spread[other] ** 2)
    together = known.sum() ** 2 / (known**2).sum() * (methods - 1) / methods
    # As a multiple of the pair's own; nothing but rounding is told by variances of zero.
    alone = np.fmin(pair, methods - 1)
    among = np.fmin(together, min(2, methods - 1))
    degrees = np.fmax(np.where(own > pooled, alone, among), 1) * free
    return np.maximum(own, pooled), degrees, methods


def _residual_variances(values: Array) -> Array:
    """Variance of each row's residuals from the sums of a row's and a column's effect."""
    rows, columns = np.nonzero(np.isfinite(values))
    design = np.zeros((len(rows), sum(values.shape)))
    design[np.arange(len(rows)), rows] = design[np.arange(len(rows)), len(values) + columns] = 1
    centred = values - np.nanmean(np.where(np.isfinite(values), values, np.nan))
    told = centred[rows, columns]
    residuals = told - design @ np.linalg.lstsq(design, told, rcond=None)[0]
    return np.bincount(rows, residuals**2) / (np.bincount(rows) - 1)


def _needed(gap: Array, variance: Array, free: Array, methods: int) -> Array:
    """Return the fewest seeds that would separate pairs, of so many degrees of freedom a seed."""
    seeds = np.arange(MIN_SEEDS, MOST_NEEDED + 1)
    bound = critical(methods)(np.outer(free, seeds - 1)) + POWER_SCORE
    enough = gap[:, None] >= bound * np.sqrt(2 * variance[:, None] / seeds)
    return np.where(enough.any(axis=1), seeds[enough.argmax(axis=1)], np.inf)
