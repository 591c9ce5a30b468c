"""A study in one file: what may be shown to others, without weights, samples and logs."""

import lzma
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.config import UserError
from bench.records.files import write_archive
from bench.records.study_file import is_study, study_at

SUFFIX = ".zip"
LEFT_OUT = {"log.txt", "job.json", "stages"}
"""What tells of one machine alone, and what only training goes on with."""
HEAVY = {".pt", ".npz"}
LARGEST = 2**31
"""Bytes that a study may have unpacked: hundreds of cells with their curves and pictures."""
DAMAGE = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, RuntimeError,
    ValueError,
)  # fmt: skip
"""What a file that is no archive, or a broken one, makes Python raise."""


def shown(folder: Path) -> list[Path]:
    """Return a study's files that go into an archive: records, settings, tables and pictures."""
    found = []
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        hidden = any(part.startswith(".") or part in LEFT_OUT for part in parts)
        if hidden:
            continue
        if path.is_symlink():
            raise UserError(f"'{path}' is a link, whose target may be anything; put a copy there")
        if path.is_file() and path.suffix not in HEAVY:
            found.append(path)
    return found


def pack(folder: Path, target: Path) -> int:
    """Write a study into a zip file, whole or not at all; return how many files it has.

    UserError if the file is there, or cannot be written, or the study holds links or odd names.
    """
    if target.suffix != SUFFIX:
        raise UserError(f"'{target}' does not end in {SUFFIX}; give a file as {folder.name}.zip")
    if target.exists():
        raise UserError(f"'{target}' is there already; remove it, or give another file")
    files = shown(folder)
    with tempfile.SpooledTemporaryFile(max_size=2**26) as content:
        with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in files:
                if not str(path).isprintable():
                    raise UserError(f"{path!r} has a name that no archive can hold; rename it")
                name = (Path(folder.name) / path.relative_to(folder)).as_posix()
                # Dated 1980, whenever it is written: the same study gives the same bytes.
                entry = zipfile.ZipInfo(name)
                archive.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED, 6)
        content.seek(0)
        try:
            write_archive(target, lambda file: file.writelines(content))
        except OSError as error:
            raise UserError(f"'{target}' cannot be written: {error.strerror}") from error
    return len(files)


@contextmanager
def opened_study(results: Path, given: str) -> Iterator[Path]:
    """Give a study's folder, given by name, as folder or as archive; UserError if it is none."""
    if not given.endswith(SUFFIX) or is_study(Path(given)):
        yield study_at(results, given)
    else:
        with tempfile.TemporaryDirectory() as place:
            yield _unpack(Path(given), Path(place))


def _unpack(path: Path, place: Path) -> Path:
    """Unpack an archive, of any origin, and return the folder of the study in it."""
    try:
        with zipfile.ZipFile(path) as archive:
            if (size := sum(member.file_size for member in archive.infolist())) > LARGEST:
                raise UserError(f"'{path}' holds {size >> 20} MiB, more than any study's records")
            archive.extractall(place)  # Which keeps all names within the place.
    except DAMAGE as error:
        raise UserError(f"'{path}' cannot be unpacked ({error}); have it exported again") from error
    except OSError as error:
        raise UserError(f"'{path}' cannot be read: {error.strerror}") from error
    found = [folder for folder in sorted(place.iterdir()) if is_study(folder)]
    if len(found) != 1:
        raise UserError(f"'{path}' does not hold one study; make it by: bench export STUDY {path}")
    return found[0]
