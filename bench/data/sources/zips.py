"""Images in a zip file, EDM's and StyleGAN's layout; nothing is ever unpacked onto the disk.

The zip file holds images in any folders and, beside these, a ``dataset.json`` as ``labels.py``
reads it. Images are taken in the order of their names.
"""

import stat
import struct
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from bench.config import UserError
from bench.data.sources.image_file import is_hidden, shown
from bench.data.sources.layout import Content, damaged, of_files

DAMAGE = (
    zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError, RuntimeError, ValueError,
)  # fmt: skip
"""What reading a damaged zip file may raise."""
_ENCRYPTED = 0x1
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


@contextmanager
def open_archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open a zip file after refusing what no honest one has; UserError names the file."""
    try:
        archive = zipfile.ZipFile(path)
    except DAMAGE as error:
        raise damaged(path, "truncated or not a zip file", error) from error
    with archive:
        seen: set[str] = set()
        for info in archive.infolist():
            # The stored name: zipfile cuts what it shows at a null byte.
            name, where = info.filename, f"{path}: '{shown(info.orig_filename)}'"
            if name in seen:
                raise UserError(f"{where} is in it twice; make the file again")
            seen.add(name)
            outside = name.startswith("/") or ".." in PurePosixPath(name).parts
            if outside or "\\" in name or "\0" in info.orig_filename:
                raise UserError(f"{where} points outside the file; make the file again")
            if info.flag_bits & _ENCRYPTED:
                raise UserError(f"{where} is encrypted; make the file without a password")
            if stat.S_ISLNK(info.external_attr >> 16):
                raise UserError(f"{where} is a symbolic link; put the file itself in its place")
            method = info.compress_type
            if method not in _METHODS:
                raise UserError(f"{where} is packed by method {method}; deflate or store")
        yield archive


def top(path: Path) -> Callable[[str], tuple[list[str], list[str]]]:
    """Return what lists the folders and the files at the top of a folder in a zip file."""
    with open_archive(path) as archive:
        names = [name for name in archive.namelist() if not is_hidden(name)]

    def listed(below: str) -> tuple[list[str], list[str]]:
        inside = [n.removeprefix(below).partition("/") for n in names if n.startswith(below)]
        files = [name for name, slash, _ in inside if name and not slash]
        return sorted({name for name, slash, _ in inside if slash}), files

    return listed


@contextmanager
def open_zip(path: Path, below: str = "") -> Iterator[Content]:
    """Open a zip file's images ``below`` a folder of it, if given, as if it held nothing else.

    Raises UserError where it is damaged, hostile or without an image.
    """
    with open_archive(path) as archive:
        names = [name.removeprefix(below) for name in archive.namelist() if name.startswith(below)]
        lock = threading.Lock()

        def read(name: str, limit: int) -> bytes:
            # zipfile promises nothing to several threads.
            with lock:
                return read_member(archive, path, f"{below}{name}", limit)

        yield of_files(path, "zip", list(filter(None, names)), read)


def read_member(archive: zipfile.ZipFile, path: Path, name: str, limit: int) -> bytes:
    """Read a member whole, checking its CRC; never inflates more than it claims to hold."""
    size = archive.getinfo(name).file_size
    where = f"{path}: '{shown(name)}'"
    if size > limit:
        raise UserError(f"{where} is larger than {limit >> 20} MiB")
    try:
        with archive.open(name) as member:
            # read() would inflate all that is packed before it cuts; one byte more checks the CRC.
            content = member.read(size + 1)
    except DAMAGE as error:
        raise damaged(path, f"'{shown(name)}' is corrupt", error) from error
    if len(content) != size:
        raise UserError(f"{where} is corrupt ({len(content)} of {size} bytes); fetch it again")
    return content
