"""MyMethod: say in one line what it is.

Cite the paper, write the objective as an equation, and say where you depart from the authors' code.
This is where you start: plain denoising score matching (Vincent 2011; Karras et al. 2022, eq. 2),

    L(D) = E  w(sigma) |D(y + sigma n, sigma) - y|^2,    n ~ N(0, I)

with EDM's preconditioned network as D. It trains and samples as it is; change what is yours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from methods import samplers
from methods.base import EMA, Adam, Batch, DataSpec, DenoiserFn, Method, Objective, Settings, Stage
from methods.networks.choice import ScoreNetwork
from methods.networks.unet import UNetSettings
from methods.noise import Denoiser, EDMNoise, Noise, per_image, weighted_error


class MyMethodConfig(Settings):
    """Every hyperparameter, with its source.

    Presets size the settings of these names for each data set (``common`` in configs/*.yaml), so
    that all methods get the same; ``--set my_method.KEY=VALUE`` reaches every one.
    """

    network: ScoreNetwork = UNetSettings()
    """A U-Net, or an MLP for points (Karras et al. 2022, table 7)."""
    noise: Noise = EDMNoise()
    """Preconditioning and training levels (Karras et al. 2022, table 1)."""
    optimizer: Adam = Adam(lr=1e-3)
    ema: EMA = EMA(halflife_kimg=500)
    sampler: samplers.SamplerSettings = samplers.SamplerSettings(name="heun")


class MyMethod(Method):
    """One line that `bench methods` shows."""

    name = "my_method"
    Config: ClassVar[type[Settings]] = MyMethodConfig
    sampling_settings = frozenset({"sampler"})
    config: MyMethodConfig

    def __init__(self, config: MyMethodConfig, data: DataSpec) -> None:
        self.config, self.data = config, data
        self.denoiser = Denoiser(config.network.build(data), config.noise)
        # All that is trained or called; the harness moves, averages, stores and counts these.
        self.networks = {"denoiser": self.denoiser}

    def stages(self) -> Sequence[Stage]:
        """What is learned: one stage, one objective. Several of either may follow each other."""
        objective = Objective(
            network="denoiser",
            loss=self.loss,
            optimizer=self.config.optimizer,
            ema=self.config.ema,
        )
        return [Stage(name="score", objectives=[objective])]

    def loss(self, batch: Batch) -> Tensor:
        """A scalar; gradients reach the objective's network alone, all noise is the batch's."""
        sigma = self.denoiser.draw_sigma(batch)
        x = batch.x + per_image(sigma) * batch.randn()
        return weighted_error(self.denoiser, self.denoiser(x, sigma), batch.x, sigma).mean()

    def sample(self, n: int, *, labels: Tensor | None = None, generator: torch.Generator) -> Tensor:
        """Draw images (n, C, H, W), nominally in [-1, 1]; all noise from the generator."""
        shape = (n, *self.data.shape)
        return samplers.draw(self.denoiser, shape, self.config.sampler, generator)

    def denoiser_for(self, labels: Tensor | None) -> DenoiserFn | None:
        """The learned denoiser for diagnostics; leave this method out if there is none."""
        return None if labels is not None else self.denoiser
