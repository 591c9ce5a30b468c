"""Noise levels, preconditioning and the denoising score matching loss.

Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models" (EDM),
table 1, whose columns VP and VE restate Song et al. 2021. With ``x = y + sigma n``, a denoiser
``D(x, sigma) = c_skip x + c_out F(c_in x, c_noise)`` trained by

    E  w(sigma) |D(y + sigma n, sigma) - y|^2

gives the score ``s(x, sigma) = (D(x, sigma) - x) / sigma^2``. In all three ``w = 1 / c_out^2``.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from methods.base import Batch, Settings


class Coefficients(NamedTuple):
    """The scalings of a preconditioned network at given levels, each (B,)."""

    skip: Tensor
    out: Tensor
    in_: Tensor
    noise: Tensor


class EDMNoise(Settings):
    """EDM's preconditioning and training levels: ``ln sigma ~ N(p_mean, p_std^2)``."""

    kind: Literal["edm"] = "edm"
    sigma_data: float = Field(0.5, gt=0)
    """Standard deviation of the data (EDM table 1)."""
    p_mean: float = -1.2
    """Mean of ln sigma in training (EDM table 1)."""
    p_std: float = Field(1.2, gt=0)
    """Standard deviation of ln sigma in training (EDM table 1)."""

    def coefficients(self, sigma: Tensor) -> Coefficients:
        """Unit variance at the network's input and for its target, (B,)."""
        total = sigma**2 + self.sigma_data**2
        return Coefficients(
            self.sigma_data**2 / total,
            sigma * self.sigma_data / total.sqrt(),
            total.rsqrt(),
            sigma.log() / 4,
        )

    def draw(self, batch: Batch) -> Tensor:
        """Draw one level an image, (B,)."""
        return (batch.randn(batch.x.shape[0]) * self.p_std + self.p_mean).exp()


class VPNoise(Settings):
    """The variance-preserving SDE in EDM's terms: ``sigma^2 = exp(b_d t^2 / 2 + b_min t) - 1``."""

    kind: Literal["vp"] = "vp"
    beta_d: float = Field(19.9, gt=0)
    beta_min: float = Field(0.1, gt=0)
    epsilon: float = Field(1e-5, gt=0, lt=1)
    """Smallest time in training: t is uniform from here to 1 (Song et al. 2021)."""

    def sigma(self, t: Tensor) -> Tensor:
        """Level at time ``t`` in [0, 1]."""
        return (0.5 * self.beta_d * t**2 + self.beta_min * t).expm1().sqrt()

    def time(self, sigma: Tensor) -> Tensor:
        """The inverse of :meth:`sigma`."""
        log = (sigma**2).log1p()
        return ((self.beta_min**2 + 2 * self.beta_d * log).sqrt() - self.beta_min) / self.beta_d

    def coefficients(self, sigma: Tensor) -> Coefficients:
        """The network predicts the noise, from an input of unit scale at most, (B,)."""
        return Coefficients(
            torch.ones_like(sigma), -sigma, (sigma**2 + 1).rsqrt(), 999 * self.time(sigma)
        )

    def draw(self, batch: Batch) -> Tensor:
        """Draw one level an image, (B,)."""
        return self.sigma(self.epsilon + (1 - self.epsilon) * batch.rand(batch.x.shape[0]))


class VENoise(Settings):
    """The variance-exploding SDE in EDM's terms: ``ln sigma`` uniform over its range."""

    kind: Literal["ve"] = "ve"
    sigma_min: float = Field(0.02, gt=0)
    sigma_max: float = Field(100.0, gt=0)

    @model_validator(mode="after")
    def _rise(self) -> VENoise:
        if self.sigma_min >= self.sigma_max:
            raise ValueError(f"sigma_min {self.sigma_min} is not below sigma_max {self.sigma_max}")
        return self

    def coefficients(self, sigma: Tensor) -> Coefficients:
        """The network predicts minus the noise from the unscaled input, (B,)."""
        one = torch.ones_like(sigma)
        return Coefficients(one, sigma, one, (0.5 * sigma).log())

    def draw(self, batch: Batch) -> Tensor:
        """Draw one level an image, (B,)."""
        span = math.log(self.sigma_max / self.sigma_min)
        return self.sigma_min * (span * batch.rand(batch.x.shape[0])).exp()


Noise = Annotated[EDMNoise | VPNoise | VENoise, Field(discriminator="kind")]


def per_image(values: Tensor) -> Tensor:
    """Reshape (B,) to (B, 1, 1, 1), to scale images."""
    return values.reshape(-1, 1, 1, 1)


class Denoiser(nn.Module):
    """``D(x, sigma) = c_skip x + c_out F(c_in x, c_noise)`` around a network ``F``."""

    def __init__(self, network: nn.Module, noise: EDMNoise | VPNoise | VENoise) -> None:
        super().__init__()
        self.network = network
        self.noise = noise

    def forward(
        self,
        x: Tensor,
        sigma: Tensor,
        labels: Tensor | None = None,
        augment: Tensor | None = None,
    ) -> Tensor:
        """Denoise ``x`` (B, C, H, W) at levels ``sigma`` (B,) or a scalar; float32 out.

        ``labels`` (B,) and ``augment`` (B, 9) are for networks built to be conditioned on them.
        """
        sigma = sigma.to(x.dtype).expand(x.shape[0])
        skip, out, in_, noise = self.noise.coefficients(sigma)
        raw = self.network(per_image(in_) * x, noise, labels, augment)
        return per_image(skip) * x + per_image(out) * raw.to(x.dtype)

    def draw_sigma(self, batch: Batch) -> Tensor:
        """Draw one training noise level an image, (B,)."""
        return self.noise.draw(batch)

    def weight(self, sigma: Tensor) -> Tensor:
        """The loss weight ``w = 1 / c_out^2``, (B,)."""
        return self.noise.coefficients(sigma).out ** -2

    def score(self, x: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
        """The score ``(D(x, sigma) - x) / sigma^2`` of the noised data, (B, C, H, W)."""
        return (self(x, sigma, labels) - x) / per_image(sigma) ** 2


def image_sum(values: Tensor) -> Tensor:
    """Sum over pixels and channels: (B, C, H, W) to (B,)."""
    return values.flatten(1).sum(1)


def weighted_error(denoiser: Denoiser, denoised: Tensor, y: Tensor, sigma: Tensor) -> Tensor:
    """``w(sigma) |D - y|^2`` of each image, summed over its pixels, (B,)."""
    return denoiser.weight(sigma) * image_sum((denoised - y) ** 2)


def vp_discrete_sigmas(levels: int, beta_min: float = 1e-4, beta_max: float = 0.02) -> Tensor:
    """``sqrt(1 - prod(1 - beta))`` for ``beta`` linear over ``levels`` steps, (levels,).

    The schedule of Ho et al. 2020 cut off after ``levels`` steps; SMM adds this noise without
    scaling the signal down.
    """
    beta = torch.linspace(beta_min, beta_max, levels, dtype=torch.float64)
    return (1 - (1 - beta).cumprod(0)).sqrt().float()
