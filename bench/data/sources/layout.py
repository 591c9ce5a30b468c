"""What every layout gives: a split's images in a fixed order, read one at a time."""

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.config import UserError
from bench.data.sources import image_file
from bench.data.sources.image_file import said_by, shown

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


class Part(NamedTuple):
    """One split's source: what it is called, and how to open it."""

    name: str
    open: Callable[[], AbstractContextManager[Content]]


def of_files(
    path: Path, kind: str, listed: Sequence[str], read: Callable[[str, int], bytes]
) -> Content:
    """Return the images among files by relative path, in the order of their names.

    Folders are ``listed`` too, with a slash at their end. ``read`` gives a file's bytes, up to so
    many. Raises UserError where there is no image, one of a format that is not read, or an index
    that is not at the top.
    """
    files = [name for name in listed if not name.endswith("/")]
    seen = [name for name in files if not image_file.is_hidden(name)]
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

    folders = {n.split("/")[0] for n in listed if "/" in n and not image_file.is_hidden(n)}
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


def damaged(path: Path, what: str, error: BaseException) -> UserError:
    """Build the error for a source that cannot be read."""
    return UserError(f"{path}: {what} ({said_by(error)}); fetch or make it again")
