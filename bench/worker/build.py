"""From a cell's configuration to its data, its device and its method; with final weights, too."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.config import CellConfig, Settings, UserError, build, one_line, put_setting
from bench.config.random_streams import derive
from bench.data import Dataset, load
from bench.records import CHECKPOINT, Record, placed_config
from bench.records import load as load_record
from bench.records.plugins import method_class
from bench.records.source_code import check_source
from bench.sampling.source import Source
from bench.training import State
from bench.training.checkpoint import read_state, seed_everything
from bench.training.optimizing import move
from methods import registry
from methods.base import DataSpec, Method


def open_device(name: str, threads: int | None, precision: str) -> torch.device:
    """Return the device; UserError if this machine does not have it."""
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        found = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        raise UserError(
            f"device '{name}' is not here ({one_line(error)[:80]}); choose from: {', '.join(found)}"
        ) from error
    if threads is not None:
        torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    return device


def device_for(config: CellConfig) -> torch.device:
    """Open the device that a cell is computed on, with its method's precision."""
    settings = config.settings
    return open_device(settings.device, settings.threads, config.training.precision)


def load_data(settings: Settings, cache: Path, **more: Any) -> Dataset:
    """Load the data that a study is of; ``more`` as in ``load``."""
    return load(settings.dataset, path=settings.data, cache=cache, size=settings.size, **more)


def data_spec(dataset: Dataset) -> DataSpec:
    """Tell a method what it may know of the data."""
    channels, size, _ = dataset.shape
    classes = 0 if dataset.train.labels is None else len(dataset.classes)
    return DataSpec(channels=channels, size=size, classes=classes)


def build_method(name: str, config: dict[str, Any], dataset: Dataset) -> Method:
    """Build a method on torch's current default device; UserError if it cannot be."""
    try:
        kind = method_class(name)
    except registry.BrokenMethodError as error:
        raise UserError(str(error)) from error
    if kind.needs_labels and dataset.train.labels is None:
        raise UserError(
            f"method '{name}' needs class labels and {dataset.source} has none; "
            "add labels to its dataset.json or leave the method out"
        )
    settings = build(kind.Config, config, f"settings of {name}")
    try:
        return kind(settings, data_spec(dataset))
    except (ValueError, RuntimeError) as error:
        # Of torch's own errors one is of settings: more numbers than can be counted.
        if isinstance(error, RuntimeError) and "size calculation overflowed" not in str(error):
            raise
        raise UserError(f"settings of {name}: {one_line(error)}") from error


@dataclass(frozen=True)
class Built:
    """A cell's method on its device, and the data that it is of."""

    config: CellConfig
    dataset: Dataset
    device: torch.device
    method: Method

    def source(self, stream: str) -> Source:
        """What draws from the method; equal streams give equal samples."""
        labels, classes = self.dataset.train.labels, len(self.dataset.classes)
        counts = None if labels is None else np.bincount(labels, minlength=classes)
        return Source(
            self.method, shape=data_spec(self.dataset).shape, device=self.device,
            precision=self.config.training.precision, seed=self.config.seed, stream=stream,
            frequencies=None if counts is None else counts / counts.sum(),
            quantise=not self.dataset.is_points,
        )  # fmt: skip

    def provenance(self, nfe: float | None) -> dict[str, Any]:
        """How the samples were drawn, to be kept with each value."""
        averages = {
            objective.network: objective.ema.model_dump() if objective.ema else None
            for stage in self.method.stages()
            for objective in stage.objectives
        }
        config, sampler = self.config, self.config.method_config.get("sampler")
        return {
            "sampling_seed": config.seed, "nfe": nfe, "sampler": sampler,
            "ema": averages, "precision": config.training.precision,
        }  # fmt: skip


def build_cell(config: CellConfig, dataset: Dataset, device: torch.device) -> Built:
    """Build a cell's method, with weights of the seed's own, on the device."""
    seed_everything(derive(config.seed, "networks"))
    method = build_method(config.method, config.method_config, dataset)
    return Built(config, dataset, device, move(method, device))


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

    def with_settings(self, swept: Mapping[str, float], sampler: dict[str, Any]) -> "Trained":
        """The same weights, to be drawn from otherwise: values by setting, the sampler whole."""
        body = self.config.method_config
        for path, value in swept.items():
            body = put_setting(body, path, value)
        body = body | {"sampler": sampler}
        return replace(self, config=self.config.model_copy(update={"method_config": body}))


def load_finished(folder: Path, cache: Path, data_sha256: str) -> Trained:
    """Load a finished cell's data and weights; UserError if they are other data, or not final."""
    record, config = load_record(folder), placed_config(folder)
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


def read_checkpoint(folder: Path, key: str, device: torch.device) -> State | None:
    """Return a cell's checkpoint, if there is one of this ``key``; UserError if it is damaged."""
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    kinds = {"key": str, "trainer": dict, "curve_bytes": int, "ledger": dict}
    state = read_state(path, kinds, device)
    # A checkpoint of other settings or another source is not this cell's.
    return state if state["key"] == key else None
