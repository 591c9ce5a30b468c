"""Small images for tests, as arrays and as files, and what they are kept in; no torch."""

from __future__ import annotations

import gzip
import io
import json
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def pixels(seed: int, side: int = 8, channels: int = 3) -> np.ndarray:
    """Random uint8 pixels as Pillow has them: (side, side, 3), or (side, side) for one channel."""
    shape = (side, side, channels) if channels > 1 else (side, side)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encoded(array: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind, **options)
    return buffer.getvalue()


def png(seed: int, side: int = 8, channels: int = 3) -> bytes:
    return encoded(pixels(seed, side, channels))


def write_zip(path: Path, entries: dict[str, bytes], index: Any = "by name") -> Path:
    """Write entries and a ``dataset.json`` that labels them 0, 1, 2, ... unless given."""
    if index == "by name":
        index = {"labels": [[name, k] for k, name in enumerate(entries)]}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
        if index is not None:
            text = index if isinstance(index, (str, bytes)) else json.dumps(index)
            archive.writestr("dataset.json", text)
    return path


def write_folder(path: Path, entries: Mapping[str, bytes]) -> Path:
    for name, content in entries.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def idx_bytes(array: np.ndarray) -> bytes:
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return header + array.tobytes()


def write_idx(folder: Path, *, zipped_up: bool = False, train: int = 6, test: int = 3) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for part, count in (("train", train), ("t10k", test)):
        images = np.random.default_rng(count).integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            content = idx_bytes(array)
            name = f"{part}-{kind}-ubyte"
            if zipped_up:
                (folder / f"{name}.gz").write_bytes(gzip.compress(content))
            else:
                (folder / name).write_bytes(content)
    return folder
