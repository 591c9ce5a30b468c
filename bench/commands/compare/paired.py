"""The paired t test of two studies by the seeds that both have, and Holm's correction."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

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
