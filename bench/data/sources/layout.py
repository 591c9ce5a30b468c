"""What every layout gives: a split's images in a fixed order, read one at a time."""

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.config import UserError
from bench.data.sources.image_file import said_by

INDEX = "dataset.json"


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


def damaged(path: Path, what: str, error: BaseException) -> UserError:
    """Build the error for a source that cannot be read."""
    return UserError(f"{path}: {what} ({said_by(error)}); fetch or make it again")
