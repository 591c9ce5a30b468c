"""The 2015 Inception network, the only one whose distances are called FID.

It is clean-fid's TorchScript file, which runs code when it is loaded; clean-fid keeps it unchecked
in the system's temporary folder. We keep it in our own cache, and load the bytes that we checked.
"""

import hashlib
import http.client
import io
import time
import urllib.error
import urllib.request
import warnings
from pathlib import Path
from typing import IO, Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor
from torch.nn import functional

from bench.config import UserError
from bench.metrics.extractors.resizing import Run, clean_resize, to_rgb
from bench.metrics.extractors.verified import ROOT_VARIABLE, find
from bench.metrics.protocol import Say, to_stderr
from bench.records import write_atomically

FILE = "inception-2015-12-05.pt"
"""The name under which clean-fid looks for the file."""
LEGACY = "legacy_tensorflow: bilinear within the graph"
SIZE = 299
FEATURES = 2048

_BLOCK = 1 << 20
_MOST = 1 << 28
"""Bytes after which a download cannot be the file, which has some 95 million."""
_TIMEOUT = 30
"""Seconds that the download may stand still."""
_SAY_SECONDS = 10.0
"""Seconds between two lines about a download."""


def find_weights(cache: Path, sha256: str, say: Say = to_stderr) -> Path:
    """Return the weights' file, fetched into the cache by one process if it is nowhere.

    Only a download with the right hash is kept; a file that lay there is checked by the caller.
    UserError says what was tried and how to supply the file.
    """
    target = cache / "weights" / FILE
    if found := find(FILE, cache):
        return found
    try:
        _fetch_once(target, sha256, say)
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # It is the server's answer, too.
        raise UserError(
            f"no Inception weights: not at {target}, and the download of {_address()} failed "
            f"({error}); get that file elsewhere and give it with --weights inception=FILE, or put "
            f"it there, or into a folder that {ROOT_VARIABLE} names"
        ) from error
    return target


def load_inception(content: bytes, device: torch.device, *, legacy: bool) -> Run:
    """Return a function from uint8 images to 2048 features and 1008 probabilities.

    With ``legacy`` the graph resizes by itself, as in the papers before clean-fid. The
    probabilities leave out the bias of the last layer, as the original Inception Score does.
    """
    # torch would rather have other formats; the file is what it is.
    with warnings.catch_warnings(action="ignore"):
        graph: Any = torch.jit.load(io.BytesIO(content), map_location=device)  # type: ignore[no-untyped-call]
    graph.eval()
    weight = graph.output.weight

    def run(images: Tensor) -> tuple[Tensor, Tensor]:
        coloured = to_rgb(images.float())
        if legacy:
            features = graph(coloured, return_features=True)
        else:
            features = graph.layers((clean_resize(coloured, SIZE) - 128) / 128)
        features = features.view(len(images), FEATURES)
        return features, functional.linear(features, weight).softmax(dim=1)

    return run


def _address() -> str:
    """Return the file's address on the web, as clean-fid knows it."""
    try:
        from cleanfid import downloads_helper
    except ImportError as error:
        raise UserError(
            f"to download Inception's weights the package clean-fid is needed ({error}); install "
            f"it with pip, or give {FILE} with --weights inception=FILE"
        ) from error
    return str(downloads_helper.inception_url)


def _fetch_once(target: Path, sha256: str, say: Say) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{target}.lock")
    try:
        alone = lock.acquire(timeout=0)
    except Timeout:
        say(f"inception: another process is fetching {target}; waiting for it")
        alone = lock.acquire()
    with alone:
        if target.exists():
            return
        for left in target.parent.glob(f".{FILE}.*"):
            left.unlink()  # By a process that was killed; whoever lives would hold the lock.
        write_atomically(target, lambda file: _download(file, sha256, say))


def _download(file: IO[bytes], sha256: str, say: Say) -> None:
    """Write the file from the web; OSError if it breaks off or has another hash."""
    digest, count = hashlib.sha256(), 0
    with urllib.request.urlopen(_address(), timeout=_TIMEOUT) as response:
        size, told = response.length, time.monotonic()
        while block := response.read(_BLOCK):
            digest.update(block)
            file.write(block)
            count += len(block)
            if count > _MOST:
                raise OSError(f"it gave more than {_MOST} bytes, which is another file")
            if time.monotonic() - told > _SAY_SECONDS:
                told = time.monotonic()
                of = f" of {size / 1e6:.0f}" if size else ""
                say(f"inception: {count / 1e6:.0f}{of} MB fetched")
    if size and count < size:
        raise OSError(f"it broke off after {count} of {size} bytes")
    if digest.hexdigest() != sha256:
        raise OSError(f"it gave {count} bytes of sha256 {digest.hexdigest()}, expected {sha256}")
