"""Decodes a split's images in a few threads, and counts what a reader of the numbers must know."""

import math
import os
import shutil
import warnings
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TypeVar

import PIL
from numpy.lib import format as npy
from PIL import Image

from bench.config import UserError
from bench.data.dataset import Fingerprint
from bench.data.sources import images
from bench.data.sources.entries import Content, Entry, Part
from bench.data.sources.images import Picture, shown, text
from bench.data.sources.labels import Labels

THREADS = min(8, os.cpu_count() or 1)
WINDOW = 4 * THREADS
"""Images that may be decoded ahead of the one being written."""
SMALL = 96 * 96
"""Pixels of the first image up to which all are decoded in one thread."""
SPARE = 64 * 2**20
"""Bytes that must stay free on the disk."""
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Recipe:
    """Where images come from, and what is made of them.

    ``stamp`` tells the present state of the files, ``splits`` finds ``train`` and maybe ``test``,
    and what to note of them; ``label`` labels a split, given the labels of the one before it. With
    ``size`` any image is cropped and resized to it. Otherwise all must be squares of one size: of
    ``shape`` (C, H, W) if given, which is that of ``owner``.
    """

    name: str
    stamp: Callable[[], str]
    splits: Callable[[], tuple[Mapping[str, Part], Sequence[str]]]
    label: Callable[[Content, Labels | None], Labels]
    size: int | None = None
    shape: tuple[int, int, int] | None = None
    owner: str = ""


class MixedError(Exception):
    """A colour image came after grey ones, which must have three channels then, too."""


def free(folder: Path) -> int:
    """Return the free bytes of a folder's disk."""
    return shutil.disk_usage(folder).free


@dataclass
class Decoding:
    """Decoding of one recipe: the first image decides the shape of all."""

    recipe: Recipe
    colour: bool
    advance: Callable[[int], object]
    free: int
    done: int = 0
    shape: tuple[int, ...] | None = None
    first: Path = Path()
    lossy: Counter[str] = field(default_factory=Counter)
    marks: dict[str, tuple[int, str]] = field(default_factory=dict)
    """How many images something was done to, and the first."""
    resized: Counter[tuple[int, int]] = field(default_factory=Counter)
    """Images that were, by the size that they came with."""

    def write_images(self, target: Path, content: Content, digest: Fingerprint, part: str) -> None:
        """Decode a split in a few threads and write it as one array, in order."""
        written = 0
        with synced(target) as file, closing(self._pictures(content)) as pictures:
            for entry, picture in pictures:
                self._check(picture.pixels.shape, content, entry.name)
                if not written:
                    assert self.shape is not None
                    shape = (content.count, *self.shape)
                    self._check_room(content, shape)
                    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                    npy.write_array_header_1_0(file, header)
                    digest.begin(part, "images", "|u1", shape)
                raw = picture.pixels.tobytes()
                file.write(raw)
                digest.update(raw)
                self._count(picture, entry.name)
                written += 1
                self.done += 1
                self.advance(self.done)
            if written != content.count:
                raise UserError(
                    f"{content.path}: {written} images, but {content.count} were announced"
                )

    def _pictures(self, content: Content) -> Generator[tuple[Entry, Picture], None, None]:
        def work(entry: Entry) -> tuple[Entry, Picture]:
            return entry, self._picture(entry, content.path)

        with warnings.catch_warnings(), closing(content.entries()) as entries:
            # Of damaged tags, which are passed over, it warns too; of sizes that are refused here.
            warnings.simplefilter("ignore", UserWarning)
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            first = work(next(entries))
            yield first
            # For small images a second thread costs more than it gains (measured: 1.5 times).
            small = math.prod(first[1].size) <= SMALL
            yield from map(work, entries) if small else in_order(work, entries)

    def _picture(self, entry: Entry, path: Path) -> Picture:
        given, size = entry.read(), self.recipe.size
        if isinstance(given, bytes):
            picture = images.decode(given, path, entry.name, resized=size is not None)
        else:
            picture = Picture(given, (given.shape[2], given.shape[1]))
        if self.colour:
            picture = images.in_colour(picture)
        elif self.recipe.shape is not None and self.recipe.shape[0] == 1:
            picture = images.in_grey(picture)
        return picture if size is None else images.fit(picture, size)

    def _check(self, shape: tuple[int, ...], content: Content, name: str) -> None:
        """Refuse an image of another shape than it must have, or than the first has."""
        where = f"{content.path}: '{shown(name)}' is {text(shape)}"
        wanted = self.recipe.shape
        if wanted is not None and shape != wanted:
            raise UserError(
                f"{where}, but {self.recipe.owner} has images of {text(wanted)}; "
                "give the right file or another --dataset"
            )
        if self.shape is None:
            if shape[1] != shape[2]:
                raise UserError(f"{where}, not square; crop the images first")
            self.shape, self.first = shape, content.path
        if shape == self.shape:
            return
        if self.recipe.size is not None:
            # Sizes agree, so one of the two is grey.
            raise MixedError
        if content.path == self.first:
            whose = f"but the first image is {text(self.shape)}; all must agree"
        else:
            whose = f"but those of {self.first.name} are {text(self.shape)}; both must agree"
        raise UserError(f"{where}, {whose}")

    def _check_room(self, content: Content, shape: tuple[int, ...]) -> None:
        needed = math.prod(shape) + SPARE
        if needed > self.free:
            raise UserError(
                f"{content.path}: {shape[0]} images take {needed >> 20} MiB decoded, but only "
                f"{self.free >> 20} MiB are free in the cache; make room or give another --results"
            )
        self.free -= math.prod(shape)

    def _count(self, picture: Picture, name: str) -> None:
        if picture.lossy:
            self.lossy[picture.lossy] += 1
        for mark in picture.marks:
            count, first = self.marks.get(mark, (0, name))
            self.marks[mark] = count + 1, first
        if self.recipe.size is not None and picture.size != (self.recipe.size, self.recipe.size):
            self.resized[picture.size] += 1

    def notes(self) -> list[str]:
        """Say what a reader must know of the images that were read."""
        of = f"of {self.done} images"
        said = [f"{count} {of} went through {kind}" for kind, count in self.lossy.items()]
        for mark, (count, first) in self.marks.items():
            said.append(f"{count} {of} {images.MARKS[mark]} (first: {shown(first)})")
        if self.resized:
            ends = (end(self.resized, key=math.prod) for end in (min, max))
            sizes = " to ".join(dict.fromkeys("x".join(map(str, size)) for size in ends))
            side = self.recipe.size or 0
            small = sum(n for size, n in self.resized.items() if min(size) < side)
            grown = f", {small} of them enlarged" if small else ""
            said.append(
                f"{self.resized.total()} {of} of {sizes} were cropped to the centred square and "
                f"resized to {side}x{side} ({images.FILTER}, antialiased, "
                f"Pillow {PIL.__version__}){grown}"
            )
        return said


def in_order(work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Yield ``work(item)`` in order from a few threads, at most ``WINDOW`` ahead."""
    pending: deque[Future[R]] = deque()
    with ThreadPoolExecutor(THREADS) as pool:
        try:
            for item in items:
                pending.append(pool.submit(work, item))
                if len(pending) >= WINDOW:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


@contextmanager
def synced(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for writing whose content is on the disk at the end."""
    with path.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
