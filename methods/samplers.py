"""Samplers: one function each, one signature.

Each takes a denoiser ``D(x, sigma) -> (B, C, H, W)`` (``sigma`` a scalar tensor), the start ``x``
at level ``sigmas[0]``, the decreasing levels ``sigmas`` (N + 1,) that end in 0, and a generator;
and returns images at level 0. Equations from Karras et al. 2022 and Song et al. 2021.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Literal, Protocol

import torch
from pydantic import Field, model_validator
from torch import Tensor

from methods.base import Settings

DenoiserFn = Callable[[Tensor, Tensor], Tensor]


class SamplerSettings(Settings):
    """Which sampler, on which noise levels."""

    name: Literal["ancestral", "edm_stochastic", "euler_maruyama", "heun"] = "ancestral"
    steps: int = Field(18, ge=1)
    """Steps N; the levels are ``sigma_max ... sigma_min, 0`` (EDM eq. 5)."""
    sigma_min: float = Field(0.002, gt=0)
    sigma_max: float = Field(80.0, gt=0)
    rho: float = Field(7.0, gt=0)
    s_churn: float = Field(0.0, ge=0)
    """``edm_stochastic``: amount of noise added a step; 30 for EDM's CIFAR-10 VP (table 5)."""
    s_min: float = Field(0.01, ge=0)
    s_max: float = Field(1.0, gt=0)
    s_noise: float = Field(1.007, gt=0)

    @model_validator(mode="after")
    def _levels_fall(self) -> SamplerSettings:
        if self.sigma_min >= self.sigma_max:
            raise ValueError(f"sigma_min {self.sigma_min} is not below sigma_max {self.sigma_max}")
        return self


class Sampler(Protocol):
    """The shared signature."""

    def __call__(
        self,
        D: DenoiserFn,
        x: Tensor,
        sigmas: Tensor,
        *,
        generator: torch.Generator,
        settings: SamplerSettings,
    ) -> Tensor:
        """Return images at level 0."""


def karras_sigmas(settings: SamplerSettings, device: torch.device | str = "cpu") -> Tensor:
    """The levels ``(a + i/(N-1) (b - a))^rho`` and a final 0, (N + 1,), float64 (EDM eq. 5)."""
    high = settings.sigma_max ** (1 / settings.rho)
    low = settings.sigma_min ** (1 / settings.rho)
    ramp = torch.linspace(0, 1, settings.steps, dtype=torch.float64, device=device)
    levels = (high + ramp * (low - high)) ** settings.rho
    return torch.cat([levels, levels.new_zeros(1)])


def noise_like(x: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal noise of the shape, type and device of ``x``."""
    return torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)


def ancestral_step(x: Tensor, denoised: Tensor, sigma: Tensor, next_: Tensor, z: Tensor) -> Tensor:
    """Exact posterior kernel of ``x`` at ``next_`` given ``x`` at ``sigma``, if D is constant."""
    r = (next_ / sigma) ** 2
    return denoised + r * (x - denoised) + next_ * (1 - r).clamp(min=0).sqrt() * z


def euler_maruyama_step(
    x: Tensor, denoised: Tensor, sigma: Tensor, next_: Tensor, z: Tensor
) -> Tensor:
    """One step of the reverse SDE ``dx = 2 (x - D) / sigma d sigma + sqrt(2 sigma) dw``."""
    drift = 2 * (next_ - sigma) / sigma * (x - denoised)
    return x + drift + (2 * sigma * (sigma - next_)).clamp(min=0).sqrt() * z


def ancestral(
    D: DenoiserFn,
    x: Tensor,
    sigmas: Tensor,
    *,
    generator: torch.Generator,
    settings: SamplerSettings,
) -> Tensor:
    """Multi-step reverse-SDE sampler by the exact posterior kernel; stable on coarse grids."""
    for sigma, next_ in pairwise(sigmas):
        x = ancestral_step(x, D(x, sigma), sigma, next_, noise_like(x, generator))
    return x


def euler_maruyama(
    D: DenoiserFn,
    x: Tensor,
    sigmas: Tensor,
    *,
    generator: torch.Generator,
    settings: SamplerSettings,
) -> Tensor:
    """Euler-Maruyama on the reverse SDE, the last step a plain denoise; overshoots if coarse."""
    for sigma, next_ in pairwise(sigmas[:-1]):
        x = euler_maruyama_step(x, D(x, sigma), sigma, next_, noise_like(x, generator))
    return D(x, sigmas[-2])


def _heun_step(D: DenoiserFn, x: Tensor, sigma: Tensor, next_: Tensor, last: bool) -> Tensor:
    slope = (x - D(x, sigma)) / sigma
    proposal = x + (next_ - sigma) * slope
    if last:
        return proposal
    corrected = (proposal - D(proposal, next_)) / next_
    return x + (next_ - sigma) * (slope + corrected) / 2


def heun(
    D: DenoiserFn,
    x: Tensor,
    sigmas: Tensor,
    *,
    generator: torch.Generator,
    settings: SamplerSettings,
) -> Tensor:
    """Deterministic second-order sampler of the probability flow (EDM alg. 1); NFE 2N - 1."""
    steps = len(sigmas) - 1
    for i in range(steps):
        x = _heun_step(D, x, sigmas[i], sigmas[i + 1], last=i == steps - 1)
    return x


def edm_stochastic(
    D: DenoiserFn,
    x: Tensor,
    sigmas: Tensor,
    *,
    generator: torch.Generator,
    settings: SamplerSettings,
) -> Tensor:
    """Heun's steps after raising the noise level by churn (EDM alg. 2); NFE 2N - 1."""
    steps = len(sigmas) - 1
    churn = min(settings.s_churn / steps, math.sqrt(2) - 1)
    levels = sigmas.tolist()
    for i in range(steps):
        gamma = churn if settings.s_min <= levels[i] <= settings.s_max else 0.0
        raised = sigmas[i] * (1 + gamma)
        added = (raised**2 - sigmas[i] ** 2).clamp(min=0).sqrt() * settings.s_noise
        x = x + added * noise_like(x, generator)
        x = _heun_step(D, x, raised, sigmas[i + 1], last=i == steps - 1)
    return x


SAMPLERS: dict[str, Sampler] = {
    "ancestral": ancestral,
    "edm_stochastic": edm_stochastic,
    "euler_maruyama": euler_maruyama,
    "heun": heun,
}


@torch.no_grad()
def draw(
    D: DenoiserFn,
    shape: tuple[int, ...],
    settings: SamplerSettings,
    generator: torch.Generator,
) -> Tensor:
    """Start from noise at ``sigma_max`` and run the chosen sampler; ``shape`` (B, C, H, W)."""
    # The levels are computed in float64 on the CPU, so that no device rounds them differently.
    sigmas = karras_sigmas(settings).float().to(generator.device)
    x = torch.randn(shape, generator=generator, device=generator.device) * sigmas[0]
    return SAMPLERS[settings.name](D, x, sigmas, generator=generator, settings=settings)
