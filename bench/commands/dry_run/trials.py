"""Work tried on a few images and scaled to many, within a limit of seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import torch

from bench.config.errors import UserError
from bench.config.text import one_line

T = TypeVar("T")
FEW = 2
"""Images of a first trial on a CPU."""
ENOUGH = 1.0
"""What one trial on a CPU should take at least, or be of all the images."""


@dataclass(frozen=True)
class Trial:
    """So many images took so many seconds."""

    size: int
    seconds: float

    def of(self, images: float) -> float:
        """Seconds of another number of images, to which they are taken to be proportional."""
        return self.seconds / self.size * images


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

    def __call__(self, what: str, call: Callable[[], T]) -> T | None:
        """Return what ``call`` does; else ``None``, and ``what`` is noted with the reason."""
        if time.perf_counter() - self.began > self.seconds:
            self.troubles.append(f"{what}: not tried within {self.seconds:g} s")
            return None
        try:
            return call()
        except Exception as error:  # Of whatever kind a method's own are.
            name = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
            self.troubles.append(f"{what}: {name}{one_line(error)[:160]}")
            return None
