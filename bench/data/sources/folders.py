"""Images in a folder, with or without folders in it, in the order of their relative paths.

Hidden files are passed over. Links are followed, but not in a circle; what is neither file nor
folder is refused, because reading it may never end.
"""

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from bench.config import UserError
from bench.data.sources import image_file
from bench.data.sources.image_file import is_hidden, shown
from bench.data.sources.layout import Content, of_files


def stamp_of(status: os.stat_result) -> str:
    """Return what tells one state of a file from the next without reading it.

    The time of the inode's change is in it, because a copy that keeps a file's times keeps its
    time of modification but not that.
    """
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"


def stamp(path: Path) -> str:
    """Return what changes when a file, or one in a folder, does; UserError if it cannot be read."""
    if path.is_file():
        return stamp_of(path.stat())
    digest = hashlib.sha256()
    for name, status in _walk(path, "", ()):
        state = "" if name.endswith("/") else stamp_of(status)
        digest.update(f"{name} {state}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _listed(where: Path) -> list[os.DirEntry[str]]:
    """Return what a folder holds in an order that does not change, hidden images among it."""
    try:
        with os.scandir(where) as found:
            names = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"{shown(str(where))}: cannot be listed ({error.strerror})") from error
    kept = image_file.is_hidden_image
    return [entry for entry in names if not is_hidden(entry.name) or kept(entry.name)]


def _walk(
    root: Path, folder: str, above: tuple[tuple[int, int], ...]
) -> Iterator[tuple[str, os.stat_result]]:
    """Yield files and folders by relative path, a folder's with a slash at its end."""
    where = root / folder
    status = where.stat()
    identity = (status.st_dev, status.st_ino)
    if identity in above:
        raise UserError(f"{shown(str(where))}: is a link to a folder that it lies in; remove it")
    for entry in _listed(where):
        name = f"{folder}{entry.name}"
        try:
            status = entry.stat()
        except OSError as error:
            raise UserError(f"{root}: '{shown(name)}' cannot be read ({error.strerror})") from error
        if stat.S_ISDIR(status.st_mode):
            yield f"{name}/", status
            yield from _walk(root, f"{name}/", (*above, identity))
        elif stat.S_ISREG(status.st_mode):
            yield name, status
        else:
            raise UserError(f"{root}: '{shown(name)}' is no regular file; remove it")


@contextmanager
def open_folder(path: Path) -> Iterator[Content]:
    """Open a folder of images; UserError where there is none in it, or it cannot be listed."""
    listed = [name for name, _ in _walk(path, "", ())]
    yield of_files(path, "folder", listed, partial(_read, path))


def _read(path: Path, name: str, limit: int) -> bytes:
    try:
        with (path / name).open("rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise UserError(f"{path}: '{shown(name)}' cannot be read ({error.strerror})") from error
    if len(content) > limit:
        raise UserError(f"{path}: '{shown(name)}' is larger than {limit >> 20} MiB")
    return content


def top(path: Path, below: str) -> tuple[list[str], list[str]]:
    """Return the folders and the files at the top of a folder ``below`` another."""
    found = [entry for entry in _listed(path / below) if not is_hidden(entry.name)]
    folders = [entry.name for entry in found if entry.is_dir()]
    return folders, [entry.name for entry in found if not entry.is_dir()]


def holds_image(path: Path) -> bool:
    """Whether there is any image under a folder, of a format that is read or not."""
    files = (name for name, _ in _walk(path, "", ()) if not name.endswith("/"))
    suffixes = image_file.SUFFIXES | image_file.UNREAD
    return any(image_file.has_suffix(n, suffixes) and not is_hidden(n) for n in files)
