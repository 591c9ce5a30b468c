"""From images or points to what an extractor says of them, and those answers on disk."""

import hashlib
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.config import UserError
from bench.data.dataset import Progress, unheard
from bench.metrics.extractors.loading import Extractor
from bench.metrics.protocol import PROTOCOL
from bench.records import write_archive

Images = NDArray[np.uint8 | np.float32] | Tensor

BATCH = 128
_HASHED = 4096
"""Images that are hashed at a time."""


def share_of(progress: Progress, place: int, parts: int) -> Progress:
    """Return the progress of one of several equal parts."""
    return lambda fraction: progress((place + fraction) / parts)


@dataclass(frozen=True)
class Features:
    """What an extractor says of images: features (N, d), probabilities (N, K), float32.

    K is 0 of an extractor that tells no classes.
    """

    features: NDArray[np.float32]
    probabilities: NDArray[np.float32]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.features)


def extract(
    extractor: Extractor, images: Images, *, batch: int = BATCH, progress: Progress = unheard
) -> Features:
    """Run an extractor over images, an array or a tensor, in batches.

    Images are uint8 (N, C, H, W), or float32 points (N, 2, 1, 1) for an extractor of points. Beside
    the answer no more than a batch is held in memory.
    """
    answer: dict[str, NDArray[np.float32]] = {}
    for start in range(0, len(images), batch):
        rows = slice(start, start + batch)
        chosen = images[rows]
        if not isinstance(chosen, Tensor):
            # A copy, since memory-mapped arrays are read-only and torch warns of those.
            chosen = torch.from_numpy(np.array(chosen))
        for what, part in zip(("features", "probabilities"), extractor(chosen), strict=True):
            values = part.cpu().numpy()
            # No metric can be had of NaN, and it would pass through some of them in silence.
            wrong = np.flatnonzero(~np.isfinite(values).all(axis=1))
            if len(wrong):
                raise UserError(
                    f"extractor '{extractor.name}' gives {what} that are not finite for image "
                    f"{start + wrong[0]}; choose another, or repair its network"
                )
            if start == 0:
                answer[what] = np.empty((len(images), values.shape[1]), np.float32)
            answer[what][rows] = values
        progress(min(1.0, rows.stop / len(images)))
    if not answer:
        raise ValueError("no images to extract features from")
    return Features(**answer)


def features_file(folder: Path, extractor: str) -> Path:
    """Return where a cell keeps what an extractor said of its samples."""
    return folder / f"features-{extractor}.npz"


def hash_of(images: NDArray[Any]) -> str:
    """Hash images, whatever array they lie in: 64 hex digits."""
    digest = hashlib.sha256(f"{images.dtype.str} {images.shape}".encode())
    for start in range(0, len(images), _HASHED):
        part = np.ascontiguousarray(images[start : start + _HASHED])
        digest.update(part.data.cast("B"))
    return digest.hexdigest()


def features_of(
    extractor: Extractor, images: NDArray[Any], *, batch: int = BATCH, folder: Path | None = None,
    progress: Progress = unheard,
) -> Features:  # fmt: skip
    """Return an extractor's features of images, taken from ``folder`` or kept there, if given."""
    if folder is None:
        return extract(extractor, images, batch=batch, progress=progress)
    path = features_file(folder, extractor.name)
    found = stored(path, extractor, images)
    if found is None:
        found = extract(extractor, images, batch=batch, progress=progress)
        stamp: dict[str, Any] = {k: np.array(v) for k, v in _stamp(extractor, images).items()}
        content = vars(found) | stamp
        write_archive(path, lambda file: np.savez(file, **content))
    return found


def _stamp(extractor: Extractor, images: NDArray[Any]) -> dict[str, str]:
    told = {"extractor_sha256": extractor.sha256, "resize": extractor.resize}
    return told | {"images_sha256": hash_of(images), "protocol": PROTOCOL}


def stored(path: Path, extractor: Extractor, images: NDArray[Any]) -> Features | None:
    """Read the features of these images; None where there are none by this very extractor."""
    stamp = _stamp(extractor, images)
    try:
        with path.open("rb") as file, np.load(file) as content:
            if {key: str(content[key]) for key in stamp} != stamp:
                return None
            found = Features(content["features"], content["probabilities"])
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        return None
    return found if len(found) == len(found.probabilities) == len(images) else None
