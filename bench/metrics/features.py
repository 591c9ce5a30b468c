"""From images or points to what an extractor says of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bench.metrics.extractors import Extractor

if TYPE_CHECKING:
    from torch import Tensor

    Images = NDArray[np.uint8 | np.float32] | Tensor

BATCH = 128


@dataclass(frozen=True)
class Features:
    """What an extractor says of images: features (N, d), probabilities (N, K), float32."""

    features: NDArray[np.float32]
    probabilities: NDArray[np.float32]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.features)


def extract(extractor: Extractor, images: Images, *, batch: int = BATCH) -> Features:
    """Run an extractor over images, an array or a tensor, in batches.

    Images are uint8 (N, C, H, W), or float32 points (N, 2, 1, 1) for an extractor of points.
    """
    parts = list(_batches(extractor, images, batch))
    if not parts:
        raise ValueError("no images to extract features from")
    return Features(
        np.concatenate([features for features, _ in parts]),
        np.concatenate([probabilities for _, probabilities in parts]),
    )


def _batches(
    extractor: Extractor, images: Images, batch: int
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    import torch

    for start in range(0, len(images), batch):
        chosen = images[start : start + batch]
        if not isinstance(chosen, torch.Tensor):
            # A copy, since memory-mapped arrays are read-only and torch warns of those.
            chosen = torch.from_numpy(np.array(chosen))
        features, probabilities = extractor(chosen)
        yield features.cpu().numpy(), probabilities.cpu().numpy()
