"""Counted FLOPs and network calls, parameters and peak memory."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

T = TypeVar("T")


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
