"""Tiny data, and a trainer for tiny methods, whose hooks keep what they are told."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bench.config.schema import Budget, Training
from bench.costs.ledger import Ledger
from bench.training import Feed, Hooks, Trainer
from methods.base import Batch, DataSpec, Method

GREY = DataSpec(channels=1, size=8, classes=10)
CPU = torch.device("cpu")


def make_batch(n: int = 12, data: DataSpec = GREY, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, *data.shape, generator=generator) * 2 - 1
    labels = torch.randint(data.classes, (n,), generator=generator)
    return Batch(x=x, labels=labels, generator=generator)


def draw(method: Method, n: int = 5, seed: int = 0) -> Tensor:
    labels = torch.arange(n) % 10 if method.needs_labels else None
    for network in method.networks.values():
        network.eval()
    with torch.no_grad():
        return method.sample(n, labels=labels, generator=torch.Generator().manual_seed(seed))


def make_feed(batch: int = 16, n: int = 50, *, flip: bool = False) -> Feed:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (n, 1, 8, 8), generator=generator, dtype=torch.uint8)
    return Feed(images, torch.arange(n) % 10, batch=batch, flip=flip, seed=0)


class Watch:
    """Hooks that keep what they are told, and stop the run after some steps."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.points: list[dict[str, Any]] = []
        self.snapshots: list[dict[str, Any]] = []
        self.state: Any = None
        self.steps, self.stop_at = 0, stop_at

    def hooks(self) -> Hooks:
        return Hooks(
            log=self.points.append,
            snapshot=self.snapshots.append,
            checkpoint=self.keep,
            progress=self.count,
            stopping=lambda: self.stop_at is not None and self.steps >= self.stop_at,
        )

    def keep(self, state: Any) -> None:
        self.state = {**state, "networks": copy(state["networks"]), "run": copy(state["run"])}

    def count(self, place: dict[str, Any]) -> None:
        self.steps = place["step"]


def copy(tree: Any) -> Any:
    if isinstance(tree, torch.Tensor):
        return tree.clone()
    if isinstance(tree, dict):
        return {key: copy(value) for key, value in tree.items()}
    return [copy(value) for value in tree] if isinstance(tree, list) else tree


def make_trainer(
    method: Method,
    watch: Watch,
    *,
    budget: str = "0.32kimg",
    feed: Feed | None = None,
    **settings: Any,
) -> Trainer:
    unit = next(unit for unit in ("kimg", "flop", "s") if budget.endswith(unit))
    return Trainer(
        method,
        feed or make_feed(),
        settings=Training(batch=16, log_kimg=0.048, **settings),
        budget=Budget(amount=float(budget.removesuffix(unit)), unit=unit),
        seed=0,
        ledger=Ledger(CPU),
        hooks=watch.hooks(),
    )


def weights(method: Method) -> dict[str, torch.Tensor]:
    return {
        f"{name}.{key}": value
        for name, network in method.networks.items()
        for key, value in network.state_dict().items()
    }
