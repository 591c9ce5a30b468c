"""From a data set's name to its images: one entry point for every source."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.data.catalogue import KNOWN
from bench.errors import MissingDataError, UserError, unknown

if TYPE_CHECKING:
    from pathlib import Path

    from bench.data.dataset import Dataset


def load(name: str, *, path: Path | None = None, cache: Path, download: bool = True) -> Dataset:
    """Read a data set by name, from ``path`` if given, else from where it is known to lie.

    Args:
        name: one of ``names()``; with a zip file any name, which then labels the results.
        path: a zip file in the EDM/StyleGAN layout, or a folder with the data set's own files.
        cache: folder for downloads and decoded zip files; made when needed.
        download: whether torchvision may fetch what is found nowhere.

    Raises:
        UserError: unknown name, or data that are missing or corrupt; names the file.
    """
    if path is not None and not path.exists():
        raise UserError(f"--data {path}: no such file or folder")
    if name in KNOWN and KNOWN[name].is_points:
        return _load_mixture(name, path)
    if path is not None and path.is_file():
        return _load_file(name, path, cache)
    if name not in KNOWN:
        raise MissingDataError(
            f"{unknown('data set', name, KNOWN)}; or give images with --data FILE.zip"
        )
    if name == "digits":
        return _load_digits(path)
    from bench.data.fetched import load_fetched

    return load_fetched(name, path=path, cache=cache, download=download)


def _load_file(name: str, path: Path, cache: Path) -> Dataset:
    from bench.data.zipped import load_zip

    if path.suffix.lower() != ".zip":
        raise UserError(f"--data {path}: not a .zip file; give one, or a folder with the files")
    return load_zip(name, path, cache=cache)


def _load_digits(path: Path | None) -> Dataset:
    from bench.data.digits import load_digits

    if path is not None:
        raise UserError(
            f"--data {path}: 'digits' is embedded in scikit-learn and read from no folder; "
            "leave --data out, or give a .zip file"
        )
    return load_digits()


def _load_mixture(name: str, path: Path | None) -> Dataset:
    from bench.data.mixtures import load_mixture

    if path is not None:
        raise UserError(
            f"--data {path}: '{name}' is drawn from a closed form and read from no file; "
            "leave --data out, or choose another --dataset"
        )
    return load_mixture(name)
