"""Data sets that torchvision knows: found where the user or the system put them, else fetched.

They are looked for in ``--data PATH``, and if that is not given in the folder that the environment
variable ``SCOREBENCH_DATA`` names, where Debian puts Fashion-MNIST, and in our own folder of
downloads. Under each, torchvision's layout is expected (``FashionMNIST/raw/``,
``cifar-10-batches-py/``); MNIST's and Fashion-MNIST's four files may also lie there directly, or in
a folder of the data set's name.
"""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from bench.config import MissingDataError, UserError
from bench.data.catalogue import KNOWN, ROOT_VARIABLE
from bench.data.dataset import Dataset, Split
from bench.data.sources import idx
from bench.data.sources.images import said_by

_CLASSES = {**idx.FOLDERS, "cifar10": "CIFAR10", "cifar100": "CIFAR100"}
_FOLDERS = {**idx.FOLDERS, "cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}


def load_fetched(name: str, *, path: Path | None, cache: Path, download: bool) -> Dataset:
    """Read a data set from the first place that has it; see the module for the places.

    With ``path``, that place alone is looked at. Raises UserError, which says where was looked.
    """
    places = _places(name, path, cache)
    for place in places:
        folder = find(name, place)
        if folder is not None:
            return _read(name, folder)
    looked = ", ".join(str(place) for place in places)
    if path is not None or not download:
        raise MissingDataError(f"no {name} data found (looked in: {looked}); {_advice(name)}")
    return _read(name, _download(name, cache / "downloads", looked))


def _places(name: str, path: Path | None, cache: Path) -> list[Path]:
    if path is not None:
        return [path]
    root = os.environ.get(ROOT_VARIABLE)
    if root and not Path(root).is_dir():
        raise UserError(f"{ROOT_VARIABLE}={root}: no such folder; correct or unset it")
    places = [Path(root)] if root else []
    if name in idx.DEBIAN:
        places.append(idx.DEBIAN[name])
    return [*places, cache / "downloads"]


def find(name: str, place: Path) -> Path | None:
    """Return the folder of the data set's own files, if they lie at or under ``place``."""
    if name in idx.FOLDERS:
        return idx.find_folder(name, place)
    if place.name == _FOLDERS[name] and place.is_dir():
        return place
    inside = (place / _FOLDERS[name], place / name / _FOLDERS[name])
    return next((folder for folder in inside if folder.is_dir()), None)


def _read(name: str, folder: Path) -> Dataset:
    read = idx.read_split if name in idx.FOLDERS else _read_cifar
    train, test = (read(name, folder, part) for part in ("train", "test"))
    found, published = f"{len(train)} + {len(test)}", KNOWN[name].counts
    told = f"{found} images, not the published {published}: numbers are not comparable with those"
    notes = () if found == published else (told,)
    return Dataset.of_known(name, train, test, str(folder), notes=notes)


def _read_cifar(name: str, folder: Path, part: str) -> Split:
    # torchvision checks every file's MD5 before it unpickles it.
    try:
        data = _torchvision_class(name)(root=folder.parent, train=part == "train", download=False)
    except (RuntimeError, OSError) as error:
        raise UserError(
            f"{folder}: {name} is incomplete or corrupt ({said_by(error)}); {_advice(name)}"
        ) from error
    images = np.ascontiguousarray(np.asarray(data.data, dtype=np.uint8).transpose(0, 3, 1, 2))
    return Split(images, np.asarray(data.targets, dtype=np.int64))


def _torchvision_class(name: str) -> Any:
    import torchvision

    return getattr(torchvision.datasets, _CLASSES[name])


def _download(name: str, root: Path, looked: str) -> Path:
    """Let torchvision fetch and check the files in a temporary folder, then move them in place."""
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / f".{name}.lock"):
        # Of processes that were killed: who downloads holds the lock.
        for left in root.glob(f".{name}.tmp-*"):
            shutil.rmtree(left, ignore_errors=True)
        found = find(name, root)
        if found is not None:
            return found
        with tempfile.TemporaryDirectory(dir=root, prefix=f".{name}.tmp-") as temporary:
            try:
                _torchvision_class(name)(root=Path(temporary), train=True, download=True)
            except (OSError, RuntimeError, ValueError) as error:
                raise MissingDataError(
                    f"no {name} data found (looked in: {looked}) and torchvision's download "
                    f"failed: {said_by(error)}; {_advice(name)}"
                ) from error
            target = root / _FOLDERS[name]
            # What lies there was not found good above, so it cannot be a finished download.
            shutil.rmtree(target, ignore_errors=True)
            os.replace(Path(temporary) / _FOLDERS[name], target)
    found = find(name, root)
    if found is None:
        raise UserError(f"{root}: torchvision's download of {name} lacks files; {_advice(name)}")
    return found


def _advice(name: str) -> str:
    debian = " or install Debian's dataset-fashion-mnist" if name in idx.DEBIAN else ""
    cifar = f"{_FOLDERS[name]}/, or images of your own,"
    kind = "the four IDX files" if name in idx.FOLDERS else cifar
    return f"give --data PATH with {kind} or set {ROOT_VARIABLE}{debian}"
