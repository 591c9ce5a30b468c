"""Points of mixtures with a known density: the data, their metrics and their pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from bench import data
from bench.data import mixtures
from bench.data.dataset import Dataset
from bench.errors import UserError

SHA256 = {
    "gmm2d": "84c4ebb6c6f3d2fa0948dd28c414b49c00eed1591e37568047edcc9cef4f045a",
    "moons": "4f4a0a4a024e594f552a7f396644f1631f6fcf06c922b140e4d46618d0e3b473",
}
NAMES = tuple(SHA256)


@pytest.fixture(scope="module", params=NAMES)
def points(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return data.load(request.param, cache=tmp_path_factory.mktemp("cache"))


# Data


def test_points_are_floats_with_their_density(points: Dataset) -> None:
    assert points.is_points
    assert points.truth is not None
    assert points.test is not None
    assert points.shape == (2, 1, 1)
    assert points.train.images.shape == (20_000, 2, 1, 1)
    assert points.test.images.shape == (10_000, 2, 1, 1)
    assert points.train.images.dtype == np.float32
    assert points.train.labels is not None
    assert points.train.labels.dtype == np.int64
    assert points.truth.classes == len(points.classes)
    assert (np.abs(points.train.images) > 1).any(axis=1).mean() < 0.005


def test_points_never_change(points: Dataset) -> None:
    # The numbers of any two users compare only while these hashes stay.
    assert points.sha256 == SHA256[points.name]


def test_points_follow_their_density(points: Dataset) -> None:
    """Each component's mean, covariance and share within five standard errors."""
    truth = points.truth
    assert truth is not None
    n = 200_000
    drawn, labels = mixtures.draw(truth, n, seed=0)
    flat = drawn.reshape(n, 2).astype(np.float64)
    mean, covariance = truth.mean.numpy(), truth.covariance.numpy()
    error = np.sqrt(np.diag(covariance) / n)
    assert (np.abs(flat.mean(axis=0) - mean) < 5 * error).all()
    np.testing.assert_allclose(np.cov(flat.T), covariance, atol=5 * covariance.max() * 1.5 / n**0.5)
    shares = truth.class_weights.numpy()
    assert (np.abs(np.bincount(labels) / n - shares) < 5 * np.sqrt(shares / n)).all()
    # The exact posterior of the class that was drawn has, on average, the entropy of the posterior.
    posterior = truth.class_log_posterior(torch.from_numpy(flat))
    surprise = -posterior[torch.arange(n), torch.from_numpy(labels)]
    entropy = -(posterior.exp() * posterior.clamp(min=-1e3)).sum(1)
    difference = surprise - entropy
    assert abs(float(difference.mean())) < 5 * float(difference.std()) / n**0.5


def test_drawing_leaves_global_generators_alone(points: Dataset) -> None:
    assert points.truth is not None
    np.random.seed(3)
    before = np.random.get_state()[1].copy()
    first = mixtures.draw(points.truth, 10, seed=1)[0]
    assert (np.random.get_state()[1] == before).all()
    assert (mixtures.draw(points.truth, 10, seed=1)[0] == first).all()
    assert (mixtures.draw(points.truth, 10, seed=2)[0] != first).any()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["folder", "file"])
def test_points_are_read_from_nowhere(tmp_path: Path, name: str, kind: str) -> None:
    path = tmp_path / "own.zip"
    path.mkdir() if kind == "folder" else path.write_bytes(b"")
    with pytest.raises(UserError, match=f"'{name}' is drawn from a closed form") as caught:
        data.load(name, path=path, cache=tmp_path)
    assert "\n" not in str(caught.value)
