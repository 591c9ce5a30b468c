"""Counted FLOPs and network calls, parameters and peak memory."""

import resource
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
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

    def count(name: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        # The first tensor among positional arguments: the images by convention.
        calls[name] += next(value for value in inputs if isinstance(value, Tensor)).shape[0]

    with ExitStack() as hooks:
        for name, network in networks.items():
            hooks.enter_context(network.register_forward_hook(partial(count, name)))
        yield calls


def parameters(network: nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


def peak_memory(device: torch.device) -> tuple[int, str]:
    """Peak bytes of this process and what was measured: device allocations, or resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device), "allocated on the device"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024), "resident, whole process"
