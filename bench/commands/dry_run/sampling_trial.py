"""What sampling costs: the cell's own sampler draws a few batches, one step of it where it can."""

import statistics
from dataclasses import dataclass

import torch
from torch import Tensor

from bench import metrics
from bench.commands.dry_run.candidate import ENOUGH, FEW, Candidate, Trial, grown
from bench.sampling.source import Source, count_sampling, timed
from bench.worker.build import Built, data_spec

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
    told = trial.told("draws", true)
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


def diagnostic_evaluations(candidate: Candidate) -> float:
    """Evaluations of the denoiser by all diagnostics of a cell."""
    method, images = candidate.outlined(), 0
    whole = method.denoiser_for

    def unchanged(x: Tensor, sigma: Tensor) -> Tensor:
        nonlocal images
        images += len(x)
        return x

    # Where the method has a denoiser, one that does nothing is in its place.
    method.denoiser_for = lambda labels: (  # type: ignore[method-assign]
        None if whole(labels) is None else unchanged
    )
    metrics.diagnose(
        method,
        candidate.dataset,
        data_spec(candidate.dataset),
        n=FEW,
        labels=lambda: torch.zeros(FEW, dtype=torch.int64),
        generator=torch.Generator(),
    )
    return images / FEW * candidate.settings.evaluation.diagnostic_samples
