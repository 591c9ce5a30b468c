"""What a run costs: a ledger of seconds, counted FLOPs, counted network calls, peak memory."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bench.record import Interval

PARTS = ("compile", "train", "sample", "evaluate", "log", "checkpoint", "other")
T = TypeVar("T")


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all that was asked of it; nothing on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Ledger:
    """Seconds by part; exactly one part runs at any time, so that the parts sum to the wall clock.

    The device is synchronised at the edges only. ``started`` is a ``perf_counter`` reading from
    before this object existed (the process's start); ``carried`` holds the ``totals`` of an
    interrupted run that this one continues, and ``spent`` the seconds that its processes really
    took: what they did after their last checkpoint is lost, and charged to ``other``.
    """

    def __init__(
        self,
        device: torch.device,
        *,
        started: float | None = None,
        carried: Mapping[str, float] | None = None,
        spent: float = 0.0,
    ) -> None:
        self.device = device
        self.started = time.perf_counter() if started is None else started
        self.carried = dict(carried or {})
        self.seconds = {part: self.carried.get(part, 0.0) for part in PARTS}
        kept = self.carried.get("wall", 0.0) - self.carried.get("charged", 0.0)
        self.lost = max(0.0, spent - kept)
        self.seconds["other"] += self.lost
        self.carried["wall"] = self.carried.get("wall", 0.0) + self.lost
        self.current = "other"
        self.since = self.started

    def _close(self) -> None:
        now = time.perf_counter()
        self.seconds[self.current] += now - self.since
        self.since = now

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Charge the time inside to ``name`` and not to the part around it."""
        synchronize(self.device)
        self._close()
        outer, self.current = self.current, name
        try:
            yield
        finally:
            synchronize(self.device)
            self._close()
            self.current = outer

    def charge(self, name: str, seconds: float) -> None:
        """Charge what another cell has spent for this one, in the part and in the wall clock."""
        self.seconds[name] += seconds
        for total in ("wall", "charged"):
            self.carried[total] = self.carried.get(total, 0.0) + seconds

    def elapsed(self, name: str) -> float:
        """Seconds of a part so far, the running stretch included."""
        running = time.perf_counter() - self.since if self.current == name else 0.0
        return self.seconds[name] + running

    def totals(self) -> dict[str, float]:
        """Seconds of each part, and ``wall`` by the process's own clock, carried time included.

        ``charged`` is what of them another cell has spent for this one, ``lost`` what killed
        processes did after their last checkpoint.
        """
        self._close()
        wall = time.perf_counter() - self.started + self.carried.get("wall", 0.0)
        beside = {name: self.carried.get(name, 0.0) for name in ("charged", "lost")}
        beside["lost"] += self.lost
        return {**self.seconds, "wall": wall, **beside}


def count_flops(call: Callable[[], T]) -> tuple[T, float]:
    """Run ``call`` and count its FLOPs, 2 a multiply-add, backward passes included.

    By torch's FlopCounterMode: matrix products, convolutions and attention; norms, activations
    and other elementwise work count 0.
    """
    counter = FlopCounterMode(display=False)
    with counter:
        result = call()
    return result, float(counter.get_total_flops())


@contextmanager
def count_calls(networks: Mapping[str, nn.Module]) -> Iterator[dict[str, int]]:
    """Count the images that pass through each network, by forward hooks.

    Divided by the number of images drawn, these are function evaluations an image.
    """
    calls = dict.fromkeys(networks, 0)

    def hook_for(name: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            calls[name] += first_tensor(inputs).shape[0]

        return hook

    handles = [network.register_forward_hook(hook_for(name)) for name, network in networks.items()]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def first_tensor(inputs: tuple[Any, ...]) -> Tensor:
    """Return the first tensor among positional arguments: the images by convention."""
    return next(value for value in inputs if isinstance(value, Tensor))


def parameters(network: nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


def peak_memory(device: torch.device) -> tuple[int, str]:
    """Peak bytes of this process and what was measured: device allocations, or resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device), "allocated on the device"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024), "resident, whole process"


def interval(milliseconds: Sequence[float], *, batch: int) -> Interval:
    """Summarise repeated timings: median, quartiles, bootstrap 95 % interval of the median."""
    q25, median, q75 = np.percentile(np.asarray(milliseconds), [25, 50, 75])
    low, high = median_bounds(milliseconds)
    return Interval(
        median=median, q25=q25, q75=q75, low=low, high=high, batch=batch, repeats=len(milliseconds)
    )


def median_bounds(values: Sequence[float], resamples: int = 2000) -> tuple[float, float]:
    """Return the 95 % interval of the median by the percentile bootstrap, always the same."""
    rng = np.random.default_rng(0)
    drawn = rng.choice(np.asarray(values), (resamples, len(values)))
    low, high = np.percentile(np.median(drawn, axis=1), [2.5, 97.5])
    return float(low), float(high)
