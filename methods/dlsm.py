"""Denoising likelihood score matching (DLSM): class-conditional sampling by Bayes' rule.

Chao et al. 2022, "Denoising Likelihood Score Matching for Conditional Score-based Data Generation"
(ICLR). ``grad log p(x|y) = grad log p(x) + grad log p(y|x)``: the first term is a score network's,
trained without labels and then fixed (with its averaged weights); the second is the gradient of a
noise-conditional classifier, which is trained to *be* the true likelihood score, with
``x = y + sigma n`` and the power b (``balance``):

    L(phi) = E  1/2 | sigma^b (grad log p_phi(c|x) + s(x, sigma)) + sigma^(b-1) n |^2  +  lambda CE

averaged over pixels. b = 1, by which every level counts alike, is ours; the authors' CIFAR release
has 0 and their toy 2. At 0 the weight is 1/sigma^2, of which three quarters lie below twice the
smallest of VE's levels; the gradient has a cosine of 0.02 with that at 1.

Variants, as the paper compares them: ``ce`` (cross entropy alone), ``ce_scaled`` (the same with
alpha = 10), ``dlsm_alone`` (no cross entropy), ``total`` (both). ``on_sde`` spends the whole
budget on the score stage, which it then shares with the ``sde`` cell of the same settings and
seed, and half as much again on the classifier: dearer than its neighbours, and charged so.
``balance_0``, ``balance_2`` and ``ve_levels`` have the authors' powers and training levels.
``as_released`` is the authors' CIFAR release: the VE SDE with NCSN++ (its size is the preset's:
107.6 M in ``paper``), balance 0, predictor and corrector on 1000 levels (2000 evaluations), and
their batches, rates, clipping and averages; with ``--budget 130600kimg`` their lengths too,
121,600 for the score and 9,000 for the classifier.

Where we differ from the authors' code, and why. Of all variants but ``as_released``:

- EDM's noise levels, preconditioning and samplers in place of the VE SDE's with predictor and
  corrector, and EDM's DDPM++ (55.7 M) in place of NCSN++ deep (107.6 M): so the score stage is the
  very objective of ``sde``, and the rows differ in the guidance alone.
- So the classifier, too, is trained on EDM's levels, of which 1 % are above 5, against 35 % under
  VE; sampling starts at 80. ``classifier_noise: {kind: ve}`` has VE's.
- ``balance`` is 1.
- Batch and length are the study's: the classifier's 30 % of ``paper``'s budget are 6.7 times
  theirs (60,000 steps of 150). No gradient is clipped, where theirs are at norm 1.
- The classifier is averaged, which they do not.

Of ``as_released`` as well:

- GroupNorm and SiLU before each convolution in place of batch norm and ReLU after it, and another
  embedding of the level (see :mod:`methods.networks.classifier`): batch norm couples the images of
  a batch, and the loss differentiates a gradient, of which ReLU has none.
- log p comes from a log-softmax; log(softmax + 1e-8) flattens the gradient of sure predictions.
- The loss of the score network is twice theirs, so that clipping at norm 1 begins at half theirs.
- The corrector's norms are each image's own (see :func:`methods.samplers.predictor_corrector`).
- Labels are drawn from the data's frequencies; theirs are equally many of each class.
- The rate of warm-up and the average are one step ahead, as in :mod:`methods.sde`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from methods.base import EMA, Adam, Batch, DataSpec, DenoiserFn, Objective, Settings, Stage
from methods.networks.choice import ClassifierNetwork
from methods.networks.classifier import ClassifierSettings
from methods.networks.unet import NCSNPP
from methods.noise import Noise, per_image
from methods.sde import SAMPLER_VARIANTS, SCORE_STAGE, SDE, VE, DenoiserConfig


class DLSMConfig(DenoiserConfig):
    """EDM's settings for the score stage, and the classifier's."""

    classifier: ClassifierNetwork = ClassifierSettings()
    classifier_optimizer: Adam = Adam(lr=2e-4)
    """Adam at 2e-4, the authors' setting for both networks."""
    classifier_ema: EMA | None = EMA(halflife_kimg=500, rampup_ratio=0.05)
    """As for the score network (ours: the authors do not average the classifier)."""
    classifier_noise: Noise | None = None
    """Levels that the classifier is trained on: ``kind: ve`` for the authors', ln sigma even from
    0.02 to 100; ``None``: those of ``noise``."""
    balance: float = Field(1.0, ge=0, le=4)
    """Power of sigma on the residual: 1 is ours, 0 the authors' CIFAR release, 2 their toy."""
    dlsm_weight: float = Field(1.0, ge=0)
    """Weight of the DLSM loss (paper: 1); at 0 it is not computed and the score not needed."""
    ce_weight: float = Field(1.0, ge=0)
    """lambda, weight of the cross entropy (paper: 1)."""
    guidance: float = Field(1.0, ge=0)
    """alpha, factor of the classifier's gradient in sampling (paper: 1)."""
    score_share: float = Field(0.7, gt=0, le=1)
    """Fraction of the budget spent on the score stage (ours: the paper gives no common budget)."""
    classifier_share: float | None = Field(None, gt=0)
    """Fraction spent on the classifier; ``None``: the rest. Given, the sum may pass the budget."""
    score_batch: int | None = Field(None, ge=1, le=10**7)
    """Images a step of the score stage (authors: 128); ``None``: the study's."""
    classifier_batch: int | None = Field(None, ge=1, le=10**7)
    """Images a step of the classifier's stage (authors: 150); ``None``: the study's."""
    score_flip: bool | None = None
    """Whether the score stage mirrors images (authors: yes); ``None``: as the study says."""
    classifier_flip: bool | None = None
    """Whether the classifier's stage mirrors images (authors: no); ``None``: as the study says."""

    @model_validator(mode="after")
    def _makes_sense(self) -> DLSMConfig:
        if self.conditional:
            raise ValueError("the score network of dlsm is told no class; leave conditional false")
        if not self.dlsm_weight and not self.ce_weight:
            raise ValueError("dlsm_weight and ce_weight are both 0; one must be positive")
        if self.score_share == 1 and self.classifier_share is None:
            raise ValueError("score_share 1 leaves no classifier_share; give one")
        if self.classifier_share is not None and self.score_share + self.classifier_share < 1:
            raise ValueError("score_share and classifier_share leave part of the budget unused")
        return self


AS_RELEASED: Mapping[str, Any] = {
    "network": {**NCSNPP, "dropout": 0.1},
    "noise": {"kind": "ve", "sigma_min": 0.02, "sigma_max": 100.0},
    "classifier_noise": None,
    "augment": 0.0,
    "optimizer": {
        "lr": 2e-4,
        "betas": [0.9, 0.999],
        "warmup_kimg": 640.0,
        "decay": "constant",
        "clip": 1.0,
    },
    "ema": {"halflife_kimg": 88.7, "rampup_ratio": 0.077},
    "classifier_optimizer": {
        "lr": 2e-4,
        "betas": [0.9, 0.999],
        "warmup_kimg": 0.0,
        "decay": "constant",
        "clip": 1.0,
    },
    "classifier_ema": None,
    "sampler": VE["sampler"],
    "balance": 0.0,
    "dlsm_weight": 4.0,
    "ce_weight": 1.0,
    "guidance": 1.0,
    "score_share": 0.9311,
    "classifier_share": None,
    "score_batch": 128,
    "classifier_batch": 150,
    "score_flip": True,
    "classifier_flip": False,
}
"""The authors' CIFAR release (configs/default_cifar_configs.py and those of score and classifier).

Their averages keep 0.999 a step of 128 images, ``min(0.999, (1 + k) / (10 + k))`` after k: a half
life of 88.7 kimg, and of ln 2 / 9 of the images so far before that. Their sigma is that of images
in [0, 1], half of ours, so that 1/sigma^2 is 4 of ours: hence ``dlsm_weight``. 121,600 and 9,000
kimg are 93.11 and 6.89 % of their sum."""


def log_likelihood_gradient(
    classifier: nn.Module, x: Tensor, sigma: Tensor, labels: Tensor, *, create_graph: bool
) -> tuple[Tensor, Tensor]:
    """Return ``grad_x log p(label | x)`` (B, C, H, W) and the logits (B, classes)."""
    with torch.enable_grad():
        # The module gets a view: FlopCounterMode cannot see a leaf that requires a gradient.
        leaf = x.detach().requires_grad_()
        logits = classifier(leaf * 1, sigma)
        chosen = F.log_softmax(logits.float(), dim=1).gather(1, labels[:, None]).sum()
        (gradient,) = torch.autograd.grad(chosen, leaf, create_graph=create_graph)
    return gradient, logits


class DLSM(SDE):
    """Guided sampling by a classifier whose gradient is the likelihood score."""

    name = "dlsm"
    Config: ClassVar[type[Settings]] = DLSMConfig
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "ce": {"dlsm_weight": 0.0, "ce_weight": 1.0},
        "ce_scaled": {"dlsm_weight": 0.0, "ce_weight": 1.0, "guidance": 10.0},
        "dlsm_alone": {"dlsm_weight": 1.0, "ce_weight": 0.0},
        "total": {"dlsm_weight": 1.0, "ce_weight": 1.0},
        "balance_0": {"balance": 0.0},
        "balance_2": {"balance": 2.0},
        "ve_levels": {"classifier_noise": {"kind": "ve"}},
        "on_sde": {"score_share": 1.0, "classifier_share": 0.5},
        "as_released": AS_RELEASED,
        **SAMPLER_VARIANTS,
    }
    needs_labels = True
    sampling_settings = frozenset({"sampler", "guidance"})
    second_order = frozenset({"classifier"})

    config: DLSMConfig

    def __init__(self, config: DLSMConfig, data: DataSpec) -> None:
        super().__init__(config, data)
        self.classifier = config.classifier.build(data)
        self.networks["classifier"] = self.classifier

    def stages(self) -> Sequence[Stage]:
        """The score network first, then the classifier against the fixed score network."""
        classifier = Objective(
            network="classifier",
            loss=self.classifier_loss,
            optimizer=self.config.classifier_optimizer,
            ema=self.config.classifier_ema,
        )
        config = self.config
        score = self.score_stage(SCORE_STAGE, config.score_share)
        return [
            replace(score, batch=config.score_batch, flip=config.score_flip),
            Stage(
                name="classifier",
                objectives=[classifier],
                share=config.classifier_share or 1 - config.score_share,
                batch=config.classifier_batch,
                flip=config.classifier_flip,
            ),
        ]

    def draw_level(self, batch: Batch) -> Tensor:
        """Draw one level an image for the classifier to be trained on, (B,)."""
        noise = self.config.classifier_noise
        return self.denoiser.draw_sigma(batch) if noise is None else noise.draw(batch)

    def classifier_loss(self, batch: Batch) -> Tensor:
        """The weighted sum of the DLSM loss, averaged over pixels and batch, and cross entropy."""
        assert batch.labels is not None
        sigma, noise = self.draw_level(batch), batch.randn()
        x = batch.x + per_image(sigma) * noise
        if not self.config.dlsm_weight:
            return self.config.ce_weight * self.cross_entropy(batch, self.classifier(x, sigma))
        gradient, logits = log_likelihood_gradient(
            self.classifier, x, sigma, batch.labels, create_graph=True
        )
        dlsm = self.mismatch(x, sigma, noise, gradient)
        batch.log("dlsm", dlsm)
        cross_entropy = self.cross_entropy(batch, logits)
        return self.config.dlsm_weight * dlsm + self.config.ce_weight * cross_entropy

    def mismatch(self, x: Tensor, sigma: Tensor, noise: Tensor, gradient: Tensor) -> Tensor:
        """The DLSM loss of the likelihood's ``gradient``, averaged over pixels and batch."""
        with torch.no_grad():
            score = self.denoiser.score(x, sigma)
        level = per_image(sigma)
        residual = level * (gradient + score) + noise
        return 0.5 * (level ** (self.config.balance - 1) * residual).square().mean()

    def cross_entropy(self, batch: Batch, logits: Tensor) -> Tensor:
        """The classifier's cross entropy, averaged over the batch, and logged."""
        assert batch.labels is not None
        value = F.cross_entropy(logits.float(), batch.labels)
        batch.log("cross_entropy", value)
        return value

    def denoiser_for(self, labels: Tensor | None) -> DenoiserFn | None:
        """The unconditional denoiser, or the guided one: ``D + sigma^2 alpha grad log p(c|x)``."""
        if labels is None:
            return self.denoiser

        def guided(x: Tensor, sigma: Tensor) -> Tensor:
            levels = sigma.expand(len(x))
            gradient, _ = log_likelihood_gradient(
                self.classifier, x, levels, labels, create_graph=False
            )
            pull = self.config.guidance * per_image(levels) ** 2 * gradient
            return self.denoiser(x, sigma) + pull

        return guided
