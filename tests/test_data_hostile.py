"""Broken and hostile images: refused with one line that names the file, or read and said."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench import data
from bench.config.errors import UserError
from bench.data.dataset import Dataset
from bench.data.sources import image_file
from tests.pictures import encoded, pixels, png, write_folder, write_zip


def load(path: Path, *, size: int | None = None) -> Dataset:
    return data.load("own", path=path, cache=path.parent / "cache", size=size)


def refused(path: Path, *parts: str, size: int | None = None) -> str:
    with pytest.raises(UserError) as caught:
        load(path, size=size)
    message = str(caught.value)
    for part in (str(path), *parts):
        assert part in message
    assert message.isprintable(), "more than one line, or what a terminal cannot show"
    left = {entry.suffix for entry in (path.parent / "cache").glob("prepared/*")}
    assert left <= {".lock"}, "something is taken for a data set"
    return message


# One image


def frames(kind: str) -> bytes:
    buffer = io.BytesIO()
    first, *rest = (Image.fromarray(pixels(k)) for k in range(3))
    first.save(buffer, kind, save_all=True, append_images=rest, duration=10)
    return buffer.getvalue()


def in_mode(mode: str, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (8, 8)).save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(tag: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + tag
        + content
        + struct.pack(">I", zlib.crc32(tag + content))
    )


def raw_png(width: int, height: int, *, bits: int = 8, colour: int = 2, rows: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)


def with_chunk(content: bytes, tag: bytes, body: bytes, before: bytes) -> bytes:
    position = content.index(before) - 4
    return content[:position] + chunk(tag, body) + content[position:]


GOOD = png(0)
DEEP = raw_png(8, 8, bits=16, rows=(b"\0" + bytes(48)) * 8)
BAD_IMAGES: dict[str, tuple[str, bytes, str]] = {
    "text": ("a.png", b"no image", "is corrupt or no PNG"),
    "zero bytes": ("a.png", b"", "is empty, 0 bytes"),
    "truncated": ("a.png", GOOD[:-60], "is corrupt"),
    "truncated jpeg": ("a.jpg", encoded(pixels(0, 64), "JPEG")[:-200], "is corrupt"),
    "truncated webp": ("a.webp", encoded(pixels(0, 64), "WEBP")[:-200], "is corrupt"),
    "header alone": ("a.png", GOOD[:20], "is corrupt"),
    "damaged": ("a.png", GOOD[:60] + b"xxxx" + GOOD[64:], "is corrupt"),
    "cmyk": ("a.jpg", in_mode("CMYK", "JPEG"), "mode CMYK"),
    "16 bit grey": ("a.png", in_mode("I;16"), "16 bits a channel"),
    "16 bit colour": ("a.png", DEEP, "16 bits a channel"),
    "float": ("a.tif", in_mode("F", "TIFF"), "is .tif, which is not read"),
    "float by another name": ("a.png", in_mode("F", "TIFF"), "is corrupt or no PNG"),
    "alpha": ("a.png", in_mode("RGBA"), "mode RGBA"),
    "grey and alpha": ("a.png", in_mode("LA"), "mode LA"),
    "webp with alpha": ("a.webp", in_mode("RGBA", "WEBP", lossless=True), "mode RGBA"),
    "transparent colour": ("a.png", in_mode("RGB", transparency=(0, 0, 0)), "has transparency"),
    "transparent palette": ("a.png", in_mode("P", transparency=0), "has transparency"),
    "late transparency": (
        "a.png",
        with_chunk(in_mode("RGB"), b"tRNS", bytes(6), b"IEND"),
        "has transparency",
    ),
    "header in second place": ("a.png", with_chunk(DEEP, b"tEXt", b"a\0b", b"IHDR"), "is corrupt"),
    "animated png": ("a.png", frames("PNG"), "holds 3 pictures"),
    "animated webp": ("a.webp", frames("WEBP"), "holds 3 pictures"),
    "pictures in one jpeg": ("a.jpg", frames("MPO"), "holds 3 pictures"),
    "gif": ("a.gif", frames("GIF"), "is .gif, which is not read"),
    "gif by another name": ("a.png", frames("GIF"), "is corrupt or no PNG"),
    "bitmap": ("a.bmp", in_mode("RGB", "BMP"), "is .bmp, which is not read"),
    "wide": ("a.png", encoded(np.zeros((8, 4, 3), np.uint8)), "4x8x3, not square"),
    "too large": ("a.png", encoded(np.zeros((1, 1025), np.uint8)), "1025x1, the limit"),
    "bomb": ("a.png", raw_png(50_000, 50_000), "pixels"),
    "smaller bomb": ("a.png", raw_png(11_000, 11_000), "pixels"),
    "text bomb": (
        "a.png",
        with_chunk(GOOD, b"zTXt", b"a\0\0" + zlib.compress(bytes(2**26)), b"IDAT"),
        "is corrupt",
    ),
}


@pytest.mark.parametrize("fault", BAD_IMAGES)
@pytest.mark.parametrize("kind", ["zip", "folder"])
def test_bad_images_are_named(tmp_path: Path, fault: str, kind: str) -> None:
    name, content, message = BAD_IMAGES[fault]
    files = {f"x/{name}": content}
    if kind == "zip":
        refused(write_zip(tmp_path / "own.zip", files), f"'x/{name}'", message)
    else:
        refused(write_folder(tmp_path / "own", files), f"'x/{name}'", message)


@pytest.mark.parametrize("side", [50_000, 11_000, 8300])
def test_bombs_are_refused_where_sizes_are_free(tmp_path: Path, side: int) -> None:
    path = write_folder(tmp_path / "own", {"a.png": raw_png(side, side)})
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        refused(path, "'a.png'", "pixels", size=8)


@pytest.mark.parametrize("second", [png(1, 16), png(1, 8, 1)])
def test_images_must_agree(tmp_path: Path, second: bytes) -> None:
    files = {"a.png": GOOD, "b.png": second}
    refused(write_folder(tmp_path / "own", files), "'b.png'", "the first image is 8x8x3")


def test_what_is_converted_loses_nothing_and_is_said(tmp_path: Path) -> None:
    colours = np.zeros((8, 8, 3), np.uint8)
    colours[2:, :, 1] = 200
    palette = Image.fromarray(colours).quantize(4)
    buffer = io.BytesIO()
    palette.save(buffer, "PNG")
    dataset = load(write_folder(tmp_path / "own", {"a.png": buffer.getvalue()}))
    assert (dataset.train.images[0] == colours.transpose(2, 0, 1)).all()
    assert dataset.notes == ("1 of 1 images were RGB palettes and became RGB (first: a.png)",)
    bits = np.eye(8, dtype=bool)
    dataset = load(write_folder(tmp_path / "bits", {"a.png": encoded(bits)}))
    assert (dataset.train.images[0, 0] == bits * 255).all()
    assert "one bit of grey" in dataset.notes[0]


def test_no_image_is_decoded_to_learn_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    refused(write_folder(tmp_path / "own", {"a.png": raw_png(2000, 2000)}), "the limit")


def test_any_damage_is_a_user_error() -> None:
    random = np.random.default_rng(0)
    sources = [encoded(pixels(0, 16), kind) for kind in ("PNG", "JPEG", "WEBP")]
    for trial in range(600):
        content = bytearray(sources[trial % 3])
        for position in random.integers(0, len(content), 4):
            content[position] = random.integers(256)
        try:
            image_file.decode(bytes(content), Path("x"), "a", resized=True)
        except UserError:
            continue


# Folders


def test_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "own" / "a").mkdir(parents=True)
    refused(tmp_path / "own", "holds no image")
    refused(write_folder(tmp_path / "own", {"a/README.md": b""}), "holds no image")


def test_folders_with_an_images_name(tmp_path: Path) -> None:
    dataset = load(write_folder(tmp_path / "own", {"a.png/b.png": png(0), "c.png/d.png": png(1)}))
    assert dataset.classes == ("a.png", "c.png")
    dataset = load(write_zip(tmp_path / "own.zip", {"a.png/": b"", "a.png/b.png": png(0)}, None))
    assert len(dataset.train) == 1


def test_links(tmp_path: Path) -> None:
    outside = write_folder(tmp_path / "outside", {"0.png": png(0)})
    path = write_folder(tmp_path / "own", {"a/1.png": png(1)})
    (path / "b").symlink_to(outside)
    assert len(load(path).train) == 2
    (path / "a" / "c").symlink_to(path)
    refused_after_another(path, "own/a/c: is a link to a folder that it lies in")
    (path / "a" / "c").unlink()
    (path / "a" / "0.png").symlink_to(tmp_path / "nowhere")
    refused_after_another(path, "'a/0.png' cannot be read (No such file")


def refused_after_another(path: Path, message: str) -> None:
    """Like ``refused`` where the cache holds an earlier state of the folder."""
    with pytest.raises(UserError, match=re.escape(message)):
        load(path)


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "own", {"a.png": GOOD})
    os.mkfifo(path / "b.png")
    refused(path, "'b.png' is no regular file")


@pytest.mark.parametrize("what", ["file", "folder"])
def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    path = write_folder(tmp_path / "own", {"a/b.png": GOOD})
    # For root nothing is unreadable, so the refusal is made here.
    original_open, original_scan = Path.open, os.scandir

    def deny(where: Any) -> None:
        if str(where).endswith("b.png" if what == "file" else "/a"):
            raise PermissionError(13, "Permission denied")

    def opened(self: Path, *arguments: Any, **options: Any) -> Any:
        deny(self)
        return original_open(self, *arguments, **options)

    def scanned(where: Any) -> Any:
        deny(where)
        return original_scan(where)

    monkeypatch.setattr(Path, "open", opened)
    monkeypatch.setattr(os, "scandir", scanned)
    refused(path, "b.png" if what == "file" else "/a", "(Permission denied)")


def test_names_that_are_no_text(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "own", {"ok.png": GOOD})
    (path / os.fsdecode(b"caf\xe9\n.png")).write_bytes(b"")
    assert r"'caf\udce9\n.png' is empty" in refused(path)
    (path / os.fsdecode(b"caf\xe9\n.png")).write_bytes(png(1))
    assert len(load(path).train) == 2
    (path / "ok.png").unlink()
    (path / os.fsdecode(b"caf\xe9\n.png")).unlink()
    (path / os.fsdecode(b"\xe9")).mkdir()
    (path / os.fsdecode(b"\xe9") / "a.png").write_bytes(png(1))
    refused_after_another(path, r"folder '\udce9' has no printable name")


def test_a_file_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.data.sources.image_file.LARGEST_FILE", 10)
    refused(write_folder(tmp_path / "own", {"a.png": GOOD}), "'a.png' is larger than")
    refused(write_zip(tmp_path / "own.zip", {"a.png": GOOD}), "'a.png' is larger than")


@pytest.mark.parametrize(
    "index", [b"[" * 200_000, b'{"labels": [["a.png", ' + b"9" * 5000 + b"]]}"]
)
def test_a_hostile_index(tmp_path: Path, index: bytes) -> None:
    refused(write_folder(tmp_path / "own", {"a.png": GOOD, "dataset.json": index}), "not JSON")


# Zip files; see test_data.py for labels, names and truncation


def edit(path: Path, change: Callable[[zipfile.ZipInfo], None], content: bytes = GOOD) -> Path:
    info = zipfile.ZipInfo("a.png")
    change(info)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(info, content, compress_type=info.compress_type)
    return path


def test_links_in_zips(tmp_path: Path) -> None:
    def link(info: zipfile.ZipInfo) -> None:
        info.create_system, info.external_attr = 3, 0o120777 << 16

    refused(edit(tmp_path / "own.zip", link, b"/etc/passwd"), "'a.png' is a symbolic link")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_packing_that_cannot_be_bounded(tmp_path: Path, method: int) -> None:
    def pack(info: zipfile.ZipInfo) -> None:
        info.compress_type = method

    refused(edit(tmp_path / "own.zip", pack), f"'a.png' is packed by method {method}")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_names_that_are_cut(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "own.zip", {"axpng": GOOD, "a.png": GOOD}, None)
    path.write_bytes(path.read_bytes().replace(b"axpng", b"a\0png"))
    refused(path, r"'a\x00png' points outside")


def test_names_in_zips_that_are_no_text(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "own.zip", {"é.png": GOOD}, None)
    path.write_bytes(path.read_bytes().replace("é".encode(), b"\xff\xfe"))
    refused(path, "truncated or not a zip file")
    # Without the flag that says UTF-8, any bytes are a name in code page 437.
    raw = path.read_bytes()
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        position = raw.index(mark) + offset
        raw = raw[:position] + b"\0\0" + raw[position + 2 :]
    path.write_bytes(raw)
    assert len(load(path).train) == 1


def bomb(path: Path, inflated: int, claimed: int) -> Path:
    """A member that claims a few bytes and inflates to many."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(inflated))
    raw = path.read_bytes()
    for mark, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        position = raw.index(mark) + offset
        raw = raw[:position] + struct.pack("<I", claimed) + raw[position + 4 :]
    path.write_bytes(raw)
    return path


def test_what_inflates_more_than_it_claims(tmp_path: Path) -> None:
    import tracemalloc

    path = bomb(tmp_path / "own.zip", 2**27, 1000)
    tracemalloc.start()
    try:
        refused(path, "'a.png'", "corrupt")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2**24
    refused(bomb(tmp_path / "big.zip", 1000, 2**31), "'a.png' is larger than 64 MiB")


# Arrays


def npy(header: str, content: bytes = b"") -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + content


def described(shape: str, kind: str = "|u1", fortran: bool = False) -> str:
    return f"{{'descr': '{kind}', 'fortran_order': {fortran}, 'shape': {shape}, }}"


def saved(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


IMAGES = saved(np.zeros((2, 8, 8, 3), np.uint8))
BAD_ARRAYS: dict[str, tuple[dict[str, bytes], str]] = {
    "huge claim": ({"arr_0": npy(described("(1000000, 1024, 1024, 3)"))}, "claims shape"),
    "endless claim": ({"arr_0": npy(described(f"({10**30}, 8, 8, 3)"))}, "claims shape"),
    "negative claim": ({"arr_0": npy(described("(-2, -8, 8, 3)"), bytes(384))}, "has shape"),
    "objects": ({"arr_0": saved(np.array([{}, None], dtype=object))}, "holds Python objects"),
    "records": ({"arr_0": saved(np.zeros(2, [("a", "u1")]))}, "or records"),
    "code for a header": ({"arr_0": npy("__import__('os').abort()")}, "is corrupt"),
    "no header": ({"arr_0": b"\x93NUM"}, "is corrupt"),
    "other version": ({"arr_0": b"\x93NUMPY\x03\x00" + bytes(200)}, "is corrupt"),
    "float": ({"arr_0": saved(np.zeros((2, 8, 8, 3), np.float32))}, "is float32; only uint8"),
    "flat": ({"arr_0": saved(np.zeros((2, 64), np.uint8))}, "has shape (2, 64)"),
    "four channels": ({"arr_0": saved(np.zeros((2, 8, 8, 4), np.uint8))}, "no axis has 1 or 3"),
    "ambiguous": ({"arr_0": saved(np.zeros((2, 3, 3, 3), np.uint8))}, "could be channels"),
    "empty": ({"arr_0": saved(np.zeros((0, 8, 8, 3), np.uint8))}, "has shape (0, 8, 8, 3)"),
    "wide": ({"arr_0": saved(np.zeros((2, 8, 4, 3), np.uint8))}, "4x8x3, not square"),
    "too large": ({"arr_0": saved(np.zeros((1, 1, 1025, 3), np.uint8))}, "both ends"),
    "fortran": ({"arr_0": saved(np.zeros((2, 8, 8, 3), np.uint8, order="F"))}, "Fortran order"),
    "statistics": ({"mu": saved(np.zeros(3)), "sigma": saved(np.eye(3))}, "holds mu, sigma"),
    "both keys": ({"arr_0": IMAGES, "images": IMAGES}, "one of the two"),
    "nothing": ({}, "holds nothing"),
    "labels of another count": ({"arr_0": IMAGES, "arr_1": saved(np.zeros(3, int))}, "'arr_1.npy'"),
    "labels that are no numbers": (
        {"arr_0": IMAGES, "arr_1": saved(np.array([None, {}], dtype=object))},
        "'arr_1.npy' holds Python objects",
    ),
    "float labels": ({"arr_0": IMAGES, "arr_1": saved(np.zeros(2))}, "give 2 whole numbers"),
    "negative label": (
        {"arr_0": IMAGES, "arr_1": saved(np.array([0, -1]))},
        "image 1 has class -1",
    ),
    "endless label": (
        {"arr_0": IMAGES, "arr_1": saved(np.array([0, 2**64 - 1], np.uint64))},
        "out of all range",
    ),
}


def write_arrays(path: Path, members: dict[str, bytes]) -> Path:
    return write_zip(path, {f"{name}.npy": content for name, content in members.items()}, None)


@pytest.mark.parametrize("fault", BAD_ARRAYS)
def test_bad_arrays_are_named(tmp_path: Path, fault: str) -> None:
    members, message = BAD_ARRAYS[fault]
    refused(write_arrays(tmp_path / "own.npz", members), message)


def test_truncated_arrays(tmp_path: Path) -> None:
    path = write_arrays(tmp_path / "own.npz", {"arr_0": IMAGES})
    raw = path.read_bytes()
    path.write_bytes(raw[:-300])
    refused(path, "truncated or not a zip file")
    flipped = bytearray(raw)
    flipped[200] ^= 1
    path.write_bytes(flipped)
    refused(path, "'arr_0.npy' is corrupt")


def test_an_array_that_is_no_zip_file(tmp_path: Path) -> None:
    (tmp_path / "own.npz").write_bytes(saved(np.zeros((2, 8, 8, 3), np.uint8)))
    refused(tmp_path / "own.npz", "truncated or not a zip file")


def test_more_than_the_disk_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2**26 + 100))
    refused(write_arrays(tmp_path / "own.npz", {"arr_0": IMAGES}), "2 images take", "MiB are free")


def test_facts_survive_strange_names(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "own", {"a.png": GOOD})
    (path / os.fsdecode(b"\xff.txt")).write_bytes(b"")
    json.dumps(load(path).facts()).encode()
    assert r"\udcff.txt" in load(path).notes[0]
