"""The 2015 Inception network, the only one whose distances are called FID.

It is clean-fid's TorchScript file. Loading such a file runs code from it, so its SHA-256 is checked
before. clean-fid keeps it unchecked in the system's temporary folder; we keep it in our own cache.
"""

from __future__ import annotations

import hashlib
import urllib.request
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import IO

import torch
from torch import Tensor
from torch.nn import functional

from bench.errors import UserError
from bench.metrics.resizing import clean_resize, to_rgb
from bench.record import write_atomically

FILE = "inception-2015-12-05.pt"
"""The name under which clean-fid looks for the file."""
LEGACY = "legacy_tensorflow: bilinear within the graph"
SIZE = 299

_BLOCK = 1 << 20
_TIMEOUT = 30
"""Seconds that the download may stand still."""


def find_weights(cache: Path, sha256: str) -> Path:
    """Return the weights' file in the cache, fetched if it is not there.

    Only a download with the right hash is kept; a file that lay there is checked by the caller.
    Raises UserError, which says what was tried and how to supply the file.
    """
    from filelock import FileLock

    target = cache / "weights" / FILE
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        if not target.exists():
            _download(target, sha256)
    return target


def load_inception(
    path: Path, content: bytes, device: torch.device, cache: Path, *, legacy: bool
) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Return a function from images 0..255 to 2048 features and 1008 probabilities.

    ``content`` are the bytes of ``path``, already checked. With ``legacy`` the graph resizes by
    itself, as in the papers before clean-fid. The probabilities leave out the bias of the last
    layer, as the original Inception Score does, and come from the same pass.
    """
    from cleanfid.inception_torchscript import InceptionV3W

    if path.name != FILE:
        # clean-fid's class takes a folder and knows the file in it by this name alone.
        path = cache / "weights" / FILE
        write_atomically(path, lambda file: file.write(content))
    with warnings.catch_warnings():
        # torch would rather have other formats than TorchScript; the file is what it is.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        model = InceptionV3W(path=str(path.parent), download=False, resize_inside=legacy)
    model.eval().requires_grad_(False).to(device)
    weight = model.base.output.weight

    def run(images: Tensor) -> tuple[Tensor, Tensor]:
        coloured = to_rgb(images)
        features = model(coloured if legacy else clean_resize(coloured, SIZE))
        return features, functional.linear(features, weight).softmax(dim=1)

    return run


def _download(target: Path, sha256: str) -> None:
    from cleanfid.downloads_helper import inception_url

    digest = hashlib.sha256()

    def copy(file: IO[bytes]) -> None:
        with urllib.request.urlopen(inception_url, timeout=_TIMEOUT) as response:
            while block := response.read(_BLOCK):
                digest.update(block)
                file.write(block)
        if digest.hexdigest() != sha256:
            raise OSError(f"it gave sha256 {digest.hexdigest()}, expected {sha256}")

    try:
        write_atomically(target, copy)
    except OSError as error:
        raise UserError(
            f"no Inception weights: not at {target}, and the download of {inception_url} failed "
            f"({error}); get that file elsewhere and give it with --weights FILE, or put it there"
        ) from error
