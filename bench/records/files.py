"""Files that are written whole or not at all."""

import errno
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import IO, Annotated, TypeVar

from pydantic import AfterValidator, BaseModel

from bench.config import UserError, one_line

Model = TypeVar("Model", bound=BaseModel)
FORMAT = 1
"""Of all files that tell theirs."""


def _known(format: int) -> int:
    if format != FORMAT:
        raise ValueError(f"another scorebench wrote format {format}, this one reads {FORMAT}")
    return format


Format = Annotated[int, AfterValidator(_known)]


@contextmanager
def new_file(target: Path) -> Iterator[Path]:
    """Give a temporary path beside ``target``; fsync it and move it there if all went well."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        os.replace(temporary, target)
        sync_folder(target.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sync_folder(folder: Path) -> None:
    """Make a file's new name survive a loss of power, as its content does."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        # Not every file system can do this to a folder; the file itself is safe.
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_unfinished(folder: Path) -> None:
    """Remove what killed processes left of files that they were writing."""
    for path in folder.glob(".*.????????"):
        path.unlink(missing_ok=True)


def disk_usage(folder: Path) -> int:
    """Bytes on the disk that a folder and all in it take; links count as themselves."""
    found = [folder, *(Path(at) / name for at, *names in os.walk(folder) for name in chain(*names))]
    total = 0
    for path in found:
        with suppress(FileNotFoundError):  # of a study that runs
            total += 512 * path.lstat().st_blocks
    return total


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Call ``write`` on a temporary file beside ``path``, fsync it, and move it into place."""
    with new_file(path) as temporary, temporary.open("wb") as file:
        write(file)


def write_archive(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write what torch and numpy save; OSError where not all of it has come to the disk."""
    with new_file(path) as temporary:
        with temporary.open("wb") as file:
            write(file)
        if not zipfile.is_zipfile(temporary):
            raise OSError(errno.EIO, "it was not written whole", str(path))


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text whole or not at all."""
    write_atomically(path, lambda file: file.write(text.encode()))


def to_json(model: BaseModel, indent: int | None = None) -> str:
    """Write a model as JSON; ValueError if it could not be read again, as with a negative time."""
    text = model.model_dump_json(indent=indent) + "\n"
    parse(type(model), text.encode())
    return text


def parse(kind: type[Model], content: bytes) -> Model:
    """Read a model from JSON, each value of its own type; ValueError says what is wrong."""
    return kind.model_validate_json(content, strict=True)


def read_json(path: Path, kind: type[Model], advice: str) -> Model:
    """Read a file as a model; UserError says in a line what is wrong, and the ``advice``."""
    try:
        return parse(kind, path.read_bytes())
    except (OSError, ValueError) as error:
        first = one_line(" ".join(str(error).splitlines()[:3]))
        raise UserError(f"'{path}' cannot be read ({first}); {advice}") from error
