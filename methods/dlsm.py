"""Denoising likelihood score matching (DLSM): class-conditional sampling by Bayes' rule.

Chao et al. 2022, "Denoising Likelihood Score Matching for Conditional Score-based Data Generation"
(ICLR). ``grad log p(x|y) = grad log p(x) + grad log p(y|x)``: the first term is a score network's,
trained without labels and then fixed (with its averaged weights); the second is the gradient of a
noise-conditional classifier, which is trained to *be* the true likelihood score, with
``x = y + sigma n``:

    L(phi) = E  1/2 | sigma grad_x log p_phi(c|x) + sigma s(x, sigma) + n |^2  +  lambda CE

averaged over pixels. The factor sigma on the residual is the authors' balancing power 1.

Where we differ from the authors' code, and why:

- EDM's noise levels and preconditioning in place of the VE SDE's, so that the score stage is the
  very objective of ``sde`` and the rows differ in the guidance alone.
- log p comes from a log-softmax; log(softmax + 1e-8) flattens the gradient of sure predictions.
- GroupNorm and SiLU in the classifier (see :mod:`methods.networks.classifier`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from methods import samplers
from methods.base import EMA, Adam, Batch, DataSpec, Method, Objective, Stage
from methods.networks.classifier import Classifier, ClassifierSettings
from methods.networks.unet import UNet
from methods.noise import Denoiser, denoising_loss, per_image
from methods.sde import DenoiserConfig


class DLSMConfig(DenoiserConfig):
    """EDM's settings for the score stage, and the classifier's."""

    classifier: ClassifierSettings = ClassifierSettings()
    classifier_optimizer: Adam = Adam(lr=2e-4)
    """Adam at 2e-4, the authors' setting for both networks."""
    classifier_ema: EMA = EMA(halflife_kimg=500, rampup_ratio=0.05)
    """As for the score network; the authors average both."""
    ce_weight: float = Field(1.0, ge=0)
    """lambda, weight of the cross entropy (paper: 1)."""
    guidance: float = Field(1.0, ge=0)
    """alpha, factor of the classifier's gradient in sampling (paper: 1)."""
    score_share: float = Field(0.7, gt=0, lt=1)
    """Fraction of the budget spent on the score stage (ours: the paper gives no common budget)."""


def log_likelihood_gradient(
    classifier: Classifier, x: Tensor, sigma: Tensor, labels: Tensor, *, create_graph: bool
) -> tuple[Tensor, Tensor]:
    """Return ``grad_x log p(label | x)`` (B, C, H, W) and the logits (B, classes)."""
    with torch.enable_grad():
        # The module gets a view: FlopCounterMode cannot see a leaf that requires a gradient.
        leaf = x.detach().requires_grad_()
        logits = classifier(leaf * 1, sigma)
        chosen = F.log_softmax(logits.float(), dim=1).gather(1, labels[:, None]).sum()
        (gradient,) = torch.autograd.grad(chosen, leaf, create_graph=create_graph)
    return gradient, logits


class DLSM(Method):
    """Guided sampling by a classifier whose gradient is the likelihood score."""

    name = "dlsm"
    Config = DLSMConfig
    needs_labels = True
    second_order = frozenset({"classifier"})

    def __init__(self, config: DLSMConfig, data: DataSpec) -> None:
        self.config, self.data = config, data
        self.denoiser = Denoiser(UNet(config.unet, data), config.noise)
        self.classifier = Classifier(config.classifier, data)
        self.networks = {"denoiser": self.denoiser, "classifier": self.classifier}

    def stages(self) -> Sequence[Stage]:
        """The score network first, then the classifier against the fixed score network."""
        score = Objective(
            network="denoiser",
            loss=lambda batch: denoising_loss(self.denoiser, batch),
            optimizer=self.config.optimizer,
            ema=self.config.ema,
        )
        classifier = Objective(
            network="classifier",
            loss=self.classifier_loss,
            optimizer=self.config.classifier_optimizer,
            ema=self.config.classifier_ema,
        )
        share = self.config.score_share
        return [
            Stage(name="score", objectives=[score], share=share),
            Stage(name="classifier", objectives=[classifier], share=1 - share),
        ]

    def classifier_loss(self, batch: Batch) -> Tensor:
        """The DLSM loss, averaged over pixels and batch, plus lambda times the cross entropy."""
        assert batch.labels is not None
        sigma, noise = self.denoiser.draw_sigma(batch), batch.randn()
        x = batch.x + per_image(sigma) * noise
        with torch.no_grad():
            score = self.denoiser.score(x, sigma)
        gradient, logits = log_likelihood_gradient(
            self.classifier, x, sigma, batch.labels, create_graph=True
        )
        residual = per_image(sigma) * (gradient + score) + noise
        dlsm = 0.5 * residual.square().mean()
        cross_entropy = F.cross_entropy(logits.float(), batch.labels)
        batch.log("dlsm", dlsm)
        batch.log("cross_entropy", cross_entropy)
        return dlsm + self.config.ce_weight * cross_entropy

    def sample(self, n: int, *, labels: Tensor | None = None, generator: torch.Generator) -> Tensor:
        """Draw images of the classes ``labels`` (n,); ValueError without labels."""
        if labels is None or len(labels) != n:
            raise ValueError("dlsm samples need one class label an image")

        def guided(x: Tensor, sigma: Tensor) -> Tensor:
            """``D + sigma^2 alpha grad log p(c|x)``, the denoiser of the guided score."""
            levels = sigma.expand(n)
            gradient, _ = log_likelihood_gradient(
                self.classifier, x, levels, labels, create_graph=False
            )
            return self.denoiser(x, sigma) + self.config.guidance * sigma**2 * gradient

        return samplers.draw(guided, (n, *self.data.shape), self.config.sampler, generator)
