"""MNIST's and Fashion-MNIST's own files, read in place, gzipped or not, without torchvision."""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.config import UserError
from bench.data.catalogue import KNOWN
from bench.data.dataset import Split

DEBIAN = {"fashion-mnist": Path("/usr/share/datasets/fashion-mnist")}
"""Where Debian's package dataset-fashion-mnist puts its files."""
FOLDERS = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}
"""torchvision's name of the folder under a root."""

_PREFIXES = {"train": "train", "test": "t10k"}
_KINDS = {"images": "images-idx3-ubyte", "labels": "labels-idx1-ubyte"}
_UNSIGNED_BYTES, _GZIP = b"\0\0\x08", b"\x1f\x8b"


def find_folder(name: str, root: Path) -> Path | None:
    """Return the folder at or under ``root`` in which the data set's first file lies, if any."""
    candidates = (root, root / FOLDERS[name] / "raw", root / "raw", root / name)
    return next((folder for folder in candidates if _find(folder, "train", "images")), None)


def read_array(path: Path) -> NDArray[np.uint8]:
    """Read one IDX file of unsigned bytes: two zeros, type, rank, big-endian sizes, the data."""
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


def read_split(name: str, folder: Path, part: str) -> Split:
    """Read a split, ``train`` or ``test``; UserError names the file that is missing or corrupt."""
    image_file, label_file = (_find(folder, part, kind) for kind in _KINDS)
    if image_file is None or label_file is None:
        kind = "images" if image_file is None else "labels"
        raise UserError(
            f"{folder}: {_PREFIXES[part]}-{_KINDS[kind]}[.gz] is missing; all four files of the "
            "data set must lie there"
        )
    images, labels = read_array(image_file), read_array(label_file)
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


def _find(folder: Path, part: str, kind: str) -> Path | None:
    stem = f"{_PREFIXES[part]}-{_KINDS[kind]}"
    return next((path for path in (folder / stem, folder / f"{stem}.gz") if path.is_file()), None)
