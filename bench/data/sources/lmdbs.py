"""LSUN as it is published: an lmdb folder, ``data.mdb``, whose values are JPEG or WebP files.

Read directly, not by torchvision, whose class writes a pickled list of keys into the working
directory. Images are taken in the order of their keys. lmdb maps the file and trusts its inner
pointers: read only files whose source you trust.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.config.errors import UserError
from bench.data.sources.entries import Content, Entry, damaged

if TYPE_CHECKING:
    import lmdb

FILE = "data.mdb"


def is_lmdb(path: Path) -> bool:
    """Whether a folder is an lmdb database."""
    return (path / FILE).is_file()


@contextmanager
def open_lmdb(path: Path) -> Iterator[Content]:
    """Open an lmdb folder for reading; UserError if it is damaged or the library is missing."""
    lmdb = _library(path)
    try:
        with lmdb.open(
            str(path), readonly=True, lock=False, readahead=False, meminit=False, create=False
        ) as database:
            _check_length(database, path)
            count = database.stat()["entries"]
            if not count:
                raise UserError(f"{path}: holds no image")
            yield Content(path, "lmdb", count, lambda: _entries(database))
    except lmdb.Error as error:
        raise damaged(path, "corrupt or no lmdb database", error) from error


def _library(path: Path) -> Any:
    try:
        import lmdb
    except ImportError as error:
        raise UserError(
            f"{path}: reading LSUN's format needs the package lmdb; "
            "install it: pip install 'scorebench[lsun]'"
        ) from error
    return lmdb


def _check_length(database: lmdb.Environment, path: Path) -> None:
    """Refuse a file that ends too early: reading a page that is not there kills the process."""
    needed = (database.info()["last_pgno"] + 1) * database.stat()["psize"]
    held = (path / FILE).stat().st_size
    if held < needed:
        raise UserError(f"{path}: {FILE} is truncated ({held} of {needed} bytes); fetch it again")


def _entries(database: lmdb.Environment) -> Generator[Entry, None, None]:
    with database.begin() as transaction:
        for key, value in transaction.cursor():
            yield _entry(key.decode("ascii", "backslashreplace"), value)


def _entry(name: str, value: bytes) -> Entry:
    return Entry(name, lambda: value)
