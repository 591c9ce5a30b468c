"""Score mismatching (SMM): a one-step generator trained against a score network.

Ye & Liu 2023, "Score Mismatching for Generative Modeling". A score network ``S(x_t, t)`` predicts
the noise in real data and is trained to predict none in fakes; the generator ``G(z)`` is trained
so that S predicts the noise in its fakes. With x_t = x + sigma_t n, the signal not scaled, t
uniform over a few small levels and fresh (t, n) in each term, n' independent of n:

    L(S) = E |S(y + sigma_t n, t) - n|^2  +  E |S(G(z) + sigma_t n, t) - n'|^2
    L(G) = E |S(G(z) + sigma_t n, t) - n|^2

The gradient of L(G) passes through S into G alone. The best S for given densities p (noised real)
and q (noised fake) is ``p / (p + q) E_p[n | x_t]``; with per-dimension means L_r and L_f of the
two terms of L(S), ``rho = 3 (L_f - 1) / (1 - L_r)`` tends to 1 as fakes match (our derivation). It
is logged as the ratio of the means of both: at d = 2 a batch's own ratio is 8.2 on average, not 1.

Variants: ``main``, the recipe of the authors' main code base (CIFAR-10), networks and all, whose
size is that of the paper unless the preset says otherwise; ``simple``, the training settings of
their simple one (networks stay the preset's); ``two_time_scales``, a score network three times as
fast as the generator, and ``equal_rates``; ``gan``, the control: the same networks, noise levels
and steps, but the score network's mean output is a critic's logit under the non-saturating logistic
loss (Goodfellow et al. 2014); ``no_mismatch``, the control that must collapse.

Where we differ from the authors' code, and why. Of all variants:

- Losses are means over pixels and images, theirs are sums: Adam does not see the scale, but for
  its eps. Beside a mean the gradients of the slow mapping are some 2e-9, below their eps of 1e-8:
  ``main`` has 1e-8 over 64 x 3072.
- R1 is off but for ``main``. Their penalty stands beside a sum and is not multiplied by its
  interval, so that at 64 images of 32x32 its weight is that of ``r1_gamma`` over 16 x 64 x 3072,
  3.1 million, beside a mean: ``r1_beside`` chooses.
- The default generator is of the DCGAN family, the default score network a DDPM++ U-Net of the
  main code's size.
- Gradients that are not finite end the run; theirs become 0, or 1e5 if infinite.
- The average is one step ahead, as in :mod:`methods.sde`.

Of ``main`` as well:

- The generator is float32 throughout; theirs is float16 from 8x8 up, clamped at 256.
- Its noise inputs are a function of z (see :mod:`methods.networks.stylegan2`).
- The three convolutions of NCSN++ that the image passes on its way down begin at Xavier's scale,
  0.109; theirs, of equalised rate, at 0.199. 14,256 parameters that no gradient reaches are left
  out: 468,963 are theirs of 483,219. The function is the same.
- Beside 100,000 kimg, their length, ``paper``'s budget is EDM's 200,000: ``--budget 100000kimg``.

Of ``simple``: its networks are not here. Theirs is a DCGAN with batch norm, transposed convolutions
and weights from N(0, 0.02), and a U-Net of 3.6 M with dropout 0.15; ours normalise by groups,
upsample by nearest neighbours and begin at the defaults of torch and Xavier.
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
from methods.networks.unet import NCSNPP, UNetSettings
from methods.noise import image_sum, per_image, vp_discrete_sigmas


class SMMConfig(Settings):
    """Sizes, levels and order of the authors' main code base; ``main`` is the whole recipe."""

    generator: GeneratorNetwork = GeneratorSettings()
    score_network: ScoreNetwork = UNetSettings(
        channels=16, multipliers=(1, 2, 2, 2), blocks=1, attention=(16, 8), dropout=0.1
    )
    """Size of the authors' score network (0.47 M parameters that learn)."""
    score_input: Literal["as_is", "doubled"] = "as_is"
    """``doubled``: the network sees ``2 x - 1``, as the main code has it, though x is in [-1, 1]
    already: NCSN++ was made for images in [0, 1]."""
    score_output: Literal["as_is", "over_ncsn"] = "as_is"
    """``over_ncsn``: divided by NCSN's level of the index, ``50 (0.01 / 50)^(t / 999)``, 50.0 to
    46.3 for t = 0 to 9, as the main code has it; S then changes some 48 times more slowly."""
    levels: int = Field(10, ge=1)
    """T: 10 in the main code (sigma up to 0.310), 20 in the simple one (0.428)."""
    generator_optimizer: Adam = Adam(lr=2.5e-3, betas=(0.0, 0.99))
    """As on the main code's command line, which its lazy regularisation rescales: see ``main``."""
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
    """R1 penalty on noised real images, of S's summed output (main code: 0.01 beside a sum)."""
    r1_every: int = Field(16, ge=1)
    """Steps between penalties (main code: 16)."""
    r1_beside: Literal["mean", "sum"] = "mean"
    """What the penalty is weighed against: the mean that S learns from, times ``r1_every``; or, as
    in the main code, the sum over the batch's pixels and channels, once."""


_SIMPLE_ADAM = {
    "lr": 2e-4,
    "betas": [0.5, 0.999],
    "eps": 1e-8,
    "warmup_kimg": 0.0,
    "decay": "constant",
}
MAIN: Mapping[str, Any] = {
    "generator": {"kind": "stylegan2", "mapping": "lstm", "mapping_depth": 2, "bounded": False},
    "score_network": {**NCSNPP, "embedding": "positional", "embedding_multiplier": 1},
    "score_input": "doubled",
    "score_output": "over_ncsn",
    "score_lr_ratio": None,
    "levels": 10,
    "order": "generator_first",
    "generator_noises": 2,
    "generator_optimizer": {
        "lr": 2.0e-3,
        "betas": [0.0, 0.991992],
        "eps": 5.09e-14,
        "warmup_kimg": 0.0,
        "decay": "constant",
    },
    "score_optimizer": {
        "lr": 2.352941e-3,
        "betas": [0.0, 0.9905855],
        "eps": 5.09e-14,
        "warmup_kimg": 0.0,
        "decay": "constant",
    },
    "generator_ema": {"halflife_kimg": 500.0, "rampup_ratio": 0.05},
    "r1_gamma": 0.01,
    "r1_every": 16,
    "r1_beside": "sum",
}
"""How the authors' main code base (CIFAR-10) trains: ``train.py --cfg=cifar --aug=noaug``.

Adam at 2.5e-3, (0, 0.99) for both, of which lazy regularisation takes the power, and the fraction,
4/5 for the generator and 16/17 for the score network; the former's own penalty is 0. eps is 1e-8
beside a sum over 64 images of 3072 numbers."""
SIMPLE: Mapping[str, Any] = {
    "score_input": "as_is",
    "score_output": "as_is",
    "score_lr_ratio": None,
    "levels": 20,
    "order": "score_first",
    "generator_noises": 1,
    "generator_optimizer": _SIMPLE_ADAM,
    "score_optimizer": _SIMPLE_ADAM,
    "generator_ema": None,
    "r1_gamma": 0.0,
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

    def predict(self, x: Tensor, t: Tensor) -> Tensor:
        """``S(x, t)``, the noise in images (B, C, H, W) at the levels of index t (B,)."""
        seen = 2 * x - 1 if self.config.score_input == "doubled" else x
        answer = self.score(seen, t)
        if self.config.score_output == "over_ncsn":
            answer = answer / per_image(ncsn_sigmas(t)).to(answer.dtype)
        return answer

    def score_loss(self, batch: Batch) -> Tensor:
        """Match the noise of real images, predict none on fakes."""
        with torch.no_grad():
            generated = self.fakes(batch)
        x, noise, t = self.noised(batch, torch.cat([batch.x, generated]))
        real_noise, independent = noise.chunk(2)[0], batch.randn()
        on_real, on_fake = self.predict(x, t).chunk(2)
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
        answer = self.predict(x, t)
        if self.config.game == "gan":
            return F.softplus(-logits(answer)).mean()
        return (answer - noise).square().mean()

    def r1_loss(self, batch: Batch) -> Tensor:
        """``gamma / 2 |grad_x sum S(x_t, t)|^2`` on noised real images, as ``r1_beside`` has it."""
        x, _, t = self.noised(batch, batch.x)
        leaf = x.detach().requires_grad_()
        total = self.predict(leaf * 1, t).float().sum()
        (gradient,) = torch.autograd.grad(total, leaf, create_graph=True)
        penalty = 0.5 * self.config.r1_gamma * image_sum(gradient**2).mean()
        # The losses here are means, the authors' sums over as many numbers as the batch has.
        beside_mean = self.config.r1_beside == "mean"
        return penalty * self.config.r1_every if beside_mean else penalty / batch.x.numel()

    @torch.no_grad()
    def _log_gauges(self, batch: Batch, generated: Tensor, real: Tensor, fake: Tensor) -> None:
        """Log the terms and the signs of collapse; all ratios are 1 for a perfect generator."""
        batch.log("real", real)
        batch.log("fake", fake)
        batch.log("rho", 3 * (fake - 1), over=1 - real)
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


def ncsn_sigmas(index: Tensor) -> Tensor:
    """The level of an index among NCSN's thousand, ``50 (0.01 / 50)^(index / 999)``, float32."""
    return 50 * (0.01 / 50) ** (index.float() / 999)


def logits(answer: Tensor) -> Tensor:
    """A critic's logit of each image, (B,): the mean of the network's output, in float32."""
    return answer.float().flatten(1).mean(1)


def mean_distance(x: Tensor) -> Tensor:
    """Mean distance between neighbours in the batch's order, a cheap gauge of variety."""
    return image_sum((x - x.roll(1, 0)) ** 2).sqrt().mean()
