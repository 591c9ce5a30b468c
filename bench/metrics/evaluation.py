"""From images to named metrics with their provenance."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from bench.data.dataset import Dataset
from bench.metrics.extractors import Extractor
from bench.metrics.statistics import (
    SPLITS,
    Moments,
    accuracy,
    frechet_to_features,
    inception_score,
    permutation,
)
from bench.record import Value, write_atomically

if TYPE_CHECKING:
    from torch import Tensor

    Images = NDArray[np.uint8 | np.float32] | Tensor

PROTOCOL = "1"
"""Version of all that a value depends on beside its provenance; raised when any of it changes."""
QUANTISATION = "uint8: x * 127.5 + 128, clipped, fraction dropped"
NOISE = "noise"
HELD_OUT = "real (held-out)"
BATCH = 128

_NOISE_SEED = 20_190_712
_THOUSAND = 1000
_FULL = 50_000
"""The number of samples that needs no mention in a metric's name."""


@dataclass(frozen=True)
class Features:
    """What an extractor says of images: features (N, d), probabilities (N, K), float32."""

    features: NDArray[np.float32]
    probabilities: NDArray[np.float32]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.features)


@dataclass(frozen=True)
class Reference:
    """Mean and covariance, float64, of an extractor's features on a data set's images."""

    mu: NDArray[np.float64]
    sigma: NDArray[np.float64]
    n: int
    split: str
    dataset: str
    variant: str
    data_sha256: str
    extractor_sha256: str


def extract(extractor: Extractor, images: Images, *, batch: int = BATCH) -> Features:
    """Run an extractor over uint8 images (N, C, H, W), an array or a tensor, in batches."""
    parts = list(_batches(extractor, images, batch))
    if not parts:
        raise ValueError("no images to extract features from")
    return Features(
        np.concatenate([features for features, _ in parts]),
        np.concatenate([probabilities for _, probabilities in parts]),
    )


def reference(
    dataset: Dataset,
    extractor: Extractor,
    *,
    cache: Path,
    limit: int | None = None,
    batch: int = BATCH,
) -> Reference:
    """Return the training split's statistics, computed once and then kept under ``cache``.

    ``limit`` takes that many images of a fixed random order instead of all. The file's name holds
    the hashes of data and extractor, so that it serves only what it was made from; a file that
    cannot be read is made again.
    """
    from filelock import FileLock

    count = min(limit or len(dataset.train), len(dataset.train))
    key = f"reference {PROTOCOL} {dataset.sha256} {extractor.name} {extractor.sha256} {count}"
    digest = hashlib.sha256(key.encode()).hexdigest()[:24]
    path = cache / "references" / f"{dataset.variant}-{extractor.name}-{digest}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        stored = _read_moments(path)
        if stored is None:
            stored = _compute_moments(dataset, extractor, count, batch)
            mu, sigma = stored
            write_atomically(path, lambda file: np.savez(file, mu=mu, sigma=sigma))
    return Reference(
        *stored,
        n=count,
        split="train",
        dataset=dataset.name,
        variant=dataset.variant,
        data_sha256=dataset.sha256,
        extractor_sha256=extractor.sha256,
    )


def metric_names(extractor: str, n: int) -> dict[str, str]:
    """Return the full names of ``fd``, ``is`` and ``accuracy``, which tell extractor and n.

    Inception alone may be called ``fid`` and ``is``; 50,000 samples add no suffix.
    """
    suffix = f"_{n}" if n % _THOUSAND else f"_{n // _THOUSAND}k"
    if n == _FULL:
        suffix = ""
    # The two modes of the 2015 Inception: the clean resize needs no word, the graph's own does.
    own = {"inception": "", "inception-legacy": "_legacy"}.get(extractor, f"_{extractor}")
    distance = "fid" if extractor.startswith("inception") else "fd"
    return {
        "fd": f"{distance}{own}{suffix}",
        "is": f"is{own}{suffix}",
        "accuracy": f"accuracy{own}{suffix}",
    }


def evaluate(
    samples: Features,
    reference: Reference,
    *,
    extractor: Extractor,
    n: int,
    labels: NDArray[np.integer] | None = None,
    extra_provenance: dict[str, Any] | None = None,
) -> dict[str, Value]:
    """Return Fréchet distance, Inception Score and, for labelled samples, accuracy.

    Args:
        samples: features of exactly ``n`` samples, by the reference's extractor.
        reference: what the samples are compared with.
        extractor: the network that both came from.
        n: number of samples, part of the metrics' names.
        labels: the classes that were asked for, (n,); the accuracy is left out where the
            extractor does not tell this data set's classes.
        extra_provenance: further facts to keep with each value.
    """
    if len(samples) != n:
        raise ValueError(f"{len(samples)} samples given, {n} named")
    if reference.extractor_sha256 != extractor.sha256:
        raise ValueError("samples and reference come from different extractors")
    names = metric_names(extractor.name, n)
    provenance = _provenance(reference, extractor, n) | (extra_provenance or {})
    distance = frechet_to_features(samples.features, reference.mu, reference.sigma)
    values = {names["fd"]: Value(value=distance, provenance=provenance)}
    splits = min(SPLITS, n)
    score, spread = inception_score(samples.probabilities, splits)
    values[names["is"]] = Value(
        value=score, spread=spread, provenance=provenance | {"splits": splits}
    )
    if labels is not None and extractor.classifies == reference.dataset:
        right = accuracy(samples.probabilities, labels)
        values[names["accuracy"]] = Value(value=right, provenance=provenance)
    return values


def anchors(
    dataset: Dataset, extractor: Extractor, reference: Reference, n: int, *, batch: int = BATCH
) -> dict[str, dict[str, Value]]:
    """Return the metrics of two yardsticks, computed as those of samples are.

    ``noise`` is n images of N(0, 1) noise, clipped and quantised like samples; ``real (held-out)``
    is the first n images of a fixed random order of the held-out split, and is left out where
    there are fewer than n of them.
    """
    noise = extract(extractor, noise_images(n, dataset.shape), batch=batch)
    rows = {NOISE: evaluate(noise, reference, extractor=extractor, n=n)}
    held_out = dataset.test
    if held_out is None or len(held_out) < n:
        return rows
    chosen = np.sort(permutation(len(held_out))[:n])
    real = extract(extractor, held_out.images[chosen], batch=batch)
    labels = None if held_out.labels is None else held_out.labels[chosen]
    rows[HELD_OUT] = evaluate(real, reference, extractor=extractor, n=n, labels=labels)
    return rows


def noise_images(n: int, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Return n uint8 images of clipped standard normal noise, always the same."""
    import torch

    from bench.data.dataset import to_uint8

    noise = np.random.RandomState(_NOISE_SEED).standard_normal((n, *shape))
    return cast("NDArray[np.uint8]", to_uint8(torch.from_numpy(noise)).numpy())


def _provenance(reference: Reference, extractor: Extractor, n: int) -> dict[str, Any]:
    return {
        "protocol": PROTOCOL,
        "n": n,
        "reference_split": reference.split,
        "reference_n": reference.n,
        "data": reference.variant,
        "data_sha256": reference.data_sha256,
        "extractor": extractor.name,
        "extractor_sha256": extractor.sha256,
        "resize": extractor.resize,
        "quantisation": QUANTISATION,
    }


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


def _compute_moments(
    dataset: Dataset, extractor: Extractor, count: int, batch: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    images: Images = dataset.train.images
    if count < len(images):
        images = images[np.sort(permutation(len(images))[:count])]
    total: Moments | None = None
    for features, _ in _batches(extractor, images, batch):
        total = total or Moments(features.shape[1])
        total.update(features)
    if total is None:
        raise ValueError("no images to compute a reference from")
    return total.mean, total.covariance


def _read_moments(path: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    try:
        # Opened here, since numpy leaves a file that it cannot read open.
        with path.open("rb") as file, np.load(file) as stored:
            return stored["mu"], stored["sigma"]
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        return None
