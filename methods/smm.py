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

Variants: ``main`` and ``simple``, the training settings of the authors' two code bases (network
sizes stay the preset's); ``two_time_scales``, a score network three times as fast as the
generator, and ``equal_rates``; ``gan``, the control: the same networks, noise levels and steps, but
the score network's mean output is a critic's logit under the non-saturating logistic loss
(Goodfellow et al. 2014); ``no_mismatch``, the control that must collapse.

Where we differ from the authors' code, and why:

- Losses are means over pixels, not sums; Adam does not see the scale.
- R1 is a setting and off: at the authors' weight it is numerically negligible.
- The default generator is of the DCGAN family, as in the authors' simple code base; StyleGAN2's,
  as in the main one, is a setting which the paper presets use.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from methods.base import EMA, Adam, Batch, DataSpec, Method, Objective, Settings, Stage
from methods.networks.choice import GeneratorNetwork, ScoreNetwork
from methods.networks.generator import GeneratorSettings
from methods.networks.unet import UNetSettings
from methods.noise import image_sum, per_image, vp_discrete_sigmas


class SMMConfig(Settings):
    """Settings of the authors' main code base (CIFAR-10), but for the generator's family."""

    generator: GeneratorNetwork = GeneratorSettings()
    score_network: ScoreNetwork = UNetSettings(
        channels=16, multipliers=(1, 2, 2, 2), blocks=1, attention=(16, 8), dropout=0.1
    )
    """Size of the authors' score network (0.48 M parameters there)."""
    levels: int = Field(10, ge=1)
    """T: 10 in the main code (sigma up to 0.310), 20 in the simple one (0.428)."""
    generator_optimizer: Adam = Adam(lr=2.5e-3, betas=(0.0, 0.99))
    score_optimizer: Adam = Adam(lr=2.5e-3, betas=(0.0, 0.99))
    score_lr_ratio: float | None = Field(None, gt=0)
    """If set, the score network's rate is this many times the generator's (ours: 3 works)."""
    generator_ema: EMA | None = EMA(halflife_kimg=500, rampup_ratio=0.05)
    """The simple code base has none."""
    game: Literal["mismatch", "gan"] = "mismatch"
    """``gan`` is the control: the score network as the critic of an adversarial game."""
    sigmas: tuple[float, ...] | None = None
    """Noise levels in place of the schedule's; for experiments in closed form."""
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


_MAIN_ADAM = {"lr": 2.5e-3, "betas": [0.0, 0.99], "warmup_kimg": 0.0, "decay": "constant"}
_SIMPLE_ADAM = {"lr": 2e-4, "betas": [0.5, 0.999], "warmup_kimg": 0.0, "decay": "constant"}
MAIN = {
    "score_lr_ratio": None,
    "levels": 10,
    "order": "generator_first",
    "generator_noises": 2,
    "generator_optimizer": _MAIN_ADAM,
    "score_optimizer": _MAIN_ADAM,
    "generator_ema": {"halflife_kimg": 500.0, "rampup_ratio": 0.05},
}
"""How the authors' main code base (CIFAR-10) trains; its R1 is negligible and left out."""
SIMPLE = {
    "score_lr_ratio": None,
    "levels": 20,
    "order": "score_first",
    "generator_noises": 1,
    "generator_optimizer": _SIMPLE_ADAM,
    "score_optimizer": _SIMPLE_ADAM,
    "generator_ema": None,
}
"""How the authors' simple code base trains."""


class SMM(Method):
    """A one-step generator against a score network that matches real data, mismatches fakes."""

    name = "smm"
    Config: ClassVar[type[Settings]] = SMMConfig
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "main": MAIN,
        "simple": SIMPLE,
        "two_time_scales": {"score_lr_ratio": 3.0},
        "equal_rates": {"score_lr_ratio": 1.0},
        "gan": {"game": "gan"},
        "no_mismatch": {"mismatch_weight": 0.0},
    }

    def __init__(self, config: SMMConfig, data: DataSpec) -> None:
        self.config, self.data = config, data
        self.score = config.score_network.build(data)
        self.generator = config.generator.build(data)
        self.networks = {"score": self.score, "generator": self.generator}
        if config.r1_gamma > 0:
            self.second_order = frozenset({"score"})
        self.sigmas = (
            vp_discrete_sigmas(config.levels)
            if config.sigmas is None
            else torch.tensor(config.sigmas, dtype=torch.float32)
        )

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
            Objective(network="score", loss=self.score_loss, optimizer=self.score_optimizer),
        ]
        if config.order == "score_first":
            objectives.reverse()
        if config.r1_gamma > 0:
            objectives.append(
                Objective(
                    network="score",
                    name="r1",
                    loss=self.r1_loss,
                    optimizer=self.score_optimizer,
                    every=config.r1_every,
                )
            )
        return [Stage(name="adversarial", objectives=objectives)]

    @property
    def score_optimizer(self) -> Adam:
        """The score network's optimizer, its rate tied to the generator's if that is asked for."""
        config = self.config
        if config.score_lr_ratio is None:
            return config.score_optimizer
        rate = config.generator_optimizer.lr * config.score_lr_ratio
        return config.score_optimizer.model_copy(update={"lr": rate})

    def noised(self, batch: Batch, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return ``x + sigma_t n``, the noise n, and the level's index t (B,)."""
        t = batch.randint(len(self.sigmas), x.shape[0])
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
        if self.config.game == "gan":
            self._log_variety(batch, generated)
            return F.softplus(-logits(on_real)).mean() + F.softplus(logits(on_fake)).mean()
        real = (on_real - real_noise).square().mean()
        fake = (on_fake - independent).square().mean()
        self._log_gauges(batch, generated, real, fake)
        return real + self.config.mismatch_weight * fake

    def generator_loss(self, batch: Batch) -> Tensor:
        """Make the score network predict the noise of the fakes."""
        x, noise, t = self.noised(
            batch, self.fakes(batch).repeat(self.config.generator_noises, 1, 1, 1)
        )
        answer = self.score(x, t)
        if self.config.game == "gan":
            return F.softplus(-logits(answer)).mean()
        return (answer - noise).square().mean()

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
        self._log_variety(batch, generated)

    @torch.no_grad()
    def _log_variety(self, batch: Batch, generated: Tensor) -> None:
        """Log how varied the fakes are beside the real images."""
        batch.log("std_ratio", generated.std(0).mean() / batch.x.std(0).mean())
        batch.log("distance_ratio", mean_distance(generated) / mean_distance(batch.x))

    def sample(self, n: int, *, labels: Tensor | None = None, generator: torch.Generator) -> Tensor:
        """Draw images by one call of the generator; labels are not used."""
        shape = (n, self.config.generator.z)
        with torch.no_grad():
            return self.generator(torch.randn(shape, generator=generator, device=generator.device))


def logits(answer: Tensor) -> Tensor:
    """A critic's logit of each image, (B,): the mean of the network's output, in float32."""
    return answer.float().flatten(1).mean(1)


def mean_distance(x: Tensor) -> Tensor:
    """Mean distance between neighbours in the batch's order, a cheap gauge of variety."""
    return image_sum((x - x.roll(1, 0)) ** 2).sqrt().mean()
