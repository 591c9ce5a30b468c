"""Data sets that need no file: scikit-learn's digits, and points of two Gaussian mixtures.

The digits, 1797 images of 8x8 grey pixels, come without a split, so we fix one: 1297 to train on
and 500 held out, each class in proportion to its size. An image is held out by the SHA-256 of its
own pixels, so that the split depends neither on the version of numpy and scikit-learn nor on the
order of the images. The mixtures' density and scores are known exactly. Points are drawn with
numpy's legacy generator, whose stream alone is promised never to change (NEP 19), and without
linear algebra routines, so that two machines draw the same points.
"""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bench.data.catalogue import KNOWN
from bench.data.dataset import Dataset, Split

if TYPE_CHECKING:
    from methods.mixtures import GaussianMixture

_BRIGHTEST = 16
"""The digits' largest grey value, which becomes 255."""
_TRAIN_SEED, _TEST_SEED = 20_200_626, 20_200_627


def load_digits() -> Dataset:
    """Return the digits, 0..16 scaled to 0..255, in scikit-learn's order within each split."""
    spec = find_spec("sklearn")
    assert spec is not None
    assert spec.origin is not None
    # The table that ``sklearn.datasets.load_digits`` reads: to import that takes over a second.
    table = Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz"
    rows = np.loadtxt(table, delimiter=",", dtype=np.int64)
    grey, labels = rows[:, :-1].reshape(-1, 1, 8, 8), rows[:, -1]
    images = ((grey * 255 + _BRIGHTEST // 2) // _BRIGHTEST).astype(np.uint8)
    held_out = choose_held_out(images, labels, KNOWN["digits"].test)
    train = Split(images[~held_out], labels[~held_out])
    test = Split(images[held_out], labels[held_out])
    source = "scikit-learn's load_digits, split by hash into 1297 + 500"
    return Dataset.of_known("digits", train, test, source)


def choose_held_out(
    images: NDArray[np.uint8], labels: NDArray[np.int64], count: int
) -> NDArray[np.bool_]:
    """Mark ``count`` images, each class in proportion, those whose pixels hash lowest."""
    quotas, remainders = np.divmod(np.bincount(labels) * count, len(labels))
    # The largest remainders are rounded up.
    quotas[np.argsort(-remainders, kind="stable")[: count - quotas.sum()]] += 1
    chosen = np.zeros(len(images), dtype=np.bool_)
    keys = [hashlib.sha256(b"scorebench split 1" + image.tobytes()).digest() for image in images]
    for label, quota in enumerate(quotas):
        members = np.flatnonzero(labels == label).tolist()
        chosen[sorted(members, key=lambda index: (keys[index], index))[:quota]] = True
    return chosen


def truth(name: str) -> GaussianMixture:
    """Return the exact density of ``gmm2d`` or ``moons``, in float64."""
    import torch

    from methods import mixtures

    made = {"gmm2d": mixtures.gmm2d, "moons": mixtures.moons}[name]()
    return made.to(dtype=torch.float64)


def load_mixture(name: str) -> Dataset:
    """Draw a training and a held-out split, always the same, and keep the density with them."""
    known, density = KNOWN[name], truth(name)
    train = Split(*draw(density, known.train, _TRAIN_SEED))
    test = Split(*draw(density, known.test, _TEST_SEED))
    source = f"{known.source}, seeds {_TRAIN_SEED} and {_TEST_SEED}"
    return Dataset.of_known(name, train, test, source, truth=density)


def draw(
    density: GaussianMixture, n: int, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Draw n points of a mixture, float32 (n, 2, 1, 1), and their classes, int64 (n,)."""
    random = np.random.RandomState(seed)
    shares = np.cumsum(density.weights.double().numpy())
    chosen = np.searchsorted(shares / shares[-1], random.uniform(size=n), side="right")
    factors = _cholesky(density.covariances.double().numpy())[chosen]
    normal = random.standard_normal((n, density.dim))
    points = density.means.double().numpy()[chosen]
    for column in range(density.dim):
        # Sums in a fixed order: a matrix product's rounding differs between libraries.
        points = points + factors[:, :, column] * normal[:, column, None]
    labels = density.labels.numpy()[chosen].astype(np.int64)
    return points.astype(np.float32)[:, :, None, None], labels


def _cholesky(covariances: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the lower factors of matrices (K, 2, 2)."""
    factors = np.zeros_like(covariances)
    factors[:, 0, 0] = np.sqrt(covariances[:, 0, 0])
    slope = factors[:, 1, 0] = covariances[:, 1, 0] / factors[:, 0, 0]
    factors[:, 1, 1] = np.sqrt(covariances[:, 1, 1] - slope * slope)
    return factors
