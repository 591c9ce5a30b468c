"""What sampling costs: how many images a cell draws, FLOPs of one, and seconds on this device."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from bench.config.schema import Settings
from bench.costs.flops import count_flops
from bench.estimate.subject import META, ShapesOnly, Subject, counting_on_meta, grown
from bench.metrics import diagnose
from bench.sampling import Source, count_sampling, timed
from bench.sampling.timing import WARM_UP_LEAST, WARM_UP_SECONDS, WINDOW
from methods.base import Method

BATCH_SECONDS = 0.15
"""What a batch on a CPU should take at least to be timed."""
REPEATS = 3
SLOW_SECONDS = 1.0
"""A batch that takes longer is not drawn again."""
PROBE = 2
"""Images on which a diagnostic's evaluations are counted."""


@dataclass(frozen=True)
class Pass:
    """One image drawn by the method as it is: its FLOPs and seconds at the protocol's batch."""

    flops: float
    seconds: float | None = None
    single_seconds: float | None = None
    """Of an image drawn alone."""
    told: str = ""

    @property
    def speed(self) -> float | None:
        """FLOP/s."""
        return self.flops / self.seconds if self.seconds else None


@dataclass(frozen=True)
class Draws:
    """How many images a cell draws."""

    batches: int
    """Of the protocol's size, in the end: the samples, or the fewest that are timed."""
    size: int
    singles: int
    """Alone, for the latency."""
    snapshots: int
    """Images of all the snapshots."""

    def images(
        self, batch_seconds: float | None = None, single_seconds: float | None = None
    ) -> int:
        """All of them: also the batch that is counted, and what warms up, given their times."""
        at_once = self.batches + 1 + warm_ups_of(batch_seconds)
        return at_once * self.size + self.alone(single_seconds) + self.snapshots

    def alone(self, seconds: float | None = None) -> int:
        """Images that are drawn alone."""
        return self.singles + warm_ups_of(seconds)


def draws_of(settings: Settings) -> Draws:
    """Count the images that a cell of these settings draws, as the worker does."""
    sampling, evaluation = settings.sampling, settings.evaluation
    size, wanted = sampling.batch, evaluation.snapshot_samples
    # The last moment is the end of training, which is evaluated in full.
    moments = max(0, settings.training.snapshots - 1)
    part = min(wanted, size)
    return Draws(
        batches=max(math.ceil(evaluation.samples / size), sampling.timed_batches),
        size=size,
        singles=sampling.latency_repeats,
        snapshots=moments * math.ceil(wanted / part) * part,
    )


def warm_ups_of(seconds: float | None) -> int:
    """The fewest batches that warm up, of so many ``seconds`` each."""
    if not seconds:
        return 2 * WINDOW
    wanted = max(2 * WINDOW, math.ceil(WARM_UP_LEAST / seconds))
    return max(2, min(wanted, math.ceil(WARM_UP_SECONDS / seconds)))


# -- FLOPs of one image ---------------------------------------------------------------------------


def count_on_meta(subject: Subject) -> float:
    """FLOPs of one image at the protocol's batch, without drawing any.

    A sampler is replaced by one that looks at no number: they differ in how often they evaluate.
    """
    size = subject.settings.sampling.batch
    method = subject.shortened(name="ancestral").on_meta()
    for network in method.networks.values():
        network.eval().requires_grad_(False)
    labels = subject.labels(size) if method.needs_labels else None
    with counting_on_meta(), torch.no_grad():
        _, flops = count_flops(lambda: method.sample(size, labels=labels, generator=ShapesOnly()))
    return flops / size * subject.nfe


# -- seconds --------------------------------------------------------------------------------------


def time_pass(subject: Subject, method: Method, flops: float | None) -> Pass:
    """Draw a few batches by ``method``, whose sampler is shortened, and scale them up.

    ``flops`` of an image by the whole sampler; ``None``: they are counted here. An accelerator
    draws the protocol's batch; a CPU draws as many images as fill a fraction of a second.
    """
    for network in method.networks.values():
        network.eval().requires_grad_(False)
    source = Source(
        method,
        device=subject.device,
        precision=subject.training.precision,
        seed=0,
        stream="estimate",
        frequencies=subject.frequencies,
    )
    shortest = subject.shortened().nfe
    whole = subject.nfe / shortest
    if flops is None:
        # A batch of the true size may take too long.
        flops = count_sampling(source, 1)[1] * whole
    single = time_batches(source, 1)
    size, seconds, true = 1, single, subject.settings.sampling.batch
    if subject.device.type != "cpu":
        size, seconds = true, time_batches(source, true)
    while seconds < BATCH_SECONDS / 2 and size < true:
        size = grown(size, seconds, BATCH_SECONDS, true)
        seconds = time_batches(source, size)
    told = f"draws of {size} timed" + ("" if size == true else f" for {true}")
    if whole != 1:
        told += f", {shortest} of {subject.nfe} evaluations"
    return Pass(flops, seconds / size * whole, single * whole, told)


def time_batches(source: Source, size: int) -> float:
    """Seconds of a batch, the median of a few after one; a slow one has to do by itself."""
    first = timed(source, size, 0)[0]
    if first > SLOW_SECONDS:
        return first
    repeats = 1 if first > BATCH_SECONDS * REPEATS else REPEATS
    return statistics.median(timed(source, size, 0)[0] for _ in range(repeats))


# -- diagnostics ----------------------------------------------------------------------------------


class Watched:
    """In a method's place where only the evaluations of its denoiser are counted."""

    def __init__(self, method: Method) -> None:
        self.method, self.images = method, 0
        self.needs_labels = method.needs_labels
        self.config = getattr(method, "config", None)

    def denoiser_for(self, labels: Tensor | None) -> Callable[[Tensor, Tensor], Tensor] | None:
        """A denoiser that does nothing, where the method has one."""
        if self.method.denoiser_for(labels) is None:
            return None

        def unchanged(x: Tensor, sigma: Tensor) -> Tensor:
            self.images += len(x)
            return x

        return unchanged


def diagnostic_evaluations(subject: Subject) -> float:
    """Evaluations of the denoiser by the diagnostics, for one of their images."""
    watched = Watched(subject.on_meta())
    diagnose(
        cast("Method", watched),
        subject.dataset,
        subject.data,
        n=PROBE,
        labels=lambda: torch.zeros(PROBE, dtype=torch.int64),
        generator=torch.Generator(),
    )
    return watched.images / PROBE


def count_denoiser(subject: Subject) -> float:
    """FLOPs of one evaluation of the denoiser for one image; 0 without one."""
    method = subject.on_meta()
    for network in method.networks.values():
        network.eval().requires_grad_(False)
    n = subject.settings.evaluation.diagnostic_samples
    D = method.denoiser_for(subject.labels(n) if method.needs_labels else None)
    if D is None:
        return 0.0
    with counting_on_meta(), torch.no_grad():
        _, flops = count_flops(lambda: D(subject.images(n), torch.ones((), device=META)))
    return flops / n
