"""``--data PATH``: images that the user gives, as a zip file, a folder, an array or an lmdb folder.

Beside ``X-train.zip``, ``X-test.zip`` is the held-out split; so it is with folders and ``.npz``
files, and ``X_val_lmdb`` beside ``X_train_lmdb``. A folder that holds ``train`` and ``test`` (or
``val``) holds the splits; any other folder holds class folders, or images without labels, unless a
``dataset.json`` lies at its top.
"""

import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.config import UserError
from bench.data.catalogue import KNOWN
from bench.data.dataset import Dataset, Progress, unheard
from bench.data.sources import folders
from bench.data.sources.arrays import open_npz
from bench.data.sources.decoding import Rule
from bench.data.sources.entries import INDEX, Content
from bench.data.sources.images import shown
from bench.data.sources.labels import of_samples, of_training_data
from bench.data.sources.lmdbs import FILE as LMDB
from bench.data.sources.lmdbs import is_lmdb, open_lmdb
from bench.data.sources.prepared import CachedImages, Label, Recipe, prepare
from bench.data.sources.zips import open_zip

FILES = {".zip": open_zip, ".npz": open_npz}
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_HELD_OUT = ("test", "val")
_PAIRS = (("-train", "-test"), ("_train_lmdb", "_val_lmdb"))
"""How the name of a training split ends, and that of its held-out split."""


@dataclass(frozen=True)
class Part:
    """One split's source: how to open it, and what tells its present state."""

    path: Path
    open: Callable[[], AbstractContextManager[Content]]
    stamp: Callable[[], str]


def load_given(
    name: str, path: Path, *, cache: Path, size: int | None, progress: Progress
) -> Dataset:
    """Read a data set from what the user gives; see the module for the layouts.

    ``name`` labels the results; where it is a known data set's, size, channels and classes must be
    that one's. Otherwise, with ``size``, images of any size are cropped and resized to it. The
    variant is ``<name>-jpeg`` if any image went through JPEG, ``<name>-webp`` if through lossy
    WebP, else ``<name>-zip``, ``-folder``, ``-npz`` or ``-lmdb``. Raises UserError for anything
    missing, damaged or inconsistent, naming the file.
    """
    if not _NAME.fullmatch(name):
        raise UserError(
            f"data set name '{name}' cannot be used; choose small letters, digits, '-', '_', '.'"
        )
    parts, notes = splits(path)
    known = KNOWN.get(name)

    label = partial(of_training_data, name, None if known is None else known.classes)
    rule = Rule(size=size)
    if known is not None:
        rule = Rule(shape=(known.channels, known.size, known.size), owner=name)
    stored = prepare(_recipe(name, parts, label, rule), cache=cache, progress=progress)
    return _assemble(name, path, parts, stored, notes)


def _recipe(name: str, parts: dict[str, Part], label: Label, rule: Rule) -> Recipe:
    def stamp() -> str:
        return " ".join(f"{key} {part.path} {part.stamp()}" for key, part in parts.items())

    return Recipe(name, stamp, {key: part.open for key, part in parts.items()}, label, rule)


def _assemble(
    name: str, path: Path, parts: dict[str, Part], stored: CachedImages, notes: Sequence[str]
) -> Dataset:
    told = [*notes, *stored.notes]
    known = KNOWN.get(name)
    if known is not None and stored.lossy:
        told.append(
            f"the images went through {' and '.join(stored.lossy)}: numbers are not comparable "
            "with published ones"
        )
    if known is not None and len(stored.train) != known.train:
        told.append(f"{len(stored.train)} training images, not the published {known.train}")
    beside = f"; held-out split from {parts['test'].path.name} beside it" if "test" in parts else ""
    return Dataset(
        name=name,
        variant=f"{name}-{_variant(stored)}",
        train=stored.train,
        test=stored.test,
        classes=stored.classes or _default_classes(name, stored),
        sha256=stored.sha256,
        source=f"{path}{beside}",
        notes=tuple(told),
        stored=stored.folder,
    )


def _variant(stored: CachedImages) -> str:
    return next((kind.lower() for kind in ("JPEG", "WebP") if kind in stored.lossy), stored.kind)


def _default_classes(name: str, stored: CachedImages) -> tuple[str, ...]:
    if name in KNOWN:
        return KNOWN[name].classes
    given = [split.labels for split in (stored.train, stored.test) if split is not None]
    highest = max((int(labels.max()) for labels in given if labels is not None), default=-1)
    return tuple(str(label) for label in range(highest + 1))


def splits(path: Path) -> tuple[dict[str, Part], list[str]]:
    """Find the training split at ``path`` and its held-out split, if any; and what to note."""
    inside, notes = _inside(path)
    if inside:
        return {key: source(place) for key, place in inside.items()}, notes
    places = {"train": path, "test": _beside(path)}
    return {key: source(place) for key, place in places.items() if place is not None}, notes


def _inside(path: Path) -> tuple[dict[str, Path], list[str]]:
    """Return the splits that a folder holds as ``train`` and ``test``, if it does."""
    if not path.is_dir() or is_lmdb(path) or (path / INDEX).exists():
        return {}, []
    listed = folders.top(path)
    held_out = [name for name in _HELD_OUT if name in listed]
    if "train" not in listed or not (held_out or listed == ["train"]):
        return {}, []
    other = [name for name in listed if name not in {"train", *_HELD_OUT}]
    if other:
        raise UserError(
            f"{path}: has train/ and {held_out[0]}/, but also '{shown(other[0])}'; are these "
            "splits or classes? keep one of the two"
        )
    notes = [f"{name}/ was not read: {held_out[0]}/ is the held-out split" for name in held_out[1:]]
    places = {"train": path / "train"}
    if held_out:
        places["test"] = path / held_out[0]
    return places, notes


def _beside(path: Path) -> Path | None:
    """Return the held-out split that lies beside a training split of the same kind, if any."""
    suffix = "" if path.is_dir() else path.suffix
    stem = path.name.removesuffix(suffix)
    for train, test in _PAIRS:
        candidate = path.with_name(f"{stem.removesuffix(train)}{test}{suffix}")
        if stem.endswith(train) and candidate.is_dir() == path.is_dir() and candidate.exists():
            return candidate
    return None


def source(path: Path) -> Part:
    """Choose how to read what lies at ``path``; UserError if there is no way."""
    path = path.resolve()
    if path.is_dir() and not is_lmdb(path):
        return Part(path, partial(folders.open_folder, path), partial(folders.stamp, path))
    if path.is_dir():
        return Part(path, partial(open_lmdb, path), partial(_stamp, path / LMDB))
    if path.name == LMDB:
        raise UserError(f"{path}: give the folder that it lies in")
    if path.suffix.lower() not in FILES:
        raise UserError(
            f"--data {path}: not a .zip or .npz file; give one, or a folder with the images"
        )
    return Part(path, partial(FILES[path.suffix.lower()], path), partial(_stamp, path))


def _stamp(path: Path) -> str:
    try:
        return folders.stamp_of(path.stat())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def load_samples(
    path: Path,
    *,
    shape: tuple[int, int, int],
    classes: tuple[str, ...],
    cache: Path,
    progress: Progress = unheard,
) -> Dataset:
    """Read samples that some other code has drawn: a folder, a zip or ``.npz`` file of images.

    They are ``train`` of what is returned, uint8 (N, C, H, W) memory-mapped, and must have just the
    ``shape`` (C, H, W) asked for: samples are never resized. Labels come from ``dataset.json``,
    class folders or the array beside the images, as indices into ``classes``; where these do not
    map cleanly, there are no labels and a note says why. The variant is ``samples-jpeg`` (or
    ``-webp``) where images went through it, else ``samples-zip`` and so on.

    Raises:
        UserError: no such path, or images that are damaged or of another shape; names the file.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file or folder of samples")
    part = source(path)
    label, rule = partial(of_samples, classes), Rule(shape=shape, owner="the data set")
    recipe = _recipe(f"samples {classes}", {"train": part}, label, rule)
    stored = prepare(recipe, cache=cache, progress=progress)
    return Dataset(
        name="samples",
        variant=f"samples-{_variant(stored)}",
        train=stored.train,
        test=None,
        classes=classes,
        sha256=stored.sha256,
        source=str(path),
        notes=stored.notes,
        stored=stored.folder,
    )
