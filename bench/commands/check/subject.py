"""What the rules look at: a method on made-up data, and what a short training shows of it."""

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import count
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from bench.config import Budget, Preset, Training, one_line, resolve_method
from bench.config.random_streams import derive
from bench.costs.ledger import Ledger
from bench.training import Feed, Hooks, InterruptedTrainingError, State, Trainer
from bench.training.checkpoint import seed_everything
from methods.base import Batch, DataSpec, Method, Objective

CPU = torch.device("cpu")
BATCH, IMAGES = 8, 40
"""Images a step, and images there are."""
STEPS, STOP_EVERY = 8, 3
"""Steps of training, and steps between interruptions."""
SAMPLES = 4


@dataclass
class Seen:
    """One evaluation of an objective in training, and the gradients that came of it."""

    network: str
    label: str
    loss: Tensor | None = None
    logs: dict[str, Any] = field(default_factory=dict)
    batch_changed: bool = False
    leaves: list[nn.Parameter] = field(default_factory=list)
    """Parameters that the loss depends on and would move."""
    second_order: bool = False
    """Whether gradients are in the loss as values."""
    strays: list[nn.Module] = field(default_factory=list)
    """Modules that were called outside of every network."""
    gradients: dict[str, dict[str, Tensor | None]] = field(default_factory=dict)
    """Of each network, by the parameter's name; empty where there was no backward pass."""


class Run(Trainer):
    """A short training, whole or up to a stop; it keeps what it sees of every loss."""

    def __init__(
        self, method: Method, feed: Feed, precision: str = "fp32", stop_at: int | None = None
    ) -> None:
        self.points: list[Any] = []
        """The loss curve."""
        self.checkpoints: list[bytes] = []
        self.seen: list[Seen] = []
        """Every evaluation of an objective, in order."""
        self.error: Exception | None = None
        asked, kimg = count(1), BATCH / 1000
        hooks = Hooks(
            log=self.points.append,
            checkpoint=lambda state: self.checkpoints.append(saved(state)),
            stopping=lambda: next(asked) == stop_at,
        )
        settings = Training(batch=BATCH, log_kimg=kimg, precision=precision)
        budget, ledger = Budget(amount=STEPS * kimg, unit="kimg"), Ledger(CPU)
        super().__init__(
            method, feed, settings=settings, budget=budget, seed=0, ledger=ledger, hooks=hooks
        )

    def _loss_and_gradient(self, objective: Objective, batch: Batch) -> Tensor:
        seen = Seen(objective.network, objective.label)
        self.seen.append(seen)
        networks = self.method.networks
        for network in networks.values():
            network.zero_grad(set_to_none=True)
        loss = partial(look_at_loss, seen, objective, networks)
        result = super()._loss_and_gradient(replace(objective, loss=loss), batch)
        seen.gradients = {
            name: {key: parameter.grad for key, parameter in network.named_parameters()}
            for name, network in networks.items()
        }
        return result


def look_at_loss(
    seen: Seen, objective: Objective, networks: Mapping[str, nn.Module], batch: Batch
) -> Tensor:
    """Evaluate a loss and note what it is made of."""
    before = batch.x.clone()
    grad: Any = torch.autograd.grad

    def noting(*inputs: Any, **settings: Any) -> Any:
        # Gradients that can be differentiated again.
        seen.second_order |= bool(settings.get("create_graph"))
        return grad(*inputs, **settings)

    with watch_calls(networks) as seen.strays, patch.object(torch.autograd, "grad", noting):
        seen.loss = loss = objective.loss(batch)
    seen.logs, seen.batch_changed = dict(batch.logs), not torch.equal(before, batch.x)
    if isinstance(loss, Tensor):
        seen.leaves, found = walk(loss)
        seen.second_order |= found
    return loss


def walk(loss: Tensor) -> tuple[list[nn.Parameter], bool]:
    """Return the parameters in a loss's graph, and whether it shows a second derivative.

    Those of convolutions show; those of matrix products do not.
    """
    leaves, second_order = [], False
    stack: list[Any] = [loss.grad_fn]
    visited: set[Any] = set()
    while stack:
        node = stack.pop()
        if node is None or node in visited:
            continue
        visited.add(node)
        second_order |= "BackwardBackward" in type(node).__name__
        if isinstance(variable := getattr(node, "variable", None), nn.Parameter):
            leaves.append(variable)
        stack += [parent for parent, _ in node.next_functions]
    return leaves, second_order


@contextmanager
def watch_calls(networks: Mapping[str, nn.Module]) -> Iterator[list[nn.Module]]:
    """Collect the modules with parameters of their own that are called outside every network."""
    strays: list[nn.Module] = []
    named, depth = set(networks.values()), [0]

    def before(module: nn.Module, inputs: object) -> None:
        if module in named:
            depth[0] += 1
        elif not depth[0] and any(True for _ in module.parameters(recurse=False)):
            strays.append(module)

    def after(module: nn.Module, inputs: object, output: object) -> None:
        depth[0] -= module in named

    with (
        register_module_forward_pre_hook(before),
        register_module_forward_hook(after, always_call=True),
    ):
        yield strays


@dataclass(eq=False)
class Subject:
    """A method at a preset's size, on made-up data of one shape."""

    kind: type[Method]
    label: str
    variants: Sequence[Mapping[str, Any]]
    preset: Preset
    data: DataSpec
    may_refuse: bool = False
    """Whether a ValueError of the constructor is the method's good right."""

    def __str__(self) -> str:
        classes = f"{self.data.classes} classes" if self.data.classes else "no labels"
        return f"{'x'.join(map(str, self.data.shape))}, {classes}"

    @cached_property
    def config(self) -> Any:
        """The method's settings under the preset; UserError if they do not fit."""
        resolved = resolve_method(self.kind.Config, self.preset, self.label, self.variants)
        return self.kind.Config.model_validate(resolved)

    @cached_property
    def refusal(self) -> str:
        """Why the method does not take these data, if it may say so and does."""
        try:
            if self.may_refuse:
                self.build()
        except ValueError as error:
            return one_line(error)
        except Exception:
            return ""  # Told by the rule on building.
        return ""

    def build(self, seed: int = 0) -> Method:
        """Build the method as a cell does."""
        torch.manual_seed(derive(seed, "networks"))
        return self.kind(self.config, self.data)

    def feed(self) -> Feed:
        """Make images, or points, that are always the same, and their labels."""
        generator = torch.Generator().manual_seed(0)
        shape = (IMAGES, *self.data.shape)
        images = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
        if self.data.size == 1:
            images = images / 127.5 - 1
        labels = torch.arange(IMAGES) % self.data.classes if self.data.classes else None
        return Feed(images, labels, batch=BATCH, flip=False, seed=0)

    def train(self, precision: str) -> Run:
        """Train for a few steps; what goes wrong is kept, not raised."""
        run = Run(self.build(), self.feed(), precision)
        try:
            run.run()
        except Exception as error:
            run.error = error
        return run

    def train_in_pieces(self) -> Run:
        """Train as much, stopped every few steps and resumed by an instance of its own."""
        points: list[Any] = []
        state: State | None = None
        while True:
            run = Run(self.build(), self.feed(), stop_at=STOP_EVERY)
            torch.manual_seed(99)  # What another process would have.
            try:
                run.run(state)
            except InterruptedTrainingError:
                state = loaded(run.checkpoints[-1])
                points += run.points
            else:
                run.points[:0] = points
                return run

    @cached_property
    def run(self) -> Run:
        """The whole training in single precision."""
        return self.train("fp32")

    def trained(self, seed: int = 0) -> Method:
        """An instance with the weights that :attr:`run` came to, as training leaves it."""
        method = self.build(seed)
        for name, network in method.networks.items():
            network.load_state_dict(self.run.method.networks[name].state_dict())
            network.eval().requires_grad_(False)
        return method

    def draw(
        self, method: Method | None = None, *,
        n: int = SAMPLES, seed: int = 0, elsewhere: int = 0, shift: int = 0,
    ) -> Tensor:  # fmt: skip
        """Draw samples; ``elsewhere`` seeds the global generators, ``shift`` moves the labels."""
        method = method or self.trained()
        labels = (torch.arange(n) + shift) % self.data.classes if method.needs_labels else None
        seed_everything(elsewhere)
        with torch.no_grad():
            generator = torch.Generator().manual_seed(seed)
            return method.sample(n, labels=labels, generator=generator)

    @cached_property
    def drawn(self) -> Tensor:
        """Samples under the usual seeds, (SAMPLES, C, H, W)."""
        return self.draw()

    def evaluate(self, method: Method, objective: Objective, *, elsewhere: int = 0) -> float:
        """An objective's loss, without dropout, on a batch that is always the same."""
        for network in method.networks.values():
            network.eval()
        batch = self.feed().next(torch.Generator().manual_seed(0))
        seed_everything(elsewhere)
        return float(objective.loss(batch).detach())


def saved(state: Any) -> bytes:
    """Write a state as checkpoints are written."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def loaded(content: bytes) -> Any:
    """Read a checkpoint as a cell reads it: tensors, numbers and strings, no code."""
    return torch.load(io.BytesIO(content), map_location=CPU, weights_only=True)


def weights(method: Method) -> dict[str, Tensor]:
    """All parameters and buffers, by the network's and their own names."""
    return {
        f"{name}.{key}": value
        for name, network in method.networks.items()
        for key, value in network.state_dict().items()
    }


def differing(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> list[str]:
    """Names whose values differ in any bit."""
    return [key for key, value in first.items() if not torch.equal(value, second[key])]
