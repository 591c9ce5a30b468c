"""What a learned denoiser is worth, measured alike for every method that has one.

- :func:`score_error`: the distance to the true score, where the data's density is known.
- :func:`martingale_violation`: whether a denoiser agrees with itself along its own reverse SDE,
  ``D(x_t, t) = E[D(x_t', t') | x_t]`` for t' < t (Daras et al. 2023), for any data.

Both are in the unit of the predicted noise: squared, divided by sigma^2 and by the number of
pixels, so that levels compare with one another and the two diagnostics with each other. A denoiser
that predicts no noise at all has an error of 1 on pure noise. A low violation alone does not prove
a good denoiser (a constant one has none): report both, or the violation beside sample quality.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from methods.base import DenoiserFn
from methods.mixtures import GaussianMixture
from methods.samplers import SamplerSettings, ancestral_step, noise_levels, noise_like

LEVELS = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
"""Where both are measured by default: around the width of the data, about 0.5."""


@torch.no_grad()
def score_error(
    denoiser_for: Callable[[Tensor | None], DenoiserFn | None],
    truth: GaussianMixture,
    sigmas: Sequence[float] = LEVELS,
    *,
    n: int = 4096,
    generator: torch.Generator,
    labelled: bool = False,
    shape: tuple[int, ...] | None = None,
) -> Tensor:
    """``E sigma^2 |s - s*|^2 / d`` at each level, (len(sigmas),), float64, on the CPU.

    The score ``s = (D - x) / sigma^2`` is compared with the mixture's on ``n`` fresh draws a level,
    which are images of ``shape`` (default: (d, 1, 1)). ``denoiser_for`` is
    ``Method.denoiser_for``; if ``labelled`` it is given the classes of the draws, and the score is
    compared with the class's own. ValueError if it has no such denoiser.
    """
    truth = truth.to(device=generator.device)
    errors = []
    for sigma in sigmas:
        y, classes = truth.sample(n, generator)
        labels = classes if labelled else None
        x = (y + sigma * noise_like(y, generator)).float().reshape(n, *(shape or (truth.dim, 1, 1)))
        D = denoiser_for(labels)
        if D is None:
            raise ValueError(f"there is no denoiser {'with' if labelled else 'without'} labels")
        exact = truth.denoise(x.double(), sigma, labels)
        errors.append(((D(x, x.new_tensor(sigma)) - exact) / sigma).square().mean())
    return torch.stack(errors).double().cpu()


@dataclass(frozen=True, eq=False)
class Violation:
    """The martingale violation at each level, with what its uncertainty follows from."""

    levels: Tensor
    """The levels t, (L,)."""
    terms: Tensor
    """Each path's unbiased estimate at each level, (n, L); it may be negative."""

    @cached_property
    def value(self) -> float:
        """The mean over paths and levels."""
        return float(self.terms.mean())

    @cached_property
    def standard_error(self) -> float:
        """The standard error of :attr:`value`; the paths are independent, a path's levels not."""
        return float(self.terms.mean(1).std()) / math.sqrt(len(self.terms))

    @cached_property
    def by_level(self) -> Tensor:
        """The mean over paths at each level, (L,)."""
        return self.terms.mean(0)

    @cached_property
    def errors_by_level(self) -> Tensor:
        """The standard errors of :attr:`by_level`, (L,)."""
        return self.terms.std(0) / math.sqrt(len(self.terms))


@torch.no_grad()
def martingale_violation(
    D: DenoiserFn,
    shape: tuple[int, ...],
    settings: SamplerSettings,
    generator: torch.Generator,
    *,
    levels: Sequence[float] = LEVELS,
    branches: int = 4,
    substeps: int = 8,
) -> Violation:
    """``|E[D(x_t', t') | x_t] - D(x_t, t)|^2 / (t^2 d)`` with t' = t/2, along D's own paths.

    From noise of ``shape`` (n, C, H, W), ancestral steps go down the levels of ``settings`` (its
    sampler's name does not matter) and the given ``levels``, which lie below the largest. At each
    of these, independent branches go on to t'; the mean product of two branches' gaps is unbiased,
    where the square of one contains the branch's variance. Four branches make six pairs.

    A branch takes ``substeps`` ancestral steps on geometric levels. Their kernel is exact for a
    constant D alone, so that even an exact denoiser shows a violation: on ``ring`` at most 0.03
    with one step, 0.007 with four, and with eight none beyond the error of 4,000 paths (0.003).
    """
    wanted = sorted(set(levels), reverse=True)
    grid = sorted({*noise_levels(settings)[:-1].tolist(), *wanted}, reverse=True)
    x = torch.randn(shape, generator=generator, device=generator.device) * grid[0]
    terms = []
    for t, next_ in pairwise([*grid[: grid.index(wanted[-1]) + 1], 0.0]):
        D0 = D(x, x.new_tensor(t))
        if t in wanted:
            track = Track(D, x, D0, t)
            gaps = torch.stack([track.gap(generator, substeps) for _ in range(branches)])
            terms.append(mean_product(gaps).cpu() / t**2)
        x = ancestral_step(x, D0, x.new_tensor(t), x.new_tensor(next_), noise_like(x, generator))
    return Violation(torch.tensor(wanted, dtype=torch.float64), torch.stack(terms, 1))


@dataclass(frozen=True, eq=False)
class Track:
    """A batch of paths at level ``t``, from which branches go out."""

    D: DenoiserFn
    x: Tensor
    D0: Tensor
    """``D(x, t)``, which every branch's first step reuses."""
    t: float

    def gap(self, generator: torch.Generator, substeps: int) -> Tensor:
        """``D(x_t', t') - D(x_t, t)`` on one branch to t' = t/2, shaped as ``x``."""
        x, denoised = self.x, self.D0
        levels = [x.new_tensor(self.t * 0.5 ** (k / substeps)) for k in range(substeps + 1)]
        for sigma, next_ in pairwise(levels):
            x = ancestral_step(x, denoised, sigma, next_, noise_like(x, generator))
            denoised = self.D(x, next_)
        return denoised - self.D0


def mean_product(gaps: Tensor) -> Tensor:
    """Mean over pixels and over pairs of different branches of ``gaps`` (K, n, ...): (n,)."""
    gaps = gaps.flatten(2).double()
    squared_sum, sum_of_squares = gaps.sum(0).square(), gaps.square().sum(0)
    return (squared_sum - sum_of_squares).mean(1) / (len(gaps) * (len(gaps) - 1))
