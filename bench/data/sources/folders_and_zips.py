"""Images as files by relative path: in a folder, or in a zip file (EDM's and StyleGAN's layout).

In either, images lie in any folders and, beside these, a ``dataset.json`` (``splits_and_labels``).
They are taken in the order of their names, and hidden ones are passed over. In a folder links are
followed, but not in a circle; what is neither file nor folder is refused, because reading it may
never end. Nothing of a zip file is ever unpacked onto the disk.
"""

import hashlib
import os
import stat
import struct
import threading
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath

from bench.config import UserError
from bench.data.sources import image_file
from bench.data.sources.image_file import is_hidden, shown
from bench.data.sources.layout import INDEX, Content, Entry, damaged

DAMAGE = (
    zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError, RuntimeError, ValueError,
)  # fmt: skip
"""What reading a damaged zip file may raise."""
LARGEST_INDEX = 512 * 2**20
_ENCRYPTED = 0x1
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def _images(
    path: Path, kind: str, listed: Sequence[str], read: Callable[[str, int], bytes]
) -> Content:
    """Return the images among files by relative path, in the order of their names.

    Folders are ``listed`` too, with a slash at their end. ``read`` gives a file's bytes, up to so
    many. Raises UserError where there is no image, one of a format that is not read, or an index
    that is not at the top.
    """
    files = [name for name in listed if not name.endswith("/")]
    seen = [name for name in files if not is_hidden(name)]
    unread = next((name for name in seen if image_file.has_suffix(name, image_file.UNREAD)), None)
    if unread is not None:
        raise UserError(
            f"{path}: '{shown(unread)}' is {Path(unread).suffix.lower()}, which is not read; "
            "convert it to PNG (PNG, JPEG and WebP are read)"
        )
    names = sorted(filter(image_file.has_suffix, seen))
    if not names:
        raise UserError(f"{path}: holds no image; PNG, JPEG and WebP are read")
    stray = next((n for n in seen if n.casefold().split("/")[-1] == INDEX != n), None)
    if stray is not None:
        raise UserError(
            f"{path}: '{shown(stray)}' would not be read: {INDEX} lies once, beside all folders of "
            "images; move or remove it"
        )

    def entries() -> Generator[Entry, None, None]:
        return (Entry(name, partial(read, name, image_file.LARGEST_FILE)) for name in names)

    folders = {n.split("/")[0] for n in listed if "/" in n and not is_hidden(n)}
    empty = folders - {name.split("/")[0] for name in names}
    left_out = (
        ({*seen} - {*names, INDEX}, "file is no image and was", "files are no images and were"),
        (filter(image_file.is_hidden_image, files), "hidden image was", "hidden images were"),
        (empty, "folder holds no image and was", "folders hold no image and were"),
    )
    notes = []
    for found, one, many in left_out:
        if these := sorted(found):
            said = one if len(these) == 1 else many
            notes.append(f"{len(these)} {said} left out (first: {shown(these[0])})")
    index = read(INDEX, LARGEST_INDEX) if INDEX in seen else None
    return Content(path, kind, len(names), entries, names, index, notes=tuple(notes))


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
    yield _images(path, "folder", [name for name, _ in _walk(path, "", ())], partial(_read, path))


def _read(path: Path, name: str, limit: int) -> bytes:
    try:
        with (path / name).open("rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise UserError(f"{path}: '{shown(name)}' cannot be read ({error.strerror})") from error
    if len(content) > limit:
        raise UserError(f"{path}: '{shown(name)}' is larger than {limit >> 20} MiB")
    return content


def top_of_folder(path: Path, below: str) -> tuple[list[str], list[str]]:
    """Return the folders and the files at the top of a folder ``below`` another."""
    found = [entry for entry in _listed(path / below) if not is_hidden(entry.name)]
    folders = [entry.name for entry in found if entry.is_dir()]
    return folders, [entry.name for entry in found if not entry.is_dir()]


def holds_image(path: Path) -> bool:
    """Whether there is any image under a folder, of a format that is read or not."""
    files = (name for name, _ in _walk(path, "", ()) if not name.endswith("/"))
    suffixes = image_file.SUFFIXES | image_file.UNREAD
    return any(image_file.has_suffix(n, suffixes) and not is_hidden(n) for n in files)


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


def top_of_zip(path: Path) -> Callable[[str], tuple[list[str], list[str]]]:
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

        yield _images(path, "zip", list(filter(None, names)), read)


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
