"""The DDPM++ and NCSN++ U-Nets as EDM configures them (Song et al. 2021; Karras et al. 2022, F.2).

The default settings are EDM's DDPM++ for CIFAR-10; smaller presets are the same class with other
numbers. NCSN++ is the settings ``NCSNPP``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from methods.base import DataSpec, Settings
from methods.networks.layers import (
    NEARLY_ZERO,
    SKIP_SCALE,
    Conditioning,
    FourierEmbedding,
    PositionalEmbedding,
    Resample,
    group_norm,
    xavier_,
)


class UNetSettings(Settings):
    """Size of the U-Net; defaults are EDM's for CIFAR-10."""

    kind: Literal["unet"] = "unet"
    channels: int = Field(128, ge=4, multiple_of=4)
    """Channels at full resolution (EDM table 7)."""
    multipliers: tuple[int, ...] = Field((2, 2, 2), min_length=1)
    """Channels of each resolution, times ``channels`` (EDM table 7)."""
    blocks: int = Field(4, ge=1)
    """Residual blocks a resolution (EDM table 7)."""
    attention: tuple[int, ...] = (16,)
    """Resolutions that get self-attention (EDM table 7)."""
    dropout: float = Field(0.13, ge=0, lt=1)
    """Dropout probability (EDM table 7, VP on CIFAR-10)."""
    embedding: Literal["positional", "fourier"] = "positional"
    """Features of the noise label: DDPM++'s or NCSN++'s (EDM table 7)."""
    fourier_scale: float = Field(16.0, gt=0)
    """Standard deviation of the Fourier features' frequencies (Song et al. 2021)."""
    embedding_multiplier: int = Field(1, ge=1)
    """Features of the noise label, times ``channels``: 1 in DDPM++, 2 in NCSN++."""
    encoder: Literal["standard", "residual"] = "standard"
    """Whether the image, halved and projected, is added to the encoder at each resolution, as in
    NCSN++ (Song et al. 2021, appendix H)."""
    resample: Literal["box", "fir"] = "box"
    """Filter of the resampling: [1, 1] in DDPM++, [1, 3, 3, 1] in NCSN++ (EDM table 7)."""

    def build(self, data: DataSpec, *, classes: int = 0, augment: int = 0) -> UNet:
        """Build the network ``F`` for images of ``data``'s shape.

        ``classes`` and ``augment`` are the numbers of classes and of augmentation labels that
        it takes; 0: none.
        """
        return UNet(self, data, classes=classes, augment=augment)


NCSNPP: Mapping[str, Any] = {
    "kind": "unet",
    "embedding": "fourier",
    "fourier_scale": 16.0,
    "embedding_multiplier": 2,
    "encoder": "residual",
    "resample": "fir",
}
"""What makes a U-Net NCSN++ (Song et al. 2021), whatever its size."""


class UNetBlock(nn.Module):
    """Residual block with optional resampling and single-head self-attention."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        *,
        embedding: int,
        dropout: float,
        resample: Resample | None = None,
        attention: bool = False,
        joins_skip: bool = False,
    ) -> None:
        super().__init__()
        self.resample = resample or nn.Identity()
        self.joins_skip = joins_skip
        self.norm0 = group_norm(channels_in)
        self.conv0 = xavier_(nn.Conv2d(channels_in, channels_out, 3, padding=1))
        self.affine = xavier_(nn.Linear(embedding, channels_out))
        self.norm1 = group_norm(channels_out)
        self.dropout = nn.Dropout(dropout)
        self.conv1 = xavier_(nn.Conv2d(channels_out, channels_out, 3, padding=1), NEARLY_ZERO)
        project = resample is not None or channels_in != channels_out
        self.skip = xavier_(nn.Conv2d(channels_in, channels_out, 1)) if project else nn.Identity()
        self.attention = SelfAttention(channels_out) if attention else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Map (B, channels_in, H, W) to (B, channels_out, H', W')."""
        h = self.conv0(self.resample(F.silu(self.norm0(x))))
        h = h + self.affine(embedding)[:, :, None, None].to(h.dtype)
        h = self.conv1(self.dropout(F.silu(self.norm1(h))))
        h = (self.skip(self.resample(x)) + h) * SKIP_SCALE
        return self.attention(h)


class SelfAttention(nn.Module):
    """Single-head self-attention over pixels, residual.

    Written as plain matrix products: they have a second derivative on every device, and their
    FLOPs are counted alike on all of them.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.qkv = xavier_(nn.Conv2d(channels, 3 * channels, 1), math.sqrt(0.2))
        self.project = xavier_(nn.Conv2d(channels, channels, 1), NEARLY_ZERO)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        q, k, v = self.qkv(self.norm(x)).flatten(2).chunk(3, dim=1)
        logits = torch.bmm(q.transpose(1, 2), k * q.shape[1] ** -0.5)
        weights = logits.float().softmax(dim=2).to(v.dtype)
        attended = torch.bmm(v, weights.transpose(1, 2)).reshape(x.shape)
        return (x + self.project(attended)) * SKIP_SCALE


class InputResidual(nn.Module):
    """The image, halved, added to the features of the next resolution (Song et al. 2021)."""

    def __init__(self, channels_in: int, channels_out: int, resample: Resample) -> None:
        super().__init__()
        # The convolution's border holds what the filter after it would pad.
        self.padding = 1 if resample.kernel == "fir" else 0
        self.conv = xavier_(nn.Conv2d(channels_in, channels_out, 3, padding=1 + self.padding))
        self.resample = resample

    def forward(self, image: Tensor, h: Tensor) -> Tensor:
        """Join images (B, channels_in, 2 H, 2 W) and features (B, channels_out, H, W)."""
        return (h + self.resample(self.conv(image), padding=0)) * SKIP_SCALE


class UNet(nn.Module):
    """``F(x, noise_label, labels, augment)``: images (B, C, H, W) to (B, C, H, W)."""

    def __init__(
        self, settings: UNetSettings, data: DataSpec, *, classes: int = 0, augment: int = 0
    ) -> None:
        super().__init__()
        levels = len(settings.multipliers)
        if data.size % 2 ** (levels - 1):
            raise ValueError(
                f"a U-Net of {levels} resolutions needs an image size divisible by "
                f"{2 ** (levels - 1)}, not {data.size}; give fewer multipliers"
            )
        width = settings.channels
        self.settings, self.size = settings, data.size
        features = width * settings.embedding_multiplier
        self.embed = Conditioning(
            PositionalEmbedding(features)
            if settings.embedding == "positional"
            else FourierEmbedding(features, settings.fourier_scale),
            features,
            4 * width,
            classes=classes,
            augment=augment,
        )
        self.conv_in = xavier_(nn.Conv2d(data.channels, width, 3, padding=1))
        self.encoder, self.residuals, skips = self._build_encoder(data.channels)
        self.decoder = self._build_decoder(skips)
        out = width * settings.multipliers[0]
        self.norm_out = group_norm(out)
        self.conv_out = xavier_(nn.Conv2d(out, data.channels, 3, padding=1), NEARLY_ZERO)

    def _block(self, channels_in: int, channels_out: int, **kwargs: object) -> UNetBlock:
        return UNetBlock(
            channels_in,
            channels_out,
            embedding=4 * self.settings.channels,
            dropout=self.settings.dropout,
            **kwargs,  # type: ignore[arg-type]
        )

    def _build_encoder(self, image: int) -> tuple[nn.ModuleList, nn.ModuleDict, list[int]]:
        """Each level: a down block (but at full resolution), then ``blocks`` blocks.

        Returns the blocks, the input residuals by the number of the block that they follow, and
        the channels of the skips; ``image`` is the number of the image's channels.
        """
        blocks, residuals, channels = nn.ModuleList(), nn.ModuleDict(), self.settings.channels
        skips = [channels]
        for level, multiplier in enumerate(self.settings.multipliers):
            attention = self.size >> level in self.settings.attention
            if level:
                down = Resample("down", self.settings.resample)
                blocks.append(self._block(channels, channels, resample=down))
                skips.append(channels)
                if self.settings.encoder == "residual":
                    residuals[str(len(blocks) - 1)] = InputResidual(image, channels, down)
                    image = channels
            for _ in range(self.settings.blocks):
                width = self.settings.channels * multiplier
                blocks.append(self._block(channels, width, attention=attention))
                channels = width
                skips.append(channels)
        return blocks, residuals, skips

    def _build_decoder(self, skips: list[int]) -> nn.ModuleList:
        """Two blocks at the bottom or an up block, then ``blocks + 1`` that join the skips."""
        blocks, channels = nn.ModuleList(), skips[-1]
        levels = len(self.settings.multipliers)
        for level in reversed(range(levels)):
            if level == levels - 1:
                blocks.append(self._block(channels, channels, attention=True))
                blocks.append(self._block(channels, channels))
            else:
                up = Resample("up", self.settings.resample)
                blocks.append(self._block(channels, channels, resample=up))
            width = self.settings.channels * self.settings.multipliers[level]
            for index in range(self.settings.blocks + 1):
                last = index == self.settings.blocks
                attention = last and self.size >> level in self.settings.attention
                joined = channels + skips.pop()
                block = self._block(joined, width, attention=attention, joins_skip=True)
                blocks.append(block)
                channels = width
        return blocks

    def forward(
        self,
        x: Tensor,
        noise_label: Tensor,
        labels: Tensor | None = None,
        augment: Tensor | None = None,
    ) -> Tensor:
        """Evaluate the network; the output has the shape of ``x``.

        ``noise_label`` (B,), ``labels`` (B,) int64, ``augment`` (B, augment); ValueError where
        labels are missing or given to a network that was not built for them.
        """
        embedding = self.embed(noise_label, labels, augment)
        h = self.conv_in(x)
        skips, image = [h], x
        for index, block in enumerate(self.encoder):
            h = block(h, embedding)
            if str(index) in self.residuals:
                h = image = self.residuals[str(index)](image, h)
            skips.append(h)
        for block in self.decoder:
            if block.joins_skip:
                h = torch.cat([h, skips.pop()], dim=1)
            h = block(h, embedding)
        return self.conv_out(F.silu(self.norm_out(h)))
