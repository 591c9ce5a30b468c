"""A method of a study with all that decides what its cells cost, and how much they draw."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch

from bench.config.schema import CellConfig, Settings, Training
from bench.data.dataset import Dataset
from bench.records.nfe_curve import sampler_of
from bench.sampling.timing import settle
from bench.worker.build import Built, build_cell, build_method
from methods import samplers
from methods.base import Method


@dataclass(frozen=True)
class Candidate:
    """A method, resolved, and what its cells work on."""

    cell: CellConfig
    dataset: Dataset
    device: torch.device
    stage: str | None = None
    """What identifies its first stage, if other cells may have it too."""

    @property
    def label(self) -> str:
        """The method's."""
        return self.cell.method

    @property
    def config(self) -> dict[str, Any]:
        """The method's settings."""
        return self.cell.method_config

    @property
    def settings(self) -> Settings:
        """The study's."""
        return self.cell.settings

    @property
    def training(self) -> Training:
        """The method's own settings of training."""
        return self.settings.training.of(self.label)

    def evaluations(self, calls: float = 1.0) -> float:
        """Evaluations of the denoiser an image; without a sampler as many as ``calls`` of it."""
        sampler = sampler_of(self.config)
        return max(1.0, calls) if sampler is None else samplers.nfe(sampler)

    def shortened(self) -> Candidate:
        """The same method with one step of its sampler, if it has one."""
        if sampler_of(self.config) is None:
            return self
        config = self.config | {"sampler": self.config["sampler"] | {"steps": 1}}
        return replace(self, cell=self.cell.model_copy(update={"method_config": config}))

    def outlined(self) -> Method:
        """Build the method without memory or numbers, to be asked for its stages."""
        with torch.device("meta"):
            return build_method(self.label, self.config, self.dataset)

    def built(self) -> Built:
        """Build the method as a cell does."""
        return build_cell(self.cell, self.dataset, self.device)

    # -- how many images a cell draws -----------------------------------------------------------

    @property
    def moments(self) -> int:
        """Snapshots on the way; the end of training, the last one, is evaluated in full."""
        return max(0, self.training.snapshots - 1)

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
