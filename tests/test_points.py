"""Points of mixtures with a known density: the data, their metrics and their pictures."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.optimize import linear_sum_assignment
from scipy.stats import multivariate_normal

from bench import data, metrics
from bench.config.errors import UserError
from bench.data.dataset import Dataset
from bench.data.sources import digits_and_mixtures
from bench.metrics import extractors
from bench.metrics.anchors import noise_like
from bench.metrics.points import PROJECTIONS, hash_of, modes_found, sliced_wasserstein
from bench.records import REAL
from bench.records.grid import PALETTE, SIDE, WINDOW, scatter_image, write_grid
from bench.report.plots.samples import LOOK
from bench.report.plots.write import write_plots
from bench.report.study_report import StudyReport
from bench.worker.held_out import keep_held_out
from methods.mixtures import GaussianMixture, ring
from tests.fake_study import write_study

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


@pytest.mark.slow
def test_points_follow_their_density(points: Dataset) -> None:
    """Each component's mean, covariance and share within five standard errors."""
    truth = points.truth
    assert truth is not None
    n = 200_000
    drawn, labels = digits_and_mixtures.draw(truth, n, seed=0)
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
    first = digits_and_mixtures.draw(points.truth, 10, seed=1)[0]
    assert (np.random.get_state()[1] == before).all()
    assert (digits_and_mixtures.draw(points.truth, 10, seed=1)[0] == first).all()
    assert (digits_and_mixtures.draw(points.truth, 10, seed=2)[0] != first).any()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["folder", "file"])
def test_points_are_read_from_nowhere(tmp_path: Path, name: str, kind: str) -> None:
    path = tmp_path / "own.zip"
    path.mkdir() if kind == "folder" else path.write_bytes(b"")
    with pytest.raises(UserError, match=f"'{name}' is drawn from a closed form") as caught:
        data.load(name, path=path, cache=tmp_path)
    assert "\n" not in str(caught.value)


# Extractors


@pytest.fixture(scope="module")
def extractor(points: Dataset, tmp_path_factory: pytest.TempPathFactory) -> extractors.Extractor:
    cache = tmp_path_factory.mktemp("cache")
    return extractors.load(points.name, device="cpu", cache=cache)


def test_extractor_is_the_exact_posterior(points: Dataset, extractor: extractors.Extractor) -> None:
    assert points.truth is not None
    given = points.train.images[:300]
    seen = metrics.extract(extractor, given, batch=128)
    assert (seen.features == given.reshape(300, 2)).all()
    assert seen.features.dtype == seen.probabilities.dtype == np.float32
    # Bayes' rule by scipy's densities, which share no code with ours.
    truth = points.truth
    joint = np.zeros((300, truth.classes))
    for weight, mean, covariance, label in zip(
        truth.weights, truth.means, truth.covariances, truth.labels, strict=True
    ):
        density = multivariate_normal(mean.numpy(), covariance.numpy()).pdf(seen.features)
        joint[:, label] += float(weight) * density
    expected = joint / joint.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(seen.probabilities, expected, atol=1e-6)


def test_extractor_takes_points_alone(extractor: extractors.Extractor, tmp_path: Path) -> None:
    assert extractor.sha256 == extractors.SHA256[extractor.name]
    with pytest.raises(ValueError, match="must be float32"):
        extractor(torch.zeros(3, 2, 1, 1, dtype=torch.uint8))
    with pytest.raises(UserError, match="takes points, 2x1x1, not 1x8x8"):
        extractor(torch.zeros(3, 1, 8, 8))
    images = extractors.load("digits", device="cpu", cache=tmp_path)
    with pytest.raises(UserError, match="takes images, not points"):
        images(torch.zeros(3, 2, 1, 1))
    given = {extractor.name: tmp_path / "x"}
    with pytest.raises(UserError, match="has no weights"):
        extractors.load(extractor.name, device="cpu", weights=given, cache=tmp_path)


def test_another_mixture_is_another_extractor(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    truth = digits_and_mixtures.truth("gmm2d")
    changed = dataclasses.replace(truth, means=truth.means + 1e-6)
    monkeypatch.setattr(digits_and_mixtures, "truth", lambda name: changed)
    with pytest.raises(UserError, match="parameters have sha256") as caught:
        extractors.load("gmm2d", device="cpu", cache=tmp_path)
    assert extractors.SHA256["gmm2d"] in str(caught.value)
    rounded = dataclasses.replace(truth, means=truth.means + 1e-14)
    assert hash_of(rounded) == extractors.SHA256["gmm2d"]


# Sliced Wasserstein


def test_sliced_distance_of_a_shift() -> None:
    one = np.random.default_rng(0).normal(size=(500, 2))
    for shift in ([0.3, 0.0], [0.1, -0.4]):
        expected = np.linalg.norm(shift) / np.sqrt(2)
        assert sliced_wasserstein(one, one + shift) == pytest.approx(expected, rel=1e-12)
    # Order pairs the points, so theirs in the arrays must not matter.
    assert sliced_wasserstein(one, one[::-1]) == pytest.approx(0, abs=1e-12)


def test_sliced_distance_of_a_scale() -> None:
    """Each projection of s x lies (s - 1) times its own length from x: known without limits."""
    one = np.random.default_rng(0).normal(size=(500, 2))
    expected = 0.5 * np.sqrt((one**2).sum(axis=1).mean() / 2)
    assert sliced_wasserstein(one, 1.5 * one) == pytest.approx(expected, rel=1e-12)


def test_sliced_distance_of_two_gaussians() -> None:
    """In the plane, W2 of N(0, s^2 I) and N(0, t^2 I) projected is |s - t| in every direction."""
    random = np.random.default_rng(1)
    one, other = random.normal(size=(2, 40_000, 2))
    assert sliced_wasserstein(one, 0.6 * other) == pytest.approx(0.4, abs=0.015)


def test_sliced_distance_agrees_with_scipy() -> None:
    random = np.random.default_rng(2)
    one, other = random.normal(size=(60, 2)), random.uniform(size=(60, 2))
    squares = []
    for angle in np.pi * (np.arange(PROJECTIONS) + 0.5) / PROJECTIONS:
        projected = [x @ [np.cos(angle), np.sin(angle)] for x in (one, other)]
        cost = (projected[0][:, None] - projected[1]) ** 2
        squares.append(cost[linear_sum_assignment(cost)].mean())
    assert sliced_wasserstein(one, other) == pytest.approx(np.sqrt(np.mean(squares)), rel=1e-10)


def test_sliced_distance_needs_as_many_points() -> None:
    with pytest.raises(ValueError, match="as many points"):
        sliced_wasserstein(np.zeros((3, 2)), np.zeros((4, 2)))


# Modes


@pytest.mark.slow
def test_modes_drop_with_what_is_left_out(points: Dataset) -> None:
    truth = points.truth
    assert truth is not None
    count = len(truth.weights)
    generator = torch.Generator().manual_seed(0)
    component = torch.multinomial(truth.weights, 20_000, replacement=True, generator=generator)
    factors = torch.linalg.cholesky(truth.covariances)[component]
    noise = torch.randn(20_000, 2, dtype=torch.float64, generator=generator)
    drawn = truth.means[component] + (factors @ noise[..., None])[..., 0]
    assert modes_found(drawn.numpy(), truth) == 1
    if points.name == "gmm2d":  # the arcs' components overlap, so neighbours fill a gap
        for left_out in range(count):
            without = drawn[component != left_out].numpy()
            assert modes_found(without, truth) == pytest.approx(1 - 1 / count)
    upper = drawn[truth.labels[component] == 0].numpy()
    share = float((truth.labels == 0).double().mean())
    assert modes_found(upper, truth) == pytest.approx(share, abs=0.1)
    assert modes_found(drawn.numpy() + 10, truth) == 0


def test_a_mode_needs_a_quarter_of_its_mass() -> None:
    truth = ring(modes=4, radius=1.0, std=0.01)
    counts = {0: 100, 1: 100, 2: 26, 3: 24}
    x = np.concatenate([np.tile(truth.means[k].numpy(), (n, 1)) for k, n in counts.items()])
    # All 250 points lie at centres: the expected 0.25 x 0.989 is held by 62 of them, a quarter 15.
    assert modes_found(x, truth) == 1
    few = np.concatenate([x[:200], x[200:216], x[226:240]])  # 230 points, 16 and 14; 14.2 needed
    assert modes_found(few, truth) == 0.75


def test_points_far_from_a_mode_do_not_find_it() -> None:
    truth = ring(modes=4, radius=1.0, std=0.01)
    for radii, expected in ((2.9, 1.0), (3.1, 0.0)):
        x = truth.means.numpy() + np.array([0.0, radii * 0.01])
        assert modes_found(x, truth) == expected


def test_points_count_for_the_component_they_came_from() -> None:
    """A narrow Gaussian in a wide one, of half the weight each, at one place."""
    eye = torch.eye(2, dtype=torch.float64)
    half, zero = torch.tensor([0.5, 0.5]).double(), torch.zeros(2, 2, dtype=torch.float64)
    truth = GaussianMixture(half, zero, torch.stack([eye, 0.01 * eye]), torch.tensor([0, 1]))
    x = np.random.default_rng(0).normal(size=(2, 500, 2))
    assert modes_found(np.concatenate([x[0], 0.1 * x[1]]), truth) == 1
    assert modes_found(0.1 * x[1], truth) == 0.5
    assert modes_found(x[0], truth) == 0.5


def test_heavy_components_take_their_share() -> None:
    """Two alike at one place, 49 to 1, share what lies there so; 20 % there is enough for both."""
    eye = 0.01 * torch.eye(2, dtype=torch.float64).repeat(3, 1, 1)
    means = torch.tensor([[0.0, 0.0], [0.0, 0.0], [5.0, 0.0]]).double()
    truth = GaussianMixture(
        torch.tensor([0.49, 0.01, 0.5]).double(), means, eye, torch.tensor([0, 0, 1])
    )
    x = means.numpy()[np.repeat([0, 2], [20, 80])]
    assert modes_found(x, truth) == 1


# Evaluation


@pytest.fixture(scope="module")
def reference(
    points: Dataset, extractor: extractors.Extractor, tmp_path_factory: pytest.TempPathFactory
) -> metrics.Reference:
    return metrics.reference(points, extractor, cache=tmp_path_factory.mktemp("cache"))


@pytest.mark.slow
def test_metrics_of_points(
    points: Dataset, extractor: extractors.Extractor, reference: metrics.Reference
) -> None:
    assert points.test is not None
    samples = metrics.extract(extractor, points.test.images[:2000])
    labels = points.test.labels[:2000]
    values = metrics.evaluate(samples, reference, extractor=extractor, n=2000, labels=labels)
    families = {*metrics.BY_DEFAULT} - {"cas"}  # That one takes a training.
    assert set(values) == {f"{family}_{points.name}_2k" for family in families}
    for value in values.values():
        assert value.provenance["quantisation"] == "none: float32 points"
        assert value.provenance["extractor_sha256"] == extractor.sha256
    # Two real draws of 2,000 differ by chance alone; a shift of a tenth stands out.
    sw2 = f"sw2_{points.name}_2k"
    assert 0 < values[sw2].value < 0.05
    shifted = dataclasses.replace(samples, features=samples.features + np.float32(0.3))
    moved = metrics.evaluate(shifted, reference, extractor=extractor, n=2000)
    assert moved[sw2].value == pytest.approx(0.3, abs=values[sw2].value)
    assert values[sw2].provenance["reference_split"] == "truth"
    assert values[f"modes_{points.name}_2k"].value == 1
    again = metrics.evaluate(samples, reference, extractor=extractor, n=2000, labels=labels)
    assert again == values


def test_distance_of_points_is_between_their_moments(
    points: Dataset, extractor: extractors.Extractor, reference: metrics.Reference
) -> None:
    assert points.truth is not None
    np.testing.assert_allclose(reference.mu, points.truth.mean, atol=0.02)
    np.testing.assert_allclose(reference.sigma, points.truth.covariance, atol=0.01)
    shift = np.float32([[0.3, -0.4]])
    given = points.train.images.reshape(-1, 2) + shift
    samples = metrics.extract(extractor, given[:, :, None, None], batch=4096)
    values = metrics.evaluate(samples, reference, extractor=extractor, n=20_000, families=("fd",))
    assert values[f"fd_{points.name}_20k"].value == pytest.approx(0.25, rel=1e-4)


@pytest.mark.slow
def test_anchors_of_points(
    points: Dataset, extractor: extractors.Extractor, reference: metrics.Reference
) -> None:
    rows = metrics.measure_anchors(metrics.Evaluator(points, [(extractor, reference)], 128), 1000)
    noise, real = rows[metrics.NOISE], rows[metrics.HELD_OUT]
    for family in ("fd", "sw2"):
        name = f"{family}_{points.name}_1k"
        assert noise[name].value > 10 * real[name].value
    assert real[f"modes_{points.name}_1k"].value == 1
    noisy = noise_like(points, 1000)
    # A sampler's own noise: neither clipped nor quantised.
    assert noisy.dtype == np.float32
    assert np.abs(noisy).max() > 2.5
    assert len(np.unique(noisy)) > 1990


# Pictures


def one_point(x: float, y: float) -> np.ndarray:
    return np.array([[x, y]], np.float32)[:, :, None, None]


def colour(number: int) -> list[int]:
    return [int(PALETTE[number][start : start + 2], 16) for start in (1, 3, 5)]


@pytest.mark.parametrize(("x", "y"), [(0.5, 0.7), (-0.3, 0.6), (0.9, -0.8)])
def test_a_point_is_drawn_where_it_lies(x: float, y: float) -> None:
    picture = scatter_image(one_point(x, y), np.array([1]))
    assert picture.shape == (SIDE, SIDE, 3)
    rows, columns = np.nonzero((picture == colour(1)).all(axis=2))
    middle = (np.array([columns.mean(), rows.mean()]) + 0.5) / SIDE * 2 * WINDOW - WINDOW
    np.testing.assert_allclose(middle, [x, -y], atol=2 * WINDOW / SIDE)
    assert len(rows) < 40


def test_classes_have_colours() -> None:
    many = np.concatenate([one_point(-0.5, 0.5), one_point(0.5, 0.5)])
    both = scatter_image(many, np.array([0, 2]))
    assert (both == colour(0)).all(axis=2).any()
    assert (both == colour(2)).all(axis=2).any()
    plain = scatter_image(many)
    assert not (plain == colour(2)).all(axis=2).any()


def test_points_outside_the_picture_are_counted() -> None:
    inside, both = one_point(0.5, 0.5), np.concatenate([one_point(3, 0), one_point(0.5, 0.5)])
    assert (scatter_image(both) != scatter_image(inside)).any()
    assert (scatter_image(both)[40:] == scatter_image(inside)[40:]).all()
    labelled = scatter_image(both, np.array([0, 2]))
    assert (labelled[40:] == scatter_image(inside, np.array([2]))[40:]).all()


@pytest.mark.parametrize(
    "wrong",
    [np.zeros((0, 2, 1, 1), np.float32), np.zeros((3, 1, 8, 8)), np.zeros((3, 2, 1, 1), int)],
)
def test_a_plot_takes_points_alone(wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match="a plot takes points"):
        scatter_image(wrong)


def test_grids_of_points_are_plots(tmp_path: Path, points: Dataset) -> None:
    assert points.train.labels is not None
    write_grid(tmp_path / "grid.png", points.train.images, labels=points.train.labels)
    with Image.open(tmp_path / "grid.png") as picture:
        expected = scatter_image(points.train.images, points.train.labels)
        assert (np.asarray(picture) == expected).all()


@pytest.mark.slow
def test_a_study_of_points_is_drawn(tmp_path: Path) -> None:
    study = write_study(tmp_path / "study", methods=("sde", "dlsm"), seeds=(0,), failed=None)
    drawn = np.random.default_rng(0).normal(0, 0.4, (100, 2, 1, 1)).astype(np.float32)
    np.savez(study / "sde-seed0" / "samples.npz", images=drawn)
    labels = np.arange(100) % 3
    np.savez(study / "dlsm-seed0" / "samples.npz", images=drawn, labels=labels)
    said: list[str] = []
    assert study / "plots" / "samples.png" in write_plots(StudyReport.read(study), said.append)
    assert not [line for line in said if "samples" in line]
    with Image.open(study / "plots" / "samples.png") as picture:
        shown = np.asarray(picture.convert("RGB"))
    for expected in (scatter_image(drawn, None, LOOK), scatter_image(drawn, labels, LOOK)):
        first = np.argwhere((shown == expected[0, 0]).all(axis=2))
        tops = first[(first[:, 0] + SIDE <= len(shown)) & (first[:, 1] + SIDE <= shown.shape[1])]
        assert any(
            (shown[top : top + SIDE, left : left + SIDE] == expected).all() for top, left in tops
        )


def test_a_study_keeps_held_out_points_and_their_density(points: Dataset, tmp_path: Path) -> None:
    keep_held_out(tmp_path, points)
    first = (tmp_path / REAL).read_bytes()
    with np.load(tmp_path / REAL) as kept:
        density, images, labels = (kept[name] for name in ("density", "images", "labels"))
    assert points.test is not None
    assert points.test.labels is not None
    held_out = {point.tobytes() for point in points.test.images}
    assert all(point.tobytes() in held_out for point in images)
    assert (np.diff(labels) >= 0).all()
    # The density has all of its mass within the window, and lies where the points do.
    area = (2 * WINDOW / len(density)) ** 2
    assert density.sum() * area == pytest.approx(1, abs=0.01)
    columns, rows = ((images.reshape(-1, 2) * [1, -1] + WINDOW) / (2 * WINDOW) * len(density)).T
    at_points = density[rows.astype(int), columns.astype(int)]
    assert np.median(at_points) > 5 * density.mean()
    keep_held_out(tmp_path, points)
    assert (tmp_path / REAL).read_bytes() == first
    keep_held_out(tmp_path, dataclasses.replace(points, sha256="of other data", test=points.train))
    assert (tmp_path / REAL).read_bytes() != first
