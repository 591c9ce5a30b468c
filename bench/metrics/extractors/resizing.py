"""How images reach an extractor's size: clean-fid's resize, for a batch on the device."""

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional

from bench.config import UserError

Run = Callable[[Tensor], tuple[Tensor, Tensor]]
"""What an extractor is: images (B, C, H, W) to features (B, d) and probabilities (B, K)."""
CLEAN = "clean: bicubic, antialiased, float, clipped to 0..255"
"""What a value's provenance says of ``clean_resize``."""


def clean_resize(images: Tensor, size: int) -> Tensor:
    """Resize floats 0..255 (B, C, H, W) to ``size`` pixels, unrounded.

    Equals clean-fid's resize, which takes one channel of one image at a time through PIL, to 4e-4
    of 255 for 32 to 299 pixels. Without ``antialias`` the two differ by 22 and more.
    Source: Parmar et al. 2022, section 3.
    """
    resized = functional.interpolate(
        images, size=(size, size), mode="bicubic", antialias=True, align_corners=False
    )
    return resized.clamp(0, 255)


def to_rgb(images: Tensor) -> Tensor:
    """Repeat a grey channel three times; pass colour through; UserError for anything else."""
    channels = images.shape[1]
    if channels == 1:
        return images.expand(-1, 3, -1, -1)
    if channels != 3:
        raise UserError(f"images with {channels} channels; the extractor takes 1 or 3")
    return images


def times(shape: tuple[int, ...]) -> str:
    """Write a shape as ``3x32x32``."""
    return "x".join(map(str, shape))
