"""A noise-conditional residual classifier with smooth activations, as DLSM needs it.

ResNet (He et al. 2016) with SiLU in place of ReLU, because the loss differentiates the gradient;
GroupNorm in place of batch norm, which worsens the gradient at small noise; no dropout and nothing
in place. The noise level enters as Fourier features of ln sigma after each stage.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from methods.base import DataSpec, Settings
from methods.networks.layers import FourierEmbedding, group_norm


class ClassifierSettings(Settings):
    """Size of the classifier; the defaults are ResNet-18's, which DLSM uses on CIFAR-10."""

    kind: Literal["resnet"] = "resnet"
    channels: int = Field(64, ge=4, multiple_of=4)
    """Channels of the first stage; they double with each stage."""
    blocks: tuple[int, ...] = Field((2, 2, 2, 2), min_length=1)
    """Residual blocks of each stage: (2, 2, 2, 2) is ResNet-18, (3, 4, 6, 3) ResNet-34."""
    embedding: int = Field(128, ge=2, multiple_of=2)
    """Fourier features of the noise level."""
    fourier_scale: float = Field(0.5, gt=0)
    """Standard deviation of the features' frequencies, in periods a unit of ln sigma."""

    def build(self, data: DataSpec) -> Classifier:
        """Build the classifier ``C(x, sigma)`` for images and classes of ``data``."""
        return Classifier(self, data)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, each after norm and SiLU, around an identity."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.norm0 = group_norm(channels_in)
        self.conv0 = nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False)
        self.norm1 = group_norm(channels_out)
        self.conv1 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        project = stride != 1 or channels_in != channels_out
        self.stride = stride
        self.skip = (
            nn.Conv2d(channels_in, channels_out, 1, bias=False) if project else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels_in, H, W) to (B, channels_out, H / stride, W / stride)."""
        h = F.silu(self.norm0(x))
        h = self.conv0(h)
        # Subsampled here and not by the 1x1 convolution, which it equals: torch 2.15 writes past
        # the end of memory in the backward pass of a strided one with 8 channels on a CPU.
        kept = x[:, :, :: self.stride, :: self.stride]
        return self.skip(kept) + self.conv1(F.silu(self.norm1(h)))


class Classifier(nn.Module):
    """Noised images (B, C, H, W) and their levels sigma (B,) to class logits (B, classes)."""

    def __init__(self, settings: ClassifierSettings, data: DataSpec) -> None:
        super().__init__()
        embedding, width = settings.embedding, settings.channels
        self.fourier = FourierEmbedding(embedding, settings.fourier_scale)
        self.embed = nn.Linear(embedding, embedding)
        self.conv_in = nn.Conv2d(data.channels, width, 3, padding=1, bias=False)
        self.stages, self.shifts = nn.ModuleList(), nn.ModuleList()
        channels = width
        for index, count in enumerate(settings.blocks):
            out = width * 2**index
            strides = [1 if index == 0 else 2] + [1] * (count - 1)
            blocks = nn.ModuleList()
            for stride in strides:
                blocks.append(ResidualBlock(channels, out, stride))
                channels = out
            self.stages.append(nn.Sequential(*blocks))
            self.shifts.append(nn.Linear(embedding, out))
        self.norm_out = group_norm(channels)
        self.out = nn.Linear(channels, data.classes)
        # Zero logits at first: the guidance starts as no guidance.
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Classify noised images; the input is scaled to about unit variance."""
        embedding = F.silu(self.embed(self.fourier(sigma.log())))
        scale = (sigma**2 + 0.25).rsqrt().reshape(-1, 1, 1, 1)
        h = self.conv_in(x * scale)
        for stage, shift in zip(self.stages, self.shifts, strict=True):
            h = stage(h) + shift(embedding)[:, :, None, None]
        return self.out(F.silu(self.norm_out(h)).mean((2, 3)))
