"""When a checkpoint is due, and what it holds: states of networks and of global generators."""

import random
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.config import UserError, one_line

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


def read_state(
    path: Path, kinds: dict[str, type], device: str | torch.device = "cpu", *, mmap: bool = False
) -> State:
    """Read what was saved of a run; UserError if it has not parts of these ``kinds``."""
    try:
        with warnings.catch_warnings(action="ignore"):
            state = torch.load(path, map_location=device, mmap=mmap, weights_only=True)
    except Exception as error:  # What is in the file decides what is raised.
        why = f"cannot be read ({one_line(error)[:100]})"
        raise UserError(f"'{path}' {why}; remove it to have it made anew") from error
    named = state if isinstance(state, dict) else {}
    wrong = [name for name, kind in kinds.items() if not isinstance(named.get(name), kind)]
    if wrong:
        what = f"a {type(state).__name__} without a fitting {', '.join(wrong)}"
        raise UserError(f"'{path}' holds {what}; remove it to have it made anew")
    return named


def clone(weights: State) -> State:
    """Copy a state so that later training does not change it."""
    return {name: value.clone() for name, value in weights.items()}


def other_generators() -> State:
    """States of Python's and numpy's global generators, which a plug-in may draw from."""
    version, inner, gauss = random.getstate()
    numpy = np.random.get_state(legacy=False)
    assert isinstance(numpy, dict)
    state = numpy["state"] | {"key": numpy["state"]["key"].tolist()}
    return {"python": [version, list(inner), gauss], "numpy": numpy | {"state": state}}


def set_other_generators(state: State) -> None:
    """Put Python's and numpy's global generators back."""
    (version, inner, gauss), numpy = state["python"], state["numpy"]
    random.setstate((version, tuple(inner), gauss))
    keys = np.array(numpy["state"]["key"], np.uint32)
    np.random.set_state(numpy | {"state": numpy["state"] | {"key": keys}})


def seed_everything(seed: int) -> None:
    """Seed every global generator: torch's, Python's and numpy's."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


@contextmanager
def generators_kept() -> Iterator[None]:
    """Leave the caller's global generators, threads and precision as they were."""
    others, threads = other_generators(), torch.get_num_threads()
    precision, tf32 = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    try:
        with torch.random.fork_rng():
            yield
    finally:
        set_other_generators(others)
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.allow_tf32 = tf32
