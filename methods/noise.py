"""Noise levels, preconditioning and the denoising score matching loss.

Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models" (EDM),
table 1. With ``x = y + sigma n``, a denoiser ``D(x, sigma)`` trained by

    E  w(sigma) |D(y + sigma n, sigma) - y|^2,    w = 1 / c_out^2

gives the score ``s(x, sigma) = (D(x, sigma) - x) / sigma^2``.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from methods.base import Batch, Settings


class EDMNoise(Settings):
    """EDM's preconditioning constant and its distribution of training noise levels."""

    sigma_data: float = Field(0.5, gt=0)
    """Standard deviation of the data (EDM table 1)."""
    p_mean: float = -1.2
    """Mean of ln sigma in training (EDM table 1)."""
    p_std: float = Field(1.2, gt=0)
    """Standard deviation of ln sigma in training (EDM table 1)."""


def per_image(values: Tensor) -> Tensor:
    """Reshape (B,) to (B, 1, 1, 1), to scale images."""
    return values.reshape(-1, 1, 1, 1)


class Denoiser(nn.Module):
    """``D(x, sigma) = c_skip x + c_out F(c_in x, c_noise)`` around a network ``F``."""

    def __init__(self, network: nn.Module, noise: EDMNoise) -> None:
        super().__init__()
        self.network = network
        self.noise = noise

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Denoise ``x`` (B, C, H, W) at levels ``sigma`` (B,) or a scalar; float32 out."""
        sigma = sigma.to(x.dtype).expand(x.shape[0])
        variance, data_variance = sigma**2, self.noise.sigma_data**2
        total = variance + data_variance
        c_skip = per_image(data_variance / total)
        c_out = per_image(sigma * self.noise.sigma_data / total.sqrt())
        c_in = per_image(total.rsqrt())
        return c_skip * x + c_out * self.network(c_in * x, sigma.log() / 4).to(x.dtype)

    def draw_sigma(self, batch: Batch) -> Tensor:
        """Draw one training noise level an image, (B,): ``ln sigma ~ N(p_mean, p_std^2)``."""
        normal = batch.randn(batch.x.shape[0])
        return (normal * self.noise.p_std + self.noise.p_mean).exp()

    def weight(self, sigma: Tensor) -> Tensor:
        """The loss weight ``w = (sigma^2 + sigma_data^2) / (sigma sigma_data)^2``, (B,)."""
        return (sigma**2 + self.noise.sigma_data**2) / (sigma * self.noise.sigma_data) ** 2

    def score(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The score ``(D(x, sigma) - x) / sigma^2`` of the noised data, (B, C, H, W)."""
        return (self(x, sigma) - x) / per_image(sigma) ** 2


def image_sum(values: Tensor) -> Tensor:
    """Sum over pixels and channels: (B, C, H, W) to (B,)."""
    return values.flatten(1).sum(1)


def weighted_error(denoiser: Denoiser, denoised: Tensor, y: Tensor, sigma: Tensor) -> Tensor:
    """``w(sigma) |D - y|^2`` of each image, summed over its pixels, (B,)."""
    return denoiser.weight(sigma) * image_sum((denoised - y) ** 2)


def denoising_loss(denoiser: Denoiser, batch: Batch) -> Tensor:
    """Denoising score matching: summed over pixels, averaged over the batch (EDM eq. 3, 8)."""
    sigma = denoiser.draw_sigma(batch)
    x = batch.x + per_image(sigma) * batch.randn()
    return weighted_error(denoiser, denoiser(x, sigma), batch.x, sigma).mean()


def vp_discrete_sigmas(levels: int, beta_min: float = 1e-4, beta_max: float = 0.02) -> Tensor:
    """``sqrt(1 - prod(1 - beta))`` for ``beta`` linear over ``levels`` steps, (levels,).

    The schedule of Ho et al. 2020 cut off after ``levels`` steps; SMM adds this noise without
    scaling the signal down.
    """
    beta = torch.linspace(beta_min, beta_max, levels, dtype=torch.float64)
    return (1 - (1 - beta).cumprod(0)).sqrt().float()
