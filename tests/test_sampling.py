"""Batches of samples: which random numbers and labels, what is kept of them, what they cost."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bench.config import Sampling
from bench.config.random_streams import derive
from bench.costs import flops
from bench.data.dataset import to_uint8
from bench.sampling import source as sources
from bench.sampling import timing
from bench.sampling.source import Source, count_sampling, draw_batches, outside
from bench.training import DivergedError
from methods.base import Method

from .tiny import CPU


class Noise(Method):
    """Gives its noise as it is, after two calls of a network on each image."""

    def __init__(self, needs_labels: bool) -> None:
        self.needs_labels = needs_labels
        self.networks = {"net": nn.Linear(64, 64, bias=False), "idle": nn.Identity()}
        self.seconds = [0.0]

    def stages(self) -> list[Any]:
        return []

    def sample(
        self, n: int, *, labels: torch.Tensor | None = None, generator: torch.Generator
    ) -> torch.Tensor:
        assert (labels is not None) == self.needs_labels
        x = torch.randn(n, 1, 8, 8, generator=generator)
        for _ in range(2):
            self.networks["net"](x.flatten(1))
        self.seconds[0] += 2
        return x


FREQUENCIES = np.array([0.5, 0.5, 0.0])


def source(*, needs_labels: bool = True, **changes: Any) -> Source:
    settings: dict[str, Any] = {
        "shape": (1, 8, 8), "device": CPU, "precision": "fp32", "seed": 5, "stream": "samples",
        "frequencies": FREQUENCIES, "quantise": False,
    } | changes  # fmt: skip
    return Source(Noise(needs_labels), **settings)


def noise(n: int, index: int, seed: int = 5, stream: str = "samples") -> torch.Tensor:
    """The images of a batch: a function of the seed, the stream and the batch alone."""
    generator = torch.Generator().manual_seed(derive(seed, stream, index))
    return torch.randn(n, 1, 8, 8, generator=generator)


def test_a_batch_is_a_function_of_seed_stream_and_index() -> None:
    for place in ({}, {"seed": 6}, {"stream": "other"}):
        for index in (0, 3):
            images, labels = source(**place).batch(4, index)
            again, same = source(**place).batch(4, index)
            assert torch.equal(images, noise(4, index, **place))  # type: ignore[arg-type]
            assert torch.equal(images, again)
            assert labels is not None
            assert same is not None
            assert torch.equal(labels, same)
    first, second = (source().labels(64, index) for index in (0, 1))
    assert first is not None
    assert second is not None
    assert not torch.equal(first, second)


def test_labels_have_the_data_s_frequencies_and_only_where_they_are_needed() -> None:
    labels = source().labels(10_000, 0)
    assert labels is not None
    shares = torch.bincount(labels, minlength=3) / 10_000
    assert shares.tolist() == pytest.approx(FREQUENCIES.tolist(), abs=0.02)
    assert source(needs_labels=False).batch(4, 0)[1] is None
    assert source(needs_labels=False).frequencies is None


@pytest.mark.parametrize(("n", "at_least", "drawn"), [(10, 5, 5), (10, 1, 3), (12, 1, 3)])
def test_what_is_over_is_timed_and_dropped(n: int, at_least: int, drawn: int) -> None:
    fractions: list[float] = []
    images, labels, times = draw_batches(
        source(), n, 4, at_least=at_least, progress=fractions.append
    )
    assert np.array_equal(images, torch.cat([noise(4, index) for index in range(3)])[:n].numpy())
    asked = [source().labels(4, index) for index in range(3)]
    assert labels is not None
    assert labels.tolist() == torch.cat(asked)[:n].tolist()  # type: ignore[arg-type]
    assert len(times) == drawn
    assert fractions == pytest.approx([(index + 1) / drawn for index in range(drawn)])
    assert draw_batches(source(needs_labels=False), 4, 4)[1] is None


def test_only_what_is_wanted_is_brought_to_the_host_and_the_last_batch_is_told() -> None:
    ours, told = source(), []

    class Kept:
        def load(self) -> list[Any]:
            return []

        def note(self, batches: Any, *, is_last: bool) -> None:
            told.append(([batch.images is not None for batch in batches], is_last))

    draw_batches(ours, 8, 4, at_least=3, kept=Kept())
    assert told == [([True], False), ([True, True], False), ([True, True, False], True)]


@pytest.mark.parametrize(
    ("low", "high", "note"),
    [
        (-1.0, 1.0, ""),
        (-0.01, 1.0, ""),
        (0.0, 1.0, "its samples lie in [0, 1], and should in [-1, 1]"),
        (-4.0, 4.0, "its samples lie in [-4, 4], and should in [-1, 1]"),
        (-2.9, 2.9, ""),
    ],
)
def test_samples_of_another_range_are_noted(low: float, high: float, note: str) -> None:
    """All positive, or more than half of them outside; points may lie anywhere."""
    images = torch.linspace(low, high, 64).reshape(1, 1, 8, 8)
    for quantise in (True, False):
        ours = source(quantise=quantise)
        ours.on_host(images)
        assert ours.note == (note if quantise else "")


def test_times_are_milliseconds_an_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that each batch moves on by two seconds."""
    ours = source()
    seconds = ours.method.seconds  # type: ignore[attr-defined]
    monkeypatch.setattr(sources.time, "perf_counter", lambda: seconds[0])
    assert draw_batches(ours, 8, 4)[2] == [500.0, 500.0]
    assert timing.latency(ours, 3)[0].median == 2000


def test_calls_and_flops_are_an_image_s() -> None:
    calls, counted = count_sampling(source(), 4)
    assert calls == {"net": 2, "idle": 0}
    assert counted == 2 * (2 * 64 * 64)


def test_samples_are_bytes_unless_they_are_points() -> None:
    images = torch.linspace(-1.2, 1.2, 64).reshape(1, 1, 8, 8)
    assert np.array_equal(source(quantise=True).on_host(images), to_uint8(images).numpy())
    assert np.array_equal(source().on_host(images.double()), images.numpy())
    assert source().on_host(images.double()).dtype == np.float32
    for wrong in (torch.nan, torch.inf):
        images[0, 0, 0, 0] = wrong
        with pytest.raises(DivergedError, match="not finite"):
            source().on_host(images)


def test_the_share_outside_is_of_values_beyond_one_and_a_half() -> None:
    assert outside(torch.tensor([0.0, 1.5, -1.5, 1.6, -1.6])) == pytest.approx(0.4)


def test_a_draw_tells_all_its_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "WARM_UP_LEAST", 0.0)
    settings = Sampling(batch=4, timed_batches=11, latency_repeats=12)
    found = timing.draw_and_time(source(), 6, settings, lambda fraction: None)
    assert np.array_equal(found.images, torch.cat([noise(4, 0), noise(4, 1)])[:6].numpy())
    assert (found.ms_per_image.batch, found.ms_per_image.repeats) == (4, 11)
    assert (found.latency_ms.batch, found.latency_ms.repeats) == (1, 12)
    assert (found.nfe_by_network, found.flops_per_image) == ({"net": 2, "idle": 0}, 16384)
    assert {name: warm.size for name, warm in found.warm_ups.items()} == {"batch": 4, "latency": 1}


def test_peak_memory_is_in_bytes_wherever_it_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system tells KiB on Linux and bytes on macOS, torch tells bytes of its device."""
    asked = SimpleNamespace(ru_maxrss=3000)
    monkeypatch.setattr(flops.resource, "getrusage", {flops.resource.RUSAGE_SELF: asked}.get)
    for platform, peak in {"linux": 3000 * 1024, "darwin": 3000}.items():
        monkeypatch.setattr(flops.sys, "platform", platform)
        assert flops.peak_memory(CPU) == (peak, "resident, whole process")
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 77 + device.index)
    assert flops.peak_memory(torch.device("cuda", 1)) == (78, "allocated on the device")
    assert flops.parameters(nn.Linear(3, 2)) == 8
