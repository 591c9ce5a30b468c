"""``--data PATH``: images that the user gives, as a zip file, a folder, an array or an lmdb folder.

Beside ``X-train.zip``, ``X-test.zip`` is the held-out split; so it is with folders and ``.npz``
files, and ``X_val_lmdb`` beside ``X_train_lmdb``. A folder or a zip file that holds ``train`` and
``test`` (or ``val``) holds the splits; any other folder holds class folders, or images without
labels, unless a ``dataset.json`` lies at its top.
"""

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from bench.config import UserError
from bench.data.catalogue import KNOWN
from bench.data.dataset import Dataset, Progress, unheard
from bench.data.sources import folders_and_zips
from bench.data.sources.arrays_and_lmdbs import LMDB_FILE, is_lmdb, open_lmdb, open_npz
from bench.data.sources.image_cache import CachedImages, Recipe, prepare
from bench.data.sources.layout import Part
from bench.data.sources.splits_and_labels import Top, find_splits, label_data, label_samples, unwrap

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_PAIRS = (("-train", "-test"), ("_train_lmdb", "_val_lmdb"))
"""How the name of a training split ends, and that of its held-out split."""


def load_given(
    name: str, path: Path, *, cache: Path, size: int | None, progress: Progress
) -> Dataset:
    """Read a data set from what the user gives; see the module for the layouts.

    ``name`` labels the results; where it is a known data set's, size, channels and classes must be
    that one's. Otherwise, with ``size``, images of any size are cropped and resized to it. The
    variant is ``<name>-jpeg`` or ``-webp`` if any image went through JPEG or lossy WebP, else
    ``<name>-zip``, ``-folder``, ``-npz`` or ``-lmdb``. UserError names the file that is at fault.
    """
    if not _NAME.fullmatch(name):
        raise UserError(
            f"data set name '{name}' cannot be used; choose small letters, digits, '-', '_', '.'"
        )
    place, known = path.resolve(), KNOWN.get(name)
    beside = _beside(place)
    label = partial(label_data, name, None if known is None else known.classes)
    files = [place] if beside is None else [place, beside]
    shape = None if known is None else (known.channels, known.size, known.size)
    recipe = Recipe(
        name, partial(_stamp, files), partial(_splits, place, beside), label,
        size=size if known is None else None, shape=shape, owner=name,
    )  # fmt: skip
    stored = prepare(recipe, cache=cache, progress=progress)
    facts, notes = stored.facts, list(stored.facts.notes)
    if known is not None and facts.lossy:
        kinds = " and ".join(facts.lossy)
        notes.append(
            f"the images went through {kinds}: numbers are not comparable with published ones"
        )
    if known is not None and len(stored.train) != known.train:
        notes.append(f"{len(stored.train)} training images, not the published {known.train}")
    classes = facts.classes or (() if known is None else known.classes)
    if not classes:  # They have no names: 0, 1, 2, ... up to the highest label.
        given = [split.labels for split in (stored.train, stored.test) if split is not None]
        highest = max((int(labels.max()) for labels in given if labels is not None), default=-1)
        classes = tuple(map(str, range(highest + 1)))
    if stored.train.labels is not None:
        absent = len(classes) - len(np.unique(stored.train.labels))
        notes += [f"{absent} of {len(classes)} classes have no image"] if absent else []
    beside_it = "" if facts.held_out is None else f"; held-out split from {facts.held_out}"
    return _dataset(name, stored, classes, f"{path}{beside_it}", notes)


def _dataset(
    name: str, stored: CachedImages, classes: tuple[str, ...], source: str, notes: Sequence[str]
) -> Dataset:
    facts = stored.facts
    lossy = (kind.lower() for kind in ("JPEG", "WebP") if kind in facts.lossy)
    return Dataset(
        name=name, variant=f"{name}-{next(lossy, facts.kind)}", train=stored.train,
        test=stored.test, classes=classes, sha256=facts.sha256, source=source, notes=tuple(notes),
        stored=stored.folder,
    )  # fmt: skip


def _splits(path: Path, beside: Path | None) -> tuple[dict[str, Part], list[str]]:
    """Find the training split at ``path``, its held-out split there or ``beside``, and notes."""
    places, notes = find_splits(path, _top(path))
    parts = {key: _part(path, below) for key, below in places.items()}
    if beside is not None and "test" not in parts:
        parts["test"] = _whole(beside)
    return parts, notes


def _top(path: Path) -> Top:
    """How to list what lies at ``path``: nothing where there are no folders and files in it."""
    if path.is_dir() and not is_lmdb(path):
        return partial(folders_and_zips.top_of_folder, path)
    is_zip = path.is_file() and path.suffix.lower() == ".zip"
    return folders_and_zips.top_of_zip(path) if is_zip else lambda below: ([], [])


def _whole(path: Path) -> Part:
    """Return what lies at ``path``, within all folders that hold nothing but one folder."""
    return _part(path, unwrap(_top(path)))


def _beside(path: Path) -> Path | None:
    """Return the held-out split that lies beside a training split of the same kind, if any."""
    suffix = "" if path.is_dir() else path.suffix
    stem = path.name.removesuffix(suffix)
    for train, test in _PAIRS:
        candidate = path.with_name(f"{stem.removesuffix(train)}{test}{suffix}")
        if stem.endswith(train) and candidate.is_dir() == path.is_dir() and candidate.exists():
            return candidate
    return None


def _part(path: Path, below: str) -> Part:
    """Choose how to read what lies at ``path``, or ``below`` it; UserError if there is no way."""
    kind = path.suffix.lower()
    if path.is_dir():
        place = path / below
        opener = open_lmdb if is_lmdb(place) else folders_and_zips.open_folder
        return Part(below or path.name, partial(opener, place))
    if path.name == LMDB_FILE:
        raise UserError(f"{path}: give the folder that it lies in")
    if kind not in {".zip", ".npz"}:
        raise UserError(f"{path}: not a .zip or .npz file; give one, or a folder with the images")
    if kind == ".npz":
        return Part(path.name, partial(open_npz, path))
    return Part(below or path.name, partial(folders_and_zips.open_zip, path, below))


def _stamp(paths: Sequence[Path]) -> str:
    """Return where files lie, and what tells their present state."""
    # Beside an lmdb's data lies a lock that every reader may touch.
    files = [path / LMDB_FILE if is_lmdb(path) else path for path in paths]
    return " ".join(f"{file} {folders_and_zips.stamp(file)}" for file in files)


def load_samples(
    path: Path, *, shape: tuple[int, int, int], classes: tuple[str, ...], cache: Path,
    progress: Progress = unheard,
) -> Dataset:  # fmt: skip
    """Read samples that some other code has drawn: a folder, a zip or ``.npz`` file of images.

    They are ``train`` of what is returned, uint8 (N, C, H, W) memory-mapped, and must have just the
    ``shape`` (C, H, W) asked for: samples are never resized. Labels come from ``dataset.json``,
    class folders or the array beside the images, as indices into ``classes``; where these do not
    map cleanly, there are no labels and a note says why. The variant is as of ``load_given``, of
    the name ``samples``. UserError names the file that is missing, damaged or of another shape.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file or folder of samples")
    place = path.resolve()
    recipe = Recipe(
        f"samples {classes}", partial(_stamp, [place]), lambda: ({"train": _whole(place)}, []),
        partial(label_samples, classes), shape=shape, owner="the data set",
    )  # fmt: skip
    stored = prepare(recipe, cache=cache, progress=progress)
    return _dataset("samples", stored, classes, str(path), stored.facts.notes)
