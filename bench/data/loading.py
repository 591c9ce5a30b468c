"""From a data set's name to its images: one entry point for every source."""

from pathlib import Path

from bench.config import MissingDataError, UserError, unknown
from bench.data.catalogue import KNOWN
from bench.data.dataset import Dataset, Progress, unheard


def load(
    name: str, *, path: Path | None = None, cache: Path, size: int | None = None,
    download: bool = True, progress: Progress = unheard,
) -> Dataset:  # fmt: skip
    """Read a data set by name, from ``path`` if given, else from where it is known to lie.

    Args:
        name: one of ``KNOWN``; with images of one's own any name, which then labels the results.
        path: a folder with the data set's own files; or images in a zip file (EDM, StyleGAN), a
            folder, an ``.npz`` file (guided-diffusion) or an lmdb folder (LSUN).
        cache: folder for downloads and decoded images; made when needed.
        size: side in pixels to which images of one's own are cropped and resized.
        download: whether torchvision may fetch what is found nowhere.
        progress: called with the fraction done, 0 to 1, while images are decoded.

    Raises UserError for an unknown name, or data that are missing or corrupt; it names the file.
    """
    if path is not None and not path.exists():
        raise UserError(f"--data {path}: no such file or folder")
    from bench.data.sources import digits_and_mixtures, given, mnist_and_cifar

    known = KNOWN.get(name)
    if known is not None and size not in (None, known.size):
        raise UserError(
            f"size {size}: {name} has {known.size}x{known.size}; leave the size out, or give the "
            "images under a name of their own"
        )
    if known is not None and known.is_points:
        if path is not None:
            raise UserError(
                f"--data {path}: '{name}' is drawn from a closed form and read from no file; "
                "leave --data out, or choose another --dataset"
            )
        return digits_and_mixtures.load_mixture(name)
    if path is not None and _holds_images(name, path):
        return given.load_given(name, path, cache=cache, size=size, progress=progress)
    if known is None:
        raise MissingDataError(
            f"{unknown('data set', name, KNOWN)}; or give images with --data PATH: a zip file, "
            "a folder, an .npz file or an lmdb folder"
        )
    if name == "digits":
        if path is not None:
            raise UserError(
                f"--data {path}: 'digits' is embedded in scikit-learn and there is no image in "
                "this folder; leave --data out, or give images"
            )
        return digits_and_mixtures.load_digits()
    return mnist_and_cifar.load_published(name, path=path, cache=cache, download=download)


def _holds_images(name: str, path: Path) -> bool:
    """Whether to read images of the user's at ``path``, rather than a data set's own files."""
    from bench.data.sources import arrays_and_lmdbs, folders_and_zips, mnist_and_cifar

    if path.is_file() or name not in KNOWN or arrays_and_lmdbs.is_lmdb(path):
        return True
    if name != "digits" and mnist_and_cifar.find(name, path) is not None:
        return False
    return folders_and_zips.holds_image(path)
