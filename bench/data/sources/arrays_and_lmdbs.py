"""Images in one ``.npz`` file (guided-diffusion's, or a cell's own), or in an lmdb folder (LSUN's).

``arr_0`` (or ``images``) is uint8 (N, H, W, C) or (N, C, H, W), ``arr_1`` (or ``labels``) integers
(N,), where there are labels. The axis of channels is the one that has 1 or 3 entries. Images are
read one after the other, never all at once, and nothing is unpickled.

An lmdb's ``data.mdb`` holds JPEG or WebP files, read in the order of their keys, and not by
torchvision, whose class writes a pickled list of them into the working directory. lmdb trusts the
file's inner pointers: read only what you trust.
"""

import math
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any
from zipfile import ZipFile, ZipInfo

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from bench.config import UserError
from bench.data.sources.folders_and_zips import DAMAGE, open_archive
from bench.data.sources.image_file import LARGEST_SIDE, shown
from bench.data.sources.layout import Content, Entry, damaged

LMDB_FILE = "data.mdb"
_KEYS = (("arr_0", "arr_1"), ("images", "labels"))
_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
_Open = tuple[IO[bytes], tuple[int, ...], np.dtype[Any]]
"""An array's file behind its header, with the shape and the type that this claims."""


@contextmanager
def open_npz(path: Path) -> Iterator[Content]:
    """Open an ``.npz`` file of images; UserError names the file and the array that is at fault."""
    with open_archive(path) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        present = [keys for keys in _KEYS if keys[0] in members]
        if len(present) != 1:
            raise UserError(
                f"{path}: holds {shown(', '.join(sorted(members))) or 'nothing'}; images are read "
                "from 'arr_0' (labels 'arr_1') or from 'images' (labels 'labels'), one of the two"
            )
        ((images, labels),) = present
        with _open(archive, members[images], path) as (_, shape, dtype):
            channels_last = _layout(shape, dtype, f"{path}: '{images}'")
        known = _labels(archive, members[labels], path, shape[0]) if labels in members else None
        others = ", ".join(sorted(shown(name) for name in members.keys() - {images, labels}))
        entries = partial(_entries, archive, members[images], path, channels_last=channels_last)
        notes = (f"also holds arrays that were left out: {others}",) if others else ()
        yield Content(path, "npz", shape[0], entries, labels=known, notes=notes)


@contextmanager
def _open(archive: ZipFile, info: ZipInfo, path: Path) -> Iterator[_Open]:
    """Open an array behind its header, which must claim as many bytes as there are."""
    where = f"{path}: '{shown(info.filename)}'"
    try:
        with archive.open(info) as file:
            # KeyError: a version that numpy writes for records alone.
            shape, fortran, dtype = _HEADERS[npy.read_magic(file)](file)
            if dtype.hasobject or dtype.fields is not None:
                raise UserError(f"{where} holds Python objects or records; save plain numbers")
            held = info.file_size - file.tell()
            if held != math.prod(shape) * dtype.itemsize:
                raise UserError(f"{where} claims shape {shape} of {dtype}, but holds {held} bytes")
            if fortran and len(shape) > 1:
                raise UserError(f"{where} is in Fortran order; save numpy.ascontiguousarray of it")
            yield file, shape, dtype
    except (*DAMAGE, SyntaxError, TypeError, KeyError) as error:
        raise damaged(path, f"'{shown(info.filename)}' is corrupt", error) from error


def _layout(shape: tuple[int, ...], dtype: np.dtype[Any], where: str) -> bool:
    """Whether the channels come last; UserError if these are no images or it cannot be told."""
    if dtype != np.uint8:
        raise UserError(f"{where} is {dtype}; only uint8, 0 to 255, is read")
    if len(shape) != 4 or min(shape) < 1:
        raise UserError(f"{where} has shape {shape}; give (N, H, W, C) or (N, C, H, W)")
    first, last = (shape[axis] in {1, 3} for axis in (1, 3))
    if first == last:
        reason = "both ends could be channels" if first else "no axis has 1 or 3 channels"
        raise UserError(f"{where} has shape {shape}: {reason}; give PNG files instead")
    if max(shape[1:]) > LARGEST_SIDE:
        raise UserError(f"{where} has shape {shape}, the limit is {LARGEST_SIDE} pixels")
    return last


def _labels(archive: ZipFile, info: ZipInfo, path: Path, count: int) -> NDArray[np.int64]:
    with _open(archive, info, path) as (file, shape, dtype):
        where = f"{path}: '{shown(info.filename)}'"
        if dtype.kind not in "iu" or shape != (count,):
            raise UserError(f"{where} is {dtype} of shape {shape}; give {count} whole numbers")
        size = count * dtype.itemsize
        given = np.frombuffer(_exactly(file, size, where), dtype=dtype)
        file.read(1)  # Behind the last byte zipfile checks the CRC.
    if given.max() > np.iinfo(np.int64).max:
        raise UserError(f"{where}: label {given.max()} is out of all range")
    return given.astype(np.int64)


def _entries(
    archive: ZipFile, info: ZipInfo, path: Path, *, channels_last: bool
) -> Generator[Entry, None, None]:
    with _open(archive, info, path) as (file, shape, _):
        for position in range(shape[0]):
            name = f"{info.filename}[{position}]"
            content = _exactly(file, math.prod(shape[1:]), f"{path}: '{name}'")
            pixels = np.frombuffer(content, dtype=np.uint8).reshape(shape[1:])
            yield Entry(name, (pixels.transpose(2, 0, 1) if channels_last else pixels).view)
        file.read(1)


def _exactly(file: IO[bytes], size: int, where: str) -> bytes:
    content = file.read(size)
    if len(content) != size:
        raise UserError(f"{where} is truncated ({len(content)} of {size} bytes); fetch it again")
    return content


def is_lmdb(path: Path) -> bool:
    """Whether a folder is an lmdb database."""
    return (path / LMDB_FILE).is_file()


@contextmanager
def open_lmdb(path: Path) -> Iterator[Content]:
    """Open an lmdb folder for reading; UserError if it is damaged or the library is missing."""
    try:
        import lmdb
    except ImportError as error:
        raise UserError(
            f"{path}: reading LSUN's format needs the package lmdb; "
            "install it: pip install 'scorebench[lsun]'"
        ) from error
    try:
        with lmdb.open(
            str(path), readonly=True, lock=False, readahead=False, meminit=False, create=False
        ) as database:
            # Reading a page that is not there kills the process.
            needed = (database.info()["last_pgno"] + 1) * database.stat()["psize"]
            held = (path / LMDB_FILE).stat().st_size
            if held < needed:
                raise UserError(
                    f"{path}: {LMDB_FILE} is truncated ({held} of {needed} bytes); fetch it again"
                )
            count = database.stat()["entries"]
            if not count:
                raise UserError(f"{path}: holds no image")
            yield Content(path, "lmdb", count, partial(_database_entries, database))
    except lmdb.Error as error:
        raise damaged(path, "corrupt or no lmdb database", error) from error


def _database_entries(database: Any) -> Generator[Entry, None, None]:
    with database.begin() as transaction:
        for key, value in transaction.cursor():
            yield Entry(key.decode("ascii", "backslashreplace"), partial(bytes, value))
