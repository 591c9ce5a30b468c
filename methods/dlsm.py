"""Denoising likelihood score matching (DLSM): class-conditional sampling by Bayes' rule.

Chao et al. 2022, "Denoising Likelihood Score Matching for Conditional Score-based Data Generation"
(ICLR). ``grad log p(x|y) = grad log p(x) + grad log p(y|x)``: the first term is a score network's,
trained without labels and then fixed (with its averaged weights); the second is the gradient of a
noise-conditional classifier, which is trained to *be* the true likelihood score, with
``x = y + sigma n``:

    L(phi) = E  1/2 | sigma grad_x log p_phi(c|x) + sigma s(x, sigma) + n |^2  +  lambda CE

averaged over pixels. The factor sigma on the residual is the authors' balancing power 1.

Variants, as the paper compares them: ``ce`` (cross entropy alone), ``ce_scaled`` (the same with
alpha = 10), ``dlsm_alone`` (no cross entropy), ``total`` (both). ``on_sde`` spends the whole
budget on the score stage, which it then shares with the ``sde`` cell of the same settings and
seed, and half as much again on the classifier: dearer than its neighbours, and charged so.

Where we differ from the authors' code, and why:

- EDM's noise levels, preconditioning and samplers in place of the VE SDE's with predictor and
  corrector, so that the score stage is the very objective of ``sde`` and the rows differ in the
  guidance alone; batch and length are the study's (theirs for the classifier: 150 images, 60,000
  iterations, gradients clipped at norm 1, no averaging).
- log p comes from a log-softmax; log(softmax + 1e-8) flattens the gradient of sure predictions.
- GroupNorm and SiLU in the classifier (see :mod:`methods.networks.classifier`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from methods.base import EMA, Adam, Batch, DataSpec, DenoiserFn, Objective, Settings, Stage
from methods.networks.choice import ClassifierNetwork
from methods.networks.classifier import ClassifierSettings
from methods.noise import per_image
from methods.sde import SAMPLER_VARIANTS, SCORE_STAGE, SDE, DenoiserConfig


class DLSMConfig(DenoiserConfig):
    """EDM's settings for the score stage, and the classifier's."""

    classifier: ClassifierNetwork = ClassifierSettings()
    classifier_optimizer: Adam = Adam(lr=2e-4)
    """Adam at 2e-4, the authors' setting for both networks."""
    classifier_ema: EMA = EMA(halflife_kimg=500, rampup_ratio=0.05)
    """As for the score network (ours: the authors do not average the classifier)."""
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
        "on_sde": {"score_share": 1.0, "classifier_share": 0.5},
        **SAMPLER_VARIANTS,
    }
    needs_labels = True
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
        share = self.config.score_share
        rest = self.config.classifier_share or 1 - share
        return [
            self.score_stage(SCORE_STAGE, share),
            Stage(name="classifier", objectives=[classifier], share=rest),
        ]

    def classifier_loss(self, batch: Batch) -> Tensor:
        """The weighted sum of the DLSM loss, averaged over pixels and batch, and cross entropy."""
        assert batch.labels is not None
        sigma, noise = self.denoiser.draw_sigma(batch), batch.randn()
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
        residual = per_image(sigma) * (gradient + score) + noise
        return 0.5 * residual.square().mean()

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
