"""Layers that more than one network uses."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


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
