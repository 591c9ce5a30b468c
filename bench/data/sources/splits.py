"""Which folders of a data set are its splits, told by their names, in a folder or in a zip file.

``train/`` with ``test/`` or ``val/``, or what else they are commonly called, are splits. A folder
around everything is looked into. What is nearly such a layout is refused: read as classes, it would
train on images that are held out.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.config import UserError
from bench.data.sources.image_file import has_suffix, shown
from bench.data.sources.layout import INDEX

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
        _check_words(path, folders)
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


def _check_words(path: Path, folders: Sequence[str]) -> None:
    """Refuse folders that all have a split in their names, such as x_train/ and x_test/."""
    found = [next(filter(None, map(_role, re.split(r"[\W\d_]+", name))), None) for name in folders]
    if "train" in found and None not in found and len(set(found)) > 1:
        raise UserError(
            f"{path}: '{shown(folders[0])}' and '{shown(folders[1])}' may be splits or classes; "
            "name splits train/ and test/, or rename the classes"
        )


def check_within(path: Path, names: Sequence[str]) -> None:
    """Refuse splits that lie within classes or other folders, of images by relative path."""
    inner = {part for name in names for part in name.split("/")[1:-1]}
    found = {_role(part): part for part in sorted(inner)}
    held_out = found.get("test") or found.get("val")
    if held_out and "train" in found:
        raise UserError(
            f"{path}: has {shown(found['train'])}/ and {shown(held_out)}/ within other folders; "
            "are these splits or classes? put train/ and test/ around all classes, or rename them"
        )
