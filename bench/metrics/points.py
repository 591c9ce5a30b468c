"""Metrics of points whose density is a known Gaussian mixture, which is their extractor, too.

The extractor's features are the coordinates and its probabilities the exact posterior of the
class, so that every metric of images works on points unchanged: the Fréchet distance compares
means and covariances, the Inception Score and the accuracy use the best classifier there is.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

from bench.data.sources.digits_and_mixtures import draw
from bench.records import Value
from methods.mixtures import GaussianMixture

PROJECTIONS = 128
"""Directions of the sliced distance, evenly spaced over the half circle."""
SHARE = 0.25
"""A component is found if at least this share of its expected mass lies within it."""
RADIUS = 3.0
"""A point lies within a component up to this many of its standard deviations (Mahalanobis)."""

_REFERENCE_SEED = 20_200_628


def hash_of(truth: GaussianMixture) -> str:
    """Hash a mixture's parameters, rounded to nine decimals: machines differ in the last bits."""
    digest = hashlib.sha256(b"scorebench mixture 1")
    for name in ("weights", "means", "covariances", "labels"):
        values = getattr(truth, name).double().cpu().numpy()
        # Adding zero makes a rounded -0.0 the same as 0.0.
        text = " ".join(f"{value:.9f}" for value in values.round(9).ravel() + 0.0)
        digest.update(f"{name} {values.shape} {text}".encode())
    return digest.hexdigest()


def evaluate(samples: NDArray[np.floating], truth: GaussianMixture) -> dict[str, Value]:
    """Return ``sw2`` and ``modes`` of points (n, d).

    ``sw2`` is measured against as many points, drawn from the density with a fixed seed that no
    split of the data has.
    """
    real = draw(truth, len(samples), _REFERENCE_SEED)[0].reshape(len(samples), -1)
    against = {"reference_split": "truth", "reference_n": len(samples), "projections": PROJECTIONS}
    within = {"components": len(truth.weights), "share": SHARE, "radius": RADIUS}
    distance, found = sliced_wasserstein(samples, real), modes_found(samples, truth)
    return {
        "sw2": Value(value=distance, provenance=against),
        "modes": Value(value=found, provenance=within),
    }


def sliced_wasserstein(one: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    """Return the sliced Wasserstein-2 distance of two sets of n points of the plane, (n, 2).

    The root of the mean over directions of the squared distance of the projections, which in one
    dimension pairs the points in their order; in the data's units. A shift by m gives |m| / sqrt 2,
    exactly, for evenly spaced directions.
    Source: Rabin et al. 2011; Bonneel et al. 2015.
    """
    if one.shape != other.shape or one.shape[1] != 2:
        raise ValueError(f"two sets of as many points (n, 2), not {one.shape} and {other.shape}")
    angles = np.pi * (np.arange(PROJECTIONS) + 0.5) / PROJECTIONS
    directions = np.stack([np.cos(angles), np.sin(angles)])
    ordered = [np.sort(points.astype(np.float64) @ directions, axis=0) for points in (one, other)]
    return float(np.sqrt(((ordered[0] - ordered[1]) ** 2).mean()))


def modes_found(samples: NDArray[np.floating], truth: GaussianMixture) -> float:
    """Return the fraction of components that hold ``SHARE`` of their expected mass, 0 to 1.

    A point counts for each component by its responsibility p(k | x), and only within ``RADIUS``
    of it; under the density itself a component of weight w holds w (1 - exp(-RADIUS^2 / 2)).
    """
    weights, means, covariances = (
        value.double().cpu().numpy() for value in (truth.weights, truth.means, truth.covariances)
    )
    centred = samples.astype(np.float64)[:, None] - means
    pulled = np.einsum("nkd,kde->nke", centred, np.linalg.inv(covariances))
    distances = (pulled * centred).sum(axis=2)  # Squared Mahalanobis distances, (n, K).
    log_joint = np.log(weights) - 0.5 * (distances + np.linalg.slogdet(covariances)[1])
    log_total = np.logaddexp.reduce(log_joint, axis=1, keepdims=True)
    held = (np.exp(log_joint - log_total) * (distances <= RADIUS**2)).mean(axis=0)
    expected = weights * (1 - np.exp(-(RADIUS**2) / 2))
    return float((held >= SHARE * expected).mean())
