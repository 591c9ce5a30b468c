"""EDM's augmentation, which tells the network what it did (Karras et al. 2022, appendix F.2).

The geometric half of StyleGAN2-ADA's pipeline (Karras et al. 2020b): each image is mirrored,
scaled, rotated, stretched and shifted, each with probability p, and the nine labels let the
network keep augmented images apart; at zero labels it models the data as they are.

    label  1         2         3         4, 5               6, 7               8, 9
           mirrored  upside    ln scale  cos - 1 and sin    stretch times      shift in x and y,
           (drawn    down      / ln 1.15 of the angle       cos, sin of its    in eighths of
           always)                                          axis               the side

(2^0.2 = 1.15.) An image is resampled at twice its resolution, between two passes of the orthogonal
wavelet filter sym6, which is an identity where nothing moves.

Where we differ from the authors' code, and why:

- Points outside of the image are reflected into it one by one. The authors pad the batch by the
  margin that its widest transform needs, for which the host must wait for the device, and leave
  grey what lies farther out than the image is wide. A fixed border of six pixels serves the filter
  here: no shape depends on the draw, nothing is synchronised, and all of it compiles.
- Images that no transform moves stay as they are, bit for bit.
- The filter is not quite symmetric. Its delay is taken as that of low frequencies, 5.10 samples;
  half of its length, 5.5, would move a picture turned by 180 degrees by 0.4 pixels.

As published, a stretch by w along an axis and one by -w along the opposite axis share a label.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.base import Batch

LABELS = 9
"""How many augmentation labels there are."""
SYM6 = (
    0.015404109327027373,
    0.0034907120842174702,
    -0.11799011114819057,
    -0.048311742585632998,
    0.49105594192674662,
    0.787641141030194,
    0.3379294217276218,
    -0.072637522786462516,
    -0.021060292512300564,
    0.044724901770665779,
    0.0017677118642428036,
    -0.007800708325034148,
)
"""Low-pass filter of Daubechies' least asymmetric wavelet of 6 vanishing moments (symlet)."""
DELAY = sum(tap * value for tap, value in enumerate(SYM6)) / math.sqrt(2)
"""The filter's delay at low frequencies, in samples: 5.10."""
SMALLEST = 8
"""Pixels a side of the smallest images that it takes."""
BORDER = 6
"""Pixels padded on each side: three that an image filtered again needs, and three for the filter
at their edge."""
SCALE_STD = 0.2
"""Standard deviation of log2 of scale and stretch (EDM table 6)."""
SHIFT_STD = 0.125
"""Standard deviation of the shift, in sides (EDM table 6)."""
AXIS_PROBABILITY = 0.5
"""How often a stretch is along another axis than x or y (EDM table 6)."""


@dataclass(frozen=True, kw_only=True)
class Transform:
    """What is done to each image of a batch; all zeros mean nothing."""

    mirrored: Tensor
    """1 where left and right change places, (B,)."""
    flipped: Tensor
    """1 where top and bottom change places, (B,)."""
    scale: Tensor
    """Enlarged by ``2^(0.2 scale)``, (B,)."""
    angle: Tensor
    """Turned counterclockwise, in radians, (B,)."""
    stretch: Tensor
    """Enlarged by ``2^(0.2 stretch)`` along the axis and made smaller as much across it, (B,)."""
    axis: Tensor
    """The stretch's axis, counterclockwise from the horizontal, in radians, (B,)."""
    shift: Tensor
    """Moved right and down, in eighths of the side, (B, 2)."""

    def labels(self) -> Tensor:
        """The nine conditioning labels, (B, 9); all zeros where nothing is done."""
        return torch.stack(
            [
                self.mirrored,
                self.flipped,
                self.scale,
                self.angle.cos() - 1,
                self.angle.sin(),
                self.stretch * self.axis.cos(),
                self.stretch * self.axis.sin(),
                self.shift[:, 0],
                self.shift[:, 1],
            ],
            dim=1,
        )

    def moved(self) -> Tensor:
        """Whether the image has to be resampled, (B,) bool."""
        return (self.labels()[:, 2:] != 0).any(1)

    def source(self, points: Tensor, side: int) -> Tensor:
        """Where the points (N, 2) of the result lie in the original, (B, N, 2).

        Pixels from the centre, x to the right and y down. The image is scaled, then turned, then
        stretched, then shifted; here each is undone, the last one first.
        """
        moved = points - side * SHIFT_STD * self.shift[:, None, :]
        factor = (SCALE_STD * self.stretch).exp2()
        stretch = torch.diag_embed(torch.stack([1 / factor, factor], dim=1))
        axis = rotation(self.axis)
        inverse = rotation(self.angle) @ axis.mT @ stretch @ axis
        return moved @ inverse.mT / (SCALE_STD * self.scale).exp2()[:, None, None]


def rotation(angle: Tensor) -> Tensor:
    """Matrices (B, 2, 2) that turn (x, y) towards y by ``angle`` (B,)."""
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([cos, -sin, sin, cos], dim=1).reshape(-1, 2, 2)


def draw(batch: Batch, p: float) -> Transform:
    """Draw a transform for each image: mirrored always half of the time, the others with p.

    Upside down is then half of that (EDM table 6).
    """
    n = batch.x.shape[0]

    def sometimes() -> Tensor:
        return (batch.rand(n) < p).to(batch.x.dtype)

    def angle() -> Tensor:
        return (2 * batch.rand(n) - 1) * math.pi

    turned = (batch.rand(n) < AXIS_PROBABILITY).to(batch.x.dtype)
    return Transform(
        mirrored=batch.randint(2, n).to(batch.x.dtype),
        flipped=batch.randint(2, n) * sometimes(),
        scale=batch.randn(n) * sometimes(),
        angle=angle() * sometimes(),
        stretch=batch.randn(n) * sometimes(),
        axis=angle() * turned,
        shift=batch.randn(n, 2) * sometimes()[:, None],
    )


def filter_matrix(samples: int, pixels: int, like: Tensor) -> Tensor:
    """``sym6`` between a row's pixels and its samples at twice the rate, (samples, pixels).

    Column n holds the filter from sample 2 n on. The columns are orthonormal. Made on the device,
    by arithmetic alone: a table would have to be copied there.
    """
    sample = torch.arange(samples, device=like.device)[:, None]
    tap = sample - 2 * torch.arange(pixels, device=like.device)
    matrix = torch.zeros(samples, pixels, device=like.device, dtype=like.dtype)
    for index, value in enumerate(SYM6):
        matrix = matrix + value * (tap == index)
    return matrix


def resample(x: Tensor, transform: Transform) -> Tensor:
    """Apply all but the mirrorings to images (B, C, side, side); ValueError if not square."""
    side = x.shape[-1]
    if x.shape[-2] != side or side < SMALLEST:
        raise ValueError(
            f"augmentation takes square images of {SMALLEST} pixels or more, not {x.shape}"
        )
    padded = F.pad(x, (BORDER,) * 4, mode="reflect")
    pixels, samples = side + 2 * BORDER, 2 * side + len(SYM6) - 2
    up = filter_matrix(2 * pixels + len(SYM6) - 2, pixels, x)
    down = filter_matrix(samples, side, x).T
    fine = 2 * (up @ padded @ up.T)
    grid = sample_points(transform, side, samples, fine.shape[-1])
    fine = F.grid_sample(fine, grid, mode="bilinear", padding_mode="border", align_corners=True)
    return down @ fine @ down.T / 2


def sample_points(transform: Transform, side: int, samples: int, size: int) -> Tensor:
    """Where the samples of the result lie among ``size`` of the original, for ``grid_sample``.

    (B, samples, samples, 2) in [-1, 1]; points outside of the image are reflected into it.
    """
    dtype, device = transform.scale.dtype, transform.scale.device
    # Sample m of a filtered row shows what is at pixel (m - DELAY) / 2.
    line = (torch.arange(samples, device=device, dtype=dtype) - DELAY) / 2
    centre, last = (side - 1) / 2, side - 1
    y, x = torch.meshgrid(line - centre, line - centre, indexing="ij")
    points = torch.stack([x, y], dim=-1).reshape(-1, 2)
    pixel = transform.source(points, side) + centre
    reflected = last - (pixel.remainder(2 * last) - last).abs()
    padded = (pixel - centre).abs() <= centre + BORDER / 2
    index = 2 * (torch.where(padded, pixel, reflected) + BORDER) + DELAY
    return (2 * index / (size - 1) - 1).reshape(-1, samples, samples, 2)


def apply(x: Tensor, transform: Transform) -> Tensor:
    """Transform images (B, C, side, side), float32 whatever autocast says."""

    def where(condition: Tensor, yes: Tensor, no: Tensor) -> Tensor:
        return torch.where(condition[:, None, None, None], yes, no)

    x = where(transform.mirrored == 1, x.flip(3), x)
    x = where(transform.flipped == 1, x.flip(2), x)
    with torch.autocast(x.device.type, enabled=False):
        return where(transform.moved(), resample(x, transform), x)


@torch.no_grad()
def augment(batch: Batch, p: float) -> tuple[Tensor, Tensor]:
    """Augment a batch of square images in [-1, 1]; returns them, (B, C, H, W), and (B, 9) labels.

    ``p`` is the probability of each transform, 0.12 for CIFAR-10 (EDM table 7); mirroring is
    drawn at any p, so the data should not be mirrored beforehand. Interpolation may leave [-1, 1]
    a little. All randomness is the batch's own. ValueError for images under 8 pixels.
    """
    transform = draw(batch, p)
    return apply(batch.x, transform), transform.labels()
