"""What is measured of samples with classes: class-wise distances, classifiers trained on them."""

from __future__ import annotations

import copy
import dataclasses
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench import data, metrics
from bench.data.dataset import Dataset, Split, fingerprint
from bench.metrics import classification_score, extractors, frechet_distance, protocol
from bench.metrics.classification_score import (
    RESNET,
    build,
    cas,
    fit,
    logits,
    real_samples,
    tensors,
)
from bench.metrics.kernel_and_precision_recall import overlap
from bench.records import direction

Labels = np.ndarray


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def digits(cache: Path) -> Dataset:
    return data.load("digits", cache=cache)


@pytest.fixture(scope="module")
def extractor(cache: Path) -> extractors.Extractor:
    return extractors.load("digits", device="cpu", cache=cache)


@pytest.fixture(scope="module")
def reference(digits: Dataset, extractor: extractors.Extractor, cache: Path) -> metrics.Reference:
    return metrics.reference(digits, extractor, cache=cache)


# Distance between two sets of features


@pytest.mark.parametrize(
    "shape", [(200, 300, 8), (5, 40, 16), (40, 5, 16), (2, 2, 16), (16, 9, 16)]
)
def test_distance_of_features_is_that_of_their_moments(shape: tuple[int, int, int]) -> None:
    first, second, size = shape
    random = np.random.default_rng(0)
    one = random.normal(1, 2, (first, size)) @ random.normal(size=(size, size))
    other = random.normal(size=(second, size))
    expected = frechet_distance.frechet_distance(
        one.mean(0), np.cov(one, rowvar=False), other.mean(0), np.cov(other, rowvar=False)
    )
    got = frechet_distance.frechet_between(one, other)
    assert got == pytest.approx(expected, rel=1e-6)
    assert frechet_distance.frechet_between(other, one) == pytest.approx(got, rel=1e-10)


@pytest.mark.parametrize("count", [2, 20, 200])
def test_distance_of_features_in_closed_form(count: int) -> None:
    """x + m lies |m|^2 from x, and m + s (x - m) lies (1 - s)^2 tr S, at any rank."""
    x = np.random.default_rng(1).normal(size=(count, 24))
    mean, shift = x.mean(axis=0), np.linspace(-1, 2, 24)
    trace = np.trace(np.cov(x, rowvar=False))
    assert frechet_distance.frechet_between(x + shift, x) == pytest.approx(shift @ shift, rel=1e-6)
    shrunk = mean + 0.25 * (x - mean)
    assert frechet_distance.frechet_between(shrunk, x) == pytest.approx(0.5625 * trace, rel=1e-6)
    assert frechet_distance.frechet_between(x, x) == pytest.approx(0, abs=1e-6)


# Class-wise distance

SHIFTS = np.array([0.0, 1.0, 3.0])


def made_up(
    extractor: extractors.Extractor, per_class: int, size: int = 8
) -> tuple[np.ndarray, Labels, metrics.Reference]:
    """Features of three classes, (3 per_class, size), and a reference that holds the same."""
    random = np.random.default_rng(2)
    features = random.normal(size=(3, per_class, size)).astype(np.float32)
    every = features.reshape(-1, size)
    made = metrics.Reference(
        every.mean(0).astype(np.float64),
        np.cov(every, rowvar=False),
        n=len(every),
        split="train",
        dataset="made up",
        variant="made up",
        data_sha256="0" * 64,
        extractor_sha256=extractor.sha256,
        features=every,
        labels=np.repeat(np.arange(3), per_class),
        classes=3,
    )
    return every, np.repeat(np.arange(3), per_class), made


def measure(
    features: np.ndarray,
    labels: Labels | None,
    reference: metrics.Reference,
    extractor: extractors.Extractor,
) -> tuple[dict[str, metrics.Value], list[str]]:
    """Evaluate features alone; their probabilities are never looked at."""
    said: list[str] = []
    flat = np.full((len(features), 10), 0.1, np.float32)
    values = metrics.evaluate(
        metrics.Features(features.astype(np.float32), flat),
        reference,
        extractor=extractor,
        n=len(features),
        labels=labels,
        families=("fd", "is", "fdc"),
        say=said.append,
    )
    return values, said


# Class-wise precision, recall, density, coverage

CLASS_WISE = ("precisionc", "recallc", "densityc", "coveragec")


@pytest.mark.parametrize("wrong", [0, 1, 2])
def test_overlap_of_each_class_is_that_of_its_own_images(
    extractor: extractors.Extractor, wrong: int
) -> None:
    """Samples are the reference; of two classes exchanged nothing is near its own class.

    Without classes all is as near as before.
    """
    features, labels, reference = made_up(extractor, 40)
    apart = features + 50 * labels[:, None].astype(np.float32)
    reference = dataclasses.replace(reference, features=apart)
    given = labels.copy()
    if wrong:
        given[labels == 0], given[labels == wrong] = wrong, 0
    found = metrics.evaluate(
        metrics.Features(apart, np.full((120, 10), 0.1, np.float32)), reference,
        extractor=extractor, n=120, labels=given, families=(*CLASS_WISE, "precision", "coverage"),
    )  # fmt: skip
    value = {name.split("_")[0]: one.value for name, one in found.items()}
    assert value["precision"] == value["coverage"] == 1
    right = 1 / 3 if wrong else 1
    assert [value[name] for name in ("precisionc", "recallc", "coveragec")] == [right] * 3
    own = apart[labels == 2 if wrong == 1 else labels == 1]
    assert value["densityc"] == pytest.approx(
        overlap(own, own).density / 3
        if wrong
        else np.mean([overlap(apart[labels == k], apart[labels == k]).density for k in range(3)])
    )
    assert found["precisionc_digits_120"].provenance["fewest_of_a_class"] == 40


def test_of_unequal_classes_as_many_count_on_either_side(extractor: extractors.Extractor) -> None:
    """Of 40 reference features of each class as many as there are samples, and six suffice."""
    features, labels, reference = made_up(extractor, 40)
    kept = np.concatenate(
        [np.flatnonzero(labels == k)[:count] for k, count in enumerate((6, 9, 40))]
    )
    own, its = features[kept] + 0.3, labels[kept]
    found = metrics.evaluate(
        metrics.Features(own, np.full((55, 10), 0.1, np.float32)), reference,
        extractor=extractor, n=55, labels=its, families=(*CLASS_WISE, "fdc", "recall"),
    )  # fmt: skip
    pairs = [(features[labels == k], own[its == k]) for k in range(3)]
    each = [overlap(real[: len(samples)], samples) for real, samples in pairs]
    for name in ("precision", "recall", "density", "coverage"):
        value = found[f"{name}c_digits_55"]
        assert value.value == pytest.approx(np.mean([getattr(one, name) for one in each]))
        assert value.provenance["fewest_of_a_class"] == 6
    assert found["fdc_digits_55"].provenance["fewest_of_a_class"] == 6
    assert found["recall_digits_55"].provenance["reference_n"] == 55


@pytest.mark.parametrize(
    ("samples", "of_reference", "works"),
    [(6, 40, True), (5, 40, False), (40, 6, True), (40, 5, False)],
)
def test_neighbours_need_six_images_on_either_side(
    extractor: extractors.Extractor, samples: int, of_reference: int, works: bool
) -> None:
    """Of all together, and of the smallest class."""
    features, labels, reference = made_up(extractor, 40)
    # All that is left of the first class; the others are whole.
    kept = np.concatenate([np.flatnonzero(labels == 0)[:of_reference], np.flatnonzero(labels > 0)])
    given = np.concatenate([np.flatnonzero(labels == 0)[:samples], np.flatnonzero(labels > 0)])
    by_class = dataclasses.replace(reference, features=features[kept], labels=labels[kept])
    alone = dataclasses.replace(reference, features=features[:of_reference])
    for families, its, chosen in (
        (CLASS_WISE, by_class, given), (("precision", "coverage"), alone, np.arange(samples))
    ):  # fmt: skip
        said: list[str] = []
        found = metrics.evaluate(
            metrics.Features(features[chosen], np.full((len(chosen), 10), 0.1, np.float32)), its,
            extractor=extractor, n=len(chosen), labels=labels[chosen], families=families,
            say=said.append,
        )  # fmt: skip
        assert len(found) == (len(families) if works else 0)
        assert len(said) == (0 if works else 1)
        assert works or "neighbours need 6 images or more" in said[0]


def test_an_extractor_without_classes_gives_no_inception_score(
    extractor: extractors.Extractor,
) -> None:
    features, _, reference = made_up(extractor, 5)
    said: list[str] = []
    samples = metrics.Features(features, np.zeros((15, 0), np.float32))
    how = {"extractor": extractor, "n": 15, "families": ("is", "fd"), "say": said.append}
    assert list(metrics.evaluate(samples, reference, **how)) == ["fd_digits_15"]
    assert said == ["no is_digits_15: extractor 'digits' tells no classes"]


def test_overlap_of_each_class_is_measured_where_it_is_asked_for(
    extractor: extractors.Extractor,
) -> None:
    assert not {*metrics.BY_DEFAULT} & {*CLASS_WISE}
    assert {*metrics.FAMILIES} == {*metrics.BY_DEFAULT, *CLASS_WISE}
    features, labels, reference = made_up(extractor, 5)
    said: list[str] = []
    samples = metrics.Features(features, np.full((15, 10), 0.1, np.float32))
    given = {"extractor": extractor, "n": 15, "labels": labels}
    assert not metrics.evaluate(samples, reference, **given, families=CLASS_WISE, say=said.append)
    assert said == [
        "no precisionc_digits_15, recallc_digits_15, densityc_digits_15, coveragec_digits_15: "
        "neighbours need 6 images or more of each class on either side"
    ]
    assert all(direction(f"{name}_digits_15") == "↑" for name in CLASS_WISE)


@pytest.mark.parametrize("per_class", [3, 40])
def test_classwise_distance_is_the_mean_over_classes(
    extractor: extractors.Extractor, per_class: int
) -> None:
    features, labels, made = made_up(extractor, per_class)
    moved = features + SHIFTS[labels, None] / np.sqrt(8)
    values, said = measure(moved, labels, made, extractor)
    value = values[f"fdc_digits_{3 * per_class}"]
    assert value.value == pytest.approx((SHIFTS**2).mean(), rel=1e-4)
    assert value.provenance["classes"] == 3
    assert value.provenance["fewest_of_a_class"] == per_class
    assert value.provenance["n"] == 3 * per_class
    assert said == []
    # The order of the samples is nothing to it.
    order = np.random.default_rng(0).permutation(len(labels))
    again, _ = measure(moved[order], labels[order], made, extractor)
    assert again[f"fdc_digits_{3 * per_class}"].value == pytest.approx(value.value, rel=1e-6)


def test_only_the_classwise_distance_sees_classes_exchanged(
    digits: Dataset, extractor: extractors.Extractor, reference: metrics.Reference
) -> None:
    assert digits.test is not None
    assert digits.test.labels is not None
    features = metrics.extract(extractor, digits.test.images).features
    right, _ = measure(features, digits.test.labels, reference, extractor)
    wrong, _ = measure(features, (digits.test.labels + 1) % 10, reference, extractor)
    assert wrong["fd_digits_500"] == right["fd_digits_500"]
    assert wrong["fdc_digits_500"].value > 10 * right["fdc_digits_500"].value


@pytest.mark.parametrize("left", [0, 1])
def test_a_class_without_two_samples_is_noted(extractor: extractors.Extractor, left: int) -> None:
    features, labels, made = made_up(extractor, 10)
    chosen = np.concatenate([np.arange(10), np.arange(10, 10 + left), np.arange(20, 30)])
    values, said = measure(features[chosen], labels[chosen], made, extractor)
    name = f"fdc_digits_{20 + left}"
    assert name not in values
    assert f"fd_digits_{20 + left}" in values
    (note,) = said
    assert note.startswith(f"no {name}: class 1 has {left} of {20 + left} samples")
    both = np.append(chosen, [18, 19])
    values, said = measure(features[both], labels[both], made, extractor)
    assert f"fdc_digits_{22 + left}" in values
    assert not said


def test_a_reference_without_a_class_is_noted(extractor: extractors.Extractor) -> None:
    features, labels, made = made_up(extractor, 10)
    assert made.features is not None
    assert made.labels is not None
    kept = np.flatnonzero(made.labels < 2).tolist() + np.flatnonzero(made.labels == 2).tolist()[:1]
    poor = dataclasses.replace(made, features=made.features[kept], labels=made.labels[kept])
    values, (note,) = measure(features, labels, poor, extractor)
    assert "fdc_digits_30" not in values
    assert "class 2 has 1 of 21 reference images" in note
    values, (note,) = measure(features, labels, dataclasses.replace(made, labels=None), extractor)
    assert "fdc_digits_30" not in values
    assert "have no labels" in note


def test_without_labels_nothing_is_said(extractor: extractors.Extractor) -> None:
    features, _, made = made_up(extractor, 10)
    values, said = measure(features, None, made, extractor)
    assert set(values) == {"fd_digits_30", "is_digits_30"}
    assert said == []


def test_notes_reach_the_log_by_default(
    extractor: extractors.Extractor, capsys: pytest.CaptureFixture[str]
) -> None:
    features, labels, made = made_up(extractor, 2)
    samples = metrics.Features(features[:5], np.full((5, 10), 0.1, np.float32))
    metrics.evaluate(samples, made, extractor=extractor, n=5, labels=labels[:5])
    assert "no fdc_digits_5: class 2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda labels: labels[:-1], "30 samples but 29 labels"),
        (lambda labels: labels + 1, "labels from 1 to 3, allowed are 0 to 2"),
        (lambda labels: labels - 1, "labels from -1 to 1"),
    ],
)
def test_labels_must_fit(
    extractor: extractors.Extractor, change: Callable[[Labels], Labels], message: str
) -> None:
    features, labels, made = made_up(extractor, 10)
    with pytest.raises(ValueError, match=message):
        measure(features, change(labels), made, extractor)


# The reference's classes


def test_reference_keeps_features_by_class(
    digits: Dataset, extractor: extractors.Extractor, reference: metrics.Reference
) -> None:
    assert digits.train.labels is not None
    assert sum(len(reference.of_class(label)) for label in range(reference.classes)) == 1297
    expected = metrics.extract(extractor, digits.train.images[digits.train.labels == 7]).features
    # Kept in a random order of their own.
    found = reference.of_class(7)
    for one in (found, expected):
        one[:] = one[np.argsort(one[:, 0])]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_reference_without_labels_has_no_classes(
    digits: Dataset, extractor: extractors.Extractor, tmp_path: Path
) -> None:
    train = Split(digits.train.images[:50], None)
    plain = dataclasses.replace(digits, train=train, sha256=fingerprint(train, None))
    for _ in range(2):  # made, then read
        made = metrics.reference(plain, extractor, cache=tmp_path)
        assert (made.labels, made.classes) == (None, 0)
        assert made.features is not None
        assert len(made.features) == 50


def test_limited_reference_has_the_same_images_in_both(
    digits: Dataset, extractor: extractors.Extractor, tmp_path: Path
) -> None:
    part = metrics.reference(digits, extractor, cache=tmp_path, limit=200)
    assert part.features is not None
    assert part.labels is not None
    assert [len(part.features), len(part.labels), part.classes] == [200, 200, 10]
    np.testing.assert_allclose(part.features.mean(axis=0), part.mu, atol=1e-6)


def test_damaged_features_are_made_again(
    digits: Dataset, extractor: extractors.Extractor, tmp_path: Path
) -> None:
    first = metrics.reference(digits, extractor, cache=tmp_path, limit=100)
    expected = np.array(first.features)
    (path,) = (tmp_path / "references").glob("*-features.npy")
    whole = path.read_bytes()
    other = io.BytesIO()
    np.save(other, expected[:-1])
    for content in (b"", whole[:200], whole[:-64], other.getvalue(), None):
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        again = metrics.reference(digits, extractor, cache=tmp_path, limit=100)
        assert again.features is not None
        assert (again.features == expected).all()


# Classification accuracy score


def score(images: np.ndarray, labels: Labels, dataset: Dataset, **options: Any) -> float:
    (value,) = cas(images, labels, dataset, device="cpu", **options).values()
    return value.value


@pytest.fixture(scope="module")
def real(digits: Dataset) -> Split:
    found = real_samples(digits, 300)
    assert found is not None
    return found


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train for a few steps only, where it does not matter what is learnt."""
    few = dataclasses.replace(RESNET, steps=5, epochs=0)
    monkeypatch.setattr(classification_score, "RESNET", few)


SHORT = dataclasses.replace(RESNET, steps=80, epochs=0)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train for a third of the steps, enough to tell what is learnt."""
    monkeypatch.setattr(classification_score, "RESNET", SHORT)


@pytest.fixture(scope="module")
def real_score(digits: Dataset, real: Split) -> float:
    assert real.labels is not None
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(classification_score, "RESNET", SHORT)
        return score(real.images, real.labels, digits)


@pytest.mark.slow
def test_a_classifier_learns_from_real_images(real_score: float) -> None:
    assert real_score > 0.93


@pytest.mark.slow
@pytest.mark.usefixtures("short")
def test_exchanged_labels_teach_nothing(digits: Dataset, real: Split) -> None:
    assert real.labels is not None
    shuffled = np.random.default_rng(0).permutation(real.labels)
    # Chance is 0.1, with a standard error of 0.013 on 500 images.
    assert score(real.images, shuffled, digits) < 0.2


@pytest.mark.slow
@pytest.mark.usefixtures("short")
def test_samples_all_alike_score_less(digits: Dataset, real: Split, real_score: float) -> None:
    """One image for each class has the right classes, which accuracy counts, and no variety."""
    assert real.labels is not None
    first = np.array([np.flatnonzero(real.labels == label)[0] for label in range(10)])
    assert score(real.images[first[real.labels]], real.labels, digits) < real_score - 0.15


@pytest.mark.usefixtures("quick")
def test_score_is_reproducible_and_leaves_no_trace(digits: Dataset, real: Split) -> None:
    assert real.labels is not None
    few, labels = real.images[:60], real.labels[:60]
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = cas(few, labels, digits, device="cpu", seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert cas(few, labels, digits, device="cpu", seed=1) == first
    with torch.inference_mode():
        assert cas(few, labels, digits, device="cpu", seed=1) == first


@pytest.mark.usefixtures("quick")
def test_seed_makes_the_weights_and_the_order(
    digits: Dataset, real: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert real.labels is not None
    began: list[torch.Tensor] = []

    def watched(model: nn.Module, *given: Any, **how: Any) -> None:
        began.append(weights(model))
        fit(model, *given, **how)

    monkeypatch.setattr(classification_score, "fit", watched)
    for seed in (0, 0, 1):
        score(real.images, real.labels, digits, seed=seed)
    assert torch.equal(began[0], began[1])
    assert not torch.equal(began[0], began[2])


def test_seed_orders_the_samples(digits: Dataset, real: Split) -> None:
    model, given = build(digits), tensors(real, torch.device("cpu"))
    short = dataclasses.replace(RESNET, steps=5, epochs=0)
    ended = []
    for seed in (0, 0, 1):
        copied = copy.deepcopy(model)
        fit(copied, *given, short, seed)
        ended.append(weights(copied))
    assert torch.equal(ended[0], ended[1])
    assert not torch.equal(ended[0], ended[2])


def test_every_sample_is_seen_equally_often(
    monkeypatch: pytest.MonkeyPatch, digits: Dataset
) -> None:
    """Passes end within a batch, and none is cut short."""
    seen: list[Tensor] = []
    model = build(digits)
    monkeypatch.setattr(
        classification_score,
        "logits",
        lambda model, inputs: (seen.append(inputs[:, 0, 0, 0]), logits(model, inputs))[1],
    )
    inputs = torch.arange(10.0)[:, None, None, None].expand(-1, 1, 8, 8)
    recipe = dataclasses.replace(RESNET, steps=0, epochs=3, batch=4)
    fit(model, inputs, torch.zeros(10, dtype=torch.int64), recipe, 0)
    assert len(seen) == 7  # 30 samples, of which two fill no batch
    counts = torch.bincount(torch.cat(seen).long())
    assert counts.min() >= 2
    assert counts.max() <= 3


@pytest.mark.usefixtures("quick")
def test_classifier_is_tested_as_it_is_used(
    digits: Dataset, real: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert real.labels is not None
    modes = []
    measured = classification_score.accuracy
    monkeypatch.setattr(
        classification_score,
        "accuracy",
        lambda model, *given: (modes.append(model.training), measured(model, *given))[1],
    )
    score(real.images, real.labels, digits)
    # Batch norm would otherwise tell each test image by those beside it.
    assert modes == [False]


def test_classifier_sees_images_from_minus_one_to_one(digits: Dataset) -> None:
    inputs, labels = tensors(digits.train, torch.device("cpu"))
    seen: list[Tensor] = []
    model = nn.Identity()
    model.register_forward_hook(lambda module, given, answer: seen.append(answer))
    logits(model, inputs)
    assert (float(seen[0].min()), float(seen[0].max())) == (-1, 1)
    # Not all of a large split as floats at once.
    assert (inputs.dtype, labels.dtype) == (torch.uint8, torch.int64)
    coordinates = np.full((3, 2, 1, 1), 0.3, np.float32)
    given, _ = tensors(Split(coordinates, np.zeros(3, np.int64)), torch.device("cpu"))
    assert (given.numpy() == coordinates).all()


def weights(model: nn.Module) -> Tensor:
    """All parameters in one row."""
    return torch.cat([value.detach().flatten() for value in model.parameters()])


@pytest.mark.usefixtures("quick")
def test_score_tells_how_it_was_made(digits: Dataset, real: Split) -> None:
    assert real.labels is not None
    made = cas(
        real.images[:64], real.labels[:64], digits,
        device="cpu", seed=3, extra_provenance={"sampler": "heun"},
    )  # fmt: skip
    assert made["cas_digits_64"].provenance == {
        "protocol": metrics.PROTOCOL,
        "protocol_cas": RESNET.name,
        "n": 64,
        "reference_split": "test",
        "reference_n": 500,
        "data": "digits",
        "data_sha256": digits.sha256,
        "quantisation": "uint8: x * 127.5 + 128, clipped, fraction dropped",
        "cas_seed": 3,
        "sampler": "heun",
    }


@pytest.mark.parametrize(
    ("test", "reason"), [("none", "no held-out split"), ("unlabelled", "has no labels")]
)
def test_data_to_test_on_must_be_there(
    digits: Dataset, real: Split, test: str, reason: str
) -> None:
    assert digits.test is not None
    assert real.labels is not None
    split = None if test == "none" else Split(digits.test.images, None)
    part = dataclasses.replace(digits, test=split)
    said: list[str] = []
    assert cas(real.images, real.labels, part, device="cpu", say=said.append) == {}
    assert len(said) == 1
    assert said[0].startswith("no cas_digits_300: ")
    assert reason in said[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x[:9], y), "9 samples but 300 labels"),
        (lambda x, y: (x, y + 1), "labels from 1 to 10, allowed are 0 to 9"),
        (lambda x, y: (x[:, :, :4], y), "samples are uint8"),
        (lambda x, y: (x.astype(np.float32), y), "samples are float32"),
    ],
)
def test_samples_must_fit_the_data(
    digits: Dataset, real: Split, change: Callable[..., Any], message: str
) -> None:
    images, labels = change(real.images, real.labels)
    with pytest.raises(ValueError, match=message):
        cas(images, labels, digits, device="cpu")


def test_a_single_sample_has_no_score(digits: Dataset, real: Split) -> None:
    assert real.labels is not None
    said: list[str] = []
    assert cas(real.images[:1], real.labels[:1], digits, device="cpu", say=said.append) == {}
    assert said == ["no cas_digits_1: a classifier needs two samples or more"]


def test_real_samples_are_training_images(digits: Dataset) -> None:
    assert digits.train.labels is not None
    found = real_samples(digits, 100)
    assert found is not None
    assert found.labels is not None
    labels = {
        image.tobytes(): label
        for image, label in zip(digits.train.images, digits.train.labels, strict=True)
    }
    assert [labels[image.tobytes()] for image in found.images] == found.labels.tolist()
    assert real_samples(digits, 1298) is None
    unlabelled = dataclasses.replace(digits, train=Split(digits.train.images, None))
    assert real_samples(unlabelled, 10) is None


def coloured(count: int, size: int, seed: int) -> Split:
    """Noise in which one of three colours is stronger: a class each."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, count)
    images = random.integers(0, 120, (count, 3, size, size), dtype=np.uint8)
    images[np.arange(count), labels] += 30
    return Split(images, labels)


@pytest.mark.parametrize(
    ("size", "stride", "stages"),
    [(7, 1, 1), (8, 1, 2), (15, 1, 3), (16, 2, 2), (28, 2, 2), (32, 2, 3), (64, 2, 4), (256, 2, 4)],
)
def test_the_classifier_halves_images_to_seven_or_less(size: int, stride: int, stages: int) -> None:
    """As far as four stages go; from 16 pixels on, at once."""
    part = coloured(3, size, 0)
    made = Dataset("own", "own", part, part, ("r", "g", "b"), "0" * 64, "made up")
    convolutions = [layer for layer in build(made).modules() if isinstance(layer, nn.Conv2d)]
    strides = [layer.stride[0] for layer in convolutions]
    widths = [layer.out_channels for layer in convolutions]
    assert strides[0] == stride
    assert strides[1:].count(2) == stages - 1
    assert {*widths[:-1]} == {*(32, 64, 128, 128)[:stages]}


def test_the_learning_rate_makes_one_cycle_and_the_model_learns(
    monkeypatch: pytest.MonkeyPatch, digits: Dataset
) -> None:
    rates: list[float] = []
    step = torch.optim.AdamW.step

    def noting(self: torch.optim.AdamW, *given: Any) -> Any:
        rates.append(self.param_groups[0]["lr"])
        return step(self, *given)

    monkeypatch.setattr(torch.optim.AdamW, "step", noting)
    model = build(digits).eval()
    inputs, labels = torch.zeros(8, 1, 8, 8), torch.arange(8)
    fit(model, inputs, labels, dataclasses.replace(RESNET, steps=20, epochs=0, batch=4), 0)
    assert model.training
    top = rates.index(max(rates))
    assert max(rates) == pytest.approx(RESNET.learning_rate, rel=0.05)
    assert rates == sorted(rates[: top + 1]) + sorted(rates[top + 1 :], reverse=True)
    assert rates[0] < 0.1 * max(rates)
    assert rates[-1] < 0.001 * max(rates)


@pytest.mark.slow
@pytest.mark.parametrize("size", [32, 64])
def test_colour_images_take_the_same_recipe(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(
        classification_score, "RESNET", dataclasses.replace(RESNET, steps=25, epochs=0, batch=16)
    )
    train, test = coloured(48, size, 0), coloured(30, size, 1)
    made = Dataset("own", "own", train, test, ("r", "g", "b"), "0" * 64, "made up")
    assert train.labels is not None
    assert score(train.images, train.labels, made) > 0.8
    model = build(made).eval()
    assert logits(model, torch.zeros(2, 3, size, size)).shape == (2, 3)


def test_points_have_a_classifier_of_their_own(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two hidden layers of 128; the points are not quantised."""
    dataset = data.load("gmm2d", cache=cache)
    layers = [layer for layer in build(dataset).modules() if isinstance(layer, nn.Linear)]
    assert [tuple(layer.weight.shape) for layer in layers] == [(128, 2), (128, 128), (3, 128)]
    short = dataclasses.replace(classification_score.MLP, steps=2, epochs=0)
    monkeypatch.setattr(classification_score, "MLP", short)
    images, labels = dataset.train.images[:40], dataset.train.labels
    assert labels is not None
    (value,) = cas(images, labels[:40], dataset, device="cpu").values()
    assert value.provenance["quantisation"] == protocol.UNQUANTISED
    assert value.provenance["protocol_cas"] == classification_score.MLP.name


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gmm2d", "moons"])
def test_points_are_classified_almost_as_well_as_can_be(name: str, cache: Path) -> None:
    dataset = data.load(name, cache=cache)
    assert dataset.test is not None
    assert dataset.truth is not None
    found = real_samples(dataset, 1000)
    assert found is not None
    assert found.labels is not None
    posterior = dataset.truth.class_log_posterior(torch.from_numpy(dataset.test.images).double())
    best = float((posterior.argmax(1).numpy() == dataset.test.labels).mean())
    # The exact posterior is the best classifier there is, and chance cannot beat it by much.
    assert best - 0.015 < score(found.images, found.labels, dataset) < best + 0.003
    shuffled = np.random.default_rng(0).permutation(found.labels)
    frequent = float(dataset.truth.class_weights.max())
    assert score(found.images, shuffled, dataset) < frequent + 0.2


# Anchors


@pytest.mark.slow
def test_anchors_know_classes(
    digits: Dataset, extractor: extractors.Extractor, reference: metrics.Reference
) -> None:
    told: list[float] = []
    evaluator = metrics.Evaluator(digits, [(extractor, reference)], 128)
    rows = metrics.measure_anchors(evaluator, 500, progress=told.append)
    assert told == sorted(told)
    assert sum(fraction > 2 / 3 for fraction in told) > 2
    real, noise = rows[metrics.HELD_OUT], rows[metrics.NOISE]
    of_all = {"fd", "kd", "is", "precision", "recall", "density", "coverage"}
    of_labelled = of_all | {"accuracy", "fdc", "cas"}
    assert set(real) == {f"{family}_digits_500" for family in of_labelled}
    assert set(noise) == {f"{family}_digits_500" for family in of_all}
    # The very numbers that users see; another library or CPU moves the last digits only.
    assert real["fdc_digits_500"].value == pytest.approx(REAL_FDC, rel=1e-3)
    assert real["cas_digits_500"].value == pytest.approx(REAL_CAS, abs=0.015)
    assert metrics.anchor_notes(digits, 500) == []


REAL_FDC, REAL_CAS = 1.1048, 0.976


def test_what_a_data_set_is_too_small_for_is_noted(
    digits: Dataset, extractor: extractors.Extractor, cache: Path, tmp_path: Path
) -> None:
    assert digits.test is not None
    assert digits.test.labels is not None
    notes = metrics.anchor_notes(digits, 2000)
    assert len(notes) == 2
    assert notes[0] == "no anchor of held-out images: 2000 are needed and there are 500"
    assert "2000 training images are needed and there are 1297" in notes[1]

    without = digits.test.labels != 4
    test = Split(digits.test.images[without], digits.test.labels[without])
    part = dataclasses.replace(digits, test=test)
    (note,) = metrics.anchor_notes(part, 100)
    assert note.startswith("no class-wise distance of held-out images: class 4 has 0 of 100")
    reference = metrics.reference(part, extractor, cache=cache)
    evaluator = metrics.Evaluator(part, [(extractor, reference)], 128)
    row = metrics.measure_anchors(evaluator, 100, families=["fd", "fdc"])[metrics.HELD_OUT]
    assert "fdc_digits_100" not in row

    (note,) = metrics.anchor_notes(digits, 100, limit=12)
    assert "reference images" in note
    alone = dataclasses.replace(digits, test=None)
    none, no_score = metrics.anchor_notes(alone, 100)
    assert none == "no anchor of held-out images: 100 are needed and there are 0"
    assert "no held-out split" in no_score
    unlabelled = dataclasses.replace(
        digits, train=Split(digits.train.images, None), test=Split(digits.test.images, None)
    )
    assert metrics.anchor_notes(unlabelled, 100) == []
    reference = metrics.reference(unlabelled, extractor, cache=tmp_path)
    evaluator = metrics.Evaluator(unlabelled, [(extractor, reference)], 128)
    row = metrics.measure_anchors(evaluator, 100)[metrics.HELD_OUT]
    of_all = ("fd", "kd", "is", "precision", "recall", "density", "coverage")
    assert set(row) == {f"{family}_digits_100" for family in of_all}
