"""Optimizers, learning rates, clipping, averages and precision, as a method asks for them."""

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from bench.training.checkpoint import State
from methods.base import EMA, Adam, Method, Stage


def make_optimizer(settings: Adam, network: nn.Module) -> torch.optim.Optimizer:
    """Build Adam as the method asks for it; AdamW where it asks for weight decay."""
    kind = torch.optim.AdamW if settings.weight_decay else torch.optim.Adam
    options = settings.model_dump(include={"lr", "betas", "eps", "weight_decay"})
    return kind(network.parameters(), **options, fused=True)


def learning_rate(settings: Adam, images: int, progress: float) -> float:
    """The rate after ``images`` of the stage, at ``progress`` in [0, 1] of its budget."""
    warm = settings.warmup_kimg * 1000
    rate = settings.lr * min(1.0, images / warm) if warm else settings.lr
    return rate * 0.5 * (1 + math.cos(math.pi * progress)) if settings.decay == "cosine" else rate


def descend(
    optimizer: torch.optim.Optimizer, network: nn.Module, *, rate: float, clip: float | None
) -> None:
    """Make a step at a learning rate, the gradient's norm clipped to ``clip`` if it is given."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    if clip is not None:
        nn.utils.clip_grad_norm_(network.parameters(), clip)
    optimizer.step()


class MovingAverage:
    """A network's averaged copy with EDM's half-life and ramp-up."""

    def __init__(self, network: nn.Module, settings: EMA) -> None:
        self.settings = settings
        self.keep = 0.0
        self.model = AveragedModel(network, multi_avg_fn=self._average, use_buffers=False)
        self.model.requires_grad_(False)

    def _average(self, averages: Any, current: Any, count: object) -> None:
        torch._foreach_lerp_(averages, current, 1 - self.keep)

    def update(self, network: nn.Module, images: int, batch: int) -> None:
        """Move towards ``network`` after a step of ``batch``, ``images`` into the stage."""
        halflife = self.settings.halflife_kimg * 1000
        if self.settings.rampup_ratio is not None:
            halflife = min(halflife, images * self.settings.rampup_ratio)
        self.keep = 0.5 ** (batch / max(halflife, 1e-8))
        self.model.update_parameters(network)

    @property
    def weights(self) -> State:
        """The averaged network's state, with the same keys as the network's own."""
        return self.model.module.state_dict()


@dataclass
class StageRun:
    """What belongs to the stage being trained."""

    stage: Stage
    optimizers: dict[str, torch.optim.Optimizer] = field(default_factory=dict)
    averages: dict[str, MovingAverage] = field(default_factory=dict)
    step: int = 0
    seconds: float = 0.0
    """Seconds of training, on the ledger's account."""
    compiling: bool = False
    """Whether the next step is the first of the compiled networks."""
    flops: dict[str, float] = field(default_factory=dict)
    """FLOPs of one evaluation of each objective, counted on its first."""

    @property
    def is_counted(self) -> bool:
        """Whether the FLOPs of every objective are known."""
        return len(self.flops) == len(self.stage.objectives)

    @property
    def flops_per_step(self) -> float:
        """Mean FLOPs of a step, rarer objectives charged by their frequency."""
        return sum(self.flops[o.label] / o.every for o in self.stage.objectives)


def begin_stage(stage: Stage, networks: Mapping[str, nn.Module]) -> StageRun:
    """Put the networks that a stage trains into training mode, and freeze the others."""
    objectives = {o.network: o for o in reversed(stage.objectives)}
    for name, network in networks.items():
        network.train(name in objectives)
        network.requires_grad_(name in objectives)
    run = StageRun(stage)
    for name, objective in objectives.items():
        run.optimizers[name] = make_optimizer(objective.optimizer, networks[name])
        if objective.ema is not None:
            run.averages[name] = MovingAverage(networks[name], objective.ema)
    return run


def move(method: Method, device: torch.device) -> Method:
    """Move a method's networks to a device, laid out as convolutions are fastest; return it."""
    for network in method.networks.values():
        # So on CPUs and GPUs alike.
        network.to(device).to(memory_format=torch.channels_last)
    return method


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Return the mixed-precision context of a precision: bfloat16 for ``bf16``, else nothing."""
    if precision == "bf16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()
