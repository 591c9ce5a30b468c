"""Score mismatching (SMM): a one-step generator trained against a score network.

Ye & Liu 2023, "Score Mismatching for Generative Modeling". A score network ``S(x_t, t)`` predicts
the noise in real data and is trained to predict none in fakes; the generator ``G(z)`` is trained
so that S predicts the noise in its fakes. With x_t = x + sigma_t n, the signal not scaled, t
uniform over a few small levels and fresh (t, n) in each term, n' independent of n:

    L(S) = E |S(y + sigma_t n, t) - n|^2  +  E |S(G(z) + sigma_t n, t) - n'|^2
    L(G) = E |S(G(z) + sigma_t n, t) - n|^2

The gradient of L(G) passes through S into G alone. The best S for given densities p (noised real)
and q (noised fake) is ``p / (p + q) E_p[n | x_t]``; with per-dimension means L_r and L_f of the
two terms of L(S), ``rho = 3 (L_f - 1) / (1 - L_r)`` tends to 1 as fakes match (our derivation).

Where we differ from the authors' code, and why:

- Losses are means over pixels, not sums; Adam does not see the scale.
- R1 is a setting and off: at the authors' weight it is numerically negligible.
- The generator is of the DCGAN family, as in the authors' simple code base. Two time scales (a
  faster score network) are a setting which the small presets use.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from methods.base import EMA, Adam, Batch, DataSpec, Method, Objective, Settings, Stage
from methods.networks.generator import Generator, GeneratorSettings
from methods.networks.unet import UNet, UNetSettings
from methods.noise import image_sum, per_image, vp_discrete_sigmas


class SMMConfig(Settings):
    """Settings of the authors' main code base (CIFAR-10), but for the generator's family."""

    generator: GeneratorSettings = GeneratorSettings()
    score_network: UNetSettings = UNetSettings(
        channels=16, multipliers=(1, 2, 2, 2), blocks=1, attention=(16, 8), dropout=0.1
    )
    """Size of the authors' score network (0.48 M parameters there)."""
    levels: int = Field(10, ge=1)
    """T: 10 in the main code (sigma up to 0.310), 20 in the simple one (0.428)."""
    generator_optimizer: Adam = Adam(lr=2.5e-3, betas=(0.0, 0.99))
    score_optimizer: Adam = Adam(lr=2.5e-3, betas=(0.0, 0.99))
    generator_ema: EMA = EMA(halflife_kimg=500, rampup_ratio=0.05)
    generator_noises: int = Field(2, ge=1)
    """Times that each fake is noised anew in L(G): 2 in the main code."""
    mismatch_weight: float = Field(1.0, ge=0)
    """Weight of the fakes' term in L(S): 1. Without it the generator collapses."""
    order: Literal["generator_first", "score_first"] = "generator_first"
    """Order in a step: generator first in the main code, score network first in the simple one."""
    r1_gamma: float = Field(0.0, ge=0)
    """R1 penalty on noised real images, of S's summed output; the main code has it, we do not."""
    r1_every: int = Field(16, ge=1)
    """Steps between penalties (main code: 16)."""


class SMM(Method):
    """A one-step generator against a score network that matches real data, mismatches fakes."""

    name = "smm"
    Config = SMMConfig

    def __init__(self, config: SMMConfig, data: DataSpec) -> None:
        self.config, self.data = config, data
        self.score = UNet(config.score_network, data)
        self.generator = Generator(config.generator, data)
        self.networks = {"score": self.score, "generator": self.generator}
        if config.r1_gamma > 0:
            self.second_order = frozenset({"score"})
        self.sigmas = vp_discrete_sigmas(config.levels)

    def stages(self) -> Sequence[Stage]:
        """One stage; generator and score network alternate within each step."""
        config = self.config
        objectives = [
            Objective(
                network="generator",
                loss=self.generator_loss,
                optimizer=config.generator_optimizer,
                ema=config.generator_ema,
            ),
            Objective(network="score", loss=self.score_loss, optimizer=config.score_optimizer),
        ]
        if config.order == "score_first":
            objectives.reverse()
        if config.r1_gamma > 0:
            objectives.append(
                Objective(
                    network="score",
                    name="r1",
                    loss=self.r1_loss,
                    optimizer=config.score_optimizer,
                    every=config.r1_every,
                )
            )
        return [Stage(name="adversarial", objectives=objectives)]

    def noised(self, batch: Batch, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return ``x + sigma_t n``, the noise n, and the level's index t (B,)."""
        t = batch.randint(self.config.levels, x.shape[0])
        noise = batch.randn(*x.shape)
        self.sigmas = self.sigmas.to(x.device)
        return x + per_image(self.sigmas[t]) * noise, noise, t

    def fakes(self, batch: Batch) -> Tensor:
        """Generate as many images as the batch has, (B, C, H, W)."""
        latents = batch.randn(batch.x.shape[0], self.config.generator.z)
        return self.generator(latents)

    def score_loss(self, batch: Batch) -> Tensor:
        """Match the noise of real images, predict none on fakes."""
        with torch.no_grad():
            generated = self.fakes(batch)
        x, noise, t = self.noised(batch, torch.cat([batch.x, generated]))
        real_noise, independent = noise.chunk(2)[0], batch.randn()
        on_real, on_fake = self.score(x, t).chunk(2)
        real = (on_real - real_noise).square().mean()
        fake = (on_fake - independent).square().mean()
        self._log_gauges(batch, generated, real, fake)
        return real + self.config.mismatch_weight * fake

    def generator_loss(self, batch: Batch) -> Tensor:
        """Make the score network predict the noise of the fakes."""
        x, noise, t = self.noised(
            batch, self.fakes(batch).repeat(self.config.generator_noises, 1, 1, 1)
        )
        loss = (self.score(x, t) - noise).square().mean()
        batch.log("generated", loss)
        return loss

    def r1_loss(self, batch: Batch) -> Tensor:
        """``gamma / 2 |grad_x sum S(x_t, t)|^2`` on noised real images, times its interval."""
        x, _, t = self.noised(batch, batch.x)
        leaf = x.detach().requires_grad_()
        total = self.score(leaf * 1, t).float().sum()
        (gradient,) = torch.autograd.grad(total, leaf, create_graph=True)
        penalty = image_sum(gradient**2).mean()
        return 0.5 * self.config.r1_gamma * self.config.r1_every * penalty

    @torch.no_grad()
    def _log_gauges(self, batch: Batch, generated: Tensor, real: Tensor, fake: Tensor) -> None:
        """Log the terms and the signs of collapse; all ratios are 1 for a perfect generator."""
        batch.log("real", real)
        batch.log("fake", fake)
        batch.log("rho", 3 * (fake - 1) / (1 - real).clamp(min=1e-3))
        batch.log("std_ratio", generated.std(0).mean() / batch.x.std(0).mean())
        batch.log("distance_ratio", mean_distance(generated) / mean_distance(batch.x))

    def sample(self, n: int, *, labels: Tensor | None = None, generator: torch.Generator) -> Tensor:
        """Draw images by one call of the generator; labels are not used."""
        shape = (n, self.config.generator.z)
        with torch.no_grad():
            return self.generator(torch.randn(shape, generator=generator, device=generator.device))


def mean_distance(x: Tensor) -> Tensor:
    """Mean distance between neighbours in the batch's order, a cheap gauge of variety."""
    return image_sum((x - x.roll(1, 0)) ** 2).sqrt().mean()
