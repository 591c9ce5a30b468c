"""The Fréchet distance of features, with its jackknife, in float64."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Vectors = NDArray[np.floating]
"""Features (N, d), in memory or mapped from a file."""
Rows = NDArray[np.int64]

BLOCKS = 20
"""Blocks of samples that the jackknife leaves out in turn."""
LEAST_OF_A_BLOCK = 2
"""Samples of a block without which there is no jackknife."""

_ORDER_SEED = 20_160_610


def permutation(count: int, seed: int = _ORDER_SEED) -> Rows:
    """Return a fixed random order of ``count`` things, the same under every version of numpy.

    The legacy generator is used because its stream alone is promised never to change (NEP 19).
    """
    return np.random.RandomState(seed).permutation(count).astype(np.int64)


class Moments:
    """Mean and covariance of vectors that arrive in batches (Chan et al. 1983)."""

    def __init__(self, dimension: int) -> None:
        """Start empty, for vectors of length ``dimension``."""
        self.count = 0
        self.mean: Array = np.zeros(dimension)
        self._scatter: Array = np.zeros((dimension, dimension))

    def update(self, vectors: Vectors) -> None:
        """Add vectors (B, d)."""
        batch = vectors.astype(np.float64)
        size = len(batch)
        if size == 0:
            return
        mean = batch.mean(axis=0)
        centred = batch - mean
        step = mean - self.mean
        total = self.count + size
        self._scatter += centred.T @ centred
        self._scatter += np.outer(step, step) * (self.count * size / total)
        self.mean = self.mean + step * (size / total)
        self.count = total

    def without(self, part: "Moments") -> "Moments":
        """Return the moments of what is left when the vectors of ``part`` are taken out."""
        rest = Moments(len(self.mean))
        rest.count = self.count - part.count
        rest.mean = (self.count * self.mean - part.count * part.mean) / rest.count
        step = part.mean - rest.mean
        rest._scatter = self._scatter - part._scatter
        rest._scatter -= np.outer(step, step) * (part.count * rest.count / self.count)
        return rest

    @property
    def covariance(self) -> Array:
        """The unbiased covariance (divided by count - 1), (d, d), as ``numpy.cov`` gives it."""
        if self.count <= 1:
            raise ValueError(f"a covariance needs two vectors or more, not {self.count}")
        return self._scatter / (self.count - 1)


def moments(vectors: Vectors, block: int = 10_000) -> Moments:
    """Return the moments of vectors (N, d), accumulated in blocks."""
    result = Moments(vectors.shape[1])
    for start in range(0, len(vectors), block):
        result.update(vectors[start : start + block])
    return result


def frechet_distance(mu1: Array, sigma1: Array, mu2: Array, sigma2: Array) -> float:
    """Return the squared Fréchet distance of two Gaussians given by mean and covariance.

    |mu1 - mu2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2). The last trace is the sum of the roots of
    the eigenvalues of A' S2 A with S1 = A A', which is symmetric, so that no eigenvalue turns
    complex and no epsilon is needed; what rounding makes negative is clipped to zero.
    Source: Heusel et al. 2017, equation 6; Dowson and Landau 1982.
    """
    factor = _factor(sigma1)
    return _combine(mu1 - mu2, sigma1, sigma2, factor.T @ sigma2 @ factor)


def _factor(sigma: Array) -> Array:
    """Return A with A A' = sigma: Cholesky's, or of eigenvectors where sigma is singular."""
    try:
        return np.asarray(np.linalg.cholesky(sigma), np.float64)
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(sigma)
        return np.asarray(vectors * np.sqrt(values.clip(min=0)), np.float64)


def frechet_to_features(features: Vectors, mu: Array, sigma: Array) -> float:
    """Return the squared Fréchet distance of features (N, d) to a Gaussian (mu, sigma).

    The covariance of fewer than d features has the rank N - 1 at most; then the eigenvalues are
    taken of the N x N matrix X S X' / (N - 1), X the centred features, which are the same.
    """
    count, dimension = features.shape
    own = moments(features)
    if count >= dimension:
        return frechet_distance(own.mean, own.covariance, mu, sigma)
    centred = features.astype(np.float64) - own.mean
    gram = centred @ sigma @ centred.T / (count - 1)
    return _combine(own.mean - mu, own.covariance, sigma, gram)


def frechet_jackknife(features: Vectors, mu: Array, sigma: Array) -> tuple[float, float]:
    """Return the standard error of ``frechet_to_features`` and its value less the term in 1/N.

    With T the distance of all N features and T_i that without block i of g, the samples in a fixed
    random order, and m the mean of T_i: error = sqrt((g - 1)/g sum (T_i - m)^2), corrected =
    g T - (g - 1) m.
    The reference (mu, sigma) counts as exact: its error is common to all that is compared with it.
    The corrected value estimates the distance of infinitely many samples and may be negative.
    A bootstrap would add the term in 1/N once more instead of removing it.
    ValueError for fewer than two samples a block.
    Source: Quenouille 1956; Shao and Tu 1995, sections 1.2 and 2.3.
    """
    if len(features) < BLOCKS * LEAST_OF_A_BLOCK:
        raise ValueError(f"{len(features)} samples do not fill {BLOCKS} blocks")
    parts = np.array_split(permutation(len(features)), BLOCKS)
    are_few = len(features) - len(parts[0]) < features.shape[1]
    distance = (_without_by_gram if are_few else _without_by_moments)(features, mu, sigma)
    whole, rest = distance(np.zeros(0, np.int64)), np.array([distance(part) for part in parts])
    centre = rest.mean()
    error = np.sqrt((BLOCKS - 1) / BLOCKS * ((rest - centre) ** 2).sum())
    return float(error), float(BLOCKS * whole - (BLOCKS - 1) * centre)


def _without_by_moments(features: Vectors, mu: Array, sigma: Array) -> Callable[[Rows], float]:
    """Return what gives the distance of all features but some rows, by covariances."""
    factor, total = _factor(sigma), moments(features)

    def distance(part: Rows) -> float:
        rest = total.without(moments(features[part])) if len(part) else total
        own = rest.covariance
        return _combine(rest.mean - mu, own, sigma, factor.T @ own @ factor)

    return distance


def _without_by_gram(features: Vectors, mu: Array, sigma: Array) -> Callable[[Rows], float]:
    """The same of fewer features than dimensions: parts of one N x N matrix, centred anew."""
    mean = features.mean(axis=0, dtype=np.float64)
    centred = features.astype(np.float64) - mean
    gram, squares = centred @ sigma @ centred.T, (centred**2).sum(axis=1)

    def distance(part: Rows) -> float:
        kept = np.setdiff1d(np.arange(len(features)), part)
        shift = -centred[part].sum(axis=0) / len(kept)
        trace = (squares[kept].sum() - len(kept) * (shift @ shift)) / (len(kept) - 1)
        own = gram[np.ix_(kept, kept)]
        own = own - own.mean(axis=0) - own.mean(axis=1, keepdims=True) + own.mean()
        return _distance(mean + shift - mu, trace, np.trace(sigma), own / (len(kept) - 1))

    return distance


def frechet_between(one: Vectors, other: Vectors) -> float:
    """Return the squared Fréchet distance of features (N, d) and (M, d), two rows or more each.

    With the centred features X and Y, tr (S1 S2)^(1/2) is the sum of the singular values of
    X Y' / sqrt((N - 1)(M - 1)), which is taken where one side has fewer than d rows: exact at any
    rank, and no root of a rounding error is added.
    """
    if min(len(one), len(other)) >= one.shape[1]:
        first, second = moments(one), moments(other)
        return frechet_distance(first.mean, first.covariance, second.mean, second.covariance)
    means = [vectors.mean(axis=0, dtype=np.float64) for vectors in (one, other)]
    x, y = one - means[0], other - means[1]
    roots = np.linalg.svd(x @ y.T, compute_uv=False)
    overlap = roots.sum() / np.sqrt((len(x) - 1) * (len(y) - 1))
    difference = means[0] - means[1]
    # No more of the covariances than their traces is needed.
    traces = (x**2).sum() / (len(x) - 1) + (y**2).sum() / (len(y) - 1)
    return max(0.0, float(difference @ difference + traces - 2 * overlap))


def _combine(difference: Array, sigma1: Array, sigma2: Array, product: Array) -> float:
    return _distance(difference, np.trace(sigma1), np.trace(sigma2), product)


def _distance(difference: Array, trace1: float, trace2: float, product: Array) -> float:
    # The symmetric part only: rounding leaves a product's two halves unequal.
    eigenvalues = np.linalg.eigvalsh((product + product.T) / 2)
    root_trace = np.sqrt(eigenvalues.clip(min=0)).sum()
    distance = difference @ difference + trace1 + trace2 - 2 * root_trace
    return max(0.0, float(distance))
