"""Data sets: what is read, what is refused and with which words, and what the cache does."""

from __future__ import annotations

import gzip
import hashlib
import pickle
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench import data
from bench.config.errors import UserError
from bench.data.dataset import Split, fingerprint
from bench.data.sources import image_cache, mnist_and_cifar
from bench.data.sources.digits_and_mixtures import choose_held_out
from tests.pictures import encoded, idx_bytes, pixels, write_idx, write_zip


@pytest.fixture
def entries() -> dict[str, bytes]:
    return {f"folder/{k}.png": encoded(pixels(k)) for k in range(3)}


# What there is


@pytest.mark.usefixtures("processes")
def test_listing_needs_no_heavy_import() -> None:
    heavy = "{'torch', 'sklearn', 'torchvision', 'numpy', 'PIL'}"
    code = f"import sys; from bench import data; data.KNOWN; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_names_are_described() -> None:
    images = {"digits", "mnist", "fashion-mnist", "cifar10", "cifar100"}
    assert images | {"gmm2d", "moons"} == set(data.KNOWN)
    assert "100 classes" in str(data.KNOWN["cifar100"])
    assert str(data.KNOWN["digits"]).startswith("1297 + 500 images, 8x8, 1 channel(s), 10 classes")
    assert "2-D" in str(data.KNOWN["gmm2d"])


def test_unknown_name_gets_the_nearest_match(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'digits'"):
        data.load("digit", cache=tmp_path)


# digits

DIGITS_SHA256 = "795a4a911b442b18fa18046d9de551b883e861569fcbd079fc58b40b03212dc7"


def test_digits(tmp_path: Path) -> None:
    digits = data.load("digits", cache=tmp_path)
    assert digits.test is not None
    assert digits.train.images.shape == (1297, 1, 8, 8)
    assert digits.test.images.shape == (500, 1, 8, 8)
    assert digits.shape == (1, 8, 8)
    assert digits.train.images.dtype == np.uint8
    assert digits.train.labels is not None
    assert digits.train.labels.dtype == np.int64
    assert digits.train.images.min() == 0
    assert digits.train.images.max() == 255
    assert (digits.name, digits.variant, len(digits.classes)) == ("digits", "digits", 10)


def test_digits_split_is_fixed(tmp_path: Path) -> None:
    # The numbers of any two users compare only while this hash stays.
    assert data.load("digits", cache=tmp_path).sha256 == DIGITS_SHA256


def test_digits_split_is_stratified_and_whole(tmp_path: Path) -> None:
    digits = data.load("digits", cache=tmp_path)
    assert digits.test is not None
    both = [np.bincount(split.labels) for split in (digits.train, digits.test)]
    share = both[1] / (both[0] + both[1])
    assert np.abs(share - 500 / 1797).max() < 1 / 174
    images = {image.tobytes() for split in (digits.train, digits.test) for image in split.images}
    assert len(images) == 1797


def test_digits_split_ignores_the_order_of_the_images() -> None:
    images = np.stack([pixels(k, channels=1)[None] for k in range(40)])
    labels = np.repeat([0, 1], 20)
    shuffled = np.random.default_rng(0).permutation(40)
    chosen = choose_held_out(images, labels, 11)
    assert chosen.sum() == 11
    assert (choose_held_out(images[shuffled], labels[shuffled], 11) == chosen[shuffled]).all()


def test_digits_refuses_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="embedded"):
        data.load("digits", path=tmp_path, cache=tmp_path)


# Hash and quantisation


def test_hash_covers_images_labels_and_split() -> None:
    images, labels = np.zeros((4, 1, 2, 2), np.uint8), np.zeros(4, np.int64)
    other_images, other_labels = images.copy(), labels.copy()
    other_images[0, 0, 0, 0] = other_labels[0] = 1
    split = Split(images, labels)
    hashes = [
        fingerprint(split, None),
        fingerprint(split, split),
        fingerprint(Split(other_images, labels), None),
        fingerprint(Split(images, other_labels), None),
        fingerprint(Split(images, None), None),
        fingerprint(Split(images.reshape(4, 4, 1, 1), labels), None),
    ]
    assert len(set(hashes)) == len(hashes)
    assert fingerprint(Split(images.copy(), labels.copy()), None) == hashes[0]
    strided = np.zeros((8, 1, 2, 2), np.uint8)[::2]
    assert fingerprint(Split(strided, labels), None) == hashes[0]


def test_quantisation_returns_every_pixel_value() -> None:
    values = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(data.to_uint8(values.float() / 127.5 - 1), values)


def test_quantisation_clips_and_refuses_nan() -> None:
    given = torch.tensor([-3.0, -1.0, 0.0, 1.0, 3.0, float("inf")])
    assert data.to_uint8(given).tolist() == [0, 0, 128, 255, 255, 255]
    with pytest.raises(ValueError, match="NaN"):
        data.to_uint8(torch.tensor([float("nan")]))


# IDX files


@pytest.fixture
def no_debian(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(mnist_and_cifar, "DEBIAN", {"fashion-mnist": tmp_path / "no such folder"})
    monkeypatch.delenv(data.ROOT_VARIABLE, raising=False)


@pytest.mark.parametrize("inside", ["", "FashionMNIST/raw", "raw", "fashion-mnist"])
@pytest.mark.parametrize("zipped_up", [True, False])
def test_idx_is_read_in_place(tmp_path: Path, inside: str, zipped_up: bool) -> None:
    folder = write_idx(tmp_path / "root" / inside, zipped_up=zipped_up)
    dataset = data.load("fashion-mnist", path=tmp_path / "root", cache=tmp_path / "cache")
    assert dataset.test is not None
    assert dataset.train.images.shape == (6, 1, 28, 28)
    assert dataset.test.images.shape == (3, 1, 28, 28)
    expected = np.random.default_rng(6).integers(0, 256, (6, 28, 28), dtype=np.uint8)
    assert (dataset.train.images[:, 0] == expected).all()
    assert dataset.train.labels is not None
    assert dataset.train.labels.tolist() == [0, 1, 2, 3, 4, 5]
    assert dataset.train.images.flags.writeable
    assert dataset.source == str(folder)
    assert "not the published" in dataset.notes[0]


@pytest.mark.usefixtures("no_debian")
def test_environment_names_a_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_idx(tmp_path / "root" / "MNIST" / "raw")
    monkeypatch.setenv(data.ROOT_VARIABLE, str(tmp_path / "root"))
    dataset = data.load("mnist", cache=tmp_path / "cache", download=False)
    assert dataset.source == str(tmp_path / "root" / "MNIST" / "raw")
    monkeypatch.setenv(data.ROOT_VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="no such folder"):
        data.load("mnist", cache=tmp_path / "cache", download=False)


def test_debian_place_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(data.ROOT_VARIABLE, raising=False)
    folder = write_idx(tmp_path / "debian", zipped_up=True)
    monkeypatch.setattr(mnist_and_cifar, "DEBIAN", {"fashion-mnist": folder})
    dataset = data.load("fashion-mnist", cache=tmp_path / "cache", download=False)
    assert dataset.source == str(folder)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


IDX_FAULTS: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "missing": ("t10k-labels-idx1-ubyte", Path.unlink, "t10k-labels-idx1-ubyte.* is missing"),
    "truncated": ("train-images-idx3-ubyte", cut, "truncated"),
    "no header": ("train-images-idx3-ubyte", lambda p: p.write_bytes(b""), "not an IDX file"),
    "short header": (
        "train-labels-idx1-ubyte",
        lambda p: p.write_bytes(b"\0\0\x08\x03\0\0"),
        "truncated",
    ),
    "other type": (
        "train-labels-idx1-ubyte",
        lambda p: p.write_bytes(b"\0\0\x0d\x01" + bytes(8)),
        "not an IDX file",
    ),
    "broken gzip": (
        "train-images-idx3-ubyte",
        lambda p: p.write_bytes(gzip.compress(p.read_bytes())[:-40]),
        "corrupt",
    ),
    "other size": (
        "train-images-idx3-ubyte",
        lambda p: p.write_bytes(idx_bytes(np.zeros((6, 8, 8), np.uint8))),
        "28x28",
    ),
    "other count": (
        "train-labels-idx1-ubyte",
        lambda p: p.write_bytes(idx_bytes(np.zeros(5, np.uint8))),
        "5 labels for 6 images",
    ),
    "label out of range": (
        "t10k-labels-idx1-ubyte",
        lambda p: p.write_bytes(idx_bytes(np.full(3, 10, np.uint8))),
        "label 10",
    ),
}


@pytest.mark.parametrize("fault", IDX_FAULTS)
def test_idx_faults_name_the_file(tmp_path: Path, fault: str) -> None:
    name, damage, message = IDX_FAULTS[fault]
    write_idx(tmp_path)
    damage(tmp_path / name)
    with pytest.raises(UserError, match=message) as caught:
        data.load("mnist", path=tmp_path, cache=tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


# torchvision


class FakeTorchvision:
    """Stands in for a data set class: writes files as its download would, or fails."""

    def __init__(self, folder: str, error: Exception | None = None) -> None:
        self.folder, self.error, self.calls = folder, error, 0

    def __call__(self, root: Path, *, train: bool, download: bool) -> None:
        self.calls += 1
        assert train
        assert download
        write_idx(root / self.folder / "raw")
        if self.error is not None:
            (root / self.folder / "raw" / "t10k-labels-idx1-ubyte").unlink()
            raise self.error


@pytest.mark.usefixtures("no_debian")
def test_download_is_moved_into_place_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeTorchvision("MNIST")
    monkeypatch.setattr(mnist_and_cifar, "_torchvision_class", lambda name: fake)
    for _ in range(2):
        dataset = data.load("mnist", cache=tmp_path)
        assert len(dataset.train) == 6
    assert fake.calls == 1
    assert sorted(path.name for path in (tmp_path / "downloads").iterdir()) == [
        ".mnist.lock",
        "MNIST",
    ]


@pytest.mark.usefixtures("no_debian")
def test_failed_download_leaves_nothing_and_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeTorchvision("FashionMNIST", OSError("no\nnetwork"))
    monkeypatch.setattr(mnist_and_cifar, "_torchvision_class", lambda name: fake)
    with pytest.raises(UserError, match="no network") as caught:
        data.load("fashion-mnist", cache=tmp_path)
    message = str(caught.value)
    for part in ("no such folder", "downloads", "--data", data.ROOT_VARIABLE, "Debian"):
        assert part in message
    assert "\n" not in message
    assert [path.name for path in (tmp_path / "downloads").iterdir()] == [".fashion-mnist.lock"]


@pytest.mark.usefixtures("no_debian")
def test_no_download_unless_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeTorchvision("MNIST")
    monkeypatch.setattr(mnist_and_cifar, "_torchvision_class", lambda name: fake)
    with pytest.raises(UserError, match="no mnist data found"):
        data.load("mnist", cache=tmp_path, download=False)
    with pytest.raises(UserError, match="no mnist data found"):
        data.load("mnist", path=tmp_path, cache=tmp_path)
    assert fake.calls == 0


def write_cifar(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a tiny CIFAR-10 as torchvision lays it out, with the hashes it will check."""
    from torchvision.datasets import CIFAR10

    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)

    def write(name: str, content: dict[str, Any]) -> list[str]:
        raw = pickle.dumps(content)
        (folder / name).write_bytes(raw)
        return [name, hashlib.md5(raw).hexdigest()]

    random = np.random.default_rng(0)
    lists = []
    for name in ("data_batch_1", "test_batch"):
        images = random.integers(0, 256, (4, 3072), dtype=np.uint8)
        lists.append([write(name, {"data": images, "labels": [0, 1, 2, 9]})])
    meta = write("batches.meta", {"label_names": ["a"] * 10})
    monkeypatch.setattr(CIFAR10, "train_list", lists[0])
    monkeypatch.setattr(CIFAR10, "test_list", lists[1])
    monkeypatch.setattr(
        CIFAR10, "meta", {"filename": meta[0], "key": "label_names", "md5": meta[1]}
    )
    return folder


def test_cifar_through_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_cifar(tmp_path / "root", monkeypatch)
    for path in (tmp_path / "root", folder):
        dataset = data.load("cifar10", path=path, cache=tmp_path)
        assert dataset.train.images.shape == (4, 3, 32, 32)
        assert dataset.train.labels is not None
        assert dataset.train.labels.tolist() == [0, 1, 2, 9]
    raw = pickle.loads((folder / "data_batch_1").read_bytes())["data"]
    assert (dataset.train.images.reshape(4, -1) == raw).all()


def test_cifar_with_a_wrong_hash_is_not_unpickled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_cifar(tmp_path, monkeypatch)
    with (folder / "data_batch_1").open("ab") as file:
        file.write(b"x")
    monkeypatch.setattr(pickle, "load", lambda *_, **__: pytest.fail("unpickled unchecked data"))
    with pytest.raises(UserError, match="incomplete or corrupt") as caught:
        data.load("cifar10", path=tmp_path, cache=tmp_path)
    assert str(folder) in str(caught.value)


# Zip files


def test_zip(tmp_path: Path, entries: dict[str, bytes]) -> None:
    labels = [[name, 2 - k] for k, name in enumerate(entries)]
    labels = [labels[1], labels[2], labels[0]]
    shuffled = dict(reversed(entries.items())) | {"README.txt": b"", "folder/": b""}
    path = write_zip(tmp_path / "own.zip", shuffled, {"labels": labels, "classes": list("abc")})
    dataset = data.load("own", path=path, cache=tmp_path / "cache")
    assert (dataset.name, dataset.variant, dataset.classes) == ("own", "own-zip", ("a", "b", "c"))
    assert dataset.test is None
    assert dataset.notes == ("1 file is no image and was left out (first: README.txt)",)
    assert dataset.train.labels is not None
    assert dataset.train.labels.tolist() == [2, 1, 0]
    assert dataset.train.labels.dtype == np.int64
    expected = np.stack([pixels(k).transpose(2, 0, 1) for k in range(3)])
    assert (dataset.train.images == expected).all()
    assert dataset.sha256 == fingerprint(dataset.train, None)


def test_grey_zip(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "grey.zip", {"0.png": encoded(pixels(0, channels=1))})
    images = data.load("grey", path=path, cache=tmp_path).train.images
    assert (images[0, 0] == pixels(0, channels=1)).all()


@pytest.mark.parametrize("name", ["0.jpg", "0.JPEG", "0.png"])
def test_jpeg_is_told_by_content_and_noted(tmp_path: Path, name: str) -> None:
    path = write_zip(tmp_path / "own.zip", {name: encoded(pixels(0), "JPEG")})
    dataset = data.load("own", path=path, cache=tmp_path)
    assert dataset.variant == "own-jpeg"
    assert dataset.notes == ("1 of 1 images went through JPEG",)


@pytest.mark.parametrize("index", [None, {"labels": None}, {}])
def test_labels_may_be_absent(tmp_path: Path, entries: dict[str, bytes], index: Any) -> None:
    path = write_zip(tmp_path / "own.zip", entries, index)
    dataset = data.load("own", path=path, cache=tmp_path)
    assert dataset.train.labels is None
    assert dataset.classes == ()


def test_sibling_is_the_held_out_split(tmp_path: Path, entries: dict[str, bytes]) -> None:
    train = write_zip(tmp_path / "own-train.zip", entries)
    alone = data.load("own", path=train, cache=tmp_path)
    assert alone.test is None
    write_zip(tmp_path / "own-test.zip", {"9.png": encoded(pixels(9))})
    dataset = data.load("own", path=train, cache=tmp_path)
    assert dataset.test is not None
    assert (dataset.test.images[0] == pixels(9).transpose(2, 0, 1)).all()
    assert "own-test.zip" in dataset.source
    assert dataset.sha256 != alone.sha256


@pytest.mark.parametrize(
    ("content", "index", "message"),
    [
        (encoded(pixels(9, side=16)), "by name", "both must agree"),
        (encoded(pixels(9)), None, "has labels"),
        (encoded(pixels(9)), {"labels": [["9.png", 0]], "classes": ["a"]}, "classes"),
    ],
)
def test_sibling_must_fit(
    tmp_path: Path, entries: dict[str, bytes], content: bytes, index: Any, message: str
) -> None:
    train = write_zip(tmp_path / "own-train.zip", entries)
    write_zip(tmp_path / "own-test.zip", {"9.png": content}, index)
    with pytest.raises(UserError, match=message) as caught:
        data.load("own", path=train, cache=tmp_path)
    assert "own-test.zip" in str(caught.value)


def test_second_load_decodes_nothing(
    tmp_path: Path, entries: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_zip(tmp_path / "own.zip", entries)
    first = data.load("own", path=path, cache=tmp_path / "cache")
    with monkeypatch.context() as patched:
        patched.setattr(image_cache, "_decode", lambda *_: pytest.fail("decoded again"))
        second = data.load("own", path=path, cache=tmp_path / "cache")
    assert second.sha256 == first.sha256 == fingerprint(second.train, second.test)
    changed = write_zip(tmp_path / "own.zip", {**entries, "folder/0.png": encoded(pixels(77))})
    assert data.load("own", path=changed, cache=tmp_path / "cache").sha256 != first.sha256


@pytest.mark.parametrize("damaged", ["facts.json", "train-images.npy"])
def test_damaged_cache_is_made_again(
    tmp_path: Path, entries: dict[str, bytes], damaged: str
) -> None:
    path = write_zip(tmp_path / "own.zip", entries)
    first = data.load("own", path=path, cache=tmp_path / "cache")
    (found,) = (tmp_path / "cache" / "prepared").glob(f"*/{damaged}")
    found.write_bytes(b"")
    again = data.load("own", path=path, cache=tmp_path / "cache")
    assert fingerprint(again.train, again.test) == first.sha256


def test_failure_leaves_no_cache(tmp_path: Path, entries: dict[str, bytes]) -> None:
    path = write_zip(tmp_path / "own.zip", {**entries, "z.png": b"no image"})
    with pytest.raises(UserError):
        data.load("own", path=path, cache=tmp_path / "cache")
    assert [entry.suffix for entry in (tmp_path / "cache" / "prepared").iterdir()] == [".lock"]


GOOD = encoded(pixels(0))
ZIP_FAULTS: dict[str, tuple[dict[str, bytes], Any, str]] = {
    "no image": ({"a.txt": b""}, None, "no image"),
    "not an image": ({"a.png": b"text"}, None, "'a.png' is corrupt"),
    "truncated image": ({"a.png": GOOD[:-60]}, None, "'a.png' is corrupt"),
    "damaged image": ({"a.png": GOOD[:60] + b"xxxx" + GOOD[64:]}, None, "'a.png' is corrupt"),
    "traversal": ({"../a.png": GOOD}, None, "'../a.png' points outside"),
    "traversal within": ({"a/../../b.png": GOOD}, None, "points outside"),
    "absolute": ({"/a.png": GOOD}, None, "'/a.png' points outside"),
    "backslash": ({"a\\..\\b.png": GOOD}, None, "points outside"),
    "not square": (
        {"a.png": encoded(np.zeros((8, 4, 3), np.uint8))},
        None,
        "'a.png' is 4x8x3, not square",
    ),
    "two sizes": (
        {"a.png": GOOD, "b.png": encoded(pixels(1, side=16))},
        None,
        "'b.png' is 16x16x3, but the first image is 8x8x3",
    ),
    "grey and colour": (
        {"a.png": GOOD, "b.png": encoded(pixels(1, channels=1))},
        None,
        "'b.png' is 8x8x1",
    ),
    "alpha": ({"a.png": encoded(np.zeros((8, 8, 4), np.uint8))}, None, "mode RGBA"),
    "huge": (
        {"a.png": encoded(np.zeros((1, 1025), np.uint8))},
        None,
        "'a.png' is 1025x1, the limit",
    ),
    "index is no JSON": ({"a.png": GOOD}, "{", "dataset.json is not JSON"),
    "index is no text": ({"a.png": GOOD}, b"\xff\xfe\xfa", "dataset.json is not JSON"),
    "index is no object": ({"a.png": GOOD}, [], "dataset.json is no object"),
    "labels are no list": ({"a.png": GOOD}, {"labels": {"a.png": 0}}, "must be a list"),
    "label missing": ({"a.png": GOOD, "b.png": GOOD}, {"labels": [["a.png", 0]]}, "'b.png'"),
    "label too many": (
        {"a.png": GOOD},
        {"labels": [["a.png", 0], ["b.png", 0]]},
        "'b.png', which is not",
    ),
    "label twice": (
        {"a.png": GOOD},
        {"labels": [["a.png", 0], ["a.png", 1]]},
        "'a.png' is labelled twice",
    ),
    "label is a float": ({"a.png": GOOD}, {"labels": [["a.png", 0.5]]}, "whole numbers"),
    "label is a truth": ({"a.png": GOOD}, {"labels": [["a.png", True]]}, "whole numbers"),
    "label is a vector": ({"a.png": GOOD}, {"labels": [["a.png", [0, 1]]]}, "whole numbers"),
    "label is negative": ({"a.png": GOOD}, {"labels": [["a.png", -1]]}, "class -1"),
    "label beyond classes": (
        {"a.png": GOOD},
        {"labels": [["a.png", 2]], "classes": ["x", "y"]},
        "class 2, allowed are 0 to 1",
    ),
    "classes are no names": ({"a.png": GOOD}, {"labels": None, "classes": [1]}, "list of names"),
}


@pytest.mark.parametrize("fault", ZIP_FAULTS)
def test_zip_faults_name_the_file(tmp_path: Path, fault: str) -> None:
    contents, index, message = ZIP_FAULTS[fault]
    path = write_zip(tmp_path / "own.zip", contents, index)
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        data.load("own", path=path, cache=tmp_path / "cache")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_duplicate_names_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "own.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", GOOD)
        archive.writestr("a.png", encoded(pixels(1)))
    with pytest.raises(UserError, match=r"'a\.png' is in it twice"):
        data.load("own", path=path, cache=tmp_path)


def test_encrypted_entry_is_refused(tmp_path: Path, entries: dict[str, bytes]) -> None:
    path = write_zip(tmp_path / "own.zip", entries)
    raw = bytearray(path.read_bytes())
    raw[raw.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(raw)
    with pytest.raises(UserError, match="encrypted"):
        data.load("own", path=path, cache=tmp_path)


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9, 0.999])
def test_truncated_zip(tmp_path: Path, entries: dict[str, bytes], keep: float) -> None:
    path = write_zip(tmp_path / "own.zip", entries)
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * keep)])
    with pytest.raises(UserError, match="truncated or not a zip file") as caught:
        data.load("own", path=path, cache=tmp_path)
    assert str(path) in str(caught.value)


def test_flipped_bytes_never_pass(tmp_path: Path, entries: dict[str, bytes]) -> None:
    path = write_zip(tmp_path / "own.zip", entries)
    raw = path.read_bytes()
    good = data.load("own", path=path, cache=tmp_path / "cache")
    for position in range(0, len(raw), 23):
        path.write_bytes(raw[:position] + bytes([raw[position] ^ 0xFF]) + raw[position + 1 :])
        try:
            dataset = data.load("own", path=path, cache=tmp_path / "cache")
        except UserError:
            continue
        # Only bytes that say nothing of the content, such as dates, may change unseen.
        assert (dataset.train.images == good.train.images).all()


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("cifar10", pixels(0, side=8), "8x8x3, but cifar10 has images of 32x32x3"),
        ("cifar10", pixels(0, side=32, channels=1), "32x32x1, but cifar10"),
        ("mnist", pixels(0, side=28), "28x28x3, but mnist has images of 28x28x1"),
    ],
)
def test_known_names_have_known_shapes(
    tmp_path: Path, name: str, array: np.ndarray, message: str
) -> None:
    path = write_zip(tmp_path / "own.zip", {"a.png": encoded(array)})
    with pytest.raises(UserError, match=message):
        data.load(name, path=path, cache=tmp_path)


@pytest.mark.parametrize(
    "index", [{"labels": [["a.png", 10]]}, {"labels": None, "classes": ["one", "two"]}]
)
def test_known_names_have_known_classes(tmp_path: Path, index: Any) -> None:
    path = write_zip(tmp_path / "own.zip", {"a.png": encoded(pixels(0, side=32))}, index)
    with pytest.raises(UserError, match=r"own\.zip: dataset\.json"):
        data.load("cifar10", path=path, cache=tmp_path)


@pytest.mark.parametrize(
    ("file", "message"), [("none.zip", "no such file"), ("own.tar", "not a .zip or .npz file")]
)
def test_wrong_paths(tmp_path: Path, file: str, message: str) -> None:
    (tmp_path / "own.tar").write_bytes(b"")
    with pytest.raises(UserError, match=message) as caught:
        data.load("cifar10", path=tmp_path / file, cache=tmp_path)
    assert file in str(caught.value)


@pytest.mark.parametrize("name", ["../x", "", "A b", ".x"])
def test_names_that_would_spoil_paths(tmp_path: Path, entries: dict[str, bytes], name: str) -> None:
    path = write_zip(tmp_path / "own.zip", entries)
    with pytest.raises(UserError, match="cannot be used"):
        data.load(name, path=path, cache=tmp_path)
