"""Speed of what a study spends its time on: training steps, sampling, features, distances.

One thread and process time, so that other work on the machine counts as little as it can.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import torch

from bench.config import Budget, Training, choose_preset, resolve_method
from bench.cost import Ledger
from bench.metrics import extract, extractors
from bench.metrics.statistics import frechet_distance
from bench.training import Feed, Hooks, Trainer
from methods import registry
from methods.base import DataSpec, Method

pytestmark = pytest.mark.benchmark(timer=time.process_time, warmup=True, min_rounds=5)
CPU = torch.device("cpu")
BATCH = 32


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def quick(name: str) -> Method:
    _, preset = choose_preset("digits", "quick", "cpu")
    kind = registry.load(name)
    torch.manual_seed(0)
    config = kind.Config.model_validate(resolve_method(kind.Config, preset, name))
    return kind(config, DataSpec(channels=1, size=8, classes=10))


def ignore(_: Any) -> None:
    """Take what a hook is told and do nothing."""


def trainer(method: Method) -> Trainer:
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (1000, 1, 8, 8), dtype=np.uint8))
    hooks = Hooks(ignore, ignore, ignore, ignore, lambda: False)
    return Trainer(
        method,
        Feed(images, torch.arange(1000) % 10, batch=BATCH, flip=False, seed=0),
        settings=Training(batch=BATCH),
        budget=Budget(amount=1e6, unit="kimg"),
        seed=0,
        ledger=Ledger(CPU),
        hooks=hooks,
    )


def cases() -> list[Any]:
    """Every stage of every method."""
    return [
        pytest.param(name, index, id=f"{name}-{stage.name}")
        for name in registry.names()
        for index, stage in enumerate(quick(name).stages())
    ]


@pytest.mark.parametrize(("name", "index"), cases())
def test_training_step(benchmark: Any, name: str, index: int) -> None:
    """One step of a stage: all objectives, optimizers and averages."""
    loop = trainer(quick(name))
    run = loop._begin(loop.stages[index])
    loop._step(run)  # The first step counts FLOPs.
    benchmark(loop._step, run)


@pytest.mark.parametrize("name", registry.names())
def test_sampling_pass(benchmark: Any, name: str) -> None:
    """One batch of the quick preset's size."""
    method = quick(name)
    labels = torch.arange(50) % 10 if method.needs_labels else None
    for network in method.networks.values():
        network.eval().requires_grad_(False)

    def draw() -> None:
        with torch.no_grad():
            method.sample(50, labels=labels, generator=torch.Generator().manual_seed(0))

    benchmark(draw)


def test_features_of_2000_images(benchmark: Any, tmp_path: Any) -> None:
    """28x28 grey images through the shipped fashion-mnist extractor."""
    extractor = extractors.load("fashion-mnist", device=CPU, cache=tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (2000, 1, 28, 28), dtype=np.uint8)
    features = benchmark(extract, extractor, images)
    assert len(features) == 2000


def test_frechet_distance_of_2000_images(benchmark: Any) -> None:
    """The distance at Inception's 2048 dimensions, moments given."""
    rng = np.random.default_rng(0)
    moments = []
    for _ in range(2):
        features = rng.standard_normal((2000, 2048))
        moments += [features.mean(0), np.cov(features, rowvar=False)]
    assert benchmark.pedantic(frechet_distance, moments, rounds=3, warmup_rounds=1) > 0
