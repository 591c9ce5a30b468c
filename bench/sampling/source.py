"""Draws a method's samples, batch by batch, the same bits in any order."""

import time
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.config import UserError
from bench.config.random_streams import derive
from bench.costs.flops import count_calls, count_flops
from bench.costs.ledger import synchronize
from bench.data.dataset import Progress, to_uint8, unheard
from bench.training import DivergedError
from bench.training.optimizing import autocast
from methods.base import Method

RANGE = 1.5
"""Samples are nominally in [-1, 1]; what is beyond this is outside."""


def fault_of(
    images: object, n: int, shape: Sequence[int], device: torch.device, who: str = "the method"
) -> str:
    """Say in what samples are not what ``Method.sample`` promises; empty if in nothing.

    A tensor (n, C, H, W) of floats, on the device asked for, without a graph; so of a denoiser.
    """
    wanted = (n, *shape)
    if not isinstance(images, Tensor):
        return f"{who} gave a {type(images).__name__}; asked for {wanted} float"
    if images.shape != wanted or not images.is_floating_point():
        kind = str(images.dtype).removeprefix("torch.")
        return f"{who} gave {tuple(images.shape)} {kind}; asked for {wanted} float"
    if images.device.type != device.type or device.index not in {None, images.device.index}:
        return f"{who} gave samples on {images.device}; asked for them on {device}"
    return f"{who} gave samples with a graph; detach them" if images.requires_grad else ""


def outside(images: Tensor) -> float:
    """The share of values that lie outside [-``RANGE``, ``RANGE``], 0 to 1."""
    return float((images.abs() > RANGE).float().mean())


@dataclass(eq=False)
class Source:
    """Draws a method's batches, of which the ``k``-th depends on seed, stream and ``k`` alone."""

    method: Method
    _: KW_ONLY
    shape: Sequence[int]
    """Of one image, (C, H, W)."""
    device: torch.device
    precision: str
    seed: int
    stream: str
    frequencies: NDArray[np.float64] | None
    """Of the data's classes; ``None`` where there are none, or the method takes no labels."""
    quantise: bool = True
    note: str | None = None
    """What is odd about all the samples that were brought to the host; empty if nothing is."""

    def __post_init__(self) -> None:
        if not self.method.needs_labels:
            self.frequencies = None

    def labels(self, n: int, index: int) -> Tensor | None:
        """Classes for batch ``index``, drawn from the data's class frequencies, (n,)."""
        if self.frequencies is None:
            return None
        rng = np.random.default_rng(derive(self.seed, f"{self.stream} labels", index))
        drawn = rng.choice(len(self.frequencies), size=n, p=self.frequencies)
        return torch.from_numpy(drawn).to(self.device)

    def batch(self, n: int, index: int) -> tuple[Tensor, Tensor | None]:
        """Draw ``n`` images (n, C, H, W) and the classes asked for; UserError for anything else."""
        labels = self.labels(n, index)
        seed = derive(self.seed, self.stream, index)
        generator = torch.Generator(self.device).manual_seed(seed)
        return self.draw(n, labels, generator), labels

    def draw(self, n: int, labels: Tensor | None, generator: torch.Generator) -> Tensor:
        """Draw ``n`` images (n, C, H, W) of these classes, (n,); UserError for anything else."""
        with torch.no_grad(), autocast(self.device, self.precision):
            # A copy, since the method may change its own, and these say what was asked for.
            given = None if labels is None else labels.clone()
            images = self.method.sample(n, labels=given, generator=generator)
        if fault := fault_of(images, n, self.shape, self.device):
            raise UserError(fault)
        return images

    def on_host(self, images: Tensor) -> NDArray[Any]:
        """Bring samples to the host, uint8 unless they are points; DivergedError if not finite."""
        if not torch.isfinite(images).all():
            raise DivergedError("a sample is not finite")
        low, high = float(images.min()), float(images.max())
        is_odd = self.quantise and (low >= 0 or outside(images) > 0.5)
        told = f"its samples lie in [{low:.3g}, {high:.3g}], and should in [-1, 1]"
        self.note = told if is_odd and self.note != "" else ""
        return (to_uint8(images) if self.quantise else images.float().clone()).cpu().numpy()


@dataclass(frozen=True)
class Timed:
    """One batch: its samples on the host, where they are wanted, and how long it took."""

    images: NDArray[Any] | None
    labels: NDArray[np.int64] | None
    milliseconds: float
    """An image."""


class BatchCache(Protocol):
    """Where batches are kept, so that a process that is killed loses few."""

    def load(self) -> list[Timed]:
        """Return the batches that are there, from the first on."""

    def note(self, batches: Sequence[Timed], *, is_last: bool) -> None:
        """Take note of all batches so far, and keep them where it is time to."""


def draw_batches(
    source: Source, n: int, size: int, *, at_least: int = 1,
    progress: Progress = unheard, kept: BatchCache | None = None,
) -> tuple[NDArray[Any], NDArray[np.int64] | None, list[float]]:  # fmt: skip
    """Draw ``n`` images, the classes asked for, and milliseconds an image of every batch.

    ``at_least`` so many batches are drawn and timed, all of the same ``size``.
    """
    needed = -(-n // size)
    total = max(needed, at_least)
    batches = kept.load() if kept else []
    for index in range(len(batches), total):
        batches.append(draw_batch(source, size, index, is_wanted=index < needed))
        if kept:
            kept.note(batches, is_last=index + 1 == total)
        progress((index + 1) / total)
    images = [batch.images for batch in batches if batch.images is not None]
    labels = [batch.labels for batch in batches if batch.labels is not None]
    told = np.concatenate(labels)[:n] if labels else None
    return np.concatenate(images)[:n], told, [batch.milliseconds for batch in batches]


def draw_batch(source: Source, size: int, index: int, *, is_wanted: bool) -> Timed:
    """Draw and time one batch; its samples are brought to the host only where they are wanted."""
    seconds, (drawn, asked) = timed(source, size, index)
    return Timed(
        images=source.on_host(drawn) if is_wanted else None,
        labels=asked.cpu().numpy() if is_wanted and asked is not None else None,
        milliseconds=1000 * seconds / size,
    )


def count_sampling(source: Source, size: int) -> tuple[dict[str, float], float]:
    """Count network evaluations and FLOPs an image, on one batch."""
    with count_calls(source.method.networks) as calls:
        _, flops = count_flops(lambda: source.batch(size, 0))
    return {name: count / size for name, count in calls.items()}, flops / size


def timed(source: Source, size: int, index: int) -> tuple[float, tuple[Tensor, Tensor | None]]:
    """Draw one batch; return its seconds, the device synchronised at both ends, and the batch."""
    synchronize(source.device)
    started = time.perf_counter()
    result = source.batch(size, index)
    synchronize(source.device)
    return time.perf_counter() - started, result
