"""What is nearly a known layout, or is found in an image beside its pixels: read, told or refused.

Held-out images are never trained on, labels that are there are never dropped, and the same content
is the same data set in a folder and in a zip file.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from bench import data
from bench.config.errors import UserError
from bench.data.dataset import Dataset
from bench.data.sources.given import load_samples
from tests.pictures import encoded, pixels, png, write_folder, write_zip

KINDS = ("folder", "zip")
COMPOSED, DECOMPOSED = "caf\u00e9", "cafe\u0301"


def write(path: Path, kind: str, files: dict[str, bytes]) -> Path:
    """Write the same content as a folder or as a zip file."""
    if kind == "folder":
        return write_folder(path / "own", files)
    path.mkdir(exist_ok=True)
    return write_zip(path / "own.zip", files, None)


def load(path: Path, size: int | None = None) -> Dataset:
    return data.load("own", path=path, cache=path.parent / "cache", size=size)


def samples(path: Path, channels: int, classes: tuple[str, ...] = ()) -> Dataset:
    cache = path.parent / "cache"
    return load_samples(path, shape=(channels, 8, 8), classes=classes, cache=cache)


def index(labels: dict[str, int]) -> bytes:
    return json.dumps({"labels": [[*row] for row in labels.items()]}).encode()


# Splits


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("train", "test"),
    [
        *(("train", held_out) for held_out in ("test", "val", "valid", "validation", "testing")),
        ("train", "Test"), ("Train", "eval"), ("TRAINING", "dev"), ("train", "held-out"),
        ("train2017", "val2017"), ("mydata/train", "mydata/test"), ("a/b/train", "a/b/Valid"),
    ],
)  # fmt: skip
def test_splits_by_any_common_name(tmp_path: Path, kind: str, train: str, test: str) -> None:
    files = {f"{train}/0.png": png(0), f"{train}/1.png": png(1), f"{test}/2.png": png(2)}
    dataset = load(write(tmp_path, kind, files))
    assert dataset.test is not None
    assert (len(dataset.train), len(dataset.test)) == (2, 1)
    assert (dataset.test.images[0] == pixels(2).transpose(2, 0, 1)).all()
    assert test in dataset.source
    assert dataset.train.labels is None
    assert any("looked into" in note for note in dataset.notes) == ("/" in train)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("folders", "told"),
    [
        (("test", "ship"), "but also 'ship'"),
        (("test",), "no train/"),
        (("Validation",), "no train/"),
        (("train", "training"), "but also 'training'"),
        (("Testing", "test", "train"), "but also 'test'"),
        (("train", "test", "unlabeled"), "but also 'unlabeled'"),
        (("mnist_train", "mnist_test"), "'mnist_test' and 'mnist_train' may be splits"),
    ],
)
def test_what_may_be_splits_or_classes_is_refused(
    tmp_path: Path, kind: str, folders: Sequence[str], told: str
) -> None:
    path = write(tmp_path, kind, {f"{name}/{k}.png": png(k) for k, name in enumerate(folders)})
    with pytest.raises(UserError, match="splits or classes") as caught:
        load(path)
    assert told in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loose", ["x.png", "dataset.json"])
def test_what_lies_beside_the_splits_is_not_passed_over(
    tmp_path: Path, kind: str, loose: str
) -> None:
    files = {"train/0.png": png(0), "test/1.png": png(1), loose: png(2)}
    with pytest.raises(UserError, match=f"but also '{loose}'"):
        load(write(tmp_path, kind, files))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "names",
    [
        ("cat/train", "cat/test", "dog/train"),
        ("data/Train", "data/valid", "extra"),
        ("a/b/train", "a/b/dev", "c"),
    ],
)
def test_splits_within_other_folders_are_refused(
    tmp_path: Path, kind: str, names: Sequence[str]
) -> None:
    path = write(tmp_path, kind, {f"{name}/{k}.png": png(k) for k, name in enumerate(names)})
    with pytest.raises(UserError, match="within other folders; are these splits or classes"):
        load(path)


def test_classes_may_have_the_words_of_splits_in_their_names(tmp_path: Path) -> None:
    names = ("station", "test tube", "toy train")
    dataset = load(write_folder(tmp_path / "own", {f"{n}/0.png": png(0) for n in names}))
    assert dataset.classes == names


def test_each_split_in_a_zip_file_has_its_index(tmp_path: Path) -> None:
    files = {"train/a/0.png": png(0), "train/dataset.json": index({"a/0.png": 4})}
    files |= {"test/1.png": png(1), "test/dataset.json": index({"1.png": 3})}
    zipped, folder = (load(write(tmp_path, kind, files)) for kind in ("zip", "folder"))
    assert zipped.test is not None
    assert zipped.train.labels is not None
    assert zipped.test.labels is not None
    assert (zipped.train.labels.tolist(), zipped.test.labels.tolist()) == ([4], [3])
    assert zipped.sha256 == folder.sha256


# One folder too many, and what else is found


@pytest.mark.parametrize("kind", KINDS)
def test_an_index_one_folder_down_is_read(tmp_path: Path, kind: str) -> None:
    files = {
        "a/0.png": png(0),
        "b/1.png": png(1),
        "dataset.json": index({"a/0.png": 1, "b/1.png": 0}),
    }
    wrapped = {f"mydata/{name}": content for name, content in files.items()}
    twins = {f"__MACOSX/mydata/._{name[-5:]}": b"" for name in files}
    plain = load(write(tmp_path / "plain", kind, files))
    dataset = load(write(tmp_path, kind, wrapped | twins))
    assert dataset.train.labels is not None
    assert dataset.train.labels.tolist() == [1, 0]
    assert dataset.sha256 == plain.sha256
    assert dataset.notes == ("the folder 'mydata/' around everything was looked into",)
    found = samples(write(tmp_path / "samples", kind, wrapped), 3, ("x", "y"))
    assert found.train.labels is not None
    assert found.train.labels.tolist() == [1, 0]


def test_class_folders_one_folder_down_are_classes(tmp_path: Path) -> None:
    dataset = load(write_folder(tmp_path / "own", {"in/a/0.png": png(0), "in/b/1.png": png(1)}))
    assert dataset.classes == ("a", "b")
    one = load(write_folder(tmp_path / "one", {"cat/0.png": png(0), "cat/x/1.png": png(1)}))
    assert one.classes == ("cat",)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["a/dataset.json", "Dataset.json", "a/b/DATASET.JSON"])
def test_an_index_that_is_not_at_the_top_is_refused(tmp_path: Path, kind: str, name: str) -> None:
    files = {"a/0.png": png(0), "b/1.png": png(1), name: index({"0.png": 0})}
    with pytest.raises(UserError, match=f"'{name}' would not be read"):
        load(write(tmp_path, kind, files))


@pytest.mark.parametrize("kind", KINDS)
def test_folders_without_an_image_are_told(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path, kind, {"a/0.png": png(0), "b/1.png": png(1)})
    if kind == "folder":
        (path / "cat").mkdir()
    else:
        write_zip(path, {"a/0.png": png(0), "b/1.png": png(1), "cat/": b""}, None)
    assert "1 folder holds no image and was left out (first: cat)" in load(path).notes


def test_classes_without_an_image_are_told(tmp_path: Path) -> None:
    files = {f"{k}.png": png(k) for k in range(3)}
    labels = {"labels": [["0.png", 0], ["1.png", 5], ["2.png", 9]]}
    dataset = load(write_zip(tmp_path / "own.zip", files, labels))
    assert dataset.notes == ("7 of 10 classes have no image",)


# Names that look equal


def test_class_folders_that_look_equal_are_refused(tmp_path: Path) -> None:
    path = write_folder(
        tmp_path / "own", {f"{COMPOSED}/0.png": png(0), f"{DECOMPOSED}/1.png": png(1)}
    )
    with pytest.raises(UserError, match=r"'cafe\\u0301' and 'caf\\xe9' look equal"):
        load(path)


def test_names_are_matched_however_their_accents_are_composed(tmp_path: Path) -> None:
    files = {f"train/{COMPOSED}/0.png": png(0), f"test/{DECOMPOSED}/1.png": png(1)}
    held_out = load(write_folder(tmp_path / "own", files)).test
    assert held_out is not None
    labels = {"labels": [[f"{COMPOSED}.png", 3], ["b.png", 0]]}
    files = {f"{DECOMPOSED}.png": png(0), "b.png": png(1)}
    found = load(write_zip(tmp_path / "own.zip", files, labels)).train.labels
    assert found is not None
    assert found.tolist() == [0, 3]


# What an image tells beside its pixels


def oriented(seed: int, orientation: int, kind: str = "PNG") -> bytes:
    exif = Image.Exif()
    exif[0x112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    return encoded(pixels(seed), kind, exif=exif.tobytes(), **options)


@pytest.mark.parametrize("layout", KINDS)
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_as_viewers_show_them(
    tmp_path: Path, layout: str, kind: str, orientation: int
) -> None:
    files = {f"0.{kind.lower()}": oriented(0, orientation, kind)}
    path = write(tmp_path, layout, files | {"1.png": png(1)})
    name, content = next(iter(files.items()))
    with Image.open(io.BytesIO(content)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image)).transpose(2, 0, 1)
    for found in (load(path), samples(path, 3)):
        assert (found.train.images[0] == expected).all()
        told = [note for note in found.notes if "turned" in note]
        note = (
            f"1 of 2 images were turned or mirrored as their orientation tag says (first: {name})"
        )
        assert told == ([] if orientation == 1 else [note])


def test_turned_images_are_cropped_as_they_are_seen(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x112] = 6
    wide = np.random.default_rng(0).integers(0, 256, (8, 24, 3), dtype=np.uint8)
    path = write_folder(tmp_path / "own", {"0.png": encoded(wide, exif=exif.tobytes())})
    dataset = load(path, size=8)
    expected = np.rot90(wide, -1)[8:16].transpose(2, 0, 1)
    assert (dataset.train.images[0] == expected).all()
    assert any("of 8x24 were cropped" in note for note in dataset.notes)


@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0MM\0*\0\0\0\x08\0\xff", b"\0" * 9])
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
def test_damaged_tags_turn_nothing(tmp_path: Path, kind: str, exif: bytes) -> None:
    path = write_folder(tmp_path / "own", {"0.jpg": encoded(pixels(0), kind, exif=exif)})
    assert not any("turned" in note for note in load(path).notes)


def test_profiles_that_are_not_applied_are_told(tmp_path: Path) -> None:
    files = {
        "0.png": encoded(pixels(0), icc_profile=b"Adobe RGB (1998)"),
        "1.png": encoded(pixels(1), icc_profile="sRGB built-in".encode("utf-16-be")),
    }
    (note,) = load(write_folder(tmp_path / "own", files)).notes
    assert note.startswith("1 of 2 images have a colour profile or gamma")
    assert note.endswith("(first: 0.png)")


def test_copies_of_grey_samples_are_grey(tmp_path: Path) -> None:
    grey = write_folder(
        tmp_path / "grey", {"0.png": png(0, channels=1), "1.png": png(1, channels=1)}
    )
    tripled = encoded(pixels(1, channels=1)[..., None].repeat(3, axis=2))
    mixed = write_folder(tmp_path / "mixed", {"0.png": png(0, channels=1), "1.png": tripled})
    found = samples(mixed, 1)
    assert found.sha256 == samples(grey, 1).sha256
    assert found.notes == ("1 of 2 images had three equal channels and became grey (first: 1.png)",)
    coloured = write_folder(tmp_path / "coloured", {"0.png": png(0)})
    with pytest.raises(UserError, match="8x8x3, but the data set has images of 8x8x1"):
        samples(coloured, 1)
