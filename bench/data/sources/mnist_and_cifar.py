"""MNIST, Fashion-MNIST and CIFAR: found where the user or the system put them, else fetched.

They are looked for in ``--data PATH``, else in the folder that the environment variable
``SCOREBENCH_DATA`` names, where Debian puts Fashion-MNIST, and in our own folder of downloads; in
torchvision's layout (``FashionMNIST/raw/``, ``cifar-10-batches-py/``), or, MNIST's and
Fashion-MNIST's four IDX files, gzipped or not, directly, or in a folder of the data set's name.
"""

import gzip
import math
import os
import shutil
import struct
import tempfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from bench.config import MissingDataError, UserError
from bench.data.catalogue import KNOWN, ROOT_VARIABLE
from bench.data.dataset import Dataset, Split
from bench.data.sources.image_file import said_by

DEBIAN = {"fashion-mnist": Path("/usr/share/datasets/fashion-mnist")}
"""Where Debian's package dataset-fashion-mnist puts its files."""
_IDX = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}
"""Data sets of IDX files: torchvision's name of the class, and of the folder under a root."""
_FOLDERS = {**_IDX, "cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}
_PREFIXES = {"train": "train", "test": "t10k"}
_KINDS = {"images": "images-idx3-ubyte", "labels": "labels-idx1-ubyte"}
_UNSIGNED_BYTES, _GZIP = b"\0\0\x08", b"\x1f\x8b"


def load_published(name: str, *, path: Path | None, cache: Path, download: bool) -> Dataset:
    """Read a data set from the first place that has it; see the module for the places.

    With ``path``, that place alone is looked at. Raises UserError, which says where was looked.
    """
    root = os.environ.get(ROOT_VARIABLE)
    if path is None and root and not Path(root).is_dir():
        raise UserError(f"{ROOT_VARIABLE}={root}: no such folder; correct or unset it")
    known = [Path(root) if root else None, DEBIAN.get(name), cache / "downloads"]
    places = [path] if path is not None else [place for place in known if place is not None]
    folder = next(filter(None, (find(name, place) for place in places)), None)
    if folder is None:
        looked = ", ".join(map(str, places))
        if path is not None or not download:
            raise MissingDataError(f"no {name} data found (looked in: {looked}); {_advice(name)}")
        folder = _download(name, cache / "downloads", looked)
    read = _read_idx if name in _IDX else _read_cifar
    train, test = (read(name, folder, part) for part in ("train", "test"))
    found, published = f"{len(train)} + {len(test)}", KNOWN[name].counts
    told = f"{found} images, not the published {published}: numbers are not comparable with those"
    notes = () if found == published else (told,)
    return Dataset.of_known(name, train, test, str(folder), notes=notes)


def find(name: str, place: Path) -> Path | None:
    """Return the folder of the data set's own files, if they lie at or under ``place``."""
    own = _FOLDERS[name]
    if name in _IDX:
        raw = (place, place / own / "raw", place / "raw", place / name)
        return next((folder for folder in raw if _idx_file(folder, "train", "images")), None)
    if place.name == own and place.is_dir():
        return place
    return next((f for f in (place / own, place / name / own) if f.is_dir()), None)


def _idx_file(folder: Path, part: str, kind: str) -> Path | None:
    stem = f"{_PREFIXES[part]}-{_KINDS[kind]}"
    return next((path for path in (folder / stem, folder / f"{stem}.gz") if path.is_file()), None)


def _read_idx(name: str, folder: Path, part: str) -> Split:
    image_file, label_file = (_idx_file(folder, part, kind) for kind in _KINDS)
    if image_file is None or label_file is None:
        kind = "images" if image_file is None else "labels"
        raise UserError(
            f"{folder}: {_PREFIXES[part]}-{_KINDS[kind]}[.gz] is missing; all four files of the "
            "data set must lie there"
        )
    images, labels = _read_idx_file(image_file), _read_idx_file(label_file)
    known = KNOWN[name]
    if images.shape[1:] != (known.size, known.size):
        raise UserError(
            f"{image_file}: shape {images.shape}, but {name} has N images of "
            f"{known.size}x{known.size} pixels; give the right file"
        )
    if labels.shape != images.shape[:1] or len(labels) == 0:
        raise UserError(
            f"{label_file}: {labels.shape[0] if labels.ndim else 0} labels for {len(images)} "
            f"images of {image_file.name}; the two must belong together"
        )
    if labels.max() >= len(known.classes):
        raise UserError(
            f"{label_file}: label {labels.max()}, but {name} has classes 0 to "
            f"{len(known.classes) - 1}; give the right file"
        )
    return Split(images[:, None].copy(), labels.astype(np.int64))


def _read_idx_file(path: Path) -> NDArray[np.uint8]:
    """Read an array of unsigned bytes: two zeros, type, rank, big-endian sizes, the data."""
    try:
        content = path.read_bytes()
        if content[:2] == _GZIP:
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: corrupt or unreadable ({error}); fetch it again") from error
    if len(content) < 4 or not content.startswith(_UNSIGNED_BYTES):
        raise UserError(f"{path}: not an IDX file of unsigned bytes; fetch it again")
    start = 4 + 4 * content[3]
    header = content[4:start]
    shape = struct.unpack(f">{len(header) // 4}I", header[: len(header) // 4 * 4])
    if len(content) != start + math.prod(shape):
        raise UserError(
            f"{path}: truncated or damaged, {len(content)} bytes for shape {shape}; fetch it again"
        )
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)


def _read_cifar(name: str, folder: Path, part: str) -> Split:
    # torchvision checks every file's MD5 before it unpickles it.
    try:
        data = _torchvision_class(name)(root=folder.parent, train=part == "train", download=False)
    except (RuntimeError, OSError) as error:
        raise UserError(
            f"{folder}: {name} is incomplete or corrupt ({said_by(error)}); {_advice(name)}"
        ) from error
    images = np.ascontiguousarray(np.asarray(data.data, dtype=np.uint8).transpose(0, 3, 1, 2))
    return Split(images, np.asarray(data.targets, dtype=np.int64))


def _torchvision_class(name: str) -> Any:
    import torchvision

    return getattr(torchvision.datasets, _IDX.get(name, name.upper()))


def _download(name: str, root: Path, looked: str) -> Path:
    """Let torchvision fetch and check the files in a temporary folder, then move them in place."""
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / f".{name}.lock"):
        # Of processes that were killed: who downloads holds the lock.
        for left in root.glob(f".{name}.tmp-*"):
            shutil.rmtree(left, ignore_errors=True)
        if found := find(name, root):
            return found
        with tempfile.TemporaryDirectory(dir=root, prefix=f".{name}.tmp-") as temporary:
            try:
                _torchvision_class(name)(root=Path(temporary), train=True, download=True)
            except (OSError, RuntimeError, ValueError) as error:
                raise MissingDataError(
                    f"no {name} data found (looked in: {looked}) and torchvision's download "
                    f"failed: {said_by(error)}; {_advice(name)}"
                ) from error
            target = root / _FOLDERS[name]
            # What lies there was not found good above, so it cannot be a finished download.
            shutil.rmtree(target, ignore_errors=True)
            os.replace(Path(temporary) / _FOLDERS[name], target)
    if found := find(name, root):
        return found
    raise UserError(f"{root}: torchvision's download of {name} lacks files; {_advice(name)}")


def _advice(name: str) -> str:
    debian = " or install Debian's dataset-fashion-mnist" if name in DEBIAN else ""
    cifar = f"{_FOLDERS[name]}/, or images of your own,"
    kind = "the four IDX files" if name in _IDX else cifar
    return f"give --data PATH with {kind} or set {ROOT_VARIABLE}{debian}"
