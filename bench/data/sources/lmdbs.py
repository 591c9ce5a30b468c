"""LSUN as it is published: an lmdb folder, ``data.mdb``, whose values are JPEG or WebP files.

Read in the order of the keys, and not by torchvision, whose class writes a pickled list of them
into the working directory. lmdb trusts the file's inner pointers: read only what you trust.
"""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from bench.config import UserError
from bench.data.sources.layout import Content, Entry, damaged

FILE = "data.mdb"


def is_lmdb(path: Path) -> bool:
    """Whether a folder is an lmdb database."""
    return (path / FILE).is_file()


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
            held = (path / FILE).stat().st_size
            if held < needed:
                raise UserError(
                    f"{path}: {FILE} is truncated ({held} of {needed} bytes); fetch it again"
                )
            count = database.stat()["entries"]
            if not count:
                raise UserError(f"{path}: holds no image")
            yield Content(path, "lmdb", count, partial(_entries, database))
    except lmdb.Error as error:
        raise damaged(path, "corrupt or no lmdb database", error) from error


def _entries(database: Any) -> Generator[Entry, None, None]:
    with database.begin() as transaction:
        for key, value in transaction.cursor():
            yield Entry(key.decode("ascii", "backslashreplace"), partial(bytes, value))
