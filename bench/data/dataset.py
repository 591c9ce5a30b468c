"""A data set in memory: images or points, labels, and the hash that identifies them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from methods.mixtures import GaussianMixture

    Pixels = NDArray[np.uint8 | np.float32]


@dataclass(frozen=True)
class Split:
    """Images and their class indices, int64 (N,), where there are any.

    Images are uint8 (N, C, H, W), 0 to 255; points are float32 (N, 2, 1, 1), within about [-1, 1],
    and are never quantised.
    """

    images: Pixels
    labels: NDArray[np.int64] | None

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)


@dataclass(frozen=True)
class Dataset:
    """A named data set; two with the same ``sha256`` hold the same images, labels and split.

    ``variant`` tells apart what shares a name but not its pixels (``cifar10-jpeg``), ``source``
    says where it was read from, and ``notes`` what a reader of the numbers must know. ``truth`` is
    the exact density that points were drawn from.
    """

    name: str
    variant: str
    train: Split
    test: Split | None
    classes: tuple[str, ...]
    sha256: str
    source: str
    notes: tuple[str, ...] = ()
    truth: GaussianMixture | None = None

    @property
    def is_points(self) -> bool:
        """Whether these are float32 points, shown as they are, rather than uint8 images."""
        return self.train.images.dtype.kind == "f"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of every image; (2, 1, 1) for points."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width


def fingerprint(train: Split, test: Split | None) -> str:
    """Hash images, labels and which split they are in, with their shapes: 64 hex digits."""
    digest = hashlib.sha256(b"scorebench data 1")
    for name, split in (("train", train), ("test", test)):
        for part, array in (
            ("images", None if split is None else split.images),
            ("labels", None if split is None else split.labels),
        ):
            shape = None if array is None else (array.dtype.str, array.shape)
            digest.update(f"{name} {part} {shape}".encode())
            if array is not None:
                digest.update(_bytes(array))
    return digest.hexdigest()


def _bytes(array: NDArray[Any]) -> memoryview:
    import numpy as np

    return np.ascontiguousarray(array).data.cast("B")


def to_uint8(images: torch.Tensor) -> torch.Tensor:
    """Quantise floats in [-1, 1] to uint8: x * 127.5 + 128, clipped, fraction dropped.

    The only rule by which samples become images: it returns v for v / 127.5 - 1, and what lies
    outside [-1, 1] is clipped. Raises ValueError on NaN, which has no pixel value.
    Source: the rule of EDM's and StyleGAN's image writers.
    """
    import torch

    if bool(torch.isnan(images).any()):
        raise ValueError("images hold NaN, which has no pixel value")
    return (images.float() * 127.5 + 128).clamp(0, 255).to(torch.uint8)
