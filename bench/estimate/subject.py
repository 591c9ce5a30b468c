"""A method as an estimate sees it, on the real device or on one without numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.config.schema import Settings, Training
from bench.data import Dataset
from bench.records.nfe_curve import sampler_of
from bench.training import move
from methods import samplers
from methods.base import DataSpec, Method

META = torch.device("meta")

Build = Callable[[str, dict[str, Any], Dataset], Method]
"""Builds a method of a label and its settings for a data set, on torch's default device."""


@dataclass(frozen=True)
class Subject:
    """A method of a study, and all that decides what it costs."""

    label: str
    config: dict[str, Any]
    """The method's settings, resolved."""
    settings: Settings
    dataset: Dataset
    device: torch.device
    build: Build
    data: DataSpec
    frequencies: NDArray[np.float64] | None
    """Of the classes, (classes,); ``None`` without labels."""

    @property
    def training(self) -> Training:
        """The method's own settings of training."""
        return self.settings.training.of(self.label)

    @property
    def nfe(self) -> int:
        """Evaluations of the denoiser by the sampler; 1 where there is none to be shortened."""
        sampler = sampler_of(self.config)
        return 1 if sampler is None else samplers.nfe(sampler)

    def shortened(self, **changes: Any) -> Subject:
        """The same method with one step of its sampler, if it has one; ``changes`` to that."""
        if sampler_of(self.config) is None:
            return self
        sampler = self.config["sampler"] | {"steps": 1} | changes
        return replace(self, config=self.config | {"sampler": sampler})

    def on_meta(self) -> Method:
        """Build the method without memory or numbers."""
        with META:
            return self.build(self.label, self.config, self.dataset)

    def on_device(self) -> Method:
        """Build the method as a cell does."""
        return move(self.build(self.label, self.config, self.dataset), self.device)

    def images(self, n: int) -> Tensor:
        """``n`` images in shape alone, (n, C, H, W)."""
        return torch.empty((n, *self.dataset.shape), device=META)

    def labels(self, n: int) -> Tensor | None:
        """Labels of ``n`` images in shape alone, (n,); ``None`` where the data have none."""
        if self.dataset.train.labels is None:
            return None
        return torch.zeros(n, dtype=torch.int64, device=META)


class ShapesOnly(torch.Generator):
    """A generator that takes itself for one of the device without numbers, which has none."""

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """The device without numbers."""
        return META


@contextmanager
def counting_on_meta() -> Iterator[None]:
    """Leave autocast out, which torch refuses there; the precision changes no count of FLOPs."""
    with patch.object(torch, "autocast", lambda *_, **__: nullcontext()):
        yield


def grown(size: int, seconds: float, wanted: float, most: int) -> int:
    """The next size to try where one of ``size`` takes less than the ``wanted`` seconds."""
    return min(most, max(2 * size, int(size * wanted / seconds)))
