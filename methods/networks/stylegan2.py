"""StyleGAN2's generator in plain torch (Karras et al. 2020), for images of 4 to 64 pixels.

``z`` is mapped to a style ``w``; each convolution scales its input channels by an affine map of w
(modulation) and its output channels back to unit variance (demodulation); images of all
resolutions are added up (``skip``). Layers have unit-variance weights, scaled when used, so that
Adam moves all of them alike (equalised learning rate); the mapping moves a hundredth as fast.

Where we differ from the authors' code, and why:

- The style scales activations in place of weights: the same function, by plain convolutions.
- The noise inputs are drawn from ``z`` by a hash: G is then a function of z alone, in training and
  evaluation alike, whatever else is in the batch. Their ``const`` mode gives every image the same
  noise, which training never saw; their ``random`` mode needs a generator that G is not given.
- Truncation and style mixing are left out, as CIFAR-10's settings have them.
- float32 throughout, or the harness's precision; no activation is clamped.

Score mismatching's main code (Ye & Liu 2023) has a mapping of its own (``mapping="lstm"``): two
slow layers, then an LSTM cell that is unrolled over the slots of the styles, a w for each.

Size: 19,422,227 parameters of synthesis at 32x32; 262,656 a mapping layer of 512, 21.52 M with
StyleGAN2's eight; 5,247,488 the LSTM mapping of two layers, 24,669,715 with it.
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
from methods.networks.layers import Resample, binomial_filter

WORD = 0xFFFFFFFF
"""Largest integer of 32 bits."""


class StyleGAN2Settings(Settings):
    """Size of the generator; defaults are StyleGAN2's at 32x32."""

    kind: Literal["stylegan2"] = "stylegan2"
    z: int = Field(512, ge=1)
    """Dimension of the latent (Karras et al. 2020; also SMM's main code base)."""
    w: int = Field(512, ge=1)
    """Dimension of the style."""
    mapping: Literal["plain", "lstm"] = "plain"
    """``plain``: one w for all layers (Karras et al. 2020); ``lstm``: a w for each (Ye & Liu 2023,
    with ``mapping_depth`` 2)."""
    mapping_depth: int = Field(8, ge=1)
    """Layers from z to w (Karras et al. 2020), of ``lstm`` those before the cell."""
    mapping_width: int = Field(512, ge=1)
    """Channels between them."""
    mapping_lr: float = Field(0.01, gt=0)
    """Learning rate of these layers, as a fraction of the others' (Karras et al. 2020)."""
    channels_base: int = Field(32768, ge=1)
    """A resolution has this over its side as channels, up to ``channels_max``."""
    channels_max: int = Field(512, ge=1)
    """Most channels: 512, which is what 4x4 to 64x64 get."""
    bounded: bool = False
    """Whether a tanh bounds the output to [-1, 1]; StyleGAN2 has none."""

    def build(self, data: DataSpec) -> StyleGAN2:
        """Build the generator ``G(z)`` of images of ``data``'s shape."""
        return StyleGAN2(self, data)


class Linear(nn.Module):
    """Linear layer with equalised learning rate, times ``lr``."""

    def __init__(self, inputs: int, outputs: int, *, bias: float = 0.0, lr: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / lr)
        self.bias = nn.Parameter(torch.full((outputs,), bias / lr))
        self.scale, self.lr = lr / math.sqrt(inputs), lr

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs) to (B, outputs)."""
        return F.linear(x, self.weight * self.scale, self.bias * self.lr)


def leaky(x: Tensor) -> Tensor:
    """Leaky ReLU of slope 0.2, times ``sqrt 2`` to keep the second moment about as it was."""
    return F.leaky_relu(x, 0.2) * math.sqrt(2)


def normalise(z: Tensor) -> Tensor:
    """Latents (B, z) of unit second moment."""
    return z * (z.square().mean(1, keepdim=True) + 1e-8).rsqrt()


class Mapping(nn.Module):
    """Latents (B, z), normalised to unit second moment, to styles (B, w)."""

    def __init__(self, settings: StyleGAN2Settings) -> None:
        super().__init__()
        between = [settings.mapping_width] * (settings.mapping_depth - 1)
        self.layers = nn.ModuleList(
            Linear(before, after, lr=settings.mapping_lr)
            for before, after in pairwise([settings.z, *between, settings.w])
        )

    def forward(self, z: Tensor) -> Tensor:
        """Evaluate the layers."""
        h = normalise(z)
        for layer in self.layers:
            h = leaky(layer(h))
        return h

    def styles(self, z: Tensor, slots: int) -> list[Tensor]:
        """The styles of the slots, each (B, w): one for all."""
        return [self(z)] * slots


class LSTMMapping(Mapping):
    """The same layers, then an LSTM cell over the slots (Ye & Liu 2023).

    With ``u = [layers(z), z]``: ``h = leaky(A u)``, ``c = leaky(B u)``, and for each slot
    ``h, c = cell(u, (h, c))`` and ``w = h + C u``. All but the layers learn at the full rate.
    """

    def __init__(self, settings: StyleGAN2Settings) -> None:
        super().__init__(settings)
        w, u = settings.w, settings.w + settings.z
        self.hidden, self.memory, self.skip = Linear(u, w), Linear(u, w), Linear(u, w)
        # One matrix for u, one for h, one bias, of the gates input, forget, cell and output.
        bound = 1 / math.sqrt(w)
        self.cell_u = nn.Parameter(torch.empty(4 * w, u).uniform_(-bound, bound))
        self.cell_h = nn.Parameter(torch.empty(4 * w, w).uniform_(-bound, bound))
        self.cell_bias = nn.Parameter(torch.empty(4 * w).uniform_(-bound, bound))

    def styles(self, z: Tensor, slots: int) -> list[Tensor]:
        """The styles of the slots, each (B, w), each another."""
        u = torch.cat([self(z), normalise(z)], dim=1)
        h, c, skip = leaky(self.hidden(u)), leaky(self.memory(u)), self.skip(u)
        seen = F.linear(u, self.cell_u, self.cell_bias)
        found = []
        for _ in range(slots):
            i, f, g, o = (seen + F.linear(h, self.cell_h)).chunk(4, dim=1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            found.append(h + skip)
        return found


class ModulatedConv(nn.Module):
    """Convolution whose input channels a style scales, optionally at twice the resolution."""

    filter: Tensor

    def __init__(
        self, inputs: int, outputs: int, kernel: int, w: int, *, up: bool = False, demodulate: bool
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.affine = Linear(w, inputs, bias=1.0)
        self.scale = 1 / math.sqrt(inputs * kernel**2)
        self.up, self.demodulate, self.padding = up, demodulate, kernel // 2
        self.register_buffer("filter", binomial_filter(4.0), persistent=False)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """Map (B, inputs, H, W) and styles (B, w) to (B, outputs, H, W), or (.., 2 H, 2 W)."""
        style, weight = self.affine(w), self.weight * self.scale
        h = self._convolve(x * style[:, :, None, None].to(x.dtype), weight)
        if self.demodulate:
            variance = style.square() @ weight.square().sum((2, 3)).T
            h = h * (variance + 1e-8).rsqrt()[:, :, None, None].to(h.dtype)
        return h

    def _convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        if not self.up:
            return F.conv2d(x, weight, padding=self.padding)
        h = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
        channels = h.shape[1]
        smoothing = self.filter.to(h.dtype).expand(channels, 1, 4, 4)
        return F.conv2d(h, smoothing, padding=1, groups=channels)


class Layer(nn.Module):
    """Modulated 3x3 convolution, noise, bias and activation."""

    def __init__(self, inputs: int, outputs: int, w: int, *, up: bool = False) -> None:
        super().__init__()
        self.conv = ModulatedConv(inputs, outputs, 3, w, up=up, demodulate=True)
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor, w: Tensor, noise: Tensor) -> Tensor:
        """Map (B, inputs, H, W), styles (B, w) and noise (B, 1, H', W') to (B, outputs, H', W')."""
        h = self.conv(x, w) + (noise * self.noise_strength).to(x.dtype)
        return leaky(h + self.bias[:, None, None].to(h.dtype))


class ToImage(nn.Module):
    """Modulated 1x1 convolution to an image, not demodulated."""

    def __init__(self, inputs: int, image: int, w: int) -> None:
        super().__init__()
        self.conv = ModulatedConv(inputs, image, 1, w, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(image))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """Map (B, inputs, H, W) and styles (B, w) to (B, image, H, W), float32."""
        return (self.conv(x, w) + self.bias[:, None, None]).float()


class StyleGAN2(nn.Module):
    """Latents (B, z) to images (B, C, size, size)."""

    def __init__(self, settings: StyleGAN2Settings, data: DataSpec) -> None:
        super().__init__()
        self.settings, self.z = settings, settings.z
        sides = [data.size]
        while sides[0] % 2 == 0 and sides[0] > 4:
            sides.insert(0, sides[0] // 2)
        self.sides = sides
        widths = [min(settings.channels_base // side, settings.channels_max) for side in sides]
        self.mapping = (LSTMMapping if settings.mapping == "lstm" else Mapping)(settings)
        self.constant = nn.Parameter(torch.randn(widths[0], sides[0], sides[0]))
        self.up = nn.ModuleList(
            Layer(before, after, settings.w, up=True) for before, after in pairwise(widths)
        )
        self.layers = nn.ModuleList(Layer(width, width, settings.w) for width in widths)
        self.images = nn.ModuleList(ToImage(width, data.channels, settings.w) for width in widths)
        self.enlarge = Resample("up", "fir")

    def forward(self, z: Tensor) -> Tensor:
        """Generate images, (B, C, H, W), float32; in [-1, 1] if ``bounded``.

        A slot of the styles is that of a convolution; the image of a resolution takes the style of
        the one after it, which is the next resolution's first, or a last one of its own.
        """
        w, noises = self.mapping.styles(z, 2 * len(self.sides)), self._noises(z)
        h = self.constant.expand(len(z), -1, -1, -1).to(w[0].dtype)
        h = self.layers[0](h, w[0], noises[0])
        image = self.images[0](h, w[1])
        for level, up in enumerate(self.up, start=1):
            h = up(h, w[2 * level - 1], noises[2 * level - 1])
            h = self.layers[level](h, w[2 * level], noises[2 * level])
            image = self.enlarge(image) + self.images[level](h, w[2 * level + 1])
        return image.tanh() if self.settings.bounded else image

    def _noises(self, z: Tensor) -> list[Tensor]:
        """One map (B, 1, side, side) a layer, in the order of use."""
        sides = [self.sides[0]] + [side for side in self.sides[1:] for _ in range(2)]
        normals = normals_from(z, sum(side**2 for side in sides))
        maps = torch.split(normals, [side**2 for side in sides], dim=1)
        return [values.reshape(-1, 1, side, side) for values, side in zip(maps, sides, strict=True)]


def mix(x: Tensor) -> Tensor:
    """Hash integers of 32 bits, held in int64, to integers of 32 bits.

    Xor-shifts and multiplications, with Wellons' constants of low bias, which are small enough
    for no product to leave 63 bits.
    """
    x = ((x ^ (x >> 16)) * 0x21F0AAAD) & WORD
    x = ((x ^ (x >> 15)) * 0x735A2D97) & WORD
    return x ^ (x >> 15)


def normals_from(z: Tensor, count: int) -> Tensor:
    """Standard normal numbers (B, count), float32, that each row of ``z`` (B, ...) determines.

    A counter, hashed with the bits of the row, by the Box-Muller transform; nothing waits for the
    device and no generator's state changes. No gradient flows to ``z``.
    """
    bits = z.detach().float().flatten(1).contiguous().view(torch.int32).long() & WORD
    position = mix(torch.arange(bits.shape[1], device=z.device) + 1)
    seed = mix(mix((bits + position) & WORD).sum(1) & WORD)
    counter = mix(torch.arange(2 * count, device=z.device) + 1)
    words = mix((seed[:, None] + counter) & WORD)
    # A second round: neighbouring seeds must not share values at other places.
    uniform = (mix(words ^ seed[:, None]).float() + 0.5) / (WORD + 1)
    radius, angle = uniform.chunk(2, dim=1)
    return (-2 * radius.log()).sqrt() * (2 * math.pi * angle).cos()
