"""Files of weights: where they are looked for, and how they are read.

What a name stands for is its file's SHA-256, so a file is hashed before anything in it is unpickled
or run, and the bytes that were hashed are the ones used.
"""

import hashlib
import os
from pathlib import Path

from bench.config import UserError

ROOT_VARIABLE = "SCOREBENCH_WEIGHTS"
"""Environment variable naming a folder in which files of weights lie under their own names."""


def places(file: str, cache: Path) -> list[Path]:
    """Return where a file is looked for, in this order; UserError if the variable is wrong."""
    root = os.environ.get(ROOT_VARIABLE)
    if root and not Path(root).is_dir():
        raise UserError(f"{ROOT_VARIABLE}={root}: no such folder; correct or unset it")
    return [*([Path(root) / file] if root else []), cache / "weights" / file]


def find(file: str, cache: Path) -> Path | None:
    """Return the first of ``places`` that has the file, whatever its content."""
    return next((path for path in places(file, cache) if path.exists()), None)


def read(path: Path, name: str, sha256: str) -> bytes:
    """Return the content of an extractor's file, whose hash must be ``sha256``, else UserError."""
    content, found = read_any(path, name)
    if found != sha256:
        raise UserError(
            f"weights of extractor '{name}' refused: {path} ({len(content)} bytes) has sha256 "
            f"{found}, expected {sha256}; it is another file, or damaged, or not whole: replace "
            f"it, or {_give(name)}"
        )
    return content


def read_any(path: Path, name: str) -> tuple[bytes, str]:
    """Return the content of an extractor's file and its SHA-256; UserError if there is none."""
    try:
        content = path.read_bytes()
    except OSError as error:
        why, give = "it is a folder" if path.is_dir() else error.strerror, _give(name)
        what = f"weights of extractor '{name}' cannot be read"
        raise UserError(f"{what}: {path} ({why}); {give}") from error
    if not content:
        raise UserError(f"weights of extractor '{name}': {path} is empty; {_give(name)}")
    return content, hashlib.sha256(content).hexdigest()


def _give(name: str) -> str:
    return f"give the right file with --weights {name}=FILE"
