"""Images that the user gives: every layout, what it means, and what is made of the images."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench import data
from bench.config.errors import UserError
from bench.data.dataset import Dataset, fingerprint
from bench.data.sources.given import load_samples
from tests.pictures import encoded, pixels, png, write_folder, write_zip

CIFAR_NAMES = ("airplane", "automobile", "bird")


def load(path: Path, name: str = "own", *, size: int | None = None) -> Dataset:
    return data.load(name, path=path, cache=path.parent / "cache", size=size)


def labels_of(dataset: Dataset) -> list[int]:
    assert dataset.train.labels is not None
    return dataset.train.labels.tolist()


def chw(*seeds: int, side: int = 8) -> np.ndarray:
    return np.stack([pixels(seed, side).transpose(2, 0, 1) for seed in seeds])


# Folders


def test_class_folders(tmp_path: Path) -> None:
    files = {"cat/b/1.png": png(1), "cat/0.png": png(0), "ant/2.png": png(2)}
    dataset = load(write_folder(tmp_path / "own", files))
    assert (dataset.variant, dataset.classes) == ("own-folder", ("ant", "cat"))
    assert labels_of(dataset) == [0, 1, 1]
    assert (dataset.train.images == chw(2, 0, 1)).all()
    assert not dataset.train.images.flags.writeable
    assert dataset.sha256 == fingerprint(dataset.train, None)
    assert dataset.notes == ()


def test_flat_folder_has_no_labels(tmp_path: Path) -> None:
    dataset = load(write_folder(tmp_path / "own", {"1.png": png(1), "0.png": png(0)}))
    assert dataset.train.labels is None
    assert dataset.classes == ()
    assert (dataset.train.images == chw(0, 1)).all()


def test_a_folder_is_the_zip_file_of_the_same_content(tmp_path: Path) -> None:
    files = {f"x/{k}.png": png(k) for k in range(3)}
    index = {"labels": [[name, k] for k, name in enumerate(files)], "classes": list("abc")}
    zipped = load(write_zip(tmp_path / "own.zip", files, index))
    folder = write_folder(tmp_path / "own", files | {"dataset.json": json.dumps(index).encode()})
    assert load(folder).sha256 == zipped.sha256
    # As it was before there was any other reader.
    expected = "d3c764e6f360252c24e256416e33745992637f2aff6cc0e3fc986dcf7163315b"
    moved = {name.replace("x/", "folder/"): content for name, content in files.items()}
    assert load(write_zip(tmp_path / "other.zip", moved)).sha256 == expected


@pytest.mark.parametrize(
    ("path", "train", "test"),
    [
        ("own", "own/train", "own/test"),
        ("own", "own/train", "own/val"),
        ("own-train",) * 2 + ("own-test",),
    ],
)
def test_splits_of_folders(tmp_path: Path, path: str, train: str, test: str) -> None:
    write_folder(tmp_path / train, {"a/0.png": png(0), "b/1.png": png(1)})
    write_folder(tmp_path / test, {"b/2.png": png(2)})
    dataset = load(tmp_path / path)
    assert dataset.test is not None
    assert dataset.test.labels is not None
    assert (labels_of(dataset), dataset.test.labels.tolist()) == ([0, 1], [1])
    assert (dataset.test.images == chw(2)).all()
    assert dataset.sha256 == fingerprint(dataset.train, dataset.test)
    assert Path(test).name in dataset.source


def test_only_one_held_out_split_is_read(tmp_path: Path) -> None:
    files = {f"{part}/{k}.png": png(k) for k, part in enumerate(("train", "test", "val"))}
    dataset = load(write_folder(tmp_path / "own", files))
    assert dataset.test is not None
    assert (dataset.test.images == chw(1)).all()
    assert dataset.notes == ("val/ was not read: test/ is the held-out split",)


def test_train_may_be_a_class(tmp_path: Path) -> None:
    dataset = load(write_folder(tmp_path / "own", {"train/0.png": png(0), "ship/1.png": png(1)}))
    assert dataset.classes == ("ship", "train")
    with pytest.raises(UserError, match="splits or classes"):
        load(write_folder(tmp_path / "own", {"test/0.png": png(0)}))


@pytest.mark.parametrize("folders", [CIFAR_NAMES, ("0", "1", "2"), ("00", "01", "02")])
def test_known_classes_by_name_or_index(tmp_path: Path, folders: Sequence[str]) -> None:
    files = {f"{folder}/x.png": png(k, 32) for k, folder in enumerate(folders)}
    dataset = load(write_folder(tmp_path / "own", files), "cifar10")
    assert labels_of(dataset) == [0, 1, 2]
    assert len(dataset.classes) == 10
    assert any("3 training images, not the published" in note for note in dataset.notes)


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (("airplane", "1"), "is no class"),
        (("plane",), "'plane' is no class"),
        (("10",), "'10' is no class"),
        (("1", "01"), "two folders are of one class"),
    ],
)
def test_unknown_classes_are_refused(tmp_path: Path, folders: Sequence[str], message: str) -> None:
    files = {f"{folder}/x.png": png(0, 32) for folder in folders}
    with pytest.raises(UserError, match=message) as caught:
        load(write_folder(tmp_path / "own", files), "cifar10")
    assert str(tmp_path / "own") in str(caught.value)


@pytest.mark.parametrize("size", [8, 64])
def test_known_data_sets_keep_their_size(tmp_path: Path, size: int) -> None:
    path = write_folder(tmp_path / "own", {"0.png": png(0, 64)})
    with pytest.raises(UserError, match="32x32"):
        load(path, "cifar10", size=size)
    with pytest.raises(UserError, match="but cifar10 has images of 32x32x3"):
        load(path, "cifar10", size=32)


def test_folders_that_edm_numbers_are_no_classes(tmp_path: Path) -> None:
    files = {f"{k:05}/img{k * 1000 + 7:08}.png": png(k) for k in range(3)}
    dataset = load(write_folder(tmp_path / "own", files))
    assert dataset.train.labels is None
    assert "a thousand images each" in dataset.notes[0]


def test_folders_in_a_zip_file_are_no_classes(tmp_path: Path) -> None:
    dataset = load(write_zip(tmp_path / "own.zip", {"a/0.png": png(0), "b/1.png": png(1)}, None))
    assert dataset.train.labels is None
    assert "folders in a zip file are no classes" in dataset.notes[0]


def test_images_beside_class_folders_are_refused(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "own", {"a/0.png": png(0), "1.png": png(1)})
    with pytest.raises(UserError, match=r"'1\.png' lies beside folders"):
        load(path)


def test_held_out_classes_must_be_known(tmp_path: Path) -> None:
    files = {"train/a/0.png": png(0), "test/b/1.png": png(1)}
    with pytest.raises(UserError, match="'b' is no class"):
        load(write_folder(tmp_path / "own", files))


def test_what_is_left_out_is_said_or_hidden(tmp_path: Path) -> None:
    files = {
        "a/0.png": png(0),
        "a/.1.png": b"",
        "a/._0.png": b"",
        ".git/2.png": b"",
        "__MACOSX/3.png": b"",
    }
    path = write_folder(tmp_path / "own", files | {"a/labels.csv": b"", "README": b""})
    assert load(path).notes == (
        "2 files are no images and were left out (first: README)",
        "1 hidden image was left out (first: a/.1.png)",
    )


def test_a_changed_folder_is_read_again(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "own", {"0.png": png(0)})
    before = load(path)
    write_folder(path, {"1.png": png(1)})
    assert len(load(path).train) == 2
    (path / "1.png").write_bytes(png(2))
    assert (load(path).train.images == chw(0, 2)).all()
    (path / "1.png").unlink()
    assert load(path).sha256 == before.sha256


# Arrays


def write_npz(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def stack(count: int = 4, side: int = 8, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, channels), dtype=np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(tmp_path: Path, channels: int, save: Callable[..., None]) -> None:
    images, labels = stack(channels=channels), np.array([2, 0, 1, 2], dtype=np.int32)
    save(tmp_path / "own.npz", images, labels)
    first = load(tmp_path / "own.npz")
    assert (first.train.images == images.transpose(0, 3, 1, 2)).all()
    assert (labels_of(first), first.variant) == ([2, 0, 1, 2], "own-npz")
    # A cell's own samples.
    save(tmp_path / "samples.npz", images=images.transpose(0, 3, 1, 2).copy(), labels=labels)
    assert load(tmp_path / "samples.npz").sha256 == first.sha256


def test_npz_with_a_held_out_split_and_more(tmp_path: Path) -> None:
    write_npz(tmp_path / "own-train.npz", arr_0=stack(), mu=np.zeros(3))
    write_npz(tmp_path / "own-test.npz", arr_0=stack(2))
    dataset = load(tmp_path / "own-train.npz")
    assert dataset.test is not None
    assert len(dataset.test) == 2
    assert dataset.notes == ("also holds arrays that were left out: mu",)


# LSUN


def write_lmdb(path: Path, values: Sequence[bytes]) -> Path:
    lmdb = pytest.importorskip("lmdb")
    with lmdb.open(str(path), map_size=2**22) as base, base.begin(write=True) as transaction:
        for key, value in enumerate(values):
            transaction.put(f"{key:040}".encode(), value)
    (path / "lock.mdb").unlink()
    return path


def test_lsun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    kinds = [encoded(pixels(k, 32), "WEBP", lossless=k < 2) for k in range(3)]
    path = write_lmdb(tmp_path / "church_train_lmdb", kinds)
    write_lmdb(tmp_path / "church_val_lmdb", [png(9, 32)])
    dataset = load(path)
    assert dataset.test is not None
    assert (dataset.train.images[:2] == chw(0, 1, side=32)).all()
    assert (dataset.test.images == chw(9, side=32)).all()
    assert dataset.variant == "own-webp"
    assert dataset.notes == ("1 of 4 images went through WebP",)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cache", path.name, "church_val_lmdb"]
    assert [p.name for p in path.iterdir()] == ["data.mdb"]


def test_lsun_without_its_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_lmdb(tmp_path / "x", [png(0)])
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(UserError, match=r"scorebench\[lsun\]"):
        load(path)


@pytest.mark.parametrize("keep", [0, 5000, 20_000])
def test_truncated_lmdb(tmp_path: Path, keep: int) -> None:
    path = write_lmdb(tmp_path / "x", [png(k, 64) for k in range(3)])
    file = path / "data.mdb"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"truncated|corrupt") as caught:
        load(path)
    assert str(path) in str(caught.value)


def test_lmdb_faults_name_the_key(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'0+1' is corrupt"):
        load(write_lmdb(tmp_path / "x", [png(0), b"no image"]))
    with pytest.raises(UserError, match="give the folder"):
        load(tmp_path / "x" / "data.mdb")


# Cropping and resizing


def test_resizing_is_pillows(tmp_path: Path) -> None:
    wide = np.random.default_rng(0).integers(0, 256, (40, 61, 3), dtype=np.uint8)
    path = write_folder(tmp_path / "own", {"0.png": encoded(wide), "1.png": png(1, 16)})
    path = write_folder(path, {"2.png": png(2, 9)})
    dataset = load(path, size=16)
    square = Image.fromarray(wide).crop((10, 0, 50, 40))
    expected = np.asarray(square.resize((16, 16), Image.Resampling.LANCZOS)).transpose(2, 0, 1)
    assert (dataset.train.images[0] == expected).all()
    # What has the size is not touched.
    assert (dataset.train.images[1] == chw(1, side=16)[0]).all()
    (note,) = dataset.notes
    for part in ("2 of 3 images", "9x9 to 61x40", "16x16", "Lanczos", "1 of them enlarged"):
        assert part in note
    assert load(path, size=8).sha256 != dataset.sha256
    with pytest.raises(UserError, match="not square"):
        load(path)


def test_resizing_antialiases(tmp_path: Path) -> None:
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 254
    path = write_folder(tmp_path / "own", {"0.png": encoded(stripes)})
    inner = load(path, size=8).train.images[0, 0, :, 1:-1].astype(float)
    assert np.abs(inner - 127).max() <= 2


def test_size_leaves_images_of_that_size(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "own.zip", {"0.png": png(0)})
    assert load(path, size=8).sha256 == load(path).sha256
    assert load(path, size=8).notes == ()


@pytest.mark.parametrize("first", ["a", "z"])
def test_grey_among_colour_becomes_colour_when_resized(tmp_path: Path, first: str) -> None:
    path = write_folder(tmp_path / "own", {f"{first}.png": png(0, 8, 1), "m.png": png(1)})
    dataset = load(path, size=8)
    position = 0 if first == "a" else 1
    assert (dataset.train.images[position] == pixels(0, 8, 1)).all()
    assert (dataset.train.images[1 - position] == chw(1)[0]).all()
    assert "1 of 2 images were grey among coloured ones and got three" in dataset.notes[0]
    with pytest.raises(UserError, match="all must agree"):
        load(path)


def test_arrays_are_resized_too(tmp_path: Path) -> None:
    images = stack(2, 16)
    dataset = load(write_npz(tmp_path / "own.npz", arr_0=images), size=8)
    expected = Image.fromarray(images[1]).resize((8, 8), Image.Resampling.LANCZOS)
    assert (dataset.train.images[1] == np.asarray(expected).transpose(2, 0, 1)).all()


# Facts


def test_facts_are_json(tmp_path: Path) -> None:
    dataset = load(write_folder(tmp_path / "own", {"a/0.png": png(0), "b/x": b""}))
    facts = json.loads(json.dumps(dataset.facts()))
    assert facts["sha256"] == dataset.sha256
    assert (facts["train"], facts["test"], facts["shape"]) == (1, None, [3, 8, 8])
    assert (facts["classes"], facts["variant"], facts["labelled"]) == (["a"], "own-folder", True)
    assert facts["notes"] == list(dataset.notes)
    assert facts["source"] == str(tmp_path / "own")


# Foreign samples


def samples(path: Path, classes: tuple[str, ...] = ("cat", "dog"), side: int = 8) -> Dataset:
    cache = path.parent / "cache"
    return load_samples(path, shape=(3, side, side), classes=classes, cache=cache)


def test_samples_of_every_source(tmp_path: Path) -> None:
    files = {"dog/0.png": png(0), "cat/1.png": png(1)}
    folder = samples(write_folder(tmp_path / "own", files))
    assert (labels_of(folder), folder.classes, folder.test) == ([0, 1], ("cat", "dog"), None)
    zipped = samples(write_zip(tmp_path / "own.zip", files, None))
    array = np.stack([pixels(1), pixels(0)])
    npz = samples(write_npz(tmp_path / "own.npz", arr_0=array, arr_1=np.array([0, 1])))
    assert folder.sha256 == zipped.sha256 == npz.sha256
    assert [d.variant for d in (folder, zipped, npz)] == [
        f"samples-{k}" for k in ("folder", "zip", "npz")
    ]


def test_samples_through_jpeg_are_told(tmp_path: Path) -> None:
    found = samples(write_folder(tmp_path / "own", {"0.jpg": encoded(pixels(0), "JPEG")}))
    assert found.variant == "samples-jpeg"
    assert found.notes == ("1 of 1 images went through JPEG",)
    assert found.train.labels is None


@pytest.mark.parametrize(
    ("files", "note"),
    [
        ({"cow/0.png": png(0)}, "'cow' is no class"),
        ({"7/0.png": png(0)}, "'7' is no class"),
        ({"cat/0.png": png(0), "1.png": png(1)}, "lies beside"),
        ({"000000/000001.png": png(0)}, "a thousand images each"),
        ({"0.png": png(0), "dataset.json": b'{"labels": [["0.png", 2]]}'}, "allowed are 0 to 1"),
        ({"0.png": png(0), "dataset.json": b"{"}, "not JSON"),
        (
            {"0.png": png(0), "dataset.json": b'{"classes": ["a", "b"], "labels": [["0.png", 1]]}'},
            "not the data set's",
        ),
    ],
)
def test_samples_whose_labels_do_not_map(
    tmp_path: Path, files: dict[str, bytes], note: str
) -> None:
    found = samples(write_folder(tmp_path / "own", files))
    assert found.train.labels is None
    assert note in found.notes[0]


def test_samples_with_zeros_before_the_index(tmp_path: Path) -> None:
    found = samples(write_folder(tmp_path / "own", {"00001/a.png": png(0), "00000/a.png": png(1)}))
    assert labels_of(found) == [0, 1]


def test_numbers_that_are_names_and_indices_are_no_guess(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "own", {"1/a.png": png(0), "0/a.png": png(1)})
    assert labels_of(samples(path, ("0", "1"))) == [0, 1]
    found = samples(path, ("1", "0"))
    assert found.train.labels is None
    assert "names or indices" in found.notes[0]


def test_sample_labels_of_an_array_must_be_classes(tmp_path: Path) -> None:
    found = samples(write_npz(tmp_path / "x.npz", arr_0=stack(2), arr_1=np.array([0, 2])))
    assert found.train.labels is None
    assert "class 2, allowed are 0 to 1" in found.notes[0]


def test_samples_are_never_resized(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "own", {"0.png": png(0, 16)})
    with pytest.raises(UserError, match=r"'0\.png' is 16x16x3, but the data set has .* 8x8x3"):
        samples(path)
    with pytest.raises(UserError, match="no such file"):
        samples(tmp_path / "nothing")
