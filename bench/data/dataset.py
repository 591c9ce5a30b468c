"""A data set: images or points, labels, and the hash that identifies them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from bench.data.catalogue import KNOWN

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import torch
    from numpy.typing import NDArray

    from methods.mixtures import GaussianMixture

Pixels: TypeAlias = "NDArray[np.uint8 | np.float32]"
_BLOCK = 2**24
"""Bytes of an array that are hashed at a time."""
Progress = Callable[[float], object]
"""Is told the fraction that is done, 0 to 1."""


def unheard(fraction: float) -> None:
    """Take what is told of a progress, and do nothing."""


@dataclass(frozen=True)
class Split:
    """Images and their class indices, int64 (N,), where there are any.

    Images are uint8 (N, C, H, W), 0 to 255; points are float32 (N, 2, 1, 1), within about [-1, 1],
    and are never quantised. Either may be a read-only memory map, of more than memory can hold.
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
    the density that points were drawn from, ``stored`` the folder of memory-mapped arrays.
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
    stored: Path | None = None

    @classmethod
    def of_known(cls, name: str, train: Split, test: Split, source: str, **more: Any) -> Dataset:
        """Return a data set of the catalogue as it was published, with the hash of its content."""
        classes, sha256 = KNOWN[name].classes, fingerprint(train, test)
        return cls(name, name, train, test, classes, sha256, source, **more)

    @property
    def is_points(self) -> bool:
        """Whether these are float32 points, shown as they are, rather than uint8 images."""
        return self.train.images.dtype.kind == "f"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of every image; (2, 1, 1) for points."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    def facts(self) -> dict[str, Any]:
        """Return what a record says of its data, as plain JSON."""
        return {
            "name": self.name, "variant": self.variant, "sha256": self.sha256,
            "train": len(self.train), "test": None if self.test is None else len(self.test),
            "classes": list(self.classes), "labelled": self.train.labels is not None,
            "shape": list(self.shape), "source": self.source, "notes": list(self.notes),
        }  # fmt: skip


class Fingerprint:
    """The hash of images, labels and which split they are in, with their shapes, bit by bit.

    In a fixed order: images and labels of ``train``, then of ``test``; None for what is lacking.
    """

    def __init__(self) -> None:
        digest = hashlib.sha256(b"scorebench data 1")
        self.update, self.hexdigest = digest.update, digest.hexdigest

    def begin(self, split: str, part: str, dtype: str, shape: tuple[int, ...]) -> None:
        """Begin an array, whose bytes in C order are then given to ``update``."""
        self.update(f"{split} {part} {(dtype, shape)}".encode())

    def add(self, split: str, part: str, array: NDArray[Any] | None) -> None:
        """Add an array that is there, in blocks, or say that there is none."""
        import numpy as np

        if array is None:
            self.update(f"{split} {part} {None}".encode())
            return
        self.begin(split, part, array.dtype.str, array.shape)
        rows = max(1, _BLOCK // max(1, array[:1].nbytes))
        for start in range(0, len(array), rows):
            self.update(np.ascontiguousarray(array[start : start + rows]).data.cast("B"))


def fingerprint(train: Split, test: Split | None) -> str:
    """Hash images, labels and which split they are in, with their shapes: 64 hex digits."""
    digest = Fingerprint()
    for name, split in (("train", train), ("test", test)):
        digest.add(name, "images", None if split is None else split.images)
        digest.add(name, "labels", None if split is None else split.labels)
    return digest.hexdigest()


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
