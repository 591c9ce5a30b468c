"""What sampling costs: the cell's own sampler draws a few batches, one step of it where it can."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from bench import metrics
from bench.commands.dry_run.candidate import Candidate
from bench.commands.dry_run.trials import ENOUGH, FEW, Trial, grown
from bench.sampling.source import Source, count_sampling, timed
from bench.worker.build import Built, data_spec
from methods.base import Method

REPEATS = 3
SLOW = 1.0
"""Seconds of a batch after which no other is drawn."""


@dataclass(frozen=True)
class DrawCost:
    """What an image costs by the whole sampler, in a batch and alone."""

    flops: float
    evaluation_flops: float
    """Of one evaluation of the denoiser."""
    seconds: float
    """At the protocol's batch."""
    single_seconds: float
    told: str


def try_draws(candidate: Candidate, built: Built) -> DrawCost:
    """Draw a few batches by a method whose sampler is shortened, and scale them up."""
    for network in built.method.networks.values():
        network.eval().requires_grad_(False)
    source, true = built.source("dry run"), candidate.settings.sampling.batch
    calls, flops = count_sampling(source, FEW)
    shortest = candidate.shortened().evaluations(sum(calls.values()))
    whole = candidate.evaluations(sum(calls.values()))
    longer = whole / shortest
    trial = single = Trial(1, time_batches(source, 1, true))
    # One image that is slow has to do for all.
    if built.device.type != "cpu" or single.seconds < ENOUGH:
        trial = grown(lambda size: time_batches(source, size, true), true, built.device)
    told = f"draws of {trial.size} timed" + ("" if trial.size == true else f" for {true}")
    told += f", {shortest:g} of {whole:g} evaluations" if longer != 1 else ""
    return DrawCost(flops * longer, flops / shortest, trial.of(longer), single.of(longer), told)


def time_batches(source: Source, size: int, true: int) -> float:
    """Seconds of a batch after one, the median of a few, of few images the least.

    A slow one has to do by itself.
    """
    first = timed(source, size, 0)[0]
    if first > SLOW:
        return first
    seconds = [timed(source, size, 0)[0] for _ in range(REPEATS)]
    return statistics.median(seconds) if size == true else min(seconds)


# -- diagnostics ----------------------------------------------------------------------------------


class Watched:
    """In a method's place where only the evaluations of its denoiser are counted."""

    def __init__(self, method: Method) -> None:
        self.method, self.images = method, 0
        self.needs_labels = method.needs_labels
        self.config = getattr(method, "config", None)

    def denoiser_for(self, labels: Tensor | None) -> Callable[[Tensor, Tensor], Tensor] | None:
        """A denoiser that does nothing, where the method has one."""

        def unchanged(x: Tensor, sigma: Tensor) -> Tensor:
            self.images += len(x)
            return x

        return None if self.method.denoiser_for(labels) is None else unchanged


def diagnostic_evaluations(candidate: Candidate) -> float:
    """Evaluations of the denoiser by all diagnostics of a cell."""
    watched = Watched(candidate.outlined())
    metrics.diagnose(
        cast("Method", watched),
        candidate.dataset,
        data_spec(candidate.dataset),
        n=FEW,
        labels=lambda: torch.zeros(FEW, dtype=torch.int64),
        generator=torch.Generator(),
    )
    return watched.images / FEW * candidate.settings.evaluation.diagnostic_samples
