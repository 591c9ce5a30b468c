"""The baseline: denoising score matching, sampled by a multi-step reverse-SDE sampler.

Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models" (NeurIPS);
Song et al. 2021, "Score-Based Generative Modeling through Stochastic Differential Equations"
(ICLR). The objective (EDM eq. 2, 3, 8), with x = y + sigma n and w = 1 / c_out^2:

    L(D) = E_{y, n, sigma}  w(sigma) |D(x, sigma) - y|^2,    ln sigma ~ N(-1.2, 1.2^2)

Where we differ from the authors' code: the default sampler is stochastic (the posterior kernel on
EDM's levels), because this row stands for the multi-step SDE sampler; ``heun`` is a setting away.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from methods import samplers
from methods.base import EMA, Adam, DataSpec, Method, Objective, Settings, Stage
from methods.networks.unet import UNet, UNetSettings
from methods.noise import Denoiser, EDMNoise, denoising_loss


class DenoiserConfig(Settings):
    """What every method with a denoiser shares; defaults are EDM's for CIFAR-10 (table 7)."""

    unet: UNetSettings = UNetSettings()
    noise: EDMNoise = EDMNoise()
    optimizer: Adam = Adam(lr=1e-3, warmup_kimg=10_000)
    ema: EMA = EMA(halflife_kimg=500, rampup_ratio=0.05)
    sampler: samplers.SamplerSettings = samplers.SamplerSettings()


class SDE(Method):
    """Denoising score matching with a multi-step SDE sampler."""

    name = "sde"
    Config = DenoiserConfig

    def __init__(self, config: DenoiserConfig, data: DataSpec) -> None:
        self.config, self.data = config, data
        self.denoiser = Denoiser(UNet(config.unet, data), config.noise)
        self.networks = {"denoiser": self.denoiser}

    def stages(self) -> Sequence[Stage]:
        """One stage, one objective."""
        objective = Objective(
            network="denoiser",
            loss=lambda batch: denoising_loss(self.denoiser, batch),
            optimizer=self.config.optimizer,
            ema=self.config.ema,
        )
        return [Stage(name="score", objectives=[objective])]

    def sample(self, n: int, *, labels: Tensor | None = None, generator: torch.Generator) -> Tensor:
        """Draw images by the configured sampler; labels are not used."""
        return samplers.draw(self.denoiser, (n, *self.data.shape), self.config.sampler, generator)
