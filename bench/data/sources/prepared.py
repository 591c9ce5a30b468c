"""Decoded images kept as memory-mapped arrays, so that only the first use waits for decoding.

A folder under ``<cache>/prepared/`` holds ``train-images.npy``, ``train-labels.npy`` and the same
of ``test``, each where there is one, and ``facts.json``. Its name is a hash of where the images
come from and of every file's size and times of modification and of change; content is not hashed
at each start, because a zip file may have a hundred gigabytes. ``sha256`` in the facts is the hash
of the decoded images and labels.

Images are decoded in a few threads and written one after the other, so memory does not grow with
their number. The folder appears whole or not at all: it is written under another name, synced and
renamed, by the holder of the lock beside it, who first removes what killed processes have left.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
import warnings
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

from bench.data import images
from bench.data.dataset import Fingerprint, Split
from bench.data.entries import Content, Entry
from bench.data.images import Picture, shown, text
from bench.data.labels import Labels
from bench.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FORMAT = 3
"""Version of what the cache holds; raised when images are read differently."""
FOLDER = "prepared"
THREADS = min(8, os.cpu_count() or 1)
WINDOW = 4 * THREADS
"""Images that may be decoded ahead of the one being written."""
SMALL = 96 * 96
"""Pixels of the first image up to which all are decoded in one thread."""
SPARE = 64 * 2**20
"""Bytes that must stay free on the disk."""

Progress = Callable[[float], object]
Label = Callable[[Content, Labels | None], Labels]
"""Labels a split, given the labels of the split before it."""
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Rule:
    """What every image must be.

    With ``size`` any image is cropped and resized to it. Otherwise all must be squares of one
    size: of ``shape`` (C, H, W) if given, which is that of ``owner``.
    """

    size: int | None = None
    shape: tuple[int, int, int] | None = None
    owner: str = ""


@dataclass(frozen=True)
class Recipe:
    """Where images come from, and what is made of them.

    ``stamp`` tells the present state of the files, ``splits`` opens ``train`` and maybe ``test``,
    and ``label`` labels a split, given the labels of the one before it.
    """

    name: str
    stamp: Callable[[], str]
    splits: Mapping[str, Callable[[], AbstractContextManager[Content]]]
    label: Label
    rule: Rule


@dataclass(frozen=True)
class Stored:
    """What the cache holds: both splits, images memory-mapped and read-only, and their facts.

    ``classes`` is None where none were named. ``lossy`` tells the lossy formats that images went
    through, and ``kind`` what they were read from.
    """

    folder: Path
    train: Split
    test: Split | None
    classes: tuple[str, ...] | None
    kind: str
    lossy: tuple[str, ...]
    sha256: str
    notes: tuple[str, ...]


def prepare(recipe: Recipe, *, cache: Path, progress: Progress = lambda fraction: None) -> Stored:
    """Return the decoded images from the cache, after decoding them into it if need be.

    Of several processes at once one decodes and the others wait. ``progress`` is called with the
    fraction of images done. Raises UserError for whatever is wrong with the images.
    """
    from filelock import FileLock

    stamp = recipe.stamp()
    key = hashlib.sha256(f"{FORMAT} {recipe.name} {recipe.rule} {stamp}".encode()).hexdigest()[:32]
    folder = cache / FOLDER / key
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        stored = _read(folder)
        if stored is None:
            sweep(folder.parent, key)
            _make(recipe, folder, stamp, progress)
            stored = _read(folder)
    if stored is None:
        raise UserError(f"{folder}: the cache cannot be read back; delete it and run again")
    return stored


def sweep(parent: Path, own: str) -> None:
    """Remove the temporary folders of processes that were killed; ``own`` is locked already."""
    from filelock import FileLock, Timeout

    for left in parent.glob(".*.tmp-*"):
        key = left.name[1:].partition(".")[0]
        if key == own:
            shutil.rmtree(left, ignore_errors=True)
            continue
        try:
            with FileLock(parent / f"{key}.lock", timeout=0):
                shutil.rmtree(left, ignore_errors=True)
        except Timeout:
            continue  # Its maker is at work.


# -- reading --------------------------------------------------------------------------------------


def _read(folder: Path) -> Stored | None:
    """Return the cache's content, or None where it is not whole."""
    try:
        facts = json.loads((folder / "facts.json").read_text())
        for name, stamp in facts["files"].items():
            if _stamp(folder / name) != stamp:
                return None
        train, test = (_read_split(folder, part) for part in ("train", "test"))
        if train is None:
            return None
        return Stored(
            folder=folder,
            train=train,
            test=test,
            classes=None if facts["classes"] is None else tuple(facts["classes"]),
            kind=facts["kind"],
            lossy=tuple(facts["lossy"]),
            sha256=facts["sha256"],
            notes=tuple(facts["notes"]),
        )
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _stamp(file: Path) -> list[int]:
    """Size and time of modification: a file that was written to since is not taken."""
    status = file.stat()
    return [status.st_size, status.st_mtime_ns]


def _read_split(folder: Path, part: str) -> Split | None:
    import numpy as np

    pixels, labels = _array(folder, part, "images"), _array(folder, part, "labels")
    if not pixels.exists():
        return None
    return Split(np.load(pixels, mmap_mode="r"), np.load(labels) if labels.exists() else None)


def _array(folder: Path, part: str, kind: str) -> Path:
    return folder / f"{part}-{kind}.npy"


# -- making ---------------------------------------------------------------------------------------


def _make(recipe: Recipe, folder: Path, stamp: str, progress: Progress) -> None:
    """Decode into a temporary folder and move it into place."""
    shutil.rmtree(folder, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.tmp-"))
    try:
        facts = _decode(recipe, temporary, progress)
        if recipe.stamp() != stamp:
            raise UserError(f"{recipe.name}: its files changed while they were read; run again")
        facts["files"] = {file.name: _stamp(file) for file in temporary.iterdir()}
        with _synced(temporary / "facts.json") as file:
            file.write(json.dumps(facts).encode())
        temporary.chmod(0o755)
        os.replace(temporary, folder)
        _sync_folder(folder.parent)
    except OSError as error:
        raise UserError(
            f"{folder.parent}: the cache cannot be written ({error.strerror or error}); "
            "make room or give another --results"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _decode(recipe: Recipe, folder: Path, progress: Progress) -> dict[str, Any]:
    """Decode both splits; images of both kinds, grey and colour, are decoded anew as colour."""
    try:
        return _decode_as(recipe, folder, progress, colour=False)
    except _MixedError:
        return _decode_as(recipe, folder, progress, colour=True)


class _MixedError(Exception):
    """A colour image came after grey ones, which must have three channels then, too."""


def _decode_as(recipe: Recipe, folder: Path, progress: Progress, *, colour: bool) -> dict[str, Any]:
    digest, tally = Fingerprint(), _Tally()
    with ExitStack() as stack:
        # Both are opened and labelled first: what is wrong with them need not wait for decoding.
        opened = {part: stack.enter_context(opener()) for part, opener in recipe.splits.items()}
        labels: dict[str, Labels] = {}
        for part, content in opened.items():
            labels[part] = recipe.label(content, labels.get("train"))
        _check_agreement(opened, labels)
        total = sum(content.count for content in opened.values())
        job = _Job(recipe.rule, colour, tally, lambda done: progress(done / total), free(folder))
        for part in ("train", "test"):
            if part in opened:
                job.write_images(_array(folder, part, "images"), opened[part], digest, part)
                values = labels[part].values
                if values is not None:
                    _save(_array(folder, part, "labels"), values)
                digest.add(part, "labels", values)
            else:
                digest.add(part, "images", None)
                digest.add(part, "labels", None)
    said = [
        note for part, content in opened.items() for note in (*content.notes, *labels[part].notes)
    ]
    return {
        "classes": labels["train"].classes,
        "kind": opened["train"].kind,
        "lossy": sorted(tally.lossy),
        "sha256": digest.hexdigest(),
        "notes": [*dict.fromkeys(said), *tally.notes(recipe.rule, total)],
    }


def _check_agreement(opened: Mapping[str, Content], labels: Mapping[str, Labels]) -> None:
    if "test" not in opened:
        return
    train, test = labels["train"], labels["test"]
    path, other = opened["test"].path, opened["train"].path.name
    if (train.values is None) != (test.values is None):
        raise UserError(f"{path}: only one of it and {other} has labels; both must agree")
    if train.classes != test.classes:
        raise UserError(f"{path}: its 'classes' differ from those of {other}")


def free(folder: Path) -> int:
    """Return the free bytes of a folder's disk."""
    return shutil.disk_usage(folder).free


@dataclass
class _Job:
    """Decoding of one recipe: the first image decides the shape of all."""

    rule: Rule
    colour: bool
    tally: _Tally
    advance: Callable[[int], object]
    free: int
    done: int = 0
    shape: tuple[int, ...] | None = None
    first: Path = Path()

    def write_images(self, target: Path, content: Content, digest: Fingerprint, part: str) -> None:
        """Decode a split in a few threads and write it as one array, in order."""
        from numpy.lib import format as npy

        written = 0
        with _synced(target) as file, closing(self._pictures(content)) as pictures:
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
                self.tally.add(picture, entry.name, self.rule)
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
            # It warns of sizes that are refused here.
            warnings.simplefilter("error", _bomb_warning())
            first = work(next(entries))
            yield first
            # For small images a second thread costs more than it gains (measured: 1.5 times).
            small = math.prod(first[1].size) <= SMALL
            yield from map(work, entries) if small else in_order(work, entries)

    def _picture(self, entry: Entry, path: Path) -> Picture:
        given, size = entry.read(), self.rule.size
        if isinstance(given, bytes):
            picture = images.decode(given, path, entry.name, resized=size is not None)
        else:
            picture = Picture(given, (given.shape[2], given.shape[1]))
        if self.colour:
            picture = images.in_colour(picture)
        return picture if size is None else images.fit(picture, size)

    def _check(self, shape: tuple[int, ...], content: Content, name: str) -> None:
        """Refuse an image of another shape than it must have, or than the first has."""
        where = f"{content.path}: '{shown(name)}' is {text(shape)}"
        wanted = self.rule.shape
        if wanted is not None and shape != wanted:
            raise UserError(
                f"{where}, but {self.rule.owner} has images of {text(wanted)}; "
                "give the right file or another --dataset"
            )
        if self.shape is None:
            if shape[1] != shape[2]:
                raise UserError(f"{where}, not square; crop the images first")
            self.shape, self.first = shape, content.path
        if shape == self.shape:
            return
        if self.rule.size is not None:
            # Sizes agree, so one of the two is grey.
            raise _MixedError
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


def _bomb_warning() -> type[Warning]:
    from PIL import Image

    return Image.DecompressionBombWarning


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
def _synced(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for writing whose content is on the disk at the end."""
    with path.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _save(path: Path, array: NDArray[np.int64]) -> None:
    import numpy as np

    with _synced(path) as file:
        np.save(file, array)


# -- what is said of the images -------------------------------------------------------------------


@dataclass
class _Tally:
    """Counts of what a reader must know of the images that were read."""

    lossy: Counter[str] = field(default_factory=Counter)
    converted: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)
    resized: int = 0
    enlarged: int = 0
    smallest: tuple[int, int] | None = None
    largest: tuple[int, int] | None = None

    def add(self, picture: Picture, name: str, rule: Rule) -> None:
        """Count one image."""
        if picture.lossy:
            self.lossy[picture.lossy] += 1
        if picture.converted:
            self.converted[picture.converted] += 1
            self.first.setdefault(picture.converted, name)
        if rule.size is not None and picture.size != (rule.size, rule.size):
            self.resized += 1
            self.enlarged += min(picture.size) < rule.size
            self.smallest = min(self.smallest or picture.size, picture.size, key=math.prod)
            self.largest = max(self.largest or picture.size, picture.size, key=math.prod)

    def notes(self, rule: Rule, total: int) -> list[str]:
        """Say what was counted."""
        said = [
            f"{count} of {total} images went through {kind}" for kind, count in self.lossy.items()
        ]
        told = {
            "palette": "were RGB palettes and became RGB",
            "1-bit": "had one bit of grey and became 8-bit",
            "grey": "were grey among coloured ones and got three equal channels",
        }
        said += [
            f"{count} of {total} images {told[kind]} (first: {shown(self.first[kind])})"
            for kind, count in self.converted.items()
        ]
        if self.resized and self.smallest and self.largest:
            said.append(self._resizing(rule, total))
        return said

    def _resizing(self, rule: Rule, total: int) -> str:
        import PIL

        assert self.smallest is not None
        assert self.largest is not None
        low, high = ("x".join(map(str, size)) for size in (self.smallest, self.largest))
        sizes = low if low == high else f"{low} to {high}"
        grown = f", {self.enlarged} of them enlarged" if self.enlarged else ""
        return (
            f"{self.resized} of {total} images of {sizes} were cropped to the centred square and "
            f"resized to {rule.size}x{rule.size} ({images.FILTER}, antialiased, Pillow "
            f"{PIL.__version__}){grown}"
        )
