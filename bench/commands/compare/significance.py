"""Whether two studies differ beyond noise: by seed, by Welch's test, by the errors within one."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.report.ranking import MIN_SEEDS, SAME, Difference, paired

Z = 1.959963984540054
"""Standard errors on either side of a normal 95 % interval."""

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
    from scipy.special import stdtr, stdtrit

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
    from scipy.special import ndtr

    error = math.hypot(*errors)
    if math.isnan(error) or error == 0:
        return Difference(mean, math.nan, math.nan, 1)
    return Difference(mean, Z * error, 2 * float(ndtr(-abs(mean) / error)), 1)
