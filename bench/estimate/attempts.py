"""Measurements that may fail or take too long: the reason is kept, and the rest goes on."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from bench.config.errors import UserError
from bench.config.text import one_line

T = TypeVar("T")
LEAST = 0.05
"""Seconds that are always left for a measurement, so that it says itself that it is too late."""


class LateError(Exception):
    """A measurement took too long."""


@dataclass
class Attempts:
    """Measurements within a common time."""

    seconds: float
    troubles: list[str]
    began: float = field(default_factory=time.perf_counter)

    def __call__(self, what: str, call: Callable[[], T]) -> T | None:
        """Return what ``call`` does; else ``None``, and ``what`` is noted with the reason."""
        left = self.began + self.seconds - time.perf_counter()
        try:
            with time_limit(max(LEAST, left), f"not measured within {self.seconds:g} s"):
                return call()
        except Exception as error:
            plain = isinstance(error, (LateError, UserError))
            name = "" if plain else f"{type(error).__name__}: "
            self.troubles.append(f"{what}: {name}{one_line(error)[:160]}")
            return None


@contextmanager
def time_limit(seconds: float, told: str) -> Iterator[None]:
    """Raise LateError with ``told`` in what takes longer, as soon as Python is back from torch."""

    def stop(number: int, frame: object) -> None:
        raise LateError(told)

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
