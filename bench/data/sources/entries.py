"""What every source of images gives: entries in a fixed order, read one at a time."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.config import UserError
from bench.data.sources import images
from bench.data.sources.images import said_by, shown

INDEX = "dataset.json"
LARGEST_INDEX = 512 * 2**20


class Entry(NamedTuple):
    """One image: its name within the source, and how to get its file's bytes or its pixels.

    Pixels are uint8 (C, H, W). ``read`` may be called in another thread, and raises UserError.
    """

    name: str
    read: Callable[[], bytes | NDArray[np.uint8]]


@dataclass(frozen=True)
class Content:
    """An open source of one split's images; nothing is decoded yet.

    ``names`` are the images' relative paths, empty where there are none, as in arrays. ``index``
    is the text of its ``dataset.json``; ``labels`` are int64 (N,), where an array holds them.
    """

    path: Path
    kind: str
    count: int
    entries: Callable[[], Generator[Entry, None, None]]
    names: Sequence[str] = ()
    index: bytes | None = None
    labels: NDArray[np.int64] | None = None
    notes: tuple[str, ...] = ()


def of_files(
    path: Path, kind: str, files: Sequence[str], read: Callable[[str, int], bytes]
) -> Content:
    """Return the images among files by relative path, in the order of their names.

    ``read`` gives a file's bytes, up to so many. Raises UserError where there is no image, or one
    of a format that is not read.
    """
    hidden = [name for name in files if images.is_hidden_image(name)]
    seen = [name for name in files if not images.is_hidden(name)]
    names = sorted(name for name in seen if images.is_image(name, path))
    if not names:
        raise UserError(f"{path}: holds no image; PNG, JPEG and WebP are read")
    known = {*names, INDEX}
    others = [name for name in seen if name not in known]
    index = read(INDEX, LARGEST_INDEX) if INDEX in seen else None

    def entries() -> Generator[Entry, None, None]:
        return (Entry(name, partial(read, name, images.LARGEST_FILE)) for name in names)

    notes = _left_out(others, hidden)
    return Content(path, kind, len(names), entries, names, index, notes=notes)


def _left_out(others: Sequence[str], hidden: Sequence[str]) -> tuple[str, ...]:
    """Say how many files that are no images, or hidden ones, were left out, and the first."""
    notes = []
    for names, one, many in (
        (others, "1 file is no image and was", "files are no images and were"),
        (hidden, "1 hidden image was", "hidden images were"),
    ):
        if names:
            said = one if len(names) == 1 else f"{len(names)} {many}"
            notes.append(f"{said} left out (first: {shown(min(names))})")
    return tuple(notes)


def damaged(path: Path, what: str, error: BaseException) -> UserError:
    """Build the error for a source that cannot be read."""
    return UserError(f"{path}: {what} ({said_by(error)}); fetch or make it again")
