"""Metrics against closed forms and other implementations; extractors; provenance; caches."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
import time
import tracemalloc
from contextlib import nullcontext
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from bench import data, metrics
from bench.config.errors import UserError
from bench.config.schema import Evaluation, Settings
from bench.data.dataset import Dataset, Split, fingerprint, to_uint8
from bench.metrics import (
    classification_score,
    evaluation,
    extractors,
    frechet_distance,
    known_answers,
    protocol,
    references,
)
from bench.metrics.anchors import noise_like
from bench.metrics.extractors import Extractor
from bench.metrics.extractors.classifier import SHAPES, FeatureClassifier
from bench.metrics.extractors.train_classifier import RECIPES, accuracy, augment, serialise, train
from bench.metrics.inception_score_and_accuracy import accuracy as share_right
from bench.metrics.inception_score_and_accuracy import inception_score
from bench.metrics.kernel_and_precision_recall import kernel_distance, mean_within, overlap
from bench.records import Value
from bench.worker import run as worker

POINTS = ("gmm2d", "moons")


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return data.load("digits", cache=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def extractor(tmp_path_factory: pytest.TempPathFactory) -> extractors.Extractor:
    return extractors.load("digits", device="cpu", cache=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def reference(
    digits: Dataset, extractor: extractors.Extractor, tmp_path_factory: pytest.TempPathFactory
) -> metrics.Reference:
    return metrics.reference(digits, extractor, cache=tmp_path_factory.mktemp("cache"))


def gaussian(seed: int, size: int, count: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and covariance of ``count`` correlated vectors."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(count or 4 * size, size)) @ random.normal(size=(size, size))
    return x.mean(axis=0), np.cov(x, rowvar=False)


# Fréchet distance


def test_frechet_distance_of_known_gaussians() -> None:
    size = 24
    mean, eye = np.linspace(-1, 2, size), np.eye(size)
    zero = np.zeros(size)
    expected = mean @ mean + size * (1 - 0.4) ** 2
    assert frechet_distance.frechet_distance(zero, eye, mean, 0.16 * eye) == pytest.approx(expected)
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(size, size)))[0]
    a, b = np.linspace(0, 3, size), np.linspace(5, 0, size)
    got = frechet_distance.frechet_distance(zero, basis * a @ basis.T, zero, basis * b @ basis.T)
    assert got == pytest.approx(((np.sqrt(a) - np.sqrt(b)) ** 2).sum())


def test_frechet_distance_is_symmetric_and_zero_on_itself() -> None:
    one, two = gaussian(1, 16), gaussian(2, 16)
    forth = frechet_distance.frechet_distance(*one, *two)
    assert forth == pytest.approx(frechet_distance.frechet_distance(*two, *one), rel=1e-10)
    assert frechet_distance.frechet_distance(*one, *one) == pytest.approx(0, abs=1e-9)
    assert frechet_distance.frechet_distance(*one, *one) >= 0


@pytest.mark.parametrize("size", [2, 40])
def test_frechet_distance_agrees_with_scipy(size: int) -> None:
    from scipy.linalg import sqrtm

    (mu1, s1), (mu2, s2) = gaussian(3, size), gaussian(4, size)
    root = np.real(sqrtm(s1 @ s2))
    expected = ((mu1 - mu2) ** 2).sum() + np.trace(s1 + s2 - 2 * root)
    assert frechet_distance.frechet_distance(mu1, s1, mu2, s2) == pytest.approx(expected, rel=1e-8)


@pytest.mark.filterwarnings("ignore:The `disp` argument:DeprecationWarning")
def test_frechet_distance_agrees_with_clean_fid() -> None:
    fid = pytest.importorskip("cleanfid.fid")
    scipy_linalg = pytest.importorskip("scipy.linalg")
    if "disp" not in scipy_linalg.sqrtm.__code__.co_varnames:
        pytest.skip("this scipy's sqrtm takes no disp, which clean-fid passes")
    one, two = gaussian(5, 32), gaussian(6, 32)
    expected = fid.frechet_distance(*one, *two)
    assert frechet_distance.frechet_distance(*one, *two) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("count", [2, 9, 31, 32, 33, 200])
def test_features_fewer_than_dimensions_give_the_same(count: int) -> None:
    x = np.random.default_rng(7).normal(1, 2, size=(count, 32)).astype(np.float32)
    mu, sigma = gaussian(8, 32)
    exact = x.astype(np.float64)
    expected = frechet_distance.frechet_distance(
        exact.mean(0), np.cov(exact, rowvar=False), mu, sigma
    )
    # The full form is the less exact one: it adds the roots of eigenvalues that should be zero.
    assert frechet_distance.frechet_to_features(x, mu, sigma) == pytest.approx(expected, rel=2e-8)


def test_few_features_take_the_small_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = []
    original = np.linalg.eigvalsh
    monkeypatch.setattr(
        np.linalg, "eigvalsh", lambda matrix: (shapes.append(matrix.shape), original(matrix))[1]
    )
    frechet_distance.frechet_to_features(
        np.random.default_rng(0).normal(size=(5, 64)), *gaussian(1, 64)
    )
    assert shapes == [(5, 5)]


def test_shift_moves_the_distance_by_its_square() -> None:
    x = np.random.default_rng(9).normal(size=(100, 8))
    mu, sigma = x.mean(axis=0), np.cov(x, rowvar=False)
    shift = np.arange(8.0)
    assert frechet_distance.frechet_to_features(x + shift, mu, sigma) == pytest.approx(
        shift @ shift
    )


# Streaming statistics


@pytest.mark.parametrize("sizes", [[50], [1, 49], [7, 0, 13, 30], [1] * 50])
def test_moments_equal_numpy(sizes: list[int]) -> None:
    # A mean far from zero is where naive sums of squares lose their digits.
    x = np.random.default_rng(0).normal(1e6, 1, size=(50, 6))
    moments = frechet_distance.Moments(6)
    for part in np.split(x, np.cumsum(sizes)[:-1]):
        moments.update(part)
    assert moments.count == 50
    np.testing.assert_allclose(moments.mean, x.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(moments.covariance, np.cov(x, rowvar=False), atol=1e-9)


def test_moments_need_two_vectors() -> None:
    with pytest.raises(ValueError, match="two vectors"):
        _ = frechet_distance.moments(np.zeros((1, 3))).covariance


def test_fixed_order_never_changes() -> None:
    # Held-out anchors and limited references of any two users must pick the same images.
    assert frechet_distance.permutation(10).tolist() == ORDER_OF_TEN
    assert sorted(frechet_distance.permutation(1000).tolist()) == list(range(1000))


ORDER_OF_TEN = [6, 7, 0, 8, 5, 4, 1, 9, 3, 2]


# Inception Score and accuracy


def test_inception_score_of_known_probabilities() -> None:
    classes = 7
    single = np.tile(np.eye(classes)[2], (70, 1))
    assert inception_score(single) == (
        pytest.approx(1),
        pytest.approx(0),
    )
    even = np.tile(np.eye(classes), (10, 1))
    assert inception_score(even, splits=1)[0] == pytest.approx(classes)
    flat = np.full((70, classes), 1 / classes)
    assert inception_score(flat)[0] == pytest.approx(1)


def test_inception_score_agrees_with_a_direct_sum() -> None:
    p = np.random.default_rng(0).dirichlet(np.full(5, 0.3), size=40)
    marginal = p.mean(axis=0)
    divergence = [sum(q * math.log(q / m) for q, m in zip(row, marginal, strict=True)) for row in p]
    expected = math.exp(sum(divergence) / len(p))
    assert inception_score(p, splits=1)[0] == pytest.approx(expected)


def test_inception_score_spreads_over_splits() -> None:
    p = np.random.default_rng(0).dirichlet(np.full(5, 0.3), size=40)
    order = frechet_distance.permutation(40)
    parts = [inception_score(p[order][k::1][:4], 1)[0] for k in range(0, 40, 4)]
    mean, spread = inception_score(p, splits=10)
    assert mean == pytest.approx(np.mean(parts))
    assert spread == pytest.approx(np.std(parts))


def test_inception_score_ignores_classwise_order() -> None:
    ordered = np.repeat(np.eye(10), 50, axis=0)
    # In the order given, each of ten splits would hold one class and score 1.
    assert inception_score(ordered)[0] > 8


def test_inception_score_needs_enough_images() -> None:
    with pytest.raises(ValueError, match="do not fill"):
        inception_score(np.eye(3))


def test_accuracy() -> None:
    p = np.eye(4)[[0, 1, 2, 3]]
    assert share_right(p, np.array([0, 1, 2, 0])) == 0.75
    with pytest.raises(ValueError, match="4 images but 3 labels"):
        share_right(p, np.zeros(3, np.int64))


# Self-test


def test_self_test_is_quick_and_complete() -> None:
    began = time.process_time()
    answers = metrics.self_test()
    assert time.process_time() - began < 1
    assert len(answers) >= 8


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("frechet_distance", lambda mu1, s1, mu2, s2: float(((mu1 - mu2) ** 2).sum())),
        ("frechet_to_features", lambda x, mu, s: 0.0),
        ("frechet_between", lambda x, y: 0.0),
        ("inception_score", lambda p, splits=10: (1.0, 0.0)),
        ("accuracy", lambda p, labels: 1.0),
    ],
)
def test_self_test_finds_a_wrong_answer(
    monkeypatch: pytest.MonkeyPatch, name: str, wrong: Any
) -> None:
    monkeypatch.setattr(known_answers, name, wrong)
    with pytest.raises(RuntimeError, match="self-test failed"):
        metrics.self_test()


# Names


@pytest.mark.parametrize(
    ("extractor_name", "n", "expected"),
    [
        ("inception", 50_000, ("fid", "is")),
        ("inception", 2000, ("fid_2k", "is_2k")),
        ("inception", 10_000, ("fid_10k", "is_10k")),
        ("inception-legacy", 50_000, ("fid_legacy", "is_legacy")),
        ("inception-legacy", 2000, ("fid_legacy_2k", "is_legacy_2k")),
        ("digits", 500, ("fd_digits_500", "is_digits_500")),
        ("digits", 1297, ("fd_digits_1297", "is_digits_1297")),
        ("fashion-mnist", 2000, ("fd_fashion-mnist_2k", "is_fashion-mnist_2k")),
        ("efflite0", 50_000, ("fd_efflite0", "is_efflite0")),
    ],
)
def test_names_tell_extractor_and_n(extractor_name: str, n: int, expected: tuple[str, str]) -> None:
    names = metrics.metric_names(extractor_name, n)
    assert (names["fd"], names["is"]) == expected


def test_no_two_settings_share_a_name() -> None:
    every = [
        name
        for extractor_name in extractors.names()
        for n in (500, 2000, 2500, 10_000, 50_000)
        for name in metrics.metric_names(extractor_name, n).values()
    ]
    assert len(set(every)) == len(every)


# Reference


def test_reference_is_the_training_splits_statistics(
    digits: Dataset, extractor: extractors.Extractor, reference: metrics.Reference
) -> None:
    features = metrics.extract(extractor, digits.train.images).features.astype(np.float64)
    np.testing.assert_allclose(reference.mu, features.mean(axis=0), atol=1e-9)
    np.testing.assert_allclose(reference.sigma, np.cov(features, rowvar=False), atol=1e-9)
    assert (reference.n, reference.split) == (1297, "train")
    assert reference.data_sha256 == digits.sha256
    assert np.linalg.matrix_rank(reference.sigma) == 64


def small(dataset: Dataset, count: int, *, start: int = 0, test: Split | None = None) -> Dataset:
    assert dataset.train.labels is not None
    chosen = slice(start, start + count)
    train = Split(dataset.train.images[chosen], dataset.train.labels[chosen])
    return dataclasses.replace(dataset, train=train, test=test, sha256=fingerprint(train, test))


def test_reference_is_computed_once(
    digits: Dataset,
    extractor: extractors.Extractor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = []
    original = references._compute
    monkeypatch.setattr(
        references,
        "_compute",
        lambda *given, **more: (calls.append(given), original(*given, **more))[1],
    )

    def get(dataset: Dataset, limit: int | None = None, **changed: Any) -> metrics.Reference:
        used = dataclasses.replace(extractor, **changed)
        return metrics.reference(dataset, used, cache=tmp_path, limit=limit)

    one, other = small(digits, 40), small(digits, 40, start=40)
    first = get(one)
    again = get(one)
    assert len(calls) == 1
    assert (first.mu == again.mu).all()
    assert (first.sigma == again.sigma).all()
    assert get(one, limit=1000).n == 40
    assert len(calls) == 1
    assert (get(other).mu != first.mu).any()
    assert get(one, limit=20).n == 20
    assert get(one, sha256="0" * 64).extractor_sha256 == "0" * 64
    assert len(calls) == 4


def test_damaged_reference_is_computed_again(
    digits: Dataset, extractor: extractors.Extractor, tmp_path: Path
) -> None:
    one = small(digits, 40)
    first = metrics.reference(one, extractor, cache=tmp_path)
    (path,) = (tmp_path / "references").glob("*.npz")
    for content in (b"", b"text", path.read_bytes()[:100]):
        path.write_bytes(content)
        again = metrics.reference(one, extractor, cache=tmp_path)
        assert (again.mu == first.mu).all()


def test_what_a_killed_process_left_is_removed(
    digits: Dataset, extractor: Extractor, tmp_path: Path
) -> None:
    metrics.reference(digits, extractor, cache=tmp_path, limit=50)
    (moments,) = (tmp_path / "references").glob("*.npz")
    left = moments.with_name(f".{moments.stem}-features.npy.abcd1234")
    left.write_bytes(b"half")
    moments.unlink()
    metrics.reference(digits, extractor, cache=tmp_path, limit=50)
    assert not left.exists()
    assert moments.exists()


def test_limited_reference_takes_from_everywhere(
    digits: Dataset, extractor: extractors.Extractor, tmp_path: Path
) -> None:
    # Zip files come ordered by class: the first images would all be of one.
    assert digits.train.labels is not None
    order = np.argsort(digits.train.labels, kind="stable")
    train = Split(digits.train.images[order], digits.train.labels[order])
    ordered = dataclasses.replace(digits, train=train, sha256=fingerprint(train, None))
    part = metrics.reference(ordered, extractor, cache=tmp_path, limit=300)
    whole = metrics.reference(ordered, extractor, cache=tmp_path)
    distance = frechet_distance.frechet_distance(part.mu, part.sigma, whole.mu, whole.sigma)
    assert distance < 0.5


# Evaluation and anchors


def test_values_carry_their_provenance(
    digits: Dataset, extractor: extractors.Extractor, reference: metrics.Reference
) -> None:
    samples = metrics.extract(extractor, digits.train.images[:100])
    values = metrics.evaluate(
        samples, reference, extractor=extractor, n=100, extra_provenance={"sampler": "heun"}
    )
    of_all = ("fd", "kd", "is", "precision", "recall", "density", "coverage")
    assert set(values) == {f"{family}_digits_100" for family in of_all}
    provenance = values["fd_digits_100"].provenance
    assert provenance == {
        "protocol": metrics.PROTOCOL,
        "n": 100,
        "reference_split": "train",
        "reference_n": 1297,
        "data": "digits",
        "data_sha256": digits.sha256,
        "extractor": "digits",
        "extractor_sha256": extractors.SHA256["digits"],
        "resize": "none",
        "quantisation": protocol.QUANTISATION,
        "device": "cpu",
        "libraries": {name: metadata.version(name) for name in protocol.LIBRARIES},
        "sampler": "heun",
    }
    score = values["is_digits_100"]
    assert score.spread is not None
    assert score.provenance == provenance | {"splits": 10}
    assert values["fd_digits_100"].spread is None


def test_accuracy_only_where_the_extractor_knows_the_classes(
    digits: Dataset, extractor: extractors.Extractor, reference: metrics.Reference
) -> None:
    assert digits.test is not None
    samples = metrics.extract(extractor, digits.test.images[:100])
    labels = digits.test.labels[:100]
    values = metrics.evaluate(samples, reference, extractor=extractor, n=100, labels=labels)
    assert values["accuracy_digits_100"].value > 0.95
    wrong = metrics.evaluate(
        samples, reference, extractor=extractor, n=100, labels=(labels + 1) % 10
    )
    assert wrong["accuracy_digits_100"].value < 0.05
    foreign = dataclasses.replace(reference, dataset="mnist")
    values = metrics.evaluate(samples, foreign, extractor=extractor, n=100, labels=labels)
    assert "accuracy_digits_100" not in values


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_features_that_are_not_finite_are_refused(
    digits: Dataset, extractor: Extractor, bad: float
) -> None:
    """Precision would take them for images far away, and KID be NaN without a word."""

    def run(images: Tensor) -> tuple[Tensor, Tensor]:
        features, probabilities = extractor.run(images)
        features[(images == images_wrong).flatten(1).all(1)] = bad
        return features, probabilities

    images_wrong = torch.from_numpy(digits.train.images[17].copy())
    broken = dataclasses.replace(extractor, run=run)
    with pytest.raises(UserError, match=r"gives features that are not finite .* image 17;"):
        metrics.extract(broken, digits.train.images[:20], batch=8)


def test_mixtures_are_refused(
    digits: Dataset, extractor: extractors.Extractor, reference: metrics.Reference
) -> None:
    samples = metrics.extract(extractor, digits.train.images[:20])
    with pytest.raises(ValueError, match="20 samples given, 500 named"):
        metrics.evaluate(samples, reference, extractor=extractor, n=500)
    other = dataclasses.replace(reference, extractor_sha256="0" * 64)
    with pytest.raises(ValueError, match="different extractors"):
        metrics.evaluate(samples, other, extractor=extractor, n=20)


def test_snapshots_as_large_as_the_end_s_sample_are_measured_as_it_is(
    digits: Dataset, extractor: extractors.Extractor, reference: metrics.Reference,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """By all extractors; smaller ones by the lead alone. And diagnostics at the levels set."""
    second = dataclasses.replace(extractor, name="second")
    evaluator = metrics.Evaluator(digits, [(extractor, reference), (second, reference)], 128)
    images, points = digits.test.images[:60], list[dict[str, Any]]()
    monkeypatch.setattr(worker, "draw_batches", lambda source, n, size: (images[:n], None, None))
    seen: list[Any] = []
    monkeypatch.setattr(worker.metrics, "diagnose", lambda *_, levels, **__: seen.append(levels))
    for wanted, samples, names in ((60, 60, {"digits", "second"}), (50, 60, {"digits"})):
        told = Evaluation(
            extractor="digits", samples=samples, snapshot_samples=wanted, violation_levels=(30, 80)
        )
        cell: Any = SimpleNamespace(
            evaluation=told, settings=SimpleNamespace(sampling=SimpleNamespace(batch=60)),
            built=SimpleNamespace(source=lambda name: None, method=None),
            ledger=SimpleNamespace(part=lambda name: nullcontext()), evaluator=evaluator,
            note_peak_memory=lambda: None, device=torch.device("cpu"), dataset=digits,
            add_point=points.append, config=SimpleNamespace(seed=0),
        )  # fmt: skip
        worker.take_snapshot(cell, {"step": 1})
        assert {name.split("_")[1] for name in points[-1]["values"]} == names
        worker.diagnose(cell)
    assert seen == [(30.0, 80.0)] * 2


def test_measuring_tells_how_far_it_is(
    digits: Dataset, extractor: extractors.Extractor, reference: metrics.Reference,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Within the features, from metric to metric, and while a classifier is trained."""
    short = dataclasses.replace(classification_score.RESNET, steps=3, epochs=0)
    monkeypatch.setattr(classification_score, "RESNET", short)
    told: list[float] = []
    chosen = slice(0, 60)
    metrics.Evaluator(digits, [(extractor, reference)], 20).measure(
        digits.test.images[chosen], digits.test.labels[chosen], progress=told.append
    )
    assert told == sorted(told)
    assert sum(fraction <= 1 / 3 for fraction in told) >= 3
    assert sum(1 / 3 < fraction < 2 / 3 for fraction in told) >= 6
    assert told[-3:] == pytest.approx([2 / 3 + step / 9 for step in (1, 2, 3)])


def test_the_inception_score_is_of_as_many_splits_as_are_set(
    digits: Dataset, extractor: extractors.Extractor, reference: metrics.Reference, tmp_path: Path
) -> None:
    """One has all samples in it: exp of their mean KL to their own marginal, and no spread."""
    images = digits.test.images[:60]
    p = metrics.extract(extractor, images).probabilities.astype(np.float64)
    whole = np.exp((p * np.log(np.maximum(p, 1e-300) / p.mean(0))).sum(1).mean())
    found = {}
    for splits in (1, 10):
        settings = Settings.model_validate(
            {
                "dataset": "digits", "preset": "smoke", "device": "cpu", "budget": "1kimg",
                "evaluation": {"extractor": "digits", "samples": 60, "is_splits": splits},
            }
        )  # fmt: skip
        evaluator = metrics.Evaluator.open(
            settings, digits, device=torch.device("cpu"), cache=tmp_path
        )
        value = evaluator.measure(images, families={"is"})["is_digits_60"]
        assert value.provenance["splits"] == splits
        found[splits] = value
    assert found[1].value == pytest.approx(whole, rel=1e-6)
    assert found[1].spread == 0
    assert found[10].value < 0.9 * whole
    assert metrics.Evaluator(digits, [(extractor, reference)], 128).splits == 10


def test_each_extractor_of_a_study_has_its_own_reference(
    digits: Dataset, extractor: extractors.Extractor, reference: metrics.Reference,
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    """Opened with the study's settings; a file of statistics is the first one's alone."""
    settings = Settings.model_validate(
        {
            "dataset": "digits", "preset": "smoke", "device": "cpu", "budget": "1kimg",
            "weights": {"digits": "w.pt"}, "reference": "statistics.npz",
            "evaluation": {
                "extractor": "digits", "also": ["inception"], "reference_images": 77, "batch": 33,
            },
        }
    )  # fmt: skip
    loaded: list[Any] = []
    checked: list[Any] = []
    referred: list[Any] = []

    def load(name: str, **how: Any) -> Any:
        loaded.append((name, how["weights"], how["cache"], how["device"]))
        return SimpleNamespace(name=name, check=checked.append)

    def refer(dataset: Dataset, extractor: Any, **how: Any) -> str:
        del how["progress"]
        referred.append((extractor.name, how))
        return f"of {extractor.name}"

    monkeypatch.setattr("bench.metrics.evaluation.load", load)
    monkeypatch.setattr("bench.metrics.evaluation.reference", refer)
    cpu = torch.device("cpu")
    opened = metrics.Evaluator.open(settings, digits, device=cpu, cache=tmp_path)
    names = ["digits", "inception"]
    assert loaded == [(name, settings.weights, tmp_path, cpu) for name in names]
    assert checked == [digits.shape] * 2
    common = {"cache": tmp_path, "limit": 77, "batch": 33}
    assert referred == [
        ("digits", {**common, "file": settings.reference}), ("inception", {**common, "file": None})
    ]  # fmt: skip
    assert [(one.name, its) for one, its in opened.pairs] == [(n, f"of {n}") for n in names]


def anchors_of(
    dataset: Dataset, extractor: extractors.Extractor, reference: metrics.Reference, n: int
) -> dict[str, dict[str, Value]]:
    """The anchors but for what takes a training."""
    evaluator = metrics.Evaluator(dataset, [(extractor, reference)], 128)
    return metrics.measure_anchors(evaluator, n, families={*metrics.FAMILIES} - {"cas"})


def test_anchors(
    digits: Dataset, extractor: extractors.Extractor, reference: metrics.Reference
) -> None:
    rows = anchors_of(digits, extractor, reference, 500)
    assert list(rows) == [metrics.NOISE, metrics.HELD_OUT] == ["noise", "real (held-out)"]
    noise, real = rows[metrics.NOISE], rows[metrics.HELD_OUT]
    assert noise["fd_digits_500"].value > 30 * real["fd_digits_500"].value
    assert real["is_digits_500"].value > 8
    assert noise["is_digits_500"].value < 3
    assert real["accuracy_digits_500"].value >= 0.98
    assert "accuracy_digits_500" not in noise
    assert "cas_digits_500" not in real
    # The very numbers that users see; another library or CPU moves the last digits only.
    assert real["fd_digits_500"].value == pytest.approx(REAL_FD, rel=1e-3)
    assert real["fd_digits_500"].error is not None
    assert noise["fd_digits_500"].error is None
    assert noise["fd_digits_500"].value == pytest.approx(NOISE_FD, rel=1e-3)
    assert anchors_of(digits, extractor, reference, 500) == rows


REAL_FD, NOISE_FD = 0.2739, 16.3173


def tiny(dtype: Any, shape: tuple[int, ...]) -> Dataset:
    """Twelve training and eight held-out images of three classes, four and fewer of each."""

    def split(labels: list[int]) -> Split:
        return Split(np.zeros((len(labels), *shape), dtype), np.array(labels))

    train, test = split([0, 1, 2] * 4), split([0, 0, 0, 1, 1, 1, 2, 2])
    names = ("a", "b", "c")
    return Dataset("tiny", "tiny", train, test, names, sha256="0", source="here")


@pytest.mark.parametrize(
    ("n", "told"),
    [
        (8, []),
        (9, ["no anchor of held-out images: 9 are needed and there are 8"]),
        (12, ["no anchor of held-out images: 12 are needed and there are 8"]),
        (
            13,
            [
                "no anchor of held-out images: 13 are needed and there are 8",
                "no classification accuracy score of real images: 13 training images are needed "
                "and there are 12",
            ],
        ),
    ],
)
def test_yardsticks_left_out_are_told_with_their_numbers(n: int, told: list[str]) -> None:
    assert metrics.anchor_notes(tiny(np.uint8, (1, 8, 8)), n) == told


def test_a_class_without_images_is_told_even_if_it_is_the_last() -> None:
    part = tiny(np.uint8, (1, 8, 8))
    part = dataclasses.replace(part, test=Split(part.train.images[:8], np.array([0, 1] * 4)))
    (note,) = metrics.anchor_notes(part, 8)
    assert "class 2 has 0 of 8 held-out images" in note


def test_noise_is_normal_and_quantised_as_samples_are() -> None:
    drawn = np.random.RandomState(20_190_712).standard_normal((1500, 2, 1, 1))
    points = noise_like(tiny(np.float32, (2, 1, 1)), 1500)
    assert points.dtype == np.float32
    np.testing.assert_array_equal(points, drawn.astype(np.float32))
    images = noise_like(tiny(np.uint8, (2, 1, 1)), 1500)
    np.testing.assert_array_equal(images, to_uint8(torch.from_numpy(drawn)).numpy())


@pytest.mark.parametrize("held_out", [0, 30])
def test_no_anchor_without_enough_held_out_images(
    digits: Dataset, extractor: extractors.Extractor, reference: metrics.Reference, held_out: int
) -> None:
    assert digits.test is not None
    test = Split(digits.test.images[:held_out], None) if held_out else None
    part = dataclasses.replace(digits, test=test)
    assert list(anchors_of(part, extractor, reference, 31)) == [metrics.NOISE]
    if held_out:
        assert metrics.HELD_OUT in anchors_of(part, extractor, reference, 30)


def test_distance_grows_with_what_is_wrong(
    digits: Dataset, extractor: extractors.Extractor, reference: metrics.Reference
) -> None:
    assert digits.test is not None
    assert digits.train.labels is not None
    images = torch.from_numpy(digits.test.images).float()
    blur = functional.avg_pool2d(functional.pad(images, (1, 1, 1, 1), "replicate"), 3, stride=1)
    noisy = images + 32 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))

    def distance(given: Tensor | np.ndarray) -> float:
        given = torch.as_tensor(given).clamp(0, 255).byte()
        features = metrics.extract(extractor, given).features
        return frechet_distance.frechet_to_features(features, reference.mu, reference.sigma)

    real = distance(images)
    chosen = frechet_distance.permutation(len(digits.train))
    without = chosen[digits.train.labels[chosen] != 3][:500]
    assert distance(digits.train.images[without]) > 2.5 * real
    assert distance(noisy) > 2 * real
    assert distance(0.75 * images) > 4 * real
    assert distance(blur) > 10 * real


# Training


def test_augmentation_keeps_range_and_background() -> None:
    recipe = RECIPES["digits"]
    generator = torch.Generator().manual_seed(0)
    blank = torch.full((8, 1, 8, 8), -1.0)
    torch.testing.assert_close(augment(blank, recipe, generator), blank)
    images = torch.rand(64, 1, 8, 8) * 2 - 1
    changed = augment(images, recipe, generator)
    assert changed.min() >= -1 - 1e-5
    assert changed.max() <= 1 + 1e-5
    none = dataclasses.replace(recipe, shift=0.0, degrees=0.0, scale=0.0)
    torch.testing.assert_close(augment(images, none, generator), images)
    mirrored = augment(images, dataclasses.replace(none, flip=True), generator)
    flipped = torch.isclose(mirrored, images.flip(3), atol=1e-5).flatten(1).all(dim=1)
    kept = torch.isclose(mirrored, images, atol=1e-5).flatten(1).all(dim=1)
    assert (flipped ^ kept).all()
    assert 16 < int(flipped.sum()) < 48


@pytest.mark.slow
def test_training_is_reproducible_and_learns(digits: Dataset) -> None:
    recipe = dataclasses.replace(RECIPES["digits"], epochs=3)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        models = [train(digits, recipe, seed=seed, report=False) for seed in (0, 0, 1)]
    finally:
        torch.set_num_threads(threads)
    first, again, other = map(serialise, models)
    assert first == again != other
    assert digits.test is not None
    assert accuracy(models[0], digits.test) > 0.9


def test_shipped_digits_classifier_is_as_accurate_as_said(digits: Dataset) -> None:
    path = Path(extractors.__file__).parent / "weights" / "digits.pt"
    model = FeatureClassifier(SHAPES["digits"])
    model.load_state_dict(torch.load(path, weights_only=True))
    assert digits.test is not None
    assert accuracy(model.eval(), digits.test) == pytest.approx(0.996, abs=0.003)


# What a reference keeps


def test_moments_are_of_all_and_features_of_a_random_part(
    digits: Dataset,
    extractor: extractors.Extractor,
    reference: metrics.Reference,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(references, "KEPT", 200)
    monkeypatch.setattr(references, "KERNEL", 50)
    monkeypatch.setattr(evaluation, "KERNEL", 50)
    part = metrics.reference(digits, extractor, cache=tmp_path)
    np.testing.assert_allclose(part.mu, reference.mu, atol=1e-6)
    np.testing.assert_allclose(part.sigma, reference.sigma, atol=1e-6)
    assert part.features is not None
    assert reference.features is not None
    assert part.labels is not None
    # The same fixed order, so that any first part is a fair sample of all classes.
    np.testing.assert_allclose(part.features, reference.features[:200], atol=1e-4)
    assert (np.bincount(part.labels, minlength=10) >= 10).all()
    expected = mean_within(part.features[:50])
    assert part.kernel_mean == pytest.approx(expected, rel=1e-12)
    samples = metrics.extract(extractor, digits.train.images[:100])
    values = metrics.evaluate(samples, part, extractor=extractor, n=100)
    given = kernel_distance(samples.features, part.features[:50])
    assert values["kd_digits_100"].value == pytest.approx(given, rel=1e-9)
    assert values["kd_digits_100"].provenance["reference_n"] == 50
    # As many real images as samples, or what is inside would depend on their ratio.
    four = ("precision", "recall", "density", "coverage")
    assert {values[f"{name}_digits_100"].provenance["reference_n"] for name in four} == {100}
    shares = overlap(part.features[:100], samples.features)
    assert values["precision_digits_100"].value == shares.precision


# Memory


def test_memory_grows_with_the_features_alone(tmp_path: Path) -> None:
    """Images are mapped from a file and pass by in batches, extracted or made a reference of."""
    count, width = 6000, 32
    path = tmp_path / "images.npy"
    images = np.lib.format.open_memmap(path, "w+", dtype=np.uint8, shape=(count, 3, width, width))
    images[:] = np.random.default_rng(0).integers(0, 256, (1, 3, width, width), dtype=np.uint8)
    images.flush()
    mapped = np.load(path, mmap_mode="r")
    extractor = Extractor("own", "0" * 64, "none", torch.device("cpu"), run=pooled)
    dataset = Dataset("own", "own", Split(mapped, None), None, (), "1" * 64, "made up")
    assert images.nbytes > 16 * 2**20
    for work in (
        lambda: metrics.extract(extractor, mapped, batch=50),
        lambda: metrics.reference(dataset, extractor, cache=tmp_path, batch=50),
    ):
        tracemalloc.start()
        work()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        # A block of the reference's 4096 images, and of pairs, is the most there may be.
        assert peak < 4096 * images[0].nbytes + 4 * 2**20


def pooled(images: Tensor) -> tuple[Tensor, Tensor]:
    return images.float().mean((2, 3)), torch.zeros(len(images), 0)


# Several processes

COMPUTE = """
import sys
from pathlib import Path

import torch

from bench import data, metrics
from bench.metrics.extractors import Extractor

cache = Path(sys.argv[1])


def run(images):
    with (cache / "seen").open("a") as file:
        file.write(f"{len(images)}\\n")
    return images.float().flatten(1), torch.zeros(len(images), 0)


digits = data.load("digits", cache=cache)
extractor = Extractor("own", "0" * 64, "none", torch.device("cpu"), run=run)
print(metrics.reference(digits, extractor, cache=cache).mu.sum())
"""


@pytest.mark.usefixtures("processes")
def test_of_several_processes_one_computes_the_reference(tmp_path: Path) -> None:
    command = [sys.executable, "-c", COMPUTE, str(tmp_path)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = [process.communicate(timeout=120)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0]
    assert answers[0] == answers[1] != ""
    seen = [int(line) for line in (tmp_path / "seen").read_text().split()]
    assert sum(seen) == 1297
    # Nothing half-written is left beside it.
    names = {path.suffix for path in (tmp_path / "references").iterdir()}
    assert names == {".npz", ".npy", ".lock"}
