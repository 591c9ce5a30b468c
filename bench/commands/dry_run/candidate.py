"""A method of a study with all that decides what its cells cost, and how a little of it is tried.

Work is tried on a few images and scaled to many, within a limit of seconds.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch

from bench.config import CellConfig, Settings, UserError, one_line
from bench.data.dataset import Dataset
from bench.records.nfe_curve import sampler_of
from bench.sampling.timing import settle
from bench.worker.build import Built, build_cell, build_method
from methods import samplers
from methods.base import Method

T = TypeVar("T")
FEW = 2
"""Images of a first trial on a CPU."""
ENOUGH = 1.0
"""What one trial on a CPU should take at least, or be of all the images."""


@dataclass(frozen=True)
class Candidate:
    """A method, resolved, and what its cells work on."""

    cell: CellConfig
    dataset: Dataset
    device: torch.device
    stage: str | None = None
    """What identifies its first stage, if other cells may have it too."""

    @property
    def settings(self) -> Settings:
        """The study's."""
        return self.cell.settings

    def evaluations(self, calls: float = 1.0) -> float:
        """Evaluations of the denoiser an image; without a sampler as many as ``calls`` of it."""
        sampler = sampler_of(self.cell.method_config)
        return max(1.0, calls) if sampler is None else samplers.nfe(sampler)

    def shortened(self) -> "Candidate":
        """The same method with one step of its sampler, if it has one."""
        config = self.cell.method_config
        if sampler_of(config) is None:
            return self
        config = config | {"sampler": config["sampler"] | {"steps": 1}}
        return replace(self, cell=self.cell.model_copy(update={"method_config": config}))

    def outlined(self) -> Method:
        """Build the method without memory or numbers, to be asked for its stages."""
        with torch.device("meta"):
            return build_method(self.cell.method, self.cell.method_config, self.dataset)

    def built(self) -> Built:
        """Build the method as a cell does."""
        return build_cell(self.cell, self.dataset, self.device)

    @property
    def moments(self) -> int:
        """Snapshots on the way; the end of training, the last one, is evaluated in full."""
        return max(0, self.cell.training.snapshots - 1)

    @property
    def snapshots(self) -> int:
        """Images of all the snapshots."""
        wanted = self.settings.evaluation.snapshot_samples
        part = min(wanted, self.settings.sampling.batch)
        return self.moments * math.ceil(wanted / part) * part

    def at_once(self, batch_seconds: float | None = None) -> int:
        """Images in batches: samples or the fewest that are timed, one that is counted, warm-up."""
        sampling, samples = self.settings.sampling, self.settings.evaluation.samples
        timed = max(math.ceil(samples / sampling.batch), sampling.timed_batches)
        return (timed + 1 + warm_ups(batch_seconds)) * sampling.batch + self.snapshots

    def alone(self, seconds: float | None = None) -> int:
        """Images drawn one at a time, for the latency."""
        return self.settings.sampling.latency_repeats + warm_ups(seconds)


def warm_ups(seconds: float | None) -> int:
    """Batches of so many ``seconds`` each that warm up; the usual number where that is unknown."""
    return settle(lambda: 0.1 if seconds is None else seconds, 1).batches


@dataclass(frozen=True)
class Trial:
    """So many images took so many seconds."""

    size: int
    seconds: float

    def of(self, images: float) -> float:
        """Seconds of another number of images, to which they are taken to be proportional."""
        return self.seconds / self.size * images

    def told(self, what: str, true: int) -> str:
        """Say what was timed in place of a batch of the ``true`` size."""
        return f"{what} of {self.size} timed" + ("" if self.size == true else f" for {true}")


def grown(attempt: Callable[[int], float], most: int, device: torch.device) -> Trial:
    """Try ``attempt``, which tells its seconds, on more and more images up to ``most``.

    An accelerator, whose time is not proportional to the images, takes them all at once.
    """
    size = min(FEW, most) if device.type == "cpu" else most
    while True:
        seconds = attempt(size)
        if size == most or seconds > ENOUGH / 2:
            return Trial(size, seconds)
        size = min(most, max(2 * size, int(size * ENOUGH / seconds)))


@dataclass
class Attempts:
    """Trials that may fail: the reason is kept; none is begun after a common limit of seconds."""

    seconds: float
    troubles: list[str]
    began: float = field(default_factory=time.perf_counter)

    def __call__(self, what: str, unknown: T, call: Callable[..., T], *given: Any) -> T:
        """Return what ``call`` does; else ``unknown``, and ``what`` is noted with the reason."""
        if time.perf_counter() - self.began > self.seconds:
            self.troubles.append(f"{what}: not tried within {self.seconds:g} s")
            return unknown
        try:
            return call(*given)
        except Exception as error:  # Of whatever kind a method's own are.
            name = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
            self.troubles.append(f"{what}: {name}{one_line(error)[:160]}")
            return unknown
