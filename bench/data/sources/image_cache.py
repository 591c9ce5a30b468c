"""Images decoded once and kept as memory-mapped arrays, so that only the first use waits for it.

A folder under ``<cache>/prepared/`` holds ``train-images.npy``, ``train-labels.npy`` and the same
of ``test``, each where there is one, and ``facts.json``. Its name is a hash of where the images
come from and of every file's size and times of modification and of change; content is not hashed
at each start, because a zip file may have a hundred gigabytes. The folder appears whole or not at
all: it is written under another name, synced and renamed, by the holder of the lock beside it, who
first removes what killed processes have left. Memory does not grow with the number of images.
"""

import hashlib
import math
import os
import shutil
import tempfile
import warnings
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TypeVar

import numpy as np
import PIL
from filelock import FileLock, Timeout
from numpy.lib import format as npy
from PIL import Image
from pydantic import BaseModel

from bench.config import UserError
from bench.data.dataset import Fingerprint, Progress, Split, unheard
from bench.data.sources import image_file
from bench.data.sources.image_file import Picture, shown, text
from bench.data.sources.layout import Content, Entry, Part
from bench.data.sources.splits_and_labels import Labels
from bench.records import sync_folder

FORMAT = 4
"""Version of what the cache holds; raised when images are read differently."""
FOLDER = "prepared"
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
    and notes on them; ``label`` labels a split, given the labels of the one before it. With a
    ``size`` any image is cropped and resized to it; else all must be squares of one size, of
    ``owner``'s ``shape`` (C, H, W) if that is given.
    """

    name: str
    stamp: Callable[[], str]
    splits: Callable[[], tuple[Mapping[str, Part], Sequence[str]]]
    label: Callable[[Content, Labels | None], Labels]
    size: int | None = None
    shape: tuple[int, int, int] | None = None
    owner: str = ""


class PreparedFacts(BaseModel, frozen=True):
    """The cache's ``facts.json``.

    ``classes`` is None where none were named. ``lossy`` tells the lossy formats that images went
    through, ``kind`` what they were read from, ``held_out`` how the held-out split is called
    there, ``sha256`` the hash of decoded images and labels, and ``files`` each array's size and
    time of modification.
    """

    classes: tuple[str, ...] | None
    kind: str
    held_out: str | None
    lossy: tuple[str, ...]
    sha256: str
    notes: tuple[str, ...]
    files: dict[str, tuple[int, int]]


@dataclass(frozen=True)
class CachedImages:
    """What the cache holds: both splits, images memory-mapped and read-only, and their facts."""

    folder: Path
    train: Split
    test: Split | None
    facts: PreparedFacts


def prepare(recipe: Recipe, *, cache: Path, progress: Progress = unheard) -> CachedImages:
    """Return the decoded images from the cache, after decoding them into it if need be.

    Of several processes at once one decodes and the others wait. ``progress`` is called with the
    fraction of images done. Raises UserError for whatever is wrong with the images.
    """
    stamp = recipe.stamp()
    wanted = f"{FORMAT} {recipe.name} {recipe.size} {recipe.shape} {stamp}"
    key = hashlib.sha256(wanted.encode()).hexdigest()[:32]
    folder = cache / FOLDER / key
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        stored = _read(folder)
        if stored is None:
            _sweep(folder.parent, key)
            _make(recipe, folder, stamp, progress)
            stored = _read(folder)
    if stored is None:
        raise UserError(f"{folder}: the cache cannot be read back; delete it and run again")
    return stored


def _sweep(parent: Path, own: str) -> None:
    """Remove the temporary folders of processes that were killed; ``own`` is locked already."""
    for left in parent.glob(".*.tmp-*"):
        key = left.name[1:].partition(".")[0]
        with suppress(Timeout), ExitStack() as stack:  # Else its maker is at work.
            if key != own:
                stack.enter_context(FileLock(parent / f"{key}.lock", timeout=0))
            shutil.rmtree(left, ignore_errors=True)


def _read(folder: Path) -> CachedImages | None:
    """Return the cache's content, or None where it is not whole or was written to since."""
    try:
        facts = PreparedFacts.model_validate_json((folder / "facts.json").read_bytes())
        if any(_stamp(folder / name) != stamp for name, stamp in facts.files.items()):
            return None
        train, test = (_read_split(folder, part) for part in ("train", "test"))
    except (OSError, EOFError, ValueError):
        return None
    return None if train is None else CachedImages(folder, train, test, facts)


def _stamp(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_size, status.st_mtime_ns


def _read_split(folder: Path, part: str) -> Split | None:
    pixels, labels = _array(folder, part, "images"), _array(folder, part, "labels")
    if not pixels.exists():
        return None
    return Split(np.load(pixels, mmap_mode="r"), np.load(labels) if labels.exists() else None)


def _array(folder: Path, part: str, kind: str) -> Path:
    return folder / f"{part}-{kind}.npy"


def _make(recipe: Recipe, folder: Path, stamp: str, progress: Progress) -> None:
    """Decode into a temporary folder and move it into place."""
    shutil.rmtree(folder, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.tmp-"))
    try:
        try:
            facts = _decode(recipe, temporary, progress, colour=False)
        except MixedError:
            facts = _decode(recipe, temporary, progress, colour=True)
        if recipe.stamp() != stamp:
            raise UserError(f"{recipe.name}: its files changed while they were read; run again")
        with synced(temporary / "facts.json") as file:
            file.write(facts.model_dump_json().encode())
        temporary.chmod(0o755)
        os.replace(temporary, folder)
        sync_folder(folder.parent)
    except OSError as error:
        raise UserError(
            f"{folder.parent}: the cache cannot be written ({error.strerror or error}); "
            "make room or give another --results"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def synced(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for writing whose content is on the disk at the end."""
    with path.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


class MixedError(Exception):
    """A colour image came after grey ones, which must have three channels then, too."""


def _decode(recipe: Recipe, folder: Path, progress: Progress, *, colour: bool) -> PreparedFacts:
    """Decode and label both splits; with ``colour``, grey images get three channels."""
    digest, (parts, said) = Fingerprint(), recipe.splits()
    with ExitStack() as stack:
        # Both are opened and labelled first: what is wrong with them need not wait for decoding.
        opened = {name: stack.enter_context(part.open()) for name, part in parts.items()}
        labels: dict[str, Labels] = {}
        for part, content in opened.items():
            labels[part] = recipe.label(content, labels.get("train"))
        if "test" in opened:
            path, other = opened["test"].path, opened["train"].path.name
            if (labels["train"].values is None) != (labels["test"].values is None):
                raise UserError(f"{path}: only one of it and {other} has labels; both must agree")
            if labels["train"].classes != labels["test"].classes:
                raise UserError(f"{path}: its 'classes' differ from those of {other}")
        total = sum(content.count for content in opened.values())
        room = shutil.disk_usage(folder).free
        job = Decoding(recipe, colour, lambda done: progress(done / total), room)
        for part in ("train", "test"):
            if part in opened:
                job.write_images(_array(folder, part, "images"), opened[part], digest, part)
            else:
                digest.add(part, "images", None)
            values = labels[part].values if part in opened else None
            if values is not None:
                with synced(_array(folder, part, "labels")) as file:
                    np.save(file, values)
            digest.add(part, "labels", values)
    for part, content in opened.items():
        said = [*said, *content.notes, *labels[part].notes]
    return PreparedFacts(
        classes=labels["train"].classes, kind=opened["train"].kind,
        held_out=parts["test"].name if "test" in parts else None,
        lossy=tuple(sorted(job.lossy)), sha256=digest.hexdigest(),
        notes=(*dict.fromkeys(said), *job.notes()),
        files={file.name: _stamp(file) for file in folder.iterdir()},
    )  # fmt: skip


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
        before = self.done
        with synced(target) as file, closing(self._pictures(content)) as pictures:
            for entry, picture in pictures:
                self._check(picture.pixels.shape, content, entry.name)
                if self.done == before:
                    assert self.shape is not None
                    shape = (content.count, *self.shape)
                    self._take_room(content, math.prod(shape))
                    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                    npy.write_array_header_1_0(file, header)
                    digest.begin(part, "images", "|u1", shape)
                raw = picture.pixels.tobytes()
                file.write(raw)
                digest.update(raw)
                self._count(picture, entry.name)
                self.done += 1
                self.advance(self.done)
        if (written := self.done - before) != content.count:
            raise UserError(f"{content.path}: {written} images, but {content.count} were announced")

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
            picture = image_file.decode(given, path, entry.name, resized=size is not None)
        else:
            picture = Picture(given, (given.shape[2], given.shape[1]))
        if self.colour:
            picture = image_file.in_colour(picture)
        elif self.recipe.shape is not None and self.recipe.shape[0] == 1:
            picture = image_file.in_grey(picture)
        return picture if size is None else image_file.fit(picture, size)

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

    def _take_room(self, content: Content, size: int) -> None:
        if size + SPARE > self.free:
            needed = f"{content.count} images take {(size + SPARE) >> 20} MiB decoded"
            raise UserError(
                f"{content.path}: {needed}, but only {self.free >> 20} MiB are free in the cache; "
                "make room or give another --results"
            )
        self.free -= size

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
            said.append(f"{count} {of} {image_file.MARKS[mark]} (first: {shown(first)})")
        if self.resized:
            ends = (end(self.resized, key=math.prod) for end in (min, max))
            sizes = " to ".join(dict.fromkeys("x".join(map(str, size)) for size in ends))
            side = self.recipe.size or 0
            small = sum(n for size, n in self.resized.items() if min(size) < side)
            grown = f", {small} of them enlarged" if small else ""
            said.append(
                f"{self.resized.total()} {of} of {sizes} were cropped to the centred square and "
                f"resized to {side}x{side} ({image_file.FILTER}, antialiased, "
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
