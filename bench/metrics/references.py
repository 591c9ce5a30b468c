"""What samples are compared with: a training split's statistics, computed once and then kept."""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.data.dataset import Dataset, Split
from bench.metrics.extractors import Extractor
from bench.metrics.features import BATCH, extract
from bench.metrics.protocol import PROTOCOL
from bench.metrics.statistics import Moments, permutation
from bench.record import write_atomically

_BLOCK = 4096
"""Images that are extracted between two updates of the moments."""


@dataclass(frozen=True)
class Reference:
    """Mean and covariance, float64, of an extractor's features on a data set's images.

    ``classes`` holds the features themselves by class, float32 (N_c, d) each, where there are
    labels: as many numbers as there are images times features, however many classes share them,
    and read from disk only when a class-wise distance is asked for.
    """

    mu: NDArray[np.float64]
    sigma: NDArray[np.float64]
    n: int
    split: str
    dataset: str
    variant: str
    data_sha256: str
    extractor_sha256: str
    classes: tuple[NDArray[np.float32], ...] | None = None


class _Stored(NamedTuple):
    """What one extraction gives; ``features`` are sorted by class, ``counts`` says how many each.

    Both are empty without labels.
    """

    mu: NDArray[np.float64]
    sigma: NDArray[np.float64]
    counts: NDArray[np.int64]
    features: NDArray[np.float32]


def reference(
    dataset: Dataset,
    extractor: Extractor,
    *,
    cache: Path,
    limit: int | None = None,
    batch: int = BATCH,
) -> Reference:
    """Return the training split's statistics, computed once and then kept under ``cache``.

    ``limit`` takes that many images of a fixed random order instead of all. The files' name holds
    the hashes of data and extractor, so that they serve only what they were made from; a file that
    cannot be read is made again.
    """
    from filelock import FileLock

    images = selected(dataset, limit)
    count = len(images)
    key = f"reference {PROTOCOL} {dataset.sha256} {extractor.name} {extractor.sha256} {count}"
    digest = hashlib.sha256(key.encode()).hexdigest()[:24]
    path = cache / "references" / f"{dataset.variant}-{extractor.name}-{digest}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        stored = _read(path)
        if stored is None:
            _write(path, _compute(images, len(dataset.classes), extractor, batch))
            stored = _read(path)
    assert stored is not None, f"{path} was just written"
    return Reference(
        stored.mu,
        stored.sigma,
        n=count,
        split="train",
        dataset=dataset.name,
        variant=dataset.variant,
        data_sha256=dataset.sha256,
        extractor_sha256=extractor.sha256,
        classes=_by_class(stored),
    )


def _by_class(stored: _Stored) -> tuple[NDArray[np.float32], ...] | None:
    if len(stored.counts) == 0:
        return None
    return tuple(np.split(stored.features, np.cumsum(stored.counts)[:-1]))


def selected(dataset: Dataset, limit: int | None) -> Split:
    """Return the training images that make a reference: all, or ``limit`` of a fixed order."""
    train = dataset.train
    if limit is None or limit >= len(train):
        return train
    chosen = np.sort(permutation(len(train))[:limit])
    return Split(train.images[chosen], None if train.labels is None else train.labels[chosen])


def _compute(split: Split, classes: int, extractor: Extractor, batch: int) -> _Stored:
    labels = split.labels
    total: Moments | None = None
    kept: list[NDArray[np.float32]] = []
    for start in range(0, len(split), _BLOCK):
        features = extract(extractor, split.images[start : start + _BLOCK], batch=batch).features
        total = total or Moments(features.shape[1])
        total.update(features)
        if labels is not None:
            kept.append(features)
    if total is None:
        raise ValueError("no images to compute a reference from")
    if labels is None:
        nothing = np.zeros((0, len(total.mean)), np.float32)
        return _Stored(total.mean, total.covariance, np.zeros(0, np.int64), nothing)
    counts = np.bincount(labels, minlength=classes).astype(np.int64)
    ordered = np.concatenate(kept)[np.argsort(labels, kind="stable")]
    return _Stored(total.mean, total.covariance, counts, ordered)


def _features_path(path: Path) -> Path:
    return path.with_name(f"{path.stem}-features.npy")


def _write(path: Path, made: _Stored) -> None:
    # The moments last: where they are, the features are whole.
    write_atomically(_features_path(path), lambda file: np.save(file, made.features))
    write_atomically(
        path, lambda file: np.savez(file, mu=made.mu, sigma=made.sigma, counts=made.counts)
    )


def _read(path: Path) -> _Stored | None:
    """Return what is kept, the features memory-mapped, or None where it is not whole."""
    try:
        # Opened here, since numpy leaves a file that it cannot read open.
        with path.open("rb") as file, np.load(file) as stored:
            mu, sigma, counts = stored["mu"], stored["sigma"], stored["counts"]
        features = np.load(_features_path(path), mmap_mode="r" if counts.sum() else None)
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        return None
    return _Stored(mu, sigma, counts, features) if len(features) == counts.sum() else None
