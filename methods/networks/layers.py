"""Layers that more than one network uses."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SKIP_SCALE = math.sqrt(0.5)
"""Keeps the variance of a sum of two branches that have it alike."""
NEARLY_ZERO = 1e-5
"""Gain of the layers that start a residual branch at (almost) zero output."""


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm with at most 32 groups of at least 4 channels, as EDM's networks have it."""
    groups = max(1, min(32, channels // 4))
    while channels % groups:
        groups -= 1
    return nn.GroupNorm(groups, channels, eps=1e-6)


def xavier_(module: nn.Conv2d | nn.Linear, gain: float = 1.0) -> nn.Module:
    """Xavier-uniform weights times ``gain`` and zero biases, in place; returns the module."""
    nn.init.xavier_uniform_(module.weight, gain=gain)
    if module.bias is not None:
        nn.init.zeros_(module.bias)
    return module


def binomial_filter(gain: float) -> Tensor:
    """The filter [1, 3, 3, 1] in both directions, (4, 4), of sum ``gain``."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    return gain * torch.outer(taps, taps)


class Resample(nn.Module):
    """Double or halve an image's sides, by a box [1, 1] or the binomial filter [1, 3, 3, 1].

    The latter is the finite impulse response of Song et al. 2021 and StyleGAN2 (Karras et al.
    2020): no aliasing, at the price of depthwise convolutions.
    """

    filter: Tensor

    def __init__(self, direction: Literal["up", "down"], kernel: Literal["box", "fir"]) -> None:
        super().__init__()
        self.direction, self.kernel = direction, kernel
        filter = binomial_filter(4.0 if direction == "up" else 1.0)
        self.register_buffer("filter", filter, persistent=False)

    def forward(self, x: Tensor, *, padding: int = 1) -> Tensor:
        """Map (B, C, H, W) to (B, C, 2 H, 2 W) or (B, C, H / 2, W / 2).

        ``padding`` is that of the filter [1, 3, 3, 1] on the larger side.
        """
        if self.kernel == "box" and self.direction == "up":
            return F.interpolate(x, scale_factor=2.0, mode="nearest")
        if self.kernel == "box":
            return F.avg_pool2d(x, 2)
        channels = x.shape[1]
        weight = self.filter.to(x.dtype).expand(channels, 1, 4, 4)
        if self.direction == "up":
            return F.conv_transpose2d(x, weight, stride=2, padding=padding, groups=channels)
        return F.conv2d(x, weight, stride=2, padding=padding, groups=channels)


class PositionalEmbedding(nn.Module):
    """Sines and cosines of a noise label at geometric frequencies from 1 to 1e-4 (DDPM)."""

    frequencies: Tensor

    def __init__(self, channels: int, max_positions: float = 10_000.0) -> None:
        super().__init__()
        half = channels // 2
        exponents = torch.arange(half, dtype=torch.float32) / max(half - 1, 1)
        self.register_buffer("frequencies", max_positions**-exponents, persistent=False)

    def forward(self, label: Tensor) -> Tensor:
        """Embed labels (B,) as (B, channels)."""
        angles = label.float()[:, None] * self.frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=1)


class FourierEmbedding(nn.Module):
    """Sines and cosines at fixed random frequencies (Tancik et al. 2020; Song et al. 2021)."""

    frequencies: Tensor

    def __init__(self, channels: int, scale: float) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.randn(channels // 2) * scale * 2 * math.pi)

    def forward(self, label: Tensor) -> Tensor:
        """Embed labels (B,) as (B, channels)."""
        angles = label.float()[:, None] * self.frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=1)


class NoiseFeatures(nn.Module):
    """Smooth features of a noise label, whichever convention it comes in (ours).

    The label may be ``ln(sigma) / 4`` (EDM), ``ln(sigma / 2)`` (VE), ``999 tau`` (VP) or the index
    of a level (SMM). ``asinh`` leaves small labels as they are and takes the logarithm of large
    ones, so that all four land within [-2.5, 7.6] and one set of frequencies suits them.
    """

    frequencies: Tensor

    def __init__(self, channels: int, lowest: float = 0.25, highest: float = 8.0) -> None:
        super().__init__()
        exponents = torch.linspace(0, 1, channels // 2)
        frequencies = lowest * (highest / lowest) ** exponents
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, label: Tensor) -> Tensor:
        """Embed labels (B,) as (B, channels)."""
        angles = label.to(self.frequencies.dtype).asinh()[:, None] * self.frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=1)


class Conditioning(nn.Module):
    """Noise, class and augmentation labels to one embedding, as in EDM's networks.

    Class labels enter as one-hot vectors times ``sqrt(classes)``, augmentation labels through a
    linear map without bias, so that all zeros mean an image as it was; both are added to the
    noise features before two mapping layers (Karras et al. 2022, appendix F.2).
    """

    def __init__(
        self, noise: nn.Module, features: int, channels: int, *, classes: int = 0, augment: int = 0
    ) -> None:
        super().__init__()
        self.noise, self.classes = noise, classes
        self.embed_class = xavier_(nn.Linear(classes, features)) if classes else None
        self.embed_augment = xavier_(nn.Linear(augment, features, bias=False)) if augment else None
        self.embed0 = xavier_(nn.Linear(features, channels))
        self.embed1 = xavier_(nn.Linear(channels, channels))

    def forward(
        self, noise_label: Tensor, labels: Tensor | None = None, augment: Tensor | None = None
    ) -> Tensor:
        """Embed noise labels (B,), classes (B,) int64, augmentations (B, augment) as (B, channels).

        Without ``augment`` images count as unchanged. ValueError where class labels are missing,
        and where labels are given that the network was not built for.
        """
        h = self.noise(noise_label)
        if self.embed_class is not None:
            if labels is None:
                raise ValueError(f"a network of {self.classes} classes needs class labels")
            one_hot = F.one_hot(labels, self.classes).to(h.dtype)
            h = h + self.embed_class(one_hot * math.sqrt(self.classes))
        elif labels is not None:
            raise ValueError("class labels for a network that was built without classes")
        if augment is not None:
            if self.embed_augment is None:
                raise ValueError("augmentation labels for a network that was built without them")
            h = h + self.embed_augment(augment.to(h.dtype))
        return F.silu(self.embed1(F.silu(self.embed0(h))))
