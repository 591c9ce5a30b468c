"""Which sampler, on which noise levels: the settings, and the three schedules of levels.

Karras et al. 2022, eq. 5 (``karras``); the VE and VP SDEs of Song et al. 2021 (``geometric`` and
``vp``), in EDM's terms: ``x = y + sigma n``, the signal is not scaled.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from methods.base import Settings

Name = Literal[
    "ancestral",
    "dpmpp_2m",
    "dpmpp_3m",
    "edm_stochastic",
    "euler",
    "euler_maruyama",
    "heun",
    "ipndm",
    "ipndm_v",
    "predictor_corrector",
    "unipc",
]


class SamplerSettings(Settings):
    """Which sampler, on which noise levels."""

    name: Name = "ancestral"
    steps: int = Field(18, ge=1)
    """Steps N. Published: 18 for Heun on CIFAR-10 (EDM), 1000 for ``predictor_corrector``."""
    schedule: Literal["karras", "geometric", "vp"] = "karras"
    """Spacing of the N levels: EDM's, the VE SDE's, or the VP SDE's."""
    sigma_min: float = Field(0.002, gt=0)
    """``karras``: the smallest level (EDM table 1)."""
    sigma_max: float = Field(80.0, gt=0)
    """``karras``: the largest level (EDM table 1)."""
    rho: float = Field(7.0, gt=0)
    """``karras``: the exponent (EDM eq. 5)."""
    geometric_min: float = Field(0.02, gt=0)
    """``geometric``: the smallest level (Song et al. 2021, appendix C, CIFAR-10: 0.01 for images in
    [0, 1], which is twice that for ours in [-1, 1])."""
    geometric_max: float = Field(100.0, gt=0)
    """``geometric``: the largest level (the same: 50 for images in [0, 1])."""
    vp_beta_min: float = Field(0.1, gt=0)
    """``vp``: ``beta(0)`` (Song et al. 2021, appendix C)."""
    vp_beta_range: float = Field(19.9, gt=0)
    """``vp``: ``beta(1) - beta(0)`` (Song et al. 2021, appendix C: beta from 0.1 to 20)."""
    vp_end: float = Field(1e-3, gt=0, lt=1)
    """``vp``: the time of the smallest level (Song et al. 2021, appendix C, sampling)."""
    s_churn: float = Field(30.0, ge=0)
    """``edm_stochastic``: amount of noise added a step (EDM table 5, CIFAR-10 VP); 0 is Heun's."""
    s_min: float = Field(0.01, ge=0)
    """``edm_stochastic``: churn from this level (EDM table 5, CIFAR-10 VP)."""
    s_max: float = Field(1.0, gt=0)
    """``edm_stochastic``: churn up to this level (EDM table 5, CIFAR-10 VP)."""
    s_noise: float = Field(1.007, gt=0)
    """``edm_stochastic``: scale of the added noise (EDM table 5, CIFAR-10 VP)."""
    snr: float = Field(0.16, gt=0)
    """``predictor_corrector``: the corrector's signal-to-noise ratio (Song et al. 2021, CIFAR-10:
    0.16, with one corrector step, N = 1000)."""
    corrector_steps: int = Field(1, ge=0)
    """``predictor_corrector``: Langevin steps at each level; 0 leaves the predictor alone."""

    @model_validator(mode="after")
    def _levels_fall(self) -> SamplerSettings:
        for low, high in (("sigma_min", "sigma_max"), ("geometric_min", "geometric_max")):
            if getattr(self, low) >= getattr(self, high):
                raise ValueError(
                    f"{low} {getattr(self, low)} is not below {high} {getattr(self, high)}"
                )
        return self


def karras_sigmas(settings: SamplerSettings, device: torch.device | str = "cpu") -> Tensor:
    """The levels ``(a + i/(N-1) (b - a))^rho`` and a final 0, (N + 1,), float64 (EDM eq. 5)."""
    high = settings.sigma_max ** (1 / settings.rho)
    low = settings.sigma_min ** (1 / settings.rho)
    levels = (high + _ramp(settings, device) * (low - high)) ** settings.rho
    return torch.cat([levels, levels.new_zeros(1)])


def geometric_sigmas(settings: SamplerSettings, device: torch.device | str = "cpu") -> Tensor:
    """The VE SDE's ``max (min / max)^(i/(N-1))`` and a final 0, (N + 1,), float64."""
    ratio = settings.geometric_min / settings.geometric_max
    levels = settings.geometric_max * ratio ** _ramp(settings, device)
    return torch.cat([levels, levels.new_zeros(1)])


def vp_sigmas(settings: SamplerSettings, device: torch.device | str = "cpu") -> Tensor:
    """The VP SDE's ``sqrt(exp(beta_range t^2 / 2 + beta_min t) - 1)``, t evenly from 1, and 0."""
    t = 1 + _ramp(settings, device) * (settings.vp_end - 1)
    levels = (settings.vp_beta_range * t**2 / 2 + settings.vp_beta_min * t).expm1().sqrt()
    return torch.cat([levels, levels.new_zeros(1)])


def _ramp(settings: SamplerSettings, device: torch.device | str) -> Tensor:
    return torch.linspace(0, 1, settings.steps, dtype=torch.float64, device=device)


SCHEDULES = {"karras": karras_sigmas, "geometric": geometric_sigmas, "vp": vp_sigmas}


def noise_levels(settings: SamplerSettings) -> Tensor:
    """The levels of the chosen schedule, falling to 0: (N + 1,), float64, on the CPU."""
    return SCHEDULES[settings.schedule](settings)
