"""Feature extractors by name: fixed networks whose weights are checked against a known hash.

For points of a mixture the extractor is a formula, and the hash is that of its parameters.

A value compares only with values of the same network, so the hash of the weights is part of the
name's meaning: a file with another hash is refused, whoever gave it, and where weights cannot be
had nothing else is put in their place.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import UserError, unknown

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from methods.mixtures import GaussianMixture

    Run = Callable[[Tensor], tuple[Tensor, Tensor]]

_INCEPTION = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"
SHA256 = {
    "digits": "c57b2fa5018538e9559919cca2e4b22de3e2f226ce215c35476bfe7175c8b7e9",
    "fashion-mnist": "3a0444555ea78df9c490c0aeadb6e4a2cc729a4e465766d56a2d110f1e16f154",
    "efflite0": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    "inception": _INCEPTION,
    "inception-legacy": _INCEPTION,
    "gmm2d": "19e0c671b7f8bc0384e1524071797b996a6a9337090d31375456976418fe8e9a",
    "moons": "32745c27d04484ac83675e111f034410b5adab17b4b96cd8f0d44d208f6d2ffa",
}
"""The only weights, and for points the only mixture, that each name may stand for."""

_MIXTURES = ("gmm2d", "moons")
_POINTS = (2, 1, 1)


@dataclass(frozen=True)
class Extractor:
    """A network that turns uint8 images (B, C, H, W) into features and class probabilities.

    One with a ``truth``, the density of a data set of points, takes float32 points (B, 2, 1, 1).
    ``resize`` tells how images reach the network's size, ``takes`` is the only shape (C, H, W)
    accepted, if there is just one, and ``classifies`` the data set whose class indices the
    probabilities have, if any. ``run`` gets floats, 0..255 for images, on the device.
    """

    name: str
    sha256: str
    resize: str
    device: torch.device
    run: Run
    takes: tuple[int, int, int] | None = None
    classifies: str | None = None
    truth: GaussianMixture | None = None

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (B, d) and probabilities (B, K), float32, on the extractor's device."""
        import torch

        self.check(tuple(images.shape[1:]))
        if self.truth is None and images.dtype != torch.uint8:
            raise ValueError(f"images must be quantised to uint8 first, not {images.dtype}")
        if self.truth is not None and images.dtype != torch.float32:
            raise ValueError(f"points must be float32, not {images.dtype}")
        with torch.inference_mode(), exact(self.device):
            features, probabilities = self.run(images.to(self.device).float())
        return features.float(), probabilities.float()

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise UserError where images of this shape (C, H, W) cannot be taken."""
        if shape == _POINTS != self.takes:
            raise UserError(
                f"extractor '{self.name}' takes images, not points; choose the one of the data "
                f"set's own name: {', '.join(_MIXTURES)}"
            )
        if self.takes is not None and shape != self.takes:
            kind = "images of " if self.truth is None else "points, "
            raise UserError(
                f"extractor '{self.name}' takes {kind}{_times(self.takes)}, not "
                f"{_times(shape)}; choose one that resizes: efflite0, inception"
            )


def names() -> tuple[str, ...]:
    """Return the extractors that ``load`` knows."""
    return tuple(_LOADERS)


def sha256_of(name: str, weights: Mapping[str, Path] = {}) -> str:
    """Return the hash of an extractor's weights."""
    if name not in SHA256:
        raise unknown("feature extractor", name, SHA256)
    return SHA256[name]


def load(
    name: str,
    *,
    device: str | torch.device,
    weights: Mapping[str, Path] = {},
    cache: Path,
) -> Extractor:
    """Load an extractor onto a device, its weights checked before they are read.

    Args:
        name: one of ``names()``.
        device: where it runs.
        weights: the file to use in place of the usual one; its hash must be the same.
        cache: folder under which weights that are downloaded are kept.

    Raises:
        UserError: unknown name, or weights that are missing or not the expected ones.
    """
    import torch

    if name not in _LOADERS:
        raise unknown("feature extractor", name, _LOADERS)
    return _LOADERS[name](name, torch.device(device), weights.get(name), cache)


def checked(path: Path, name: str) -> bytes:
    """Return the file's content if its SHA-256 is the one known for ``name``, else UserError.

    The bytes that were hashed are the ones returned, so that nothing can change in between.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"weights of extractor '{name}' cannot be read: {path} ({error.strerror}); "
            "reinstall the package or give the file with --weights"
        ) from error
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256[name]:
        raise UserError(
            f"weights of extractor '{name}' refused: {path} has sha256 {found}, expected "
            f"{SHA256[name]}; replace it or give the right file with --weights"
        )
    return content


@contextmanager
def exact(device: torch.device) -> Iterator[None]:
    """Keep TF32 and autocast out: a trainer's choice of precision must not move a metric."""
    import torch

    if device.type != "cuda":
        with torch.autocast(device.type, enabled=False):
            yield
        return
    backends = (
        torch.backends.cudnn.conv,  # type: ignore[attr-defined]
        torch.backends.cuda.matmul,
    )
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        with torch.autocast("cuda", enabled=False):
            yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(str(side) for side in shape)


def _shipped(name: str, device: torch.device, weights: Path | None, cache: Path) -> Extractor:
    from bench.metrics.classifier import SHAPES, load_classifier

    path = weights or Path(__file__).parent / "weights" / f"{name}.pt"
    shape = SHAPES[name]
    return Extractor(
        name=name,
        sha256=SHA256[name],
        resize="none",
        device=device,
        run=load_classifier(name, checked(path, name), device),
        takes=(shape.channels, shape.size, shape.size),
        classifies=name,
    )


def _efflite0(name: str, device: torch.device, weights: Path | None, cache: Path) -> Extractor:
    from bench.metrics import efficientnet, resizing

    content = checked(weights or efficientnet.packaged_weights(), name)
    return Extractor(
        name=name,
        sha256=SHA256[name],
        resize=f"{resizing.CLEAN}, to {efficientnet.SIZE}",
        device=device,
        run=efficientnet.load_efficientnet(content, device),
    )


def _inception(name: str, device: torch.device, weights: Path | None, cache: Path) -> Extractor:
    from bench.metrics import inception, resizing

    legacy = name == "inception-legacy"
    path = weights or inception.find_weights(cache, SHA256[name])
    content = checked(path, name)
    return Extractor(
        name=name,
        sha256=SHA256[name],
        resize=inception.LEGACY if legacy else f"{resizing.CLEAN}, to {inception.SIZE}",
        device=device,
        run=inception.load_inception(path, content, device, cache, legacy=legacy),
    )


def _mixture(name: str, device: torch.device, weights: Path | None, cache: Path) -> Extractor:
    from bench.data.mixtures import truth
    from bench.metrics import points

    if weights is not None:
        raise UserError(
            f"--weights {weights}: extractor '{name}' is a formula and has no weights; "
            "leave --weights out"
        )
    density = truth(name)
    found = points.hash_of(density)
    if found != SHA256[name]:
        raise UserError(
            f"extractor '{name}' refused: the mixture's parameters have sha256 {found}, expected "
            f"{SHA256[name]}; undo the change to them, or give the new mixture a new name"
        )
    return Extractor(
        name=name,
        sha256=found,
        resize="none",
        device=device,
        run=points.posterior(density, device),
        takes=_POINTS,
        classifies=name,
        truth=density,
    )


_LOADERS: dict[str, Callable[[str, torch.device, Path | None, Path], Extractor]] = {
    "digits": _shipped,
    "fashion-mnist": _shipped,
    "efflite0": _efflite0,
    "inception": _inception,
    "inception-legacy": _inception,
    **dict.fromkeys(_MIXTURES, _mixture),
}
