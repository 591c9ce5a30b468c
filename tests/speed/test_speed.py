"""Speed of what a study spends its time on: training steps, sampling, features, distances, starts.

One thread and CPU time, so that other work on the machine counts as little as it can. ``tox -e
speed`` runs these same benchmarks against two revisions (``tests/speed/__main__.py``), the older of
which may lack some of what they call: so each imports what it needs itself, and the others go on.
``counts`` in ``extra_info`` are numbers without a clock, equal on every machine.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

if TYPE_CHECKING:
    from bench.training import Trainer
    from methods.base import Method

pytestmark = pytest.mark.benchmark(timer=time.process_time, warmup=True, min_rounds=5)
CPU = torch.device("cpu")
BATCH = 32
DRAWN = 50
"""Images of a sampling pass, as many as in a batch of the preset."""


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def children_seconds() -> float:
    """CPU seconds of all children that have ended."""
    use = resource.getrusage(resource.RUSAGE_CHILDREN)
    return use.ru_utime + use.ru_stime


def quick(name: str) -> Method:
    """Build a method as the preset ``quick`` of ``digits`` has it."""
    from bench.config.overrides import resolve_method
    from bench.config.presets import choose_preset
    from methods import registry
    from methods.base import DataSpec

    _, preset = choose_preset("digits", "quick", "cpu")
    kind = registry.load(name)
    torch.manual_seed(0)
    config = kind.Config.model_validate(resolve_method(kind.Config, preset, name))
    return kind(config, DataSpec(channels=1, size=8, classes=10))


def ignore(_: Any) -> None:
    """Take what a hook is told and do nothing."""


def trainer(method: Method) -> Trainer:
    from bench.config.schema import Budget, Training
    from bench.costs.ledger import Ledger
    from bench.training import Feed, Hooks, Trainer

    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (1000, 1, 8, 8), dtype=np.uint8))
    return Trainer(
        method,
        Feed(images, torch.arange(1000) % 10, batch=BATCH, flip=False, seed=0),
        settings=Training(batch=BATCH),
        budget=Budget(amount=1e6, unit="kimg"),
        seed=0,
        ledger=Ledger(CPU),
        hooks=Hooks(ignore, ignore, ignore, ignore, lambda: False),
    )


def names() -> list[str]:
    from methods import registry

    return list(registry.names())


def cases() -> list[Any]:
    """Every stage of every method."""
    return [
        pytest.param(name, index, id=f"{name}-{stage.name}")
        for name in names()
        for index, stage in enumerate(quick(name).stages())
    ]


@pytest.mark.parametrize(("name", "index"), cases())
def test_training_step(benchmark: Any, name: str, index: int) -> None:
    """One step of a stage: all objectives, optimizers and averages."""
    loop = trainer(quick(name))
    run = loop._begin(loop.stages[index])
    loop._step(run)  # The first step counts FLOPs.
    benchmark.extra_info["counts"] = {
        "FLOPs of a step": run.flops_per_step,
        **{f"FLOPs of {label}": flops for label, flops in run.flops.items()},
    }
    benchmark(loop._step, run)


@pytest.mark.parametrize("name", names())
def test_sampling_pass(benchmark: Any, name: str) -> None:
    """One batch of the quick preset's size."""
    from bench.costs.flops import count_calls, count_flops

    method = quick(name)
    labels = torch.arange(DRAWN) % 10 if method.needs_labels else None
    for network in method.networks.values():
        network.eval().requires_grad_(False)

    def draw() -> None:
        with torch.no_grad():
            method.sample(DRAWN, labels=labels, generator=torch.Generator().manual_seed(0))

    with count_calls(method.networks) as calls:
        _, flops = count_flops(draw)
    benchmark.extra_info["counts"] = {
        "FLOPs a sample": flops / DRAWN,
        "NFE a sample": sum(calls.values()) / DRAWN,
        **{f"NFE of {network}": count / DRAWN for network, count in calls.items()},
    }
    benchmark(draw)


def test_features_of_2000_images(benchmark: Any, tmp_path: Path) -> None:
    """28x28 grey images through the shipped fashion-mnist extractor."""
    from bench.metrics import extract, extractors

    extractor = extractors.load("fashion-mnist", device=CPU, cache=tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (2000, 1, 28, 28), dtype=np.uint8)
    features = benchmark(extract, extractor, images)
    assert len(features) == 2000


def test_frechet_distance_of_2000_images(benchmark: Any) -> None:
    """The distance at Inception's 2048 dimensions, moments given."""
    from bench.metrics.frechet_distance import frechet_distance

    rng = np.random.default_rng(0)
    moments = []
    for _ in range(2):
        features = rng.standard_normal((2000, 2048))
        moments += [features.mean(0), np.cov(features, rowvar=False)]
    assert benchmark.pedantic(frechet_distance, moments, rounds=3, warmup_rounds=1) > 0


STARTS = {
    "help": ["-m", "bench", "--help"],
    "methods": ["-m", "bench", "methods"],
    "cell": ["-c", "import bench.worker"],
}
"""What is there at once, what needs torch, and what the process of every cell pays."""


@pytest.mark.benchmark(timer=children_seconds)
@pytest.mark.parametrize("name", STARTS)
def test_start(benchmark: Any, name: str, tmp_path: Path) -> None:
    """A process of the command, from its start to its end."""
    command = [sys.executable, "-P", *STARTS[name]]

    def start() -> None:
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=300)

    benchmark.pedantic(start, rounds=3, warmup_rounds=1)
