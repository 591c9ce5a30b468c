"""Feature extractors by name: fixed networks whose weights are checked against a known hash.

A value compares only with values of the same network, so a file with another hash is refused,
whoever gave it, and where weights cannot be had nothing else is put in their place. For points the
extractor is a formula, and the hash that of its parameters. A name that is none of ours stands for
a network in a file of the user's (see ``exported``), and what is recorded is that file's hash.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.config import UserError, unknown
from bench.data.sources import digits_and_mixtures
from bench.metrics import points
from bench.metrics.extractors import efficientnet, exported, inception, resizing, resnet, verified
from bench.metrics.extractors.classifier import SHAPES, load_classifier
from bench.metrics.extractors.resizing import Run
from methods.mixtures import GaussianMixture

_INCEPTION = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"
SHA256 = {
    "digits": "c57b2fa5018538e9559919cca2e4b22de3e2f226ce215c35476bfe7175c8b7e9",
    "fashion-mnist": "3a0444555ea78df9c490c0aeadb6e4a2cc729a4e465766d56a2d110f1e16f154",
    "efflite0": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    "cifar-resnet20": "12fca82f0bebc4135bf1f32f6e3710e61d5108578464b84fd6d7f5c1b04036c8",
    "cifar-resnet56": "4bfd97631478d6b638d2764fd2baff3edb1d7d82252d54439343b6596b9b5367",
    "inception": _INCEPTION,
    "inception-legacy": _INCEPTION,
    "gmm2d": "19e0c671b7f8bc0384e1524071797b996a6a9337090d31375456976418fe8e9a",
    "moons": "32745c27d04484ac83675e111f034410b5adab17b4b96cd8f0d44d208f6d2ffa",
}
"""The only weights, and for points the only mixture, that each name may stand for."""

_MIXTURES = ("gmm2d", "moons")
_POINTS = (2, 1, 1)
_PLAIN = re.compile(r"[a-z][a-z0-9-]{0,39}")
_TAKEN = ("inception", "legacy")


@dataclass(frozen=True)
class Extractor:
    """A network that turns uint8 images (B, C, H, W) into features and class probabilities.

    One with a ``truth``, the density of a data set of points, takes float32 points (B, 2, 1, 1).
    ``resize`` tells how images reach the network's size, ``takes`` is the only shape (C, H, W)
    accepted, if there is just one, and ``classifies`` the data set whose class indices the
    probabilities have. ``tried`` raises UserError where a foreign network cannot take a shape.
    """

    name: str
    sha256: str
    resize: str
    device: torch.device
    run: Run
    takes: tuple[int, int, int] | None = None
    classifies: str | None = None
    truth: GaussianMixture | None = None
    tried: Callable[[tuple[int, ...]], None] | None = None

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return float32 features (B, d) and probabilities (B, K) of images; K may be 0."""
        self.check(tuple(images.shape[1:]))
        if self.truth is None and images.dtype != torch.uint8:
            raise ValueError(f"images must be quantised to uint8 first, not {images.dtype}")
        if self.truth is not None and images.dtype != torch.float32:
            raise ValueError(f"points must be float32, not {images.dtype}")
        with torch.inference_mode(), exact(self.device):
            features, probabilities = self.run(images.to(self.device))
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
                f"extractor '{self.name}' takes {kind}{resizing.times(self.takes)}, not "
                f"{resizing.times(shape)}; choose one that resizes: efflite0, inception"
            )
        if self.tried is not None:
            with torch.inference_mode(), exact(self.device):
                self.tried(shape)


def names() -> tuple[str, ...]:
    """Return the extractors that ``load`` knows without being given a file of another name."""
    return tuple(_LOADERS)


def sha256_of(name: str, weights: Mapping[str, Path] = {}) -> str:
    """Return the hash of an extractor; UserError for a name neither ours nor of a readable file."""
    _check(name, weights)
    return SHA256.get(name) or verified.read_any(weights[name], name)[1]


def load(
    name: str, *, device: str | torch.device, weights: Mapping[str, Path] = {}, cache: Path
) -> Extractor:
    """Load an extractor onto a device, its weights checked before they are read.

    ``weights`` are files by extractor's name: of one of ``names()`` in place of the usual one, with
    the same hash, or of a network of one's own. Downloads are kept under ``cache``. UserError for
    an unknown name, or weights that are missing or not the expected ones.
    """
    _check(name, weights)
    return _LOADERS.get(name, _foreign)(name, torch.device(device), _given(name, weights), cache)


def is_here(name: str, weights: Mapping[str, Path], cache: Path) -> bool:
    """Whether ``load`` would find an extractor's weights without fetching them."""
    if name not in ("inception", "inception-legacy") or _given(name, weights):
        return True
    return verified.find(inception.FILE, cache) is not None


def check_name(name: str) -> None:
    """Raise UserError where weights may not be given under a name, ours or one of the user's own.

    It becomes a part of metrics' and files' names, and ``is_legacy`` and ``is_2k`` are Inception's.
    """
    if name in _LOADERS or (_PLAIN.fullmatch(name) and not name.startswith(_TAKEN)):
        return
    raise UserError(
        f"--weights {name}=FILE: a network of your own needs a plain name, up to 40 small letters, "
        f"digits and dashes that begin with a letter and not with {' or '.join(_TAKEN)}, such as "
        f"dinov2; ours are: {', '.join(_LOADERS)}"
    )


def _check(name: str, weights: Mapping[str, Path]) -> None:
    if name in weights:
        check_name(name)
    elif name not in _LOADERS:
        error = unknown("feature extractor", name, _LOADERS)
        raise UserError(f"{error}; or give a network's file with --weights {name}=FILE")


def _given(name: str, weights: Mapping[str, Path]) -> Path | None:
    """Return the file given for an extractor; the two Inceptions are one file."""
    return weights.get(name) or (weights.get("inception") if name == "inception-legacy" else None)


@contextmanager
def exact(device: torch.device) -> Iterator[None]:
    """Keep TF32 and autocast out: a trainer's choice of precision must not move a metric."""
    of_cuda = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)  # type: ignore[attr-defined]
    backends: tuple[Any, ...] = of_cuda if device.type == "cuda" else ()
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision


def _shipped(name: str, device: torch.device, weights: Path | None, cache: Path) -> Extractor:
    path, shape = weights or Path(__file__).parent / "weights" / f"{name}.pt", SHAPES[name]
    run = load_classifier(name, verified.read(path, name, SHA256[name]), device)
    takes = (shape.channels, shape.size, shape.size)
    return Extractor(name, SHA256[name], "none", device, run, takes, classifies=name)


def _efflite0(name: str, device: torch.device, weights: Path | None, cache: Path) -> Extractor:
    content = verified.read(weights or efficientnet.packaged_weights(), name, SHA256[name])
    resize = f"{resizing.CLEAN}, to {efficientnet.SIZE}"
    run = efficientnet.load_efficientnet(content, device)
    return Extractor(name, SHA256[name], resize, device, run)


def _resnet(name: str, device: torch.device, weights: Path | None, cache: Path) -> Extractor:
    content = verified.read(weights or resnet.find_weights(name, cache), name, SHA256[name])
    run = resnet.load_resnet(name, content, device)
    return Extractor(name, SHA256[name], "none", device, run, resnet.TAKES, classifies="cifar10")


def _inception(name: str, device: torch.device, weights: Path | None, cache: Path) -> Extractor:
    legacy = name == "inception-legacy"
    path = weights or inception.find_weights(cache, SHA256[name])
    content = verified.read(path, name, SHA256[name])
    resize = inception.LEGACY if legacy else f"{resizing.CLEAN}, to {inception.SIZE}"
    run = inception.load_inception(content, device, legacy=legacy)
    return Extractor(name, SHA256[name], resize, device, run)


def _foreign(name: str, device: torch.device, weights: Path | None, cache: Path) -> Extractor:
    assert weights is not None, "checked by load"
    content, digest = verified.read_any(weights, name)
    network = exported.load_exported(name, str(weights), content, device)
    given = (exported.RESIZE, device, network.run, network.takes)
    return Extractor(name, digest, *given, tried=network.check)


def _mixture(name: str, device: torch.device, weights: Path | None, cache: Path) -> Extractor:
    if weights is not None:
        raise UserError(
            f"--weights {name}={weights}: extractor '{name}' is a formula and has no weights; "
            "leave --weights out"
        )
    density = digits_and_mixtures.truth(name)
    found = points.hash_of(density)
    if found != SHA256[name]:
        raise UserError(
            f"extractor '{name}' refused: the mixture's parameters have sha256 {found}, expected "
            f"{SHA256[name]}; undo the change to them, or give the new mixture a new name"
        )
    there = density.to(device=device)

    def run(given: Tensor) -> tuple[Tensor, Tensor]:
        coordinates = given.flatten(1)
        return coordinates, there.class_log_posterior(coordinates.double()).exp()

    return Extractor(name, found, "none", device, run, _POINTS, classifies=name, truth=density)


_LOADERS: dict[str, Callable[[str, torch.device, Path | None, Path], Extractor]] = {
    **dict.fromkeys(("digits", "fashion-mnist"), _shipped),
    "efflite0": _efflite0,
    **dict.fromkeys(("cifar-resnet20", "cifar-resnet56"), _resnet),
    **dict.fromkeys(("inception", "inception-legacy"), _inception),
    **dict.fromkeys(_MIXTURES, _mixture),
}
