"""Images in a folder, with or without folders in it, in the order of their relative paths.

Hidden files are passed over. Links are followed, but not in a circle; what is neither file nor
folder is refused, because reading it may never end.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from bench.config.errors import UserError
from bench.data.sources.entries import INDEX, LARGEST_INDEX, Content, Entry, left_out
from bench.data.sources.images import (
    LARGEST_FILE,
    SUFFIXES,
    UNREAD,
    is_hidden,
    is_hidden_image,
    is_image,
    shown,
)


@dataclass(frozen=True)
class Tree:
    """The files under a folder by relative path, sorted; ``stamp`` changes when one of them does.

    ``stamp`` covers names, sizes and times of change, not content.
    """

    path: Path
    names: list[str]
    others: list[str]
    hidden: list[str]
    has_index: bool
    stamp: str


def stamp_of(status: os.stat_result) -> str:
    """Return what tells one state of a file from the next without reading it.

    The time of the inode's change is in it, because a copy that keeps a file's times keeps its
    time of modification but not that.
    """
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"


def scan(path: Path) -> Tree:
    """List a folder and all folders in it; UserError names what cannot be listed or read."""
    digest = hashlib.sha256()
    names, others, hidden = [], [], []
    has_index = False
    for name, status in _walk(path, "", ()):
        if name == INDEX:
            has_index = True
        elif is_hidden_image(name):
            hidden.append(name)
        elif is_image(name, path):
            names.append(name)
        else:
            others.append(name)
        digest.update(f"{name} {stamp_of(status)}\n".encode(errors="surrogateescape"))
    return Tree(path, sorted(names), others, hidden, has_index, digest.hexdigest())


def _walk(
    root: Path, folder: str, above: tuple[tuple[int, int], ...]
) -> Iterator[tuple[str, os.stat_result]]:
    """Yield files by relative path, in an order that does not change."""
    where = root / folder
    try:
        status = where.stat()
        with os.scandir(where) as found:
            listed = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"{shown(str(where))}: cannot be listed ({error.strerror})") from error
    identity = (status.st_dev, status.st_ino)
    if identity in above:
        raise UserError(f"{shown(str(where))}: is a link to a folder that it lies in; remove it")
    for entry in listed:
        if is_hidden(entry.name) and not is_hidden_image(entry.name):
            continue
        name = f"{folder}/{entry.name}" if folder else entry.name
        try:
            status = entry.stat()
        except OSError as error:
            raise UserError(f"{root}: '{shown(name)}' cannot be read ({error.strerror})") from error
        if stat.S_ISDIR(status.st_mode):
            yield from _walk(root, name, (*above, identity))
        elif stat.S_ISREG(status.st_mode):
            yield name, status
        else:
            raise UserError(f"{root}: '{shown(name)}' is no regular file; remove it")


@contextmanager
def open_folder(tree: Tree) -> Iterator[Content]:
    """Open a folder of images that ``scan`` has listed; UserError if there is none in it."""
    path = tree.path
    if not tree.names:
        raise UserError(f"{path}: holds no image; PNG, JPEG and WebP are read")
    index = _read(path, INDEX, LARGEST_INDEX) if tree.has_index else None

    def entries() -> Generator[Entry, None, None]:
        for name in tree.names:
            yield Entry(name, partial(_read, path, name, LARGEST_FILE))

    notes = left_out(tree.others, tree.hidden)
    yield Content(path, "folder", len(tree.names), entries, tree.names, index, notes=notes)


def _read(path: Path, name: str, limit: int) -> bytes:
    try:
        with (path / name).open("rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise UserError(f"{path}: '{shown(name)}' cannot be read ({error.strerror})") from error
    if len(content) > limit:
        raise UserError(f"{path}: '{shown(name)}' is larger than {limit >> 20} MiB")
    return content


def top(path: Path) -> list[str]:
    """Return the folders at the top of a folder, sorted; hidden ones left out."""
    try:
        with os.scandir(path) as found:
            return sorted(e.name for e in found if e.is_dir() and not is_hidden(e.name))
    except OSError as error:
        raise UserError(f"{path}: cannot be listed ({error.strerror})") from error


def holds_image(path: Path) -> bool:
    """Whether there is any image under a folder, of a format that is read or not."""
    return any(
        PurePosixPath(name).suffix.lower() in SUFFIXES | UNREAD
        for name, _ in _walk(path, "", ())
        if not is_hidden(name)
    )
