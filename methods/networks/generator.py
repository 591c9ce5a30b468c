"""A one-step generator of the DCGAN family (Radford et al. 2016), for small images."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from methods.base import DataSpec, Settings
from methods.networks.layers import group_norm


class GeneratorSettings(Settings):
    """Size of the generator."""

    kind: Literal["dcgan"] = "dcgan"
    z: int = Field(100, ge=1)
    """Dimension of the latent (100 in SMM's simple code base)."""
    channels: int = Field(64, ge=4, multiple_of=4)
    """Channels at full resolution; they double with each halving, up to ``channels_max``."""
    channels_max: int = Field(512, ge=4)
    blocks: int = Field(1, ge=1)
    """Convolutions a resolution."""
    bounded: bool = True
    """Whether a tanh bounds the output to [-1, 1]; unbounded generators lose modes early."""

    def build(self, data: DataSpec) -> Generator:
        """Build the generator ``G(z)`` of images of ``data``'s shape."""
        return Generator(self, data)


class Generator(nn.Module):
    """Latents (B, z) to images (B, C, size, size): linear, then upsampling convolutions."""

    def __init__(self, settings: GeneratorSettings, data: DataSpec) -> None:
        super().__init__()
        self.settings, self.z = settings, settings.z
        base, levels = data.size, 0
        while base % 2 == 0 and base > 4:
            base, levels = base // 2, levels + 1
        widths = [
            min(settings.channels * 2**level, settings.channels_max)
            for level in reversed(range(levels + 1))
        ]
        self.base, self.width = base, widths[0]
        self.linear = nn.Linear(settings.z, widths[0] * base * base)
        self.norm = group_norm(widths[0])
        self.levels = nn.ModuleList(
            self._level(channels_in, channels_out) for channels_in, channels_out in pairwise(widths)
        )
        self.out = nn.Conv2d(widths[-1], data.channels, 3, padding=1)

    def _level(self, channels_in: int, channels_out: int) -> nn.Sequential:
        layers: list[nn.Module] = [nn.Upsample(scale_factor=2.0, mode="nearest")]
        for index in range(self.settings.blocks):
            layers += [
                nn.Conv2d(channels_out if index else channels_in, channels_out, 3, padding=1),
                group_norm(channels_out),
                nn.SiLU(),
            ]
        return nn.Sequential(*layers)

    def forward(self, z: Tensor) -> Tensor:
        """Generate images, (B, C, H, W); in [-1, 1] if ``bounded``."""
        h = self.linear(z).reshape(-1, self.width, self.base, self.base)
        h = F.silu(self.norm(h))
        for level in self.levels:
            h = level(h)
        h = self.out(h).float()
        return h.tanh() if self.settings.bounded else h
