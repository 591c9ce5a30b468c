"""From a data set's name to its images: one entry point for every source."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from bench.config.errors import MissingDataError, UserError, unknown
from bench.data.catalogue import KNOWN

if TYPE_CHECKING:
    from pathlib import Path

    from bench.data.dataset import Dataset

Progress = Callable[[float], object]


def load(
    name: str,
    *,
    path: Path | None = None,
    cache: Path,
    size: int | None = None,
    download: bool = True,
    progress: Progress = lambda fraction: None,
) -> Dataset:
    """Read a data set by name, from ``path`` if given, else from where it is known to lie.

    Args:
        name: one of ``names()``; with images of one's own any name, which then labels the results.
        path: a folder with the data set's own files; or images in a zip file (EDM, StyleGAN), a
            folder, an ``.npz`` file (guided-diffusion) or an lmdb folder (LSUN).
        cache: folder for downloads and decoded images; made when needed.
        size: side in pixels to which images of one's own are cropped and resized; a known data
            set has its own, and no other is allowed.
        download: whether torchvision may fetch what is found nowhere.
        progress: called with the fraction done, 0 to 1, while images are decoded.

    Raises:
        UserError: unknown name, or data that are missing or corrupt; names the file.
    """
    if path is not None and not path.exists():
        raise UserError(f"--data {path}: no such file or folder")
    _check_size(name, size)
    if name in KNOWN and KNOWN[name].is_points:
        return _load_mixture(name, path)
    if path is not None and _holds_images(name, path):
        from bench.data.sources.given import load_given

        return load_given(name, path, cache=cache, size=size, progress=progress)
    if name not in KNOWN:
        raise MissingDataError(
            f"{unknown('data set', name, KNOWN)}; or give images with --data PATH: a zip file, "
            "a folder, an .npz file or an lmdb folder"
        )
    if name == "digits":
        return _load_digits(path)
    from bench.data.sources.fetched import load_fetched

    return load_fetched(name, path=path, cache=cache, download=download)


def load_samples(
    path: Path,
    *,
    shape: tuple[int, int, int],
    classes: tuple[str, ...],
    cache: Path,
    progress: Progress = lambda fraction: None,
) -> Dataset:
    """Read images that some other code has drawn; see ``bench.data.sources.given.load_samples``."""
    from bench.data.sources import given

    return given.load_samples(path, shape=shape, classes=classes, cache=cache, progress=progress)


def _check_size(name: str, size: int | None) -> None:
    known = KNOWN.get(name)
    if size is not None and known is not None and size != known.size:
        raise UserError(
            f"size {size}: {name} has {known.size}x{known.size}; leave the size out, or give the "
            "images under a name of their own"
        )


def _holds_images(name: str, path: Path) -> bool:
    """Whether to read images of the user's at ``path``, rather than a data set's own files."""
    from bench.data.sources import folders
    from bench.data.sources.lmdbs import is_lmdb

    if path.is_file() or name not in KNOWN or is_lmdb(path):
        return True
    if name != "digits":
        from bench.data.sources.fetched import find

        if find(name, path) is not None:
            return False
    return folders.holds_image(path)


def _load_digits(path: Path | None) -> Dataset:
    from bench.data.sources.digits import load_digits

    if path is not None:
        raise UserError(
            f"--data {path}: 'digits' is embedded in scikit-learn and there is no image in this "
            "folder; leave --data out, or give images"
        )
    return load_digits()


def _load_mixture(name: str, path: Path | None) -> Dataset:
    from bench.data.sources.mixtures import load_mixture

    if path is not None:
        raise UserError(
            f"--data {path}: '{name}' is drawn from a closed form and read from no file; "
            "leave --data out, or choose another --dataset"
        )
    return load_mixture(name)
