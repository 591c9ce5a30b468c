"""The global generators: torch's, Python's and numpy's."""

from __future__ import annotations

import random

import numpy as np
import torch

from bench.training.checkpoint import State


def other_generators() -> State:
    """States of Python's and numpy's global generators, which a plug-in may draw from."""
    version, inner, gauss = random.getstate()
    numpy = np.random.get_state(legacy=False)
    assert isinstance(numpy, dict)
    keys = numpy["state"]["key"].tolist()
    return {
        "python": [version, list(inner), gauss],
        "numpy": numpy | {"state": numpy["state"] | {"key": keys}},
    }


def set_other_generators(state: State) -> None:
    """Put Python's and numpy's global generators back."""
    version, inner, gauss = state["python"]
    random.setstate((version, tuple(inner), gauss))
    numpy = state["numpy"]
    keys = np.array(numpy["state"]["key"], np.uint32)
    np.random.set_state(numpy | {"state": numpy["state"] | {"key": keys}})


def seed_everything(seed: int) -> None:
    """Seed every global generator: torch's, Python's and numpy's."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)
