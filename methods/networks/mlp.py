"""Multilayer perceptrons for points of a few dimensions, in the forms that the methods ask for.

Points are images of one pixel, (B, d, 1, 1); any other image is flattened. All activations are
SiLU, because ``dlsm`` differentiates a classifier's gradient; there are no norm layers, which would
couple a point's score to its own scale.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from methods.base import DataSpec, Settings
from methods.networks.layers import NEARLY_ZERO, Conditioning, NoiseFeatures, xavier_


class MLPSettings(Settings):
    """Size of the score network for points; our own, no paper gives one."""

    kind: Literal["mlp"] = "mlp"
    width: int = Field(128, ge=1)
    """Channels of every hidden layer."""
    depth: int = Field(3, ge=1)
    """Residual blocks of two layers."""
    embedding: int = Field(64, ge=2, multiple_of=2)
    """Features of the noise label."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout probability within each block."""

    def build(self, data: DataSpec, *, classes: int = 0, augment: int = 0) -> MLP:
        """Build the network ``F``; ``classes``, ``augment``: numbers of labels that it takes."""
        return MLP(self, data, classes=classes, augment=augment)


class MLPClassifierSettings(Settings):
    """Size of the classifier for points; our own, no paper gives one."""

    kind: Literal["mlp"] = "mlp"
    width: int = Field(128, ge=1)
    """Channels of every hidden layer."""
    depth: int = Field(3, ge=1)
    """Residual blocks of two layers."""
    embedding: int = Field(64, ge=2, multiple_of=2)
    """Features of the noise level."""

    def build(self, data: DataSpec) -> MLPClassifier:
        """Build the classifier ``C(x, sigma)`` for points and classes of ``data``."""
        return MLPClassifier(self, data)


class MLPGeneratorSettings(Settings):
    """Size of the generator for points; our own, no paper gives one."""

    kind: Literal["mlp"] = "mlp"
    z: int = Field(16, ge=1)
    """Dimension of the latent."""
    width: int = Field(128, ge=1)
    """Channels of every hidden layer."""
    depth: int = Field(3, ge=1)
    """Hidden layers."""
    bounded: bool = True
    """Whether a tanh bounds the output to [-1, 1]; unbounded generators lose modes early."""

    def build(self, data: DataSpec) -> MLPGenerator:
        """Build the generator ``G(z)`` of points of ``data``'s shape."""
        return MLPGenerator(self, data)


class Block(nn.Module):
    """Two layers around an identity; the embedding scales and shifts the values between them."""

    def __init__(self, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.linear0 = xavier_(nn.Linear(width, width))
        self.affine = xavier_(nn.Linear(width, 2 * width))
        self.dropout = nn.Dropout(dropout)
        self.linear1 = xavier_(nn.Linear(width, width))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Map (B, width) and the embedding (B, width) to (B, width)."""
        scale, shift = self.affine(embedding).chunk(2, dim=1)
        h = self.linear0(F.silu(x)) * (1 + scale) + shift
        return x + self.linear1(self.dropout(F.silu(h)))


class Trunk(nn.Module):
    """Points (B, ...) and an embedding (B, width) to features (B, width)."""

    def __init__(self, data: DataSpec, width: int, depth: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.linear_in = xavier_(nn.Linear(math.prod(data.shape) + 1, width))
        self.blocks = nn.ModuleList(Block(width, dropout) for _ in range(depth))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Evaluate the blocks.

        The point enters as its direction and the logarithm of its length, both smooth at 0: with
        VE's preconditioning it is as large as sigma, up to 100 and more.
        """
        x = x.flatten(1)
        length = (1 + x.square().mean(1, keepdim=True)).sqrt()
        h = self.linear_in(torch.cat([x / length, length.log()], dim=1))
        for block in self.blocks:
            h = block(h, embedding)
        return F.silu(h)


class MLP(nn.Module):
    """``F(x, noise_label, labels, augment)``: points (B, C, H, W) to (B, C, H, W)."""

    def __init__(
        self, settings: MLPSettings, data: DataSpec, *, classes: int = 0, augment: int = 0
    ) -> None:
        super().__init__()
        self.settings = settings
        self.embed = Conditioning(
            NoiseFeatures(settings.embedding),
            settings.embedding,
            settings.width,
            classes=classes,
            augment=augment,
        )
        self.trunk = Trunk(data, settings.width, settings.depth, settings.dropout)
        self.out = xavier_(nn.Linear(settings.width, math.prod(data.shape)), NEARLY_ZERO)

    def forward(
        self,
        x: Tensor,
        noise_label: Tensor,
        labels: Tensor | None = None,
        augment: Tensor | None = None,
    ) -> Tensor:
        """Evaluate the network; the output has the shape of ``x``.

        ``noise_label`` (B,) in any convention of :class:`NoiseFeatures`, ``labels`` (B,) int64,
        ``augment`` (B, augment); ValueError where labels are missing or given to a network that
        was not built for them.
        """
        h = self.trunk(x, self.embed(noise_label, labels, augment))
        return self.out(h).reshape(x.shape)


class MLPClassifier(nn.Module):
    """Noised points (B, C, H, W) and their levels sigma (B,) to class logits (B, classes)."""

    def __init__(self, settings: MLPClassifierSettings, data: DataSpec) -> None:
        super().__init__()
        self.settings = settings
        self.embed = Conditioning(
            NoiseFeatures(settings.embedding), settings.embedding, settings.width
        )
        self.trunk = Trunk(data, settings.width, settings.depth)
        self.out = nn.Linear(settings.width, data.classes)
        # Zero logits at first: the guidance starts as no guidance.
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Classify noised points; the input is scaled to about unit variance."""
        scale = (sigma**2 + 0.25).rsqrt()[:, None]
        return self.out(self.trunk(x.flatten(1) * scale, self.embed(sigma.log() / 4)))


class MLPGenerator(nn.Module):
    """Latents (B, z) to points (B, C, H, W)."""

    def __init__(self, settings: MLPGeneratorSettings, data: DataSpec) -> None:
        super().__init__()
        self.settings, self.shape = settings, data.shape
        self.z = settings.z
        widths = [settings.z] + [settings.width] * settings.depth
        self.layers = nn.ModuleList(
            xavier_(nn.Linear(before, after)) for before, after in pairwise(widths)
        )
        self.out = xavier_(nn.Linear(settings.width, math.prod(data.shape)))

    def forward(self, z: Tensor) -> Tensor:
        """Generate points, (B, C, H, W); in [-1, 1] if ``bounded``."""
        h = z
        for layer in self.layers:
            h = F.silu(layer(h))
        h = self.out(h).float().reshape(-1, *self.shape)
        return h.tanh() if self.settings.bounded else h
