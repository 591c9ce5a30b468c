"""Known damage to real images, and the page of what each metric sees of it.

The page of digits is computed anew and held against the committed one: a change of any metric,
extractor or data set shows here.
"""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bench import metrics
from bench.cli import main
from bench.commands.sensitivity import damage, measure
from bench.commands.sensitivity.report import Verdict, judge, markdown, table, write_page
from bench.data import Dataset, Split, load
from bench.metrics.evaluation import Evaluator
from bench.metrics.extractors import Extractor
from bench.metrics.frechet_distance import frechet_between
from bench.records import Value

COMMITTED = Path(__file__).parent.parent / "results" / "reference" / "sensitivity" / "digits"
FILES = ("sensitivity.md", "sensitivity.csv", "sensitivity.png", "sensitivity.pdf", "damages.png")
COUNTED = ("precision", "recall", "density", "coverage", "accuracy")
LADDERS = ("noise", "blur", "JPEG", "contrast", "classes", "copies")
Lines = dict[tuple[str, str], dict[str, str]]


def read(folder: Path) -> Lines:
    with (folder / "sensitivity.csv").open() as file:
        return {(row["images"], row["family"]): row for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def digits(cache: Path) -> Dataset:
    return load("digits", cache=cache)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command writes of digits."""
    results = tmp_path_factory.mktemp("results")
    torch.set_num_threads(1)
    command = ["sensitivity", "--dataset", "digits", "--device", "cpu", "--results", str(results)]
    assert main(command) == 0
    return results / "digits-sensitivity"


@pytest.fixture(scope="module")
def page(folder: Path) -> Lines:
    return read(folder)


def value(page: Lines, images: str, family: str) -> float:
    return float(page[images, family]["value"])


# The page of digits -------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_writes_its_files(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    for name in ("sensitivity.png", "damages.png"):
        with Image.open(folder / name) as picture:
            assert picture.width > 1000


@pytest.mark.slow
def test_the_page_is_the_committed_one(page: Lines) -> None:
    """Another CPU rounds features otherwise: an image may change sides, a distance its digits."""
    committed = read(COMMITTED)
    assert page.keys() == committed.keys()
    for key, row in page.items():
        old, family = committed[key], key[1]
        for same in ("data_sha256", "extractor_sha256", "protocol", "n", "reference_n", "metric"):
            assert row[same] == old[same], key
        clean_spread = float(row["spread"] or 0)
        near = 3 / int(row["n"]) if family in COUNTED else 0.02 * clean_spread
        assert float(row["value"]) == pytest.approx(float(old["value"]), rel=1e-4, abs=near), key
        assert clean_spread == pytest.approx(float(old["spread"] or 0), rel=0.1), key
        told, luck = row["verdict"], abs(abs(float(row["worse"] or 0)) - 3) < 0.5
        assert told == old["verdict"] or luck, key


@pytest.mark.slow
@pytest.mark.parametrize("kind", LADDERS)
def test_distances_grow_with_the_damage(page: Lines, kind: str) -> None:
    for family in ("fd", "kd"):
        rungs = [row for (_, one), row in page.items() if one == family and row["kind"] == kind]
        values = [value(page, measure.CLEAN, family), *(float(row["value"]) for row in rungs)]
        assert len(values) > 2
        assert values == sorted(values)


@pytest.mark.slow
def test_other_clean_images_are_within_the_yardstick(page: Lines) -> None:
    control = [row for row in page.values() if row["kind"] == "control"]
    assert len(control) == len(measure.MEASURED)
    assert {row["verdict"] for row in control} == {"missed"}


@pytest.mark.slow
def test_missing_classes_cost_recall_and_coverage_but_not_precision(page: Lines) -> None:
    missing = "5 of 10 classes missing"
    for family, verdict in (("recall", "seen"), ("coverage", "seen"), ("precision", "missed")):
        assert page[missing, family]["verdict"] == verdict
    assert (missing, "fdc") not in page


@pytest.mark.slow
def test_copies_cost_recall_but_not_precision(page: Lines) -> None:
    clean = value(page, measure.CLEAN, "precision")
    assert value(page, "every image 10 times", "precision") == pytest.approx(clean, abs=0.06)
    assert value(page, "every image 10 times", "recall") == 0


@pytest.mark.slow
def test_shuffled_labels_reach_what_takes_labels_alone(page: Lines) -> None:
    for family in measure.MEASURED:
        same = value(page, "labels shuffled", family) == value(page, measure.CLEAN, family)
        assert same == (family not in {"accuracy", "fdc"})


@pytest.mark.slow
def test_memorised_images_are_perfect(page: Lines) -> None:
    for family in ("precision", "recall", "coverage"):
        assert value(page, "training images", family) == 1
    assert page["training images", "precision"]["verdict"] == "reversed"


@pytest.mark.slow
def test_the_text_marks_what_is_missed_and_what_is_the_wrong_way_round(folder: Path) -> None:
    text = (folder / "sensitivity.md").read_text()
    assert "| training images " in text
    assert "1.000 !" in text
    assert "Better than clean: training images" in text
    assert "Class 9 missing: no fdc_digits_250: class 9 has 0 of 250 samples" in text
    assert "within the yardstick in every metric" in text


# Closed forms -------------------------------------------------------------------------------------


def grey(level: int, *, count: int = 4, channels: int = 1, side: int = 16) -> np.ndarray:
    return np.full((count, channels, side, side), level, np.uint8)


def test_noise_has_its_strength_and_never_changes() -> None:
    made = damage.noised(grey(128, count=64), 16)
    # Rounding adds the variance of a uniform distribution of width one.
    assert made.astype(float).std() == pytest.approx((16**2 + 1 / 12) ** 0.5, rel=0.02)
    digest = hashlib.sha256(made.tobytes()).hexdigest()
    assert digest.startswith("c3e94a8bb64c2f05")
    assert (damage.noised(grey(255), 16) <= 255).all()


def test_noise_does_not_depend_on_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = damage.noised(grey(128, count=10), 16)
    monkeypatch.setattr(damage, "_BLOCK", 3)
    assert (damage.noised(grey(128, count=10), 16) == whole).all()


@pytest.mark.parametrize("width", damage.BLUR)
def test_blur_spreads_a_line_by_its_width(width: float) -> None:
    lines = grey(0, side=33)
    lines[..., 16] = 255
    profile = damage.blurred(lines, width)[0, 0, 16].astype(float)
    place = np.arange(33) - 16.0
    assert profile.sum() == pytest.approx(255, rel=0.02)
    sampled = np.exp(-(place**2) / (2 * width**2))
    assert profile == pytest.approx(255 * sampled / sampled.sum(), abs=0.6)
    assert (damage.blurred(grey(77), width) == 77).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_keeps_shapes_and_loses_more_at_lower_quality(channels: int) -> None:
    images = np.random.RandomState(0).randint(0, 256, (4, channels, 16, 16)).astype(np.uint8)
    lost = []
    for quality in damage.JPEG:
        made = damage.compressed(images, quality)
        assert made.shape == images.shape
        assert made.dtype == np.uint8
        lost.append(np.abs(made.astype(float) - images).mean())
    assert 0 < lost[0] < lost[1] < lost[2]


def test_contrast_is_a_share_of_the_distance_from_the_mean() -> None:
    images = grey(100)
    images[:, :, :8] = 200
    made = damage.washed_out(images, 0.5)
    assert sorted(np.unique(made)) == [125, 175]


def test_mirroring_twice_is_nothing() -> None:
    images = np.arange(2 * 3 * 4 * 4, dtype=np.uint8).reshape(2, 3, 4, 4)
    assert (damage.mirrored(images)[0, 0, 0] == [3, 2, 1, 0]).all()
    assert (damage.mirrored(damage.mirrored(images)) == images).all()


@pytest.mark.parametrize("copies", damage.COPIES)
def test_copies_leave_the_mean_and_scale_the_covariance(copies: int) -> None:
    count, distinct = 100, 100 // copies
    features = np.random.RandomState(0).standard_normal((count, 5)).astype(np.float32)
    split = damage.duplicated(Split(features[:, :, None, None], np.arange(count)), copies)
    assert len(split) == count
    assert (split.labels == np.repeat(np.arange(distinct), copies)).all()
    copied = np.asarray(split.images)[:, :, 0, 0]
    assert copied.mean(axis=0) == pytest.approx(features[:distinct].mean(axis=0), abs=1e-6)
    # The same scatter, divided by other counts: S and c S, whose distance is tr S (1 - sqrt c)^2.
    scale = copies * (distinct - 1) / (count - 1)
    trace = np.trace(np.cov(features[:distinct].astype(float), rowvar=False))
    expected = trace * (1 - scale**0.5) ** 2
    assert frechet_between(features[:distinct], copied) == pytest.approx(expected, rel=1e-4)


def test_shuffled_labels_keep_their_counts(digits: Dataset) -> None:
    clean = damage.Real(digits, 250).clean
    made = damage.mislabelled(clean)
    assert clean.labels is not None
    assert made.labels is not None
    assert (np.bincount(made.labels) == np.bincount(clean.labels)).all()
    assert (made.labels == clean.labels).mean() < 0.2


def test_clean_and_other_images_share_none_and_the_missing_class_is_gone(digits: Dataset) -> None:
    real = damage.Real(digits, 250)
    assert digits.test is not None
    both = np.concatenate([real.clean.images, real.others().images])
    assert sorted(map(bytes, both)) == sorted(map(bytes, np.asarray(digits.test.images)))
    left = real.without([9])
    assert left.labels is not None
    assert set(left.labels) == set(range(9))
    with pytest.raises(damage.LeftOut, match="only 0 held-out images are not among the 500"):
        damage.Real(digits, 500).others()


def test_the_training_split_is_at_no_distance_from_itself(digits: Dataset, cache: Path) -> None:
    extractor = metrics.extractors.load("digits", device="cpu", cache=cache)
    reference = metrics.reference(digits, extractor, cache=cache)
    count = len(digits.train)
    copies = damage.Real(digits, count).memorised()
    found = metrics.evaluate(
        metrics.extract(extractor, copies.images),
        reference,
        extractor=extractor,
        n=count,
        families=["fd", "precision"],
    )
    assert found["fd_digits_1297"].value == pytest.approx(0, abs=1e-5)
    assert found["precision_digits_1297"].value == 1


@pytest.mark.parametrize("pool", [400, 1000])
def test_sets_with_images_in_common_tell_the_deviation_of_those_with_none(pool: int) -> None:
    rows = list(measure.subsets(pool, 200))
    assert len(rows) == measure.SETS
    assert all(len(np.unique(one)) == 200 for one in rows)
    found = []
    for seed in range(40):
        numbers = np.random.RandomState(seed).standard_normal(pool)
        found.append(np.var([numbers[one].mean() for one in rows], ddof=1) / (1 - 200 / pool))
    assert np.mean(found) * 200 == pytest.approx(1, abs=0.15)


def test_a_share_of_one_is_not_known_without_error() -> None:
    assert 0.005 < measure.of_share(1.0, 250) < 0.006
    assert measure.of_share(0.0, 250) == pytest.approx(measure.of_share(1.0, 250))
    assert measure.of_share(0.5, 10_000) == pytest.approx(0.005)


# Verdicts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "found", "spread", "verdict"),
    [
        ("fd", 1.2, 0.1, Verdict.MISSED),
        ("fd", 1.4, 0.1, Verdict.SEEN),
        ("fd", 0.6, 0.1, Verdict.REVERSED),
        ("recall", 0.6, 0.1, Verdict.SEEN),
        ("recall", 1.4, 0.1, Verdict.REVERSED),
        ("is", 1.0, 0.0, Verdict.MISSED),
        ("is", 0.9, 0.0, Verdict.SEEN),
    ],
)
def test_verdicts(family: str, found: float, spread: float, verdict: Verdict) -> None:
    one = measure.Measurement(family, family, Value(value=found), 1.0, spread)
    assert judge(one) == verdict


# Other data ---------------------------------------------------------------------------------------


def colourful(labels: bool) -> Dataset:
    """Smooth colour images; three classes by colour."""
    random = np.random.RandomState(0)

    def split(count: int) -> Split:
        classes = np.arange(count) % 3
        images = random.randint(60, 120, (count, 3, 8, 8))
        images[np.arange(count), classes] += 80
        return Split(images.astype(np.uint8), classes if labels else None)

    names = ("red", "green", "blue") if labels else ()
    return Dataset("own", "own-jpeg", split(300), split(90), names, "0" * 64, "nowhere")


def small(dataset: Dataset, cache: Path) -> Evaluator:
    """An evaluator whose extractor takes means of quarters, and tells no classes."""

    def run(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        pooled = torch.nn.functional.adaptive_avg_pool2d(images.float() / 255, 2).flatten(1)
        return pooled, pooled[:, :0]

    extractor = Extractor("pool", "1" * 64, "none", torch.device("cpu"), run)
    return Evaluator(dataset, [(extractor, metrics.reference(dataset, extractor, cache=cache))], 50)


@pytest.mark.slow
def test_colour_images_without_labels_leave_class_rows_out(tmp_path: Path) -> None:
    page = measure.page(small(colourful(labels=False), tmp_path), cache=tmp_path)
    assert page.n == 45
    names = [one.name for one in page.panels[0].damages]
    assert "noise 16/255" in names
    assert not any("class" in name or "label" in name for name in names)
    assert "a class missing: left out, the images have no labels" in page.left_out
    assert "labels shuffled: left out, the images have no labels" in page.left_out
    here = {
        "command": "bench sensitivity",
        "commit": "c",
        "dirty": True,
        "device": "d",
        "threads": 1,
    }
    paths = write_page(page, tmp_path / "page", here)
    assert [path.name for path in paths] == list(FILES)
    text = markdown(page, here)
    assert "no published value compares" in text
    assert "`bench sensitivity`, commit c with changes." in text


def test_features_are_kept_and_give_the_same_page(tmp_path: Path) -> None:
    evaluator = small(colourful(labels=True), tmp_path)
    first = measure.page(evaluator, 30, cache=tmp_path)
    broken = Evaluator(evaluator.dataset, [(refusing(evaluator), evaluator.pairs[0][1])], 50)
    assert table(measure.page(broken, 30, cache=tmp_path)) == table(first)


def refusing(evaluator: Evaluator) -> Extractor:
    def run(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        raise AssertionError("the features are there already")

    extractor = evaluator.pairs[0][0]
    return Extractor(extractor.name, extractor.sha256, "none", extractor.device, run)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--dataset", "gmm2d"], "has points, which cannot be blurred"),
        (
            ["--dataset", "digits", "--samples", "251"],
            "must be left for comparison; give 20 to 250",
        ),
        (["--dataset", "digits", "--samples", "19"], "give 20 to 250"),
        (["--dataset", "digitz"], "digits"),
        (["--dataset", "digits", "--extractor", "cifar-resnet20"], "cifar-resnet20"),
    ],
)
def test_refusals_are_one_line(
    arguments: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sensitivity", *arguments, "--device", "cpu", "--results", str(tmp_path)]) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("bench:")]
    assert len(error) == 1
    assert told in error[0]
    assert not list(tmp_path.glob("*-sensitivity"))


def test_data_without_a_held_out_split_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "own"
    images.mkdir()
    for place in range(12):
        Image.fromarray(grey(20 * place)[0, 0]).save(images / f"{place}.png")
    command = ["sensitivity", "--dataset", "images64", "--data", str(images), "--device", "cpu"]
    assert main([*command, "--results", str(tmp_path / "results")]) == 2
    assert "has 0 held-out images and 40 or more are needed" in capsys.readouterr().err
