"""What names tell: which folders are splits, and which class each image is of.

``train/`` with ``test/`` or ``val/``, or what else they are commonly called, are splits. A folder
around everything is looked into. What is nearly such a layout is refused: read as classes, it would
train on images that are held out.

Classes are told by ``dataset.json``, by class folders, or by an array. ``dataset.json`` holds
``{"labels": [[file name, class index], ...]}``, or ``null`` in place of the list; ``"classes"`` may
list the classes' names. Without it the images of a zip file have no labels. The first level of
folders are class folders, named after their classes, or, where these are known, after the index.
"""

import json
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.config import UserError
from bench.data.sources.image_file import has_suffix, shown
from bench.data.sources.layout import INDEX, Content

_SHARD = re.compile(r"(\d{5})/img\1\d{3}\.\w+|(\d{3})000/\2\d{3}\.\w+")
"""EDM's folders of a thousand images: ``00001/img00001000.png``, or ``001000/001000.png``."""
Top = Callable[[str], tuple[Sequence[str], Sequence[str]]]
"""Lists folders and files at the top of a place, ``""`` or ``a/b/``, hidden ones left out."""
_ROLES = {
    "train": ("train", "training"),
    "test": ("test", "testing", "eval", "evaluation", "heldout", "holdout"),
    "val": ("val", "valid", "validation", "dev"),
}


def find_splits(path: Path, top: Top) -> tuple[dict[str, str], list[str]]:
    """Return the places of ``train`` and, if there is one, ``test``; and what to note.

    Of two held-out splits that for tests is taken. Raises UserError where folders may be splits as
    well as classes.
    """
    below = unwrap(top, stop=_role)
    folders, files = top(below)
    roles = {name: role for name in folders if (role := _role(name))}
    held_out = sorted((n for n in roles if roles[n] != "train"), key=lambda name: roles[name])
    train = [name for name in roles if roles[name] == "train"]
    notes = [f"the folder '{shown(below)}' around everything was looked into"] if below else []
    if not held_out and (len(train) < len(folders) or INDEX in files or not train):
        # Folders that all have a split in their names, such as x_train/ and x_test/, are refused.
        words = [re.split(r"[\W\d_]+", name) for name in folders]
        found = [next(filter(None, map(_role, parts)), None) for parts in words]
        if "train" in found and None not in found and len(set(found)) > 1:
            raise UserError(
                f"{path}: '{shown(folders[0])}' and '{shown(folders[1])}' may be splits or "
                "classes; name splits train/ and test/, or rename the classes"
            )
        return {"train": below}, notes
    twice = [name for name in roles if [*roles.values()].count(roles[name]) > 1]
    loose = [name for name in files if name == INDEX or has_suffix(name)]
    also = [*(name for name in folders if name not in roles), *loose, *twice[1:]]
    if also or not train:
        raise UserError(
            f"{path}: has {', '.join(f'{shown(name)}/' for name in roles)}, but "
            + (f"also '{shown(also[0])}'" if also else "no train/")
            + "; are these splits or classes? keep train/ and test/ alone, or rename them"
        )
    notes += [
        f"{name}/ was not read: {held_out[0]}/ is the held-out split" for name in held_out[1:]
    ]
    places = zip(("train", "test"), (*train, *held_out), strict=False)
    return {part: f"{below}{name}/" for part, name in places}, notes


def unwrap(top: Top, stop: Callable[[str], object] = lambda name: False) -> str:
    """Return the place within all folders that hold nothing but one folder, which is no class.

    It is one that holds folders, or an index; a class holds images. Folders are not entered whose
    names ``stop`` it.
    """
    below = ""
    while True:
        folders, files = top(below)
        if len(folders) != 1 or stop(folders[0]) or any(map(has_suffix, files)) or INDEX in files:
            return below
        inner = f"{below}{folders[0]}/"
        folders, files = top(inner)
        if INDEX not in files and (any(map(has_suffix, files)) or not folders):
            return below
        below = inner


def _role(name: str) -> str | None:
    """The split that a folder's name stands for, whatever digits or dashes are in it."""
    word = re.sub(r"[\W\d_]", "", name).casefold()
    return next((role for role, names in _ROLES.items() if word in names), None)


def _check_within(path: Path, names: Sequence[str]) -> None:
    """Refuse splits that lie within classes or other folders, of images by relative path."""
    inner = {part for name in names for part in name.split("/")[1:-1]}
    found = {_role(part): part for part in sorted(inner)}
    held_out = found.get("test") or found.get("val")
    if held_out and "train" in found:
        raise UserError(
            f"{path}: has {shown(found['train'])}/ and {shown(held_out)}/ within other folders; "
            "are these splits or classes? put train/ and test/ around all classes, or rename them"
        )


@dataclass(frozen=True)
class Labels:
    """Class indices, int64 (N,), and the classes' names, each where there are any."""

    values: NDArray[np.int64] | None = None
    classes: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()


def _same(name: str) -> str:
    """Return what names have in common that look equal: accents composed into their letters."""
    return unicodedata.normalize("NFC", name)


def _from_index(content: Content, *, name: str, known: Sequence[str] | None) -> Labels:
    """Read labels and classes' names from ``dataset.json``; ``known`` are those of ``name``.

    Raises UserError unless it labels every image, and nothing else, with an allowed class.
    """
    assert content.index is not None
    where = f"{content.path}: {INDEX}"
    try:
        index: Any = json.loads(content.index)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is not JSON ({error}); make the file again") from error
    if not isinstance(index, dict):
        raise UserError(f'{where} is no object like {{"labels": [[file name, class], ...]}}')
    labels, classes = index.get("labels"), index.get("classes")
    if classes is not None:
        if not isinstance(classes, list) or not all(isinstance(entry, str) for entry in classes):
            raise UserError(f"{where}: 'classes' must be a list of names")
        if known is not None and len(classes) != len(known):
            raise UserError(
                f"{where}: {len(classes)} classes, but {name} has {len(known)}; "
                "give the right file or another --dataset"
            )
        known = classes = tuple(classes)
    if labels is None:
        return Labels(None, classes)
    if not isinstance(labels, list):
        raise UserError(f"{where}: 'labels' must be a list of [file name, class] or null")
    values = _in_order(_label_table(labels, where), content.names, where)
    return Labels(_allowed(values, known, where, content.names), classes)


def _label_table(rows: list[Any], where: str) -> dict[str, int]:
    table: dict[str, int] = {}
    for row in rows:
        match row:
            case [str(entry), int(label)] if not isinstance(label, bool):
                if entry in table:
                    raise UserError(f"{where}: '{shown(entry)}' is labelled twice")
                table[entry] = label
            case _:
                raise UserError(
                    f"{where}: {json.dumps(row)[:80]} is no [file name, class index]; "
                    "classes are whole numbers"
                )
    return table


def _in_order(table: dict[str, int], names: Sequence[str], where: str) -> list[int]:
    """Return the images' labels, with names matched that look equal where just two do."""
    composed = [{*map(_same, found)} for found in (table, names)]
    if [len(found) for found in composed] == [len(table), len(names)]:
        table, names = {_same(entry): k for entry, k in table.items()}, [*map(_same, names)]
    for missing in (entry for entry in names if entry not in table):
        counts = f"{len(table)} labels, {len(names)} images"
        raise UserError(f"{where}: no label for '{shown(missing)}' ({counts})")
    images = set(names)
    for extra in (entry for entry in table if entry not in images):
        raise UserError(f"{where}: labels '{shown(extra)}', which is not in the file")
    return [table[entry] for entry in names]


def _allowed(
    values: Sequence[int], known: Sequence[str] | None, where: object, names: Sequence[str] = ()
) -> NDArray[np.int64]:
    """Return labels (N,); UserError if one is not the index of a class."""
    highest = np.iinfo(np.int32).max if known is None else len(known) - 1
    for place, value in enumerate(values):
        if not 0 <= value <= highest:
            which = f"'{shown(names[place])}'" if names else f"image {place}"
            raise UserError(f"{where}: {which} has class {value}, allowed are 0 to {highest}")
    return np.array(values, dtype=np.int64)


def _from_folders(content: Content, *, known: Sequence[str] | None, indices: bool = True) -> Labels:
    """Take the first level of folders as classes: ``known`` ones, else their sorted names.

    A folder may be named by a known class or, with ``indices``, by its index, zeros before it or
    not. The folders of a thousand images that EDM's tools write are no classes. Raises UserError
    where folders and classes do not match one to one, or images lie beside the folders.
    """
    if not any("/" in name for name in content.names):
        return Labels()
    if all(map(_SHARD.fullmatch, content.names)):
        note = "the numbered folders hold a thousand images each, as EDM writes them: no classes"
        return Labels(notes=(note,))
    for name in content.names:
        if "/" not in name:
            raise UserError(
                f"{content.path}: '{shown(name)}' lies beside folders of images; give labels in "
                f"{INDEX}, or one folder a class"
            )
    folders = [name.split("/", 1)[0] for name in content.names]
    found = sorted(set(folders))
    alike = {_same(name): name for name in found}
    for name in found:
        if shown(name) != name:
            what = f"folder '{shown(name)}' has no printable name for a class"
            raise UserError(f"{content.path}: {what}")
        if (twin := alike[_same(name)]) != name:
            raise UserError(
                f"{content.path}: folders {name!a} and {twin!a} look equal, '{name}'; merge them"
            )
    if known is None:
        index = {folder: place for place, folder in enumerate(found)}
    else:
        index = _match(found, known, content.path, indices=indices)
    values = np.array([index[folder] for folder in folders], dtype=np.int64)
    return Labels(values, tuple(found) if known is None else None)


def _match(
    found: Sequence[str], known: Sequence[str], path: Path, *, indices: bool
) -> dict[str, int]:
    """Map folders' names to class indices; UserError unless all of them map, and in one way."""
    places = {_same(name): k for k, name in reversed([*enumerate(known)])}
    by_name = {name: places[_same(name)] for name in found if _same(name) in places}
    numbers = {name: int(name) for name in found if name.isascii() and name.isdecimal()}
    by_index = {name: k for name, k in numbers.items() if indices and k < len(known)}
    maps = [m for m in (by_name, by_index) if len(m) == len(found)]
    if not maps:
        strange = next((n for n in found if n not in by_name and n not in by_index), found[0])
        few = ", ".join(map(shown, known[:5])) + (", ..." if len(known) > 5 else "")
        raise UserError(
            f"{path}: folder '{shown(strange)}' is no class, nor the others its like; folders are "
            f"named {few}" + (f", or 0 to {len(known) - 1}" if indices else "")
        )
    if len(maps) == 2 and maps[0] != maps[1]:
        raise UserError(f"{path}: the folders' numbers may be classes' names or indices; {INDEX}")
    if len(set(maps[0].values())) < len(found):
        raise UserError(f"{path}: two folders are of one class ({', '.join(found[:4])}, ...)")
    return maps[0]


def label_data(
    name: str, known: Sequence[str] | None, content: Content, first: Labels | None
) -> Labels:
    """Label a split of a data set; ``known`` are its published classes.

    ``first`` are the labels of the split before this one, whose classes count. Raises UserError.
    """
    _check_within(content.path, content.names)
    if content.index is not None:
        return _from_index(content, name=name, known=known)
    if content.labels is not None:
        return Labels(_allowed(content.labels.tolist(), known, content.path))
    if content.kind == "folder":
        if known is None and first is not None and first.classes is not None:
            labels = _from_folders(content, known=first.classes, indices=False)
            return replace(labels, classes=first.classes)
        return _from_folders(content, known=known)
    if content.kind == "zip" and any("/" in name for name in content.names):
        note = f"folders in a zip file are no classes, and there is no {INDEX}: no labels"
        return Labels(notes=(note,))
    return Labels()


def label_samples(classes: tuple[str, ...], content: Content, first: Labels | None) -> Labels:
    """Label samples with a data set's classes; what does not map cleanly gives a note, no labels.

    Never raises, and never guesses.
    """
    try:
        if not classes:
            return Labels()
        if content.index is None and content.labels is None:
            return _from_folders(content, known=classes)
        labels = label_data("the data set", classes, content, None)
        if labels.classes not in (None, classes):
            raise UserError(f"the classes of {INDEX} are not the data set's")
        return labels
    except UserError as error:
        return Labels(notes=(f"no labels: {error}",))
