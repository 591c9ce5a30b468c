"""Times a method's samples, after a warm-up that ends when the times have settled."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.config import Sampling
from bench.costs.intervals import Interval, interval
from bench.data.dataset import Progress
from bench.sampling.source import BatchCache, Source, count_sampling, draw_batches, timed

WINDOW = 3
"""Batches whose median is held against that of as many before: one slow batch decides nothing."""
STABLE = 0.05
"""Warm-up ends when these medians differ by no more than this fraction, about what their intervals
over ten batches leave open."""
WARM_UP_BATCHES = 30
WARM_UP_SECONDS = 10.0
"""Warm-up ends, stable or not, after so many batches or seconds, but not before the second batch:
where batches are slow it costs two, beside the ten or more that are timed."""
WARM_UP_LEAST = 0.25
"""Seconds of warm-up at least: a processor takes some tenths to raise its clocks."""


@dataclass(frozen=True)
class WarmUp:
    """What came before timing, and whether the times had settled."""

    size: int
    """Images a batch."""
    batches: int
    seconds: float
    stable: bool
    change: float
    """Last median over the one before, less 1."""

    @property
    def reasons(self) -> list[str]:
        """Why the timing after it is in doubt: empty, or one line."""
        if self.stable:
            return []
        after = f"after {self.batches} batches of warm-up"
        return [f"the time of a batch of {self.size} still changed by {self.change:+.0%} {after}"]


def warm_up_facts(warm_ups: Mapping[str, WarmUp]) -> dict[str, Any]:
    """Return warm-ups as JSON-like values, for a record."""
    return {name: asdict(found) for name, found in warm_ups.items()}


def warm_up_reasons(warm_ups: Mapping[str, WarmUp]) -> list[str]:
    """Return the reasons of the warm-ups that did not settle."""
    return [reason for found in warm_ups.values() for reason in found.reasons]


@dataclass(frozen=True)
class Drawn:
    """Samples and what they cost."""

    images: NDArray[Any]
    """(N, C, H, W), uint8; float32 where the data are points."""
    labels: NDArray[np.int64] | None
    """Classes asked for, (N,), of a method that is conditional."""
    ms_per_image: Interval
    latency_ms: Interval
    nfe_by_network: dict[str, float]
    """Network evaluations an image, counted."""
    flops_per_image: float
    warm_ups: Mapping[str, WarmUp]
    """Of the protocol's ``batch`` and of the ``latency``."""


def draw_and_time(
    source: Source, n: int, settings: Sampling, progress: Progress, kept: BatchCache | None = None
) -> Drawn:
    """Draw ``n`` images in batches and time each batch, after warming up.

    All have the protocol's size; what is over ``n`` is dropped, and what is ``kept`` not redrawn.
    """
    size = settings.batch
    calls, flops = count_sampling(source, size)
    warm = warm_up(source, size)
    images, labels, times = draw_batches(
        source, n, size, at_least=settings.timed_batches, progress=progress, kept=kept
    )
    single, warm_single = latency(source, settings.latency_repeats)
    return Drawn(
        images, labels, ms_per_image=interval(times, batch=size), latency_ms=single,
        nfe_by_network=calls, flops_per_image=flops,
        warm_ups={"batch": warm, "latency": warm_single},
    )  # fmt: skip


def is_stable(seconds: Sequence[float], window: int = WINDOW) -> bool:
    """Whether the last batches take as long as those before, and do not just get faster.

    The medians of the last ``window`` and of the ``window`` before are compared; six in a row of
    which each is faster than the one before come by chance once in 720.
    """
    if len(seconds) < 2 * window:
        return False
    recent = seconds[-2 * window :]
    falls = window > 1 and all(later < earlier for earlier, later in pairwise(recent))
    return abs(change_of(seconds, window)) <= STABLE and not falls


def change_of(seconds: Sequence[float], window: int) -> float:
    """The median of the last ``window`` over that of the ``window`` before, less 1."""
    last, before = seconds[-window:], seconds[-2 * window : -window]
    return statistics.median(last) / statistics.median(before) - 1


def settle(draw: Callable[[], float], size: int) -> WarmUp:
    """Call ``draw``, which tells its seconds, until they are stable, or too many.

    Where fewer than two windows of batches fit into the time, the windows are shorter.
    """
    seconds = [draw(), draw()]
    spent = sum(seconds)
    while spent < WARM_UP_SECONDS:
        if spent >= WARM_UP_LEAST and (is_stable(seconds) or len(seconds) >= WARM_UP_BATCHES):
            break
        seconds.append(draw())
        spent += seconds[-1]
    window = min(WINDOW, len(seconds) // 2)
    stable, change = is_stable(seconds, window), change_of(seconds, window)
    return WarmUp(size, len(seconds), round(spent, 4), stable, round(change, 4))


def warm_up(source: Source, size: int) -> WarmUp:
    """Draw batches until they take the same time, and say how that went."""
    return settle(lambda: timed(source, size, 0)[0], size)


def latency(source: Source, repeats: int) -> tuple[Interval, WarmUp]:
    """Milliseconds for a single image, after warming up, and how that went."""
    warm = warm_up(source, 1)
    times = [1000 * timed(source, 1, index)[0] for index in range(repeats)]
    return interval(times, batch=1), warm
