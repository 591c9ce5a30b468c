"""When a checkpoint is due, and what it holds."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

State = dict[str, Any]
CHECKPOINT_SHARE = 0.015
"""Largest share of the time that checkpoints may take: slow ones come more seldom."""


class Pace:
    """When the next checkpoint is due: after so many seconds, and later where one takes long."""

    def __init__(self, seconds: float) -> None:
        self.seconds = self.rest = seconds
        self.last = time.perf_counter()

    @property
    def is_due(self) -> bool:
        """Whether it is time for a checkpoint."""
        return time.perf_counter() - self.last > self.rest

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Measure a checkpoint, and wait accordingly for the next."""
        began = time.perf_counter()
        yield
        self.last = time.perf_counter()
        self.rest = max(self.seconds, (self.last - began) / CHECKPOINT_SHARE)


def clone(weights: State) -> State:
    """Copy a state so that later training does not change it."""
    return {name: value.clone() for name, value in weights.items()}
