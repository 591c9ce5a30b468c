"""Repeated timings as a median with quartiles and a bootstrap interval."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import BaseModel, Field

Amount = Annotated[float, Field(ge=0)]
"""What cannot be less than nothing: seconds, FLOPs, counts."""
Clocked = Annotated[float, Field(ge=0, allow_inf_nan=False)]
"""Seconds by a clock."""


class Interval(BaseModel, frozen=True, extra="forbid", ser_json_inf_nan="constants"):
    """A timing in milliseconds over repeated batches: median, quartiles and 95 % interval."""

    median: Amount
    q25: Amount
    q75: Amount
    low: Amount
    high: Amount
    batch: int
    repeats: int


def interval(milliseconds: Sequence[float], *, batch: int) -> Interval:
    """Summarise repeated timings: median, quartiles, bootstrap 95 % interval of the median."""
    import numpy as np

    q25, median, q75 = np.percentile(np.asarray(milliseconds), [25, 50, 75])
    low, high = median_bounds(milliseconds)
    return Interval(
        median=median, q25=q25, q75=q75, low=low, high=high, batch=batch, repeats=len(milliseconds)
    )


def median_bounds(values: Sequence[float], resamples: int = 2000) -> tuple[float, float]:
    """Return the 95 % interval of the median by the percentile bootstrap, always the same."""
    import numpy as np

    rng = np.random.default_rng(0)
    drawn = rng.choice(np.asarray(values), (resamples, len(values)))
    low, high = np.percentile(np.median(drawn, axis=1), [2.5, 97.5])
    return float(low), float(high)
