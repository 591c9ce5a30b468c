"""A finished cell, whose final weights are drawn from again; nothing of it is ever written."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from bench.config import CellConfig, UserError
from bench.data import Dataset
from bench.records import Record, load, placed_config
from bench.records.source_code import check_source
from bench.worker.build import Built, build_cell, device_for, load_data
from bench.worker.cell import read_checkpoint


@dataclass(frozen=True)
class Trained:
    """What a finished cell was made with, and the weights that it ended with."""

    record: Record
    config: CellConfig
    dataset: Dataset
    device: torch.device
    weights: dict[str, Any]
    """State of each network, averaged where the method's are."""

    def build(self) -> Built:
        """Build the method with these weights."""
        built = build_cell(self.config, self.dataset, self.device)
        for name, network in built.method.networks.items():
            network.load_state_dict(self.weights[name])
            network.eval().requires_grad_(False)
        return built

    def with_sampler(self, sampler: dict[str, Any]) -> "Trained":
        """The same weights, to be drawn from otherwise."""
        body = self.config.method_config | {"sampler": sampler}
        return replace(self, config=self.config.model_copy(update={"method_config": body}))


def load_finished(folder: Path, cache: Path, data_sha256: str) -> Trained:
    """Load a finished cell's data and weights; UserError if they are other data, or not final."""
    record, config = load(folder), placed_config(folder)
    assert record is not None, f"{folder} has no record"
    device = device_for(config)
    dataset = load_data(config.settings, cache)
    if dataset.sha256 != data_sha256:
        raise UserError(f"the images at {dataset.source} are not those it was trained on")
    stages = len(build_cell(config, dataset, device).method.stages())
    check_source(config.method, record.key, record.identity.get("source", {}))
    state = read_checkpoint(folder, record.key, device)
    if state is None or state["trainer"]["stage_index"] < stages:
        raise UserError("its checkpoint is not of its finished training; run it again")
    return Trained(record, config, dataset, device, state["trainer"]["networks"])
