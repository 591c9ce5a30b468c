"""The baseline: denoising score matching, sampled by a multi-step reverse-SDE sampler.

Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models" (NeurIPS);
Song et al. 2021, "Score-Based Generative Modeling through Stochastic Differential Equations"
(ICLR). The objective (EDM eq. 2, 3, 8), with x = y + sigma n and w = 1 / c_out^2:

    L(D) = E_{y, n, sigma}  w(sigma) |D(x, sigma) - y|^2,    ln sigma ~ N(-1.2, 1.2^2)

``noise`` chooses EDM's preconditioning or that of the VP or the VE SDE, ``augment`` EDM's
augmentation, ``conditional`` a network that is told the class.

Where we differ from the authors' code, and why. From EDM's:

- The default sampler is stochastic (the posterior kernel on EDM's levels), because this row stands
  for the multi-step SDE sampler; ``sde:heun``, EDM's own, and the other samplers are variants,
  which share one training. ``paper`` has EDM's stochastic sampler at 256 steps (511 evaluations),
  where they churn; at the deterministic one's 18, churn 30 would be held at 0.414, not be 0.117.
- The rate of the warm-up and the average are those of EDM's next step: after 100 steps weights
  differ by 1.9 % of the way that they moved, after 2,000 by 0.1 %.
- A gradient that is not finite ends the run; theirs becomes 0, or 1e5 where it is infinite.
- The sampler's state is float32, theirs float64 (see :mod:`methods.samplers`).
- Augmentation reflects images at their edges (see :mod:`methods.augmentation`).

From Song et al.'s: ``sde:ve`` and ``sde:vp`` are their SDEs with 1000 levels each, on the preset's
network, which is EDM's DDPM++, with its optimizer, average and augmentation; theirs for VE is
NCSN++ (``NCSNPP`` in :mod:`methods.networks.unet`), at 2e-4, batch 128, clipped, averaged over
0.999 a step. VE's levels are twice theirs, whose images are in [0, 1]; their loss is half of ours.
For VP they sample by Euler-Maruyama, we by reverse diffusion without a corrector, which their table
finds as good. The corrector's norms, its limit and VP's beta: see
:func:`methods.samplers.predictor_corrector`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from methods import samplers
from methods.augmentation import LABELS, SMALLEST, augment
from methods.base import EMA, Adam, Batch, DataSpec, DenoiserFn, Method, Objective, Settings, Stage
from methods.networks.choice import ScoreNetwork
from methods.networks.unet import UNetSettings
from methods.noise import Denoiser, EDMNoise, Noise, per_image, weighted_error


class DenoiserConfig(Settings):
    """What every method with a denoiser shares; defaults are EDM's for CIFAR-10 (table 7)."""

    network: ScoreNetwork = UNetSettings()
    noise: Noise = EDMNoise()
    optimizer: Adam = Adam(lr=1e-3, warmup_kimg=10_000)
    ema: EMA = EMA(halflife_kimg=500, rampup_ratio=0.05)
    augment: float = Field(0.0, ge=0, le=1)
    """Probability of each transform of EDM's augmentation, of which the network is told; 0.12 on
    CIFAR-10 (EDM appendix F.2). Above 0 every image is mirrored with probability 1/2 as well."""
    conditional: bool = False
    """Whether the network is told the class."""
    sampler: samplers.SamplerSettings = samplers.SamplerSettings()


SCORE_STAGE = frozenset(DenoiserConfig.model_fields) - {"sampler"}
"""The settings that decide what denoising score matching learns."""


SAMPLER_VARIANTS: Mapping[str, Mapping[str, Any]] = {
    name: {"sampler": {"name": name}} for name in samplers.SAMPLERS
}
"""One variant a sampler; they differ in sampling alone and share one training."""
PC = {"name": "predictor_corrector", "steps": 1000, "snr": 0.16}
VE = {
    "noise": {"kind": "ve", "sigma_min": 0.02, "sigma_max": 100.0},
    "sampler": PC
    | {
        "schedule": "geometric",
        "corrector_steps": 1,
        "geometric_min": 0.02,
        "geometric_max": 100.0,
    },
}
"""The VE SDE with its sampler (Song et al. 2021, CIFAR-10): 2000 evaluations an image.

Their 0.01 to 50 are levels of images in [0, 1]: twice that in [-1, 1], where 100 is the largest
distance between images of CIFAR-10, by which they choose it."""
VP = {"noise": {"kind": "vp"}, "sampler": PC | {"schedule": "vp", "corrector_steps": 0}}
"""The VP SDE with 1000 steps of its predictor alone, as its authors sample it; theirs is
Euler-Maruyama's, ours reverse diffusion's, which their table finds as good."""


@dataclass(frozen=True)
class Noised:
    """Images ``y`` with noise of levels ``sigma`` added, and what the network is told beside."""

    y: Tensor
    x: Tensor
    sigma: Tensor
    labels: Tensor | None
    augment: Tensor | None


class SDE(Method):
    """Denoising score matching with a multi-step SDE sampler."""

    name = "sde"
    Config: ClassVar[type[Settings]] = DenoiserConfig
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "conditional": {"conditional": True},
        **SAMPLER_VARIANTS,
        "ve": VE,
        "vp": VP,
    }
    sampling_settings = frozenset({"sampler"})

    config: DenoiserConfig

    def __init__(self, config: DenoiserConfig, data: DataSpec) -> None:
        self.config, self.data = config, data
        self.needs_labels = self.needs_labels or config.conditional
        if self.needs_labels and not data.classes:
            raise ValueError("class labels are needed and the data have none")
        if config.augment and data.size < SMALLEST:
            raise ValueError(
                f"augment needs images of {SMALLEST} pixels, not {data.size}; set it to 0"
            )
        network = config.network.build(
            data,
            classes=data.classes if config.conditional else 0,
            augment=LABELS if config.augment else 0,
        )
        self.denoiser = Denoiser(network, config.noise)
        self.networks = {"denoiser": self.denoiser}

    def stages(self) -> Sequence[Stage]:
        """One stage, one objective."""
        return [self.score_stage(frozenset(type(self.config).model_fields) - {"sampler"})]

    def score_stage(self, decisive: frozenset[str] = SCORE_STAGE, share: float = 1.0) -> Stage:
        """The stage that trains the denoiser; ``decisive`` settings alone make its result."""
        objective = Objective(
            network="denoiser",
            loss=self.loss,
            optimizer=self.config.optimizer,
            ema=self.config.ema,
        )
        loss = type(self).loss
        settings = self.config.model_dump(mode="json", include=set(decisive))
        identity = {"module": loss.__module__, "loss": loss.__qualname__, **settings}
        # A subclass from elsewhere may change more than its loss: it shares nothing.
        known = identity if type(self).__module__.startswith("methods.") else None
        return Stage(name="score", objectives=[objective], share=share, identity=known)

    def noised(self, batch: Batch) -> Noised:
        """Augment the batch if that is asked for, and add noise of drawn levels."""
        told = None
        y = batch.x
        if self.config.augment:
            y, told = augment(batch, self.config.augment)
        sigma = self.denoiser.draw_sigma(batch)
        labels = batch.labels if self.config.conditional else None
        return Noised(y, y + per_image(sigma) * batch.randn(), sigma, labels, told)

    def loss(self, batch: Batch) -> Tensor:
        """Denoising score matching: summed over pixels, averaged over the batch (EDM eq. 3, 8)."""
        at = self.noised(batch)
        denoised = self.denoiser(at.x, at.sigma, at.labels, at.augment)
        return weighted_error(self.denoiser, denoised, at.y, at.sigma).mean()

    def denoiser_for(self, labels: Tensor | None) -> DenoiserFn | None:
        """The denoiser, told the classes if it is conditional; ``None`` if it lacks them."""
        if not self.config.conditional:
            return None if labels is not None else self.denoiser
        return None if labels is None else lambda x, sigma: self.denoiser(x, sigma, labels)

    def sample(self, n: int, *, labels: Tensor | None = None, generator: torch.Generator) -> Tensor:
        """Draw images by the configured sampler; ValueError without the labels that it needs."""
        if self.needs_labels and (labels is None or len(labels) != n):
            raise ValueError(f"{self.name} samples need one class label an image")
        denoiser = self.denoiser_for(labels if self.needs_labels else None)
        assert denoiser is not None
        return samplers.draw(denoiser, (n, *self.data.shape), self.config.sampler, generator)
