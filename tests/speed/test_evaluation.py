"""Speed of an evaluation beside the tools that papers use: features, and the distance itself.

Both sides of a comparison run in turn, round by round, with the same threads, so that whatever else
the machine does slows both; ``extra_info`` holds each side's median of wall and CPU seconds and
their ratio. ``SCOREBENCH_SPEED_IMAGES=10000`` takes as many images as the README's figure; fewer by
default, since clean-fid's side is slow.
"""

from __future__ import annotations

import os
import resource
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch.nn import functional

from bench.metrics import extract, extractors
from bench.metrics.extractors import efficientnet
from bench.metrics.frechet_distance import frechet_distance

CPU = torch.device("cpu")
COUNT = int(os.environ.get("SCOREBENCH_SPEED_IMAGES", "1024"))
ROUNDS = 3 if COUNT < 5000 else 1
THREADS = len(os.sched_getaffinity(0))
DIMENSION, VECTORS = 2048, 10_000


@pytest.fixture(autouse=True)
def all_cores() -> None:
    torch.set_num_threads(THREADS)


class Clock:
    """Wall and CPU seconds of calls, those of child processes included."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self.call = call
        self.wall: list[float] = []
        self.cpu: list[float] = []
        self.result: Any = None

    def __call__(self) -> None:
        wall, cpu = time.perf_counter(), cpu_seconds()
        self.result = self.call()
        self.wall.append(time.perf_counter() - wall)
        self.cpu.append(cpu_seconds() - cpu)


def cpu_seconds() -> float:
    uses = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(use.ru_utime + use.ru_stime for use in uses)


def compare(
    benchmark: Any, ours: Clock, theirs: Clock, rounds: int, warmup: Callable[[], Any]
) -> tuple[float, float]:
    """Run both in turn and return how many times as long theirs takes: wall and CPU."""
    warmup()
    benchmark.pedantic(ours, setup=theirs, rounds=rounds)
    middle = statistics.median
    ratios = (
        middle(theirs.wall) / middle(ours.wall),
        middle(theirs.cpu) / middle(ours.cpu),
    )
    benchmark.extra_info.update(
        ours_wall=middle(ours.wall),
        ours_cpu=middle(ours.cpu),
        theirs_wall=middle(theirs.wall),
        theirs_cpu=middle(theirs.cpu),
        ratio_wall=ratios[0],
        ratio_cpu=ratios[1],
    )
    told = (f"{name} {value:.4g}" for name, value in benchmark.extra_info.items())
    print(f"\n{benchmark.name}: {', '.join(told)}")
    return ratios


@pytest.fixture(scope="module")
def images() -> NDArray[np.uint8]:
    """CIFAR-size images with something in them, uint8 (N, 3, 32, 32)."""
    random = np.random.default_rng(0)
    coarse = torch.from_numpy(random.normal(128, 60, (COUNT, 3, 5, 5)).astype(np.float32))
    smooth = functional.interpolate(coarse, size=(32, 32), mode="bicubic")
    return smooth.clamp(0, 255).to(torch.uint8).numpy()


@pytest.fixture(scope="module")
def folder(images: NDArray[np.uint8], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("png")
    for index, image in enumerate(images):
        Image.fromarray(image.transpose(1, 2, 0)).save(path / f"{index:05}.png")
    return path


def packages_network() -> Callable[[Tensor], Tensor]:
    """Return EfficientNet-Lite0 as its makers' package gives it, fed images of 0..255."""
    network = efficientnet.packaged_network(efficientnet.packaged_weights().read_bytes())

    def features(images: Tensor) -> Tensor:
        result: Tensor = network.extract_features((images - 127) / 128).mean(dim=(2, 3))
        return result

    return features


def test_efflite0_beside_clean_fids_pipeline(
    benchmark: Any, images: NDArray[np.uint8], folder: Path, tmp_path: Path
) -> None:
    """uint8 arrays to features, beside clean-fid's PNG folder to features of the same network.

    clean-fid decodes and resizes image by image in twelve processes and takes batches of 128, its
    defaults; a loader in the process of the network takes it as much CPU time.
    """
    fid, resize = pytest.importorskip("cleanfid.fid"), pytest.importorskip("cleanfid.resize")
    network = packages_network()
    size = (efficientnet.SIZE, efficientnet.SIZE)

    def clean_fid() -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return fid.get_folder_features(
                str(folder),
                network,
                device=CPU,
                custom_fn_resize=resize.make_resizer("PIL", False, "bicubic", size),
                verbose=False,
            )

    extractor = extractors.load("efflite0", device=CPU, cache=tmp_path)
    ours = Clock(lambda: extract(extractor, images).features)
    theirs = Clock(clean_fid)
    wall, cpu = compare(
        benchmark, ours, theirs, rounds=ROUNDS, warmup=lambda: extract(extractor, images[:64])
    )
    np.testing.assert_allclose(ours.result, theirs.result, atol=1e-3)
    assert min(wall, cpu) > 3


def test_frechet_distance_beside_scipys_root(benchmark: Any) -> None:
    """The distance of two Gaussians at Inception's 2048 dimensions, from 10,000 vectors each."""
    linalg = pytest.importorskip("scipy.linalg")
    rng = np.random.default_rng(0)
    mix = rng.standard_normal((DIMENSION, DIMENSION)) / DIMENSION**0.5
    moments = []
    for shift in (0.0, 0.05):
        vectors = rng.standard_normal((VECTORS, DIMENSION)) @ mix + shift
        moments += [vectors.mean(0), np.cov(vectors, rowvar=False)]
    mu1, s1, mu2, s2 = moments

    def by_root() -> float:
        root = np.real(linalg.sqrtm(s1 @ s2))
        return float(((mu1 - mu2) ** 2).sum() + np.trace(s1 + s2 - 2 * root))

    ours, theirs = Clock(lambda: frechet_distance(*moments)), Clock(by_root)
    # One thread each: on a busy machine those of a BLAS mostly wait for each other.
    with threadpool_limits(1):
        wall, cpu = compare(benchmark, ours, theirs, rounds=3, warmup=ours.call)
    assert ours.result == pytest.approx(theirs.result, rel=1e-6)
    assert min(wall, cpu) > 5
