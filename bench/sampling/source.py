"""Draws a method's samples and times them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.config import Sampling
from bench.cost import count_calls, count_flops, interval, synchronize
from bench.data.dataset import to_uint8
from bench.record import Interval
from bench.seeds import derive
from bench.training import DivergedError, autocast
from methods.base import Method

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


class Source:
    """Draws batches of one trained method.

    Batch ``k`` depends on the seed, the stream's name and ``k`` alone.
    """

    def __init__(
        self,
        method: Method,
        *,
        device: torch.device,
        precision: str,
        seed: int,
        stream: str,
        frequencies: NDArray[np.float64] | None,
        quantise: bool = True,
    ) -> None:
        self.quantise = quantise
        self.method, self.device, self.precision = method, device, precision
        self.seed, self.stream = seed, stream
        self.frequencies = frequencies if method.needs_labels else None

    def labels(self, n: int, index: int) -> Tensor | None:
        """Classes for batch ``index``, drawn from the data's class frequencies, (n,)."""
        if self.frequencies is None:
            return None
        rng = np.random.default_rng(derive(self.seed, f"{self.stream} labels", index))
        drawn = rng.choice(len(self.frequencies), size=n, p=self.frequencies)
        return torch.from_numpy(drawn).to(self.device)

    def batch(self, n: int, index: int) -> tuple[Tensor, Tensor | None]:
        """Draw ``n`` images (n, C, H, W) and the classes asked for."""
        labels = self.labels(n, index)
        seed = derive(self.seed, self.stream, index)
        generator = torch.Generator(self.device).manual_seed(seed)
        with torch.no_grad(), autocast(self.device, self.precision):
            return self.method.sample(n, labels=labels, generator=generator), labels

    def on_host(self, images: Tensor) -> NDArray[Any]:
        """Bring samples to the host, uint8 unless they are points; DivergedError if not finite."""
        if not torch.isfinite(images).all():
            raise DivergedError("a sample is not finite")
        return (to_uint8(images) if self.quantise else images.float()).cpu().numpy()


def draw_images(source: Source, n: int, batch: int) -> NDArray[Any]:
    """Draw ``n`` images without timing them, (n, C, H, W)."""
    parts = [source.on_host(source.batch(batch, index)[0]) for index in range(-(-n // batch))]
    return np.concatenate(parts)[:n]


@dataclass(frozen=True)
class Timed:
    """One batch: its samples on the host, where they are wanted, and how long it took."""

    images: NDArray[Any] | None
    labels: NDArray[np.int64] | None
    milliseconds: float
    """An image."""


class Kept(Protocol):
    """Where batches are kept, so that a process that is killed loses few."""

    def load(self) -> list[Timed]:
        """Return the batches that are there, from the first on."""

    def note(self, batches: Sequence[Timed], *, is_last: bool) -> None:
        """Take note of all batches so far, and keep them where it is time to."""


def draw_and_time(
    source: Source,
    n: int,
    settings: Sampling,
    progress: Callable[[float], None],
    kept: Kept | None = None,
) -> Drawn:
    """Draw ``n`` images in batches and time each batch, after warming up.

    All timed batches have the protocol's size; what is over ``n`` is dropped. Batches that are
    ``kept`` already are not drawn again.
    """
    size = settings.batch
    calls, flops = count_sampling(source, size)
    warm = warm_up(source, size)
    images, labels, times = draw_batches(
        source, n, size, at_least=settings.timed_batches, progress=progress, kept=kept
    )
    single, warm_single = latency(source, settings.latency_repeats)
    return Drawn(
        images=images,
        labels=labels,
        ms_per_image=interval(times, batch=size),
        latency_ms=single,
        nfe_by_network=calls,
        flops_per_image=flops,
        warm_ups={"batch": warm, "latency": warm_single},
    )


def draw_batches(
    source: Source,
    n: int,
    size: int,
    *,
    at_least: int = 1,
    progress: Callable[[float], None] = lambda fraction: None,
    kept: Kept | None = None,
) -> tuple[NDArray[Any], NDArray[np.int64] | None, list[float]]:
    """Draw ``n`` images, the classes asked for, and milliseconds an image of every batch.

    ``at_least`` so many batches are drawn and timed, all of the same ``size``.
    """
    needed = -(-n // size)
    total = max(needed, at_least)
    batches = kept.load() if kept else []
    for index in range(len(batches), total):
        batches.append(draw_batch(source, size, index, is_wanted=index < needed))
        if kept:
            kept.note(batches, is_last=index + 1 == total)
        progress((index + 1) / total)
    images = [batch.images for batch in batches if batch.images is not None]
    labels = [batch.labels for batch in batches if batch.labels is not None]
    told = np.concatenate(labels)[:n] if labels else None
    return np.concatenate(images)[:n], told, [batch.milliseconds for batch in batches]


def draw_batch(source: Source, size: int, index: int, *, is_wanted: bool) -> Timed:
    """Draw and time one batch; its samples are brought to the host only where they are wanted."""
    seconds, (drawn, asked) = timed(source, size, index)
    return Timed(
        images=source.on_host(drawn) if is_wanted else None,
        labels=asked.cpu().numpy() if is_wanted and asked is not None else None,
        milliseconds=1000 * seconds / size,
    )


def count_sampling(source: Source, size: int) -> tuple[dict[str, float], float]:
    """Count network evaluations and FLOPs an image, on one batch."""
    with count_calls(source.method.networks) as calls:
        _, flops = count_flops(lambda: source.batch(size, 0))
    return {name: count / size for name, count in calls.items()}, flops / size


def timed(source: Source, size: int, index: int) -> tuple[float, tuple[Tensor, Tensor | None]]:
    """Draw one batch; return its seconds, the device synchronised at both ends, and the batch."""
    synchronize(source.device)
    started = time.perf_counter()
    result = source.batch(size, index)
    synchronize(source.device)
    return time.perf_counter() - started, result


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
