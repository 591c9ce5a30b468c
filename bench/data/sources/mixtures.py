"""Points of two Gaussian mixtures in the plane, whose density and scores are known exactly.

The points are drawn with numpy's legacy generator, whose stream alone is promised never to change
(NEP 19), and without linear algebra routines, so that two machines draw the same points.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from bench.data.catalogue import KNOWN
from bench.data.dataset import Dataset, Split
from methods import mixtures
from methods.mixtures import GaussianMixture

_TRAIN_SEED, _TEST_SEED = 20_200_626, 20_200_627


def truth(name: str) -> GaussianMixture:
    """Return the exact density of ``gmm2d`` or ``moons``, in float64."""
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
    """Draw n points of a mixture, float32 (n, d, 1, 1), and their classes, int64 (n,)."""
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
    """Return the lower factors of matrices (K, d, d)."""
    factors = np.zeros_like(covariances)
    for row in range(covariances.shape[1]):
        for column in range(row + 1):
            rest = covariances[:, row, column].copy()
            for done in range(column):
                rest -= factors[:, row, done] * factors[:, column, done]
            diagonal = factors[:, column, column]
            factors[:, row, column] = np.sqrt(rest) if row == column else rest / diagonal
    return factors
