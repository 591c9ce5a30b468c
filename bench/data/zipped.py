"""``--data FILE.zip``: images in a zip file with ``dataset.json``, EDM's and StyleGAN's layout.

The zip file holds PNG or JPEG images in any folders and, at its top, ``dataset.json`` with
``{"labels": [[file name, class index], ...]}``, or ``null`` in place of the list; ``"classes"`` may
list the classes' names. Without the file, or with ``null``, the images have no labels. Images are
taken in the order of their names. Beside ``X-train.zip``, ``X-test.zip`` is the held-out split.

Nothing is ever unpacked onto the disk. Decoded images are kept under the cache, keyed by the hash
of the zip files, so that only the first use waits for the decoding.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from bench.data.catalogue import KNOWN
from bench.data.dataset import Dataset, Split, fingerprint
from bench.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_FORMAT = 1
"""Version of what the cache holds; raised when this reader decodes differently."""
_INDEX = "dataset.json"
_SUFFIXES = {".png", ".jpg", ".jpeg"}
_CHANNELS = {"L": 1, "RGB": 3}
_LARGEST = 1024
"""Side in pixels beyond which an image is refused unread."""
_LARGEST_FILE = 64 * 2**20
_ENCRYPTED = 0x1
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    OSError,
    EOFError,
    NotImplementedError,
    UnicodeDecodeError,
)
"""What reading a damaged zip file may raise."""
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


@dataclass(frozen=True)
class _Content:
    """One decoded zip file."""

    split: Split
    classes: tuple[str, ...] | None
    lossy: bool


def load_zip(name: str, path: Path, *, cache: Path) -> Dataset:
    """Read a data set from a zip file and, beside ``*-train.zip``, its ``*-test.zip``.

    ``name`` labels the results; where it is a known data set's, size, channels and classes must be
    that one's. The variant is ``<name>-jpeg`` if any image went through JPEG, else ``<name>-zip``.
    Raises UserError for anything missing, damaged or inconsistent, naming the file.
    """
    from filelock import FileLock

    if not _NAME.fullmatch(name):
        raise UserError(
            f"data set name '{name}' cannot be used; choose small letters, digits, '-', '_', '.'"
        )
    sibling = _sibling(path)
    key = _key(name, path, sibling)
    folder = cache / "zips" / key[:32]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        stored = _read_cache(folder)
        if stored is None:
            _store(_decode(name, path, sibling), folder)
            stored = _read_cache(folder)
    if stored is None:
        raise UserError(f"{folder}: the cache cannot be read back; delete it and run again")
    return _assemble(name, path, sibling, stored)


@dataclass(frozen=True)
class _Stored:
    """What the cache holds: both splits, and the facts of ``facts.json``."""

    train: Split
    test: Split | None
    classes: tuple[str, ...]
    lossy: bool
    sha256: str


def _sibling(path: Path) -> Path | None:
    stem, mark, _ = path.name.rpartition("-train.")
    candidate = path.with_name(f"{stem}-test.zip")
    return candidate if mark and candidate.is_file() else None


def _key(name: str, path: Path, sibling: Path | None) -> str:
    digest = hashlib.sha256(f"{_FORMAT} {name}".encode())
    for file in (path, sibling):
        if file is None:
            digest.update(b" no held-out split")
            continue
        try:
            with file.open("rb") as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
        except OSError as error:
            raise UserError(f"{file}: cannot be read ({error.strerror})") from error
    return digest.hexdigest()


def _assemble(name: str, path: Path, sibling: Path | None, stored: _Stored) -> Dataset:
    notes: list[str] = []
    if stored.lossy:
        notes.append("the images went through JPEG: numbers are not comparable with published ones")
    if name in KNOWN and len(stored.train) != KNOWN[name].train:
        notes.append(f"{len(stored.train)} training images, not the published {KNOWN[name].train}")
    held_out = f"; held-out split from {sibling.name} beside it" if sibling else ""
    return Dataset(
        name=name,
        variant=f"{name}-jpeg" if stored.lossy else f"{name}-zip",
        train=stored.train,
        test=stored.test,
        classes=stored.classes,
        sha256=stored.sha256,
        source=f"{path}{held_out}",
        notes=tuple(notes),
    )


def _decode(name: str, path: Path, sibling: Path | None) -> _Stored:
    train = _read_zip(path, name)
    test = _read_zip(sibling, name) if sibling else None
    if sibling and test and test.split.images.shape[1:] != train.split.images.shape[1:]:
        raise UserError(
            f"{sibling}: images of {test.split.images.shape[1:]}, but those of {path.name} are "
            f"{train.split.images.shape[1:]}; both must agree"
        )
    if sibling and test and (test.split.labels is None) != (train.split.labels is None):
        raise UserError(f"{sibling}: only one of it and {path.name} has labels; both must agree")
    if sibling and test and test.classes != train.classes:
        raise UserError(f"{sibling}: its 'classes' differ from those of {path.name}")
    splits = [train.split] if test is None else [train.split, test.split]
    return _Stored(
        train=train.split,
        test=test.split if test else None,
        classes=train.classes or _default_classes(name, splits),
        lossy=train.lossy or bool(test and test.lossy),
        sha256=fingerprint(train.split, test.split if test else None),
    )


def _default_classes(name: str, splits: Iterable[Split]) -> tuple[str, ...]:
    if name in KNOWN:
        return KNOWN[name].classes
    highest = [int(split.labels.max()) for split in splits if split.labels is not None]
    return tuple(str(label) for label in range(max(highest, default=-1) + 1))


def _read_zip(path: Path, name: str) -> _Content:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = _image_entries(archive, path)
            labels, classes = _read_index(archive, path, entries, name)
            images, lossy = _read_images(archive, path, entries, name)
    except _DAMAGE as error:
        raise UserError(
            f"{path}: truncated or not a zip file ({error}); fetch or make it again"
        ) from error
    return _Content(Split(images, labels), classes, lossy)


def _image_entries(archive: zipfile.ZipFile, path: Path) -> list[str]:
    """Return the images' names in order, after refusing names that no honest file has."""
    seen: set[str] = set()
    for info in archive.infolist():
        name = info.filename
        if name in seen:
            raise UserError(f"{path}: '{name}' is in it twice; make the file again")
        seen.add(name)
        if name.startswith("/") or "\\" in name or ".." in PurePosixPath(name).parts:
            raise UserError(f"{path}: '{name}' points outside the file; make the file again")
        if info.flag_bits & _ENCRYPTED:
            raise UserError(f"{path}: '{name}' is encrypted; make the file without a password")
    entries = sorted(name for name in seen if _is_image(name))
    if not entries:
        raise UserError(f"{path}: holds no image; .png and .jpg are read")
    return entries


def _is_image(name: str) -> bool:
    entry = PurePosixPath(name)
    # macOS adds a hidden "._" twin to each file, in a folder of its own.
    hidden = "__MACOSX" in entry.parts or entry.name.startswith(".")
    return entry.suffix.lower() in _SUFFIXES and not hidden and not name.endswith("/")


def _read_index(
    archive: zipfile.ZipFile, path: Path, entries: list[str], name: str
) -> tuple[NDArray[np.int64] | None, tuple[str, ...] | None]:
    """Return labels in the order of ``entries`` and the classes' names, each where given."""
    if _INDEX not in archive.namelist():
        return None, None
    where = f"{path}: {_INDEX}"
    try:
        index: Any = json.loads(archive.read(_INDEX))
    except ValueError as error:
        raise UserError(f"{where} is not JSON ({error}); make the file again") from error
    if not isinstance(index, dict):
        raise UserError(f'{where} is no object like {{"labels": [[file name, class], ...]}}')
    classes = _class_names(index.get("classes"), where, name)
    if index.get("labels") is None:
        return None, classes
    labels = _label_table(index["labels"], where)
    return _labels(labels, entries, where, _class_count(classes, name)), classes


def _class_names(given: Any, where: str, name: str) -> tuple[str, ...] | None:
    if given is None:
        return None
    if not isinstance(given, list) or not all(isinstance(entry, str) for entry in given):
        raise UserError(f"{where}: 'classes' must be a list of names")
    if name in KNOWN and len(given) != len(KNOWN[name].classes):
        raise UserError(
            f"{where}: {len(given)} classes, but {name} has {len(KNOWN[name].classes)}; "
            "give the right file or another --dataset"
        )
    return tuple(given)


def _class_count(classes: tuple[str, ...] | None, name: str) -> int | None:
    if classes is not None:
        return len(classes)
    return len(KNOWN[name].classes) if name in KNOWN else None


def _label_table(given: Any, where: str) -> dict[str, int]:
    table: dict[str, int] = {}
    if not isinstance(given, list):
        raise UserError(f"{where}: 'labels' must be a list of [file name, class] or null")
    for row in given:
        match row:
            case [str(entry), int(label)] if not isinstance(label, bool):
                if entry in table:
                    raise UserError(f"{where}: '{entry}' is labelled twice")
                table[entry] = label
            case _:
                raise UserError(
                    f"{where}: {json.dumps(row)[:80]} is no [file name, class index]; "
                    "classes are whole numbers"
                )
    return table


def _labels(
    table: dict[str, int], entries: list[str], where: str, classes: int | None
) -> NDArray[np.int64]:
    import numpy as np

    missing = next((entry for entry in entries if entry not in table), None)
    if missing is not None:
        raise UserError(
            f"{where}: no label for '{missing}' ({len(table)} labels, {len(entries)} images)"
        )
    images = set(entries)
    extra = next((entry for entry in table if entry not in images), None)
    if extra is not None:
        raise UserError(f"{where}: labels '{extra}', which is not in the file")
    highest = np.iinfo(np.int32).max if classes is None else classes - 1
    for entry in entries:
        if not 0 <= table[entry] <= highest:
            raise UserError(
                f"{where}: '{entry}' has class {table[entry]}, allowed are 0 to {highest}"
            )
    return np.array([table[entry] for entry in entries], dtype=np.int64)


def _read_images(
    archive: zipfile.ZipFile, path: Path, entries: list[str], name: str
) -> tuple[NDArray[np.uint8], bool]:
    """Decode all images to (N, C, H, W); also tell whether any of them is a JPEG."""
    import numpy as np

    first, lossy = _read_image(archive, path, entries[0], None)
    shape = first.shape
    _check_shape(shape, path, entries[0], name)
    images = np.empty((len(entries), *shape), dtype=np.uint8)
    images[0] = first
    for position, entry in enumerate(entries[1:], start=1):
        images[position], is_jpeg = _read_image(archive, path, entry, shape)
        lossy = lossy or is_jpeg
    return images, lossy


def _check_shape(shape: tuple[int, ...], path: Path, entry: str, name: str) -> None:
    channels, height, width = shape
    given = f"{width}x{height}x{channels}"
    if width != height:
        raise UserError(f"{path}: '{entry}' is {given}, not square; crop the images first")
    known = KNOWN.get(name)
    if known is not None and (channels, width) != (known.channels, known.size):
        raise UserError(
            f"{path}: '{entry}' is {given}, but {name} has images of "
            f"{known.size}x{known.size}x{known.channels}; give the right file or another --dataset"
        )


def _read_image(
    archive: zipfile.ZipFile, path: Path, entry: str, expected: tuple[int, ...] | None
) -> tuple[NDArray[np.uint8], bool]:
    """Decode one image to (C, H, W) and tell whether it is a JPEG, by its content not its name.

    The size is checked before the pixels are read.
    """
    import numpy as np
    from PIL import Image

    if archive.getinfo(entry).file_size > _LARGEST_FILE:
        raise UserError(f"{path}: '{entry}' is larger than {_LARGEST_FILE >> 20} MiB")
    try:
        content = archive.read(entry)
        with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as image:
            shape = _shape(image.mode, image.size, path, entry)
            if expected is not None and shape != expected:
                raise UserError(
                    f"{path}: '{entry}' is {_text(shape)}, but the first image is "
                    f"{_text(expected)}; all must agree"
                )
            pixels, lossy = np.asarray(image), image.format == "JPEG"
    except (*_DAMAGE, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(
            f"{path}: '{entry}' is corrupt ({error}); fetch or make the file again"
        ) from error
    return pixels.reshape(*shape[1:], shape[0]).transpose(2, 0, 1), lossy


def _shape(mode: str, size: tuple[int, int], path: Path, entry: str) -> tuple[int, int, int]:
    if mode not in _CHANNELS:
        raise UserError(f"{path}: '{entry}' has mode {mode}; only 8-bit grey and RGB are read")
    if max(size) > _LARGEST:
        raise UserError(f"{path}: '{entry}' is {size[0]}x{size[1]}, the limit is {_LARGEST}")
    return _CHANNELS[mode], size[1], size[0]


def _text(shape: tuple[int, ...]) -> str:
    channels, height, width = shape
    return f"{width}x{height}x{channels}"


def _store(stored: _Stored, folder: Path) -> None:
    """Write the cache's folder under a temporary name and move it into place."""
    import numpy as np

    shutil.rmtree(folder, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        for part, split in (("train", stored.train), ("test", stored.test)):
            if split is not None:
                np.save(temporary / f"{part}-images.npy", split.images)
                if split.labels is not None:
                    np.save(temporary / f"{part}-labels.npy", split.labels)
        facts = {"classes": stored.classes, "lossy": stored.lossy, "sha256": stored.sha256}
        (temporary / "facts.json").write_text(json.dumps(facts))
        for file in temporary.iterdir():
            with file.open("rb") as content:
                os.fsync(content.fileno())
        temporary.chmod(0o755)
        os.replace(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _read_cache(folder: Path) -> _Stored | None:
    """Return the cache's content, images memory-mapped, or None where it is not whole."""
    try:
        facts = json.loads((folder / "facts.json").read_text())
        train = _read_cached_split(folder, "train")
        if train is None:
            return None
        return _Stored(
            train=train,
            test=_read_cached_split(folder, "test"),
            classes=tuple(facts["classes"]),
            lossy=facts["lossy"],
            sha256=facts["sha256"],
        )
    except (OSError, EOFError, ValueError, KeyError, TypeError):
        return None


def _read_cached_split(folder: Path, part: str) -> Split | None:
    import numpy as np

    images = folder / f"{part}-images.npy"
    labels = folder / f"{part}-labels.npy"
    if not images.exists():
        return None
    return Split(
        np.load(images, mmap_mode="r"),
        np.load(labels) if labels.exists() else None,
    )
