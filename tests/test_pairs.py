"""Metrics of all pairs of features, against closed forms, direct sums and torch-fidelity."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from torch import Tensor

from bench import data, metrics
from bench.metrics import extractors, kernel_and_precision_recall
from bench.metrics.kernel_and_precision_recall import (
    Overlap,
    kernel_distance,
    mean_within,
    overlap,
)

N = 500


def normal(seed: int, count: int, size: int, *, shift: float = 0, scale: float = 1) -> np.ndarray:
    drawn = np.random.default_rng(seed).normal(shift, scale, (count, size))
    return drawn.astype(np.float32)


def naive_kernel_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Sum over pairs one by one, as the definition says."""
    x, y = x.astype(np.float64), y.astype(np.float64)

    def k(one: np.ndarray, other: np.ndarray) -> float:
        return float((one @ other / len(one) + 1) ** 3)

    within = [
        np.mean([k(a, b) for i, a in enumerate(part) for j, b in enumerate(part) if i != j])
        for part in (x, y)
    ]
    return float(sum(within) - 2 * np.mean([k(a, b) for a in x for b in y]))


def naive_overlap(real: np.ndarray, samples: np.ndarray) -> Overlap:
    """Evaluate Kynkäänniemi et al., equation 1, and Naeem et al., equations 5 and 6, directly."""

    def radius(part: np.ndarray, k: int) -> np.ndarray:
        return np.sort(cdist(part, part), axis=1)[:, k]  # Column 0 is the distance to itself.

    between = cdist(samples, real)
    dense = between < radius(real, 5)
    return Overlap(
        precision=float((between <= radius(real, 3)).any(1).mean()),
        recall=float((between <= radius(samples, 3)[:, None]).any(0).mean()),
        density=float(dense.sum(1).mean() / 5),
        coverage=float(dense.any(0).mean()),
    )


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of sizes that divide nothing."""
    monkeypatch.setattr(kernel_and_precision_recall, "COLUMNS", 11)
    monkeypatch.setattr(kernel_and_precision_recall, "ROWS", 7)


# Kernel distance


def test_kernel_distance_is_the_mean_over_pairs(small_tiles: None) -> None:
    x, y = normal(0, 40, 6), normal(1, 31, 6, shift=0.5)
    assert kernel_distance(x, y) == pytest.approx(naive_kernel_distance(x, y), rel=1e-12)
    assert kernel_distance(x, y) == pytest.approx(kernel_distance(y, x), rel=1e-12)


def test_kernel_distance_is_torch_fidelitys() -> None:
    from torch_fidelity.metric_kid import kid_features_to_metric

    x, y = normal(0, N, 24), normal(1, N, 24, shift=0.2)
    theirs = kid_features_to_metric(
        torch.from_numpy(x).double(),
        torch.from_numpy(y).double(),
        kid_subsets=2,
        kid_subset_size=N,  # Every subset is then the whole.
        verbose=False,
    )
    expected = theirs["kernel_inception_distance_mean"]
    assert kernel_distance(x, y) == pytest.approx(expected, rel=1e-9)


def test_kernel_distance_of_one_distribution_is_zero_in_the_mean() -> None:
    values = [kernel_distance(normal(i, 100, 8), normal(1000 + i, 60, 8)) for i in range(200)]
    error = float(np.std(values, ddof=1)) / len(values) ** 0.5
    assert abs(np.mean(values)) < 3 * error
    assert min(values) < 0 < max(values)
    # The biased estimator, which keeps the pairs of each with itself, would be far off.
    assert error < 0.01


def test_kernel_distance_of_known_moments() -> None:
    """Of x ~ N(0, 1) and y ~ N(m, 1) the expectation is a polynomial in m."""
    m = 0.5
    x, y = normal(0, 5000, 1), normal(1, 5000, 1, shift=m)

    def expected(a: float, b: float) -> float:
        """E (x y + 1)^3 of independent x ~ N(a, 1) and y ~ N(b, 1)."""
        one = [a, a * a + 1, a**3 + 3 * a]
        other = [b, b * b + 1, b**3 + 3 * b]
        return one[2] * other[2] + 3 * one[1] * other[1] + 3 * one[0] * other[0] + 1

    true = expected(0, 0) + expected(m, m) - 2 * expected(0, m)
    assert kernel_distance(x, y) == pytest.approx(true, rel=0.1)


def test_kernel_distance_needs_pairs() -> None:
    with pytest.raises(ValueError, match="two features or more, not 1"):
        kernel_distance(normal(0, 1, 3), normal(1, 9, 3))


def test_known_mean_within_is_used() -> None:
    x, y = normal(0, 30, 4), normal(1, 50, 4)
    whole = kernel_distance(x, y)
    assert kernel_distance(x, y, own_mean=mean_within(y)) == whole
    assert kernel_distance(x, y, own_mean=mean_within(y) + 1) == pytest.approx(whole + 1)


# Precision, recall, density, coverage


@pytest.mark.parametrize(("n", "m"), [(60, 60), (60, 45), (30, 75)])
def test_overlap_is_the_definitions(small_tiles: None, n: int, m: int) -> None:
    real, samples = normal(0, m, 3), normal(1, n, 3, shift=0.8)
    expected = vars(naive_overlap(real, samples))
    assert vars(overlap(real, samples)) == pytest.approx(expected, rel=1e-12)
    assert 0 < overlap(real, samples).precision < 1


def test_precision_and_recall_are_torch_fidelitys() -> None:
    from torch_fidelity.metric_prc import prc_features_to_metric

    real, samples = normal(0, N, 12), normal(1, N, 12, shift=0.3, scale=0.8)
    theirs = prc_features_to_metric(
        torch.from_numpy(samples).double(), torch.from_numpy(real).double(), verbose=False
    )
    ours = overlap(real, samples)
    assert ours.precision == pytest.approx(theirs["precision"], abs=1e-6)
    assert ours.recall == pytest.approx(theirs["recall"], abs=1e-6)
    assert 0.3 < ours.recall < 0.95  # Apart from each other and from the trivial answers.
    assert abs(ours.recall - ours.precision) > 0.1


@pytest.mark.slow
def test_one_distribution_has_the_known_coverage_and_density() -> None:
    # Of the 5 neighbours of a real image among 2N, none is a sample with probability 2^-5.
    found = overlap(normal(0, 10_000, 8), normal(1, 10_000, 8))
    assert found.coverage == pytest.approx(1 - 0.5**5, abs=0.006)
    assert found.density == pytest.approx(1, abs=0.02)


def test_each_measure_sees_its_own_fault() -> None:
    real = normal(0, 600, 4)
    shrunk, spread = normal(1, 600, 4, scale=0.3), normal(1, 600, 4, scale=3)
    assert overlap(real, shrunk).precision > 0.95
    assert overlap(real, shrunk).recall < 0.3
    assert overlap(real, spread).precision < 0.5
    assert overlap(real, spread).recall > 0.95
    assert overlap(real, shrunk).coverage < 0.5
    assert overlap(real, shrunk).density > 1.2


def test_shift_of_all_features_changes_nothing() -> None:
    """Far from the origin the squares would swallow the distances, were they not centred."""
    real, samples = normal(0, 80, 3).astype(np.float64), normal(1, 80, 3).astype(np.float64)
    moved = overlap(real + 1e7, samples + 1e7)
    assert vars(moved) == pytest.approx(vars(overlap(real, samples)))


def test_samples_that_are_the_real_ones() -> None:
    real = normal(0, 200, 5)
    found = overlap(real, real.copy())
    assert (found.precision, found.recall, found.coverage) == (1, 1, 1)


@pytest.mark.parametrize("scale", [1.0, 1e6 * np.pi, 1e-6 * np.pi])
def test_balls_of_precision_are_closed_and_those_of_density_open(scale: float) -> None:
    """On a line, whatever rounding does: 0 to 9 are real, -3 and -5 lie at the edge of balls.

    -3 is at the third neighbour's distance of 0, and at the fifth's of 1; -5 at the fifth's of 0.
    """
    real = scale * np.arange(10.0)[:, None]
    samples = scale * np.array([-3.0, -5, 1000, 2000, 3000, 4000])[:, None]
    found = overlap(real, samples)
    assert (found.precision, found.coverage) == (pytest.approx(1 / 6), pytest.approx(1 / 10))
    assert found.density == pytest.approx(1 / 5 / 6)
    assert overlap(samples, real).recall == pytest.approx(1 / 6)


def test_overlap_needs_neighbours() -> None:
    with pytest.raises(ValueError, match="6 features or more, not 5"):
        overlap(normal(0, 5, 3), normal(1, 9, 3))


# The whole way, with torch-fidelity fed the same small extractor


def test_torch_fidelity_agrees_on_images(tmp_path: Path) -> None:
    digits = data.load("digits", cache=tmp_path)
    assert digits.test is not None
    extractor = extractors.load("digits", device="cpu", cache=tmp_path)
    train = dataclasses.replace(digits.train, images=digits.train.images[:N])
    dataset = dataclasses.replace(
        digits, train=dataclasses.replace(train, labels=None), sha256="00" * 32
    )
    reference = metrics.reference(dataset, extractor, cache=tmp_path)
    samples = digits.test.images[:N]
    ours = metrics.evaluate(
        metrics.extract(extractor, samples), reference, extractor=extractor, n=N
    )
    theirs = fidelity(extractor, samples, train.images)
    for name, key in {
        "fd_digits_500": "frechet_inception_distance",
        "kd_digits_500": "kernel_inception_distance_mean",
        "precision_digits_500": "precision",
        "recall_digits_500": "recall",
    }.items():
        assert ours[name].value == pytest.approx(theirs[key], rel=1e-5), name


def fidelity(
    extractor: extractors.Extractor, samples: np.ndarray, real: np.ndarray
) -> dict[str, float]:
    """Have torch-fidelity extract and measure; it takes colour, of which ours gets a channel."""
    import torch_fidelity
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase

    class Small(FeatureExtractorBase):
        def __init__(self, name: str, features_list: list[str], **_: object) -> None:
            super().__init__(name, features_list)

        def forward(self, x: Tensor) -> tuple[Tensor]:
            return (extractor(x[:, :1])[0].double(),)

        @staticmethod
        def get_provided_features_list() -> tuple[str]:
            return ("pooled",)

        @staticmethod
        def get_default_feature_layer_for_metric(metric: str) -> str:
            return "pooled"

        @staticmethod
        def can_be_compiled() -> bool:
            return False

        @staticmethod
        def get_dummy_input_for_compile() -> Tensor:
            raise NotImplementedError

    class Images(torch.utils.data.Dataset[Tensor]):
        def __init__(self, images: np.ndarray) -> None:
            self.images = torch.from_numpy(np.repeat(images, 3, axis=1))

        def __len__(self) -> int:
            return len(self.images)

        def __getitem__(self, index: int) -> Tensor:
            return self.images[index]

    torch_fidelity.register_feature_extractor("small", Small)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found: dict[str, float] = torch_fidelity.calculate_metrics(
            input1=Images(samples),
            input2=Images(real),
            cuda=False,
            fid=True,
            kid=True,
            prc=True,
            feature_extractor="small",
            feature_layer_fid="pooled",
            feature_layer_kid="pooled",
            feature_layer_prc="pooled",
            kid_subsets=1,
            kid_subset_size=N,
            cache=False,
            verbose=False,
            save_cpu_ram=True,
        )
    return found


@pytest.mark.slow
def test_copies_lie_at_no_distance() -> None:
    """Rounding depends on where in a tile a pair lies; copies must not seem apart for it."""
    random = np.random.default_rng(0)
    base = normal(0, 200, 256, shift=3)
    real, few = (random.permutation(np.repeat(part, 7, axis=0)) for part in (base, base[:150]))
    assert overlap(real, few) == naive_overlap(real, few) == Overlap(1.0, 0.75, 0.0, 0.0)
    copies = random.permutation(normal(1, 700, 256, shift=3))
    assert overlap(copies, copies[::-1].copy()) == Overlap(1.0, 1.0, 1.0, 1.0)
