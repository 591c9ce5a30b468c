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

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from pydantic import BaseModel

from bench.config import UserError
from bench.data.dataset import Fingerprint, Progress, Split, unheard
from bench.data.sources.decoding import Decoding, MixedError, Recipe, free, synced
from bench.data.sources.entries import Content
from bench.data.sources.labels import Labels
from bench.records import sync_folder

FORMAT = 4
"""Version of what the cache holds; raised when images are read differently."""
FOLDER = "prepared"


class PreparedFacts(BaseModel, frozen=True):
    """The cache's ``facts.json``.

    ``classes`` is None where none were named. ``lossy`` tells the lossy formats that images went
    through, ``kind`` what they were read from, and ``held_out`` what the held-out split is called
    there. ``files`` has the size and the time of modification of each array.
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
    wanted = f"{recipe.name} {recipe.size} {recipe.shape} {stamp}"
    key = hashlib.sha256(f"{FORMAT} {wanted}".encode()).hexdigest()[:32]
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
        facts = _decode(recipe, temporary, progress)
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


def _decode(recipe: Recipe, folder: Path, progress: Progress) -> PreparedFacts:
    """Decode both splits; images of both kinds, grey and colour, are decoded anew as colour."""
    try:
        return _decode_as(recipe, folder, progress, colour=False)
    except MixedError:
        return _decode_as(recipe, folder, progress, colour=True)


def _decode_as(recipe: Recipe, folder: Path, progress: Progress, *, colour: bool) -> PreparedFacts:
    digest, (parts, said) = Fingerprint(), recipe.splits()
    with ExitStack() as stack:
        # Both are opened and labelled first: what is wrong with them need not wait for decoding.
        opened = {name: stack.enter_context(part.open()) for name, part in parts.items()}
        labels: dict[str, Labels] = {}
        for part, content in opened.items():
            labels[part] = recipe.label(content, labels.get("train"))
        if "test" in opened:
            _check_agreement(opened, labels)
        total = sum(content.count for content in opened.values())
        job = Decoding(recipe, colour, lambda done: progress(done / total), free(folder))
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
        classes=labels["train"].classes,
        kind=opened["train"].kind,
        held_out=parts["test"].name if "test" in parts else None,
        lossy=tuple(sorted(job.lossy)),
        sha256=digest.hexdigest(),
        notes=(*dict.fromkeys(said), *job.notes()),
        files={file.name: _stamp(file) for file in folder.iterdir()},
    )


def _check_agreement(opened: Mapping[str, Content], labels: Mapping[str, Labels]) -> None:
    train, test = labels["train"], labels["test"]
    path, other = opened["test"].path, opened["train"].path.name
    if (train.values is None) != (test.values is None):
        raise UserError(f"{path}: only one of it and {other} has labels; both must agree")
    if train.classes != test.classes:
        raise UserError(f"{path}: its 'classes' differ from those of {other}")
