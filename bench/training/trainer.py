"""Runs a method's stages within a budget; what it calls back, and how it ends before that."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from bench.config import Budget, Training
from bench.config.random_streams import derive
from bench.costs.flops import count_flops
from bench.costs.ledger import Ledger
from bench.training import checkpoint
from bench.training.checkpoint import State, clone
from bench.training.feed import Feed
from bench.training.optimizing import StageRun, autocast, begin_stage, descend, learning_rate
from methods.base import Batch, Method, Objective, Stage

OVER = "/over"
"""Ends the name of the mean that another, of the name before it, is divided by."""
PLAIN = ("stage_index", "steps", "images", "snapshots", "last_loss", "train_flops", "counts")
"""What of a trainer goes into its state as it is."""


def divided(means: dict[str, float]) -> dict[str, float]:
    """Divide what was logged over another value by that, or leave it out where that is 0."""
    return {
        name: mean / over
        for name, mean in means.items()
        if not name.endswith(OVER) and (over := means.get(f"{name}{OVER}", 1.0))
    }


class DivergedError(Exception):
    """A loss or a sample is not finite; the message says which and when."""


class InterruptedTrainingError(BaseException):
    """The run was asked to stop; its checkpoint has been written.

    No ``Exception``, for it can come up anywhere: what catches those, where a file or a plug-in may
    raise anything, must not take a stop for a fault.
    """


class SharedStage(Protocol):
    """Where the result of one stage is kept."""

    def load(self) -> State | None:
        """Return what :meth:`save` was given, by this cell or by another; ``None`` before that."""

    def save(self, result: State) -> None:
        """Keep the result for others."""


@dataclass
class Hooks:
    """What the trainer calls back, however long it takes; what is not given does nothing."""

    log: Callable[[dict[str, Any]], None] = lambda point: None
    snapshot: Callable[[dict[str, Any]], None] = lambda place: None
    checkpoint: Callable[[State], None] = lambda state: None
    progress: Callable[[dict[str, Any]], None] = lambda place: None
    stopping: Callable[[], bool] = lambda: False
    shared: Callable[[Stage], AbstractContextManager[SharedStage | None]] = lambda s: nullcontext()
    """Holds the place where a stage with an identity is kept for other cells, if there is one."""


class Trainer:
    """Runs a method's stages within a budget."""

    def __init__(
        self, method: Method, feed: Feed, *, settings: Training, budget: Budget, seed: int,
        ledger: Ledger, hooks: Hooks,
    ) -> None:  # fmt: skip
        self.method, self.feed, self.settings, self.budget = method, feed, settings, budget
        self.ledger, self.hooks, self.seed = ledger, hooks, seed
        self.device = feed.device
        self.usual = feed.batch, feed.flip
        self.generator = torch.Generator(self.device).manual_seed(derive(seed, "training"))
        self.stages = list(method.stages())
        self.total_share = sum(stage.share for stage in self.stages)
        self.stage_index = 0
        self.steps = self.images = self.snapshots = 0
        self.train_flops: dict[str, float] = {}
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}
        self.last_loss = float("nan")
        self.pace = checkpoint.Pace(settings.checkpoint_seconds)
        self.run_: StageRun | None = None

    def run(self, state: State | None = None) -> None:
        """Train all stages, from ``state`` if given; then every network is its average."""
        self.usual = self.feed.batch, self.feed.flip  # What a stage asks for is put back after it.
        if state is not None:
            self.load_state(state)
        while self.stage_index < len(self.stages):
            self._run_stage(self.stages[self.stage_index])
            self.run_ = None
            self.stage_index += 1
        # Here too, since a run that goes on after its training has no stage left to finish.
        for network in self.method.networks.values():
            network.eval().requires_grad_(False)
        self._checkpoint()

    def _run_stage(self, stage: Stage) -> None:
        """Train a stage, or take over what another cell has trained."""
        # Only a first stage is the same for two methods: nothing came before it.
        sharing = stage.identity is not None and self.stage_index == 0
        with self.hooks.shared(stage) if sharing else nullcontext() as place:
            found = place.load() if place is not None and self.run_ is None else None
            if found is not None:
                self._take_over(stage, found)
                return
            self.run_ = run = self.run_ or self._begin(stage)
            with self.ledger.part("train"):
                self._train(run)
            self._finish(run)
            if place is not None:
                place.save(self._result(run))

    def _result(self, run: StageRun) -> State:
        """All that a stage leaves: with it another cell goes on as if it had trained the stage."""
        networks = {name: self.method.networks[name] for name in run.optimizers}
        return {
            "networks": {name: clone(network.state_dict()) for name, network in networks.items()},
            "train_flops": dict(self.train_flops), "seconds": self.ledger.elapsed("train"),
            "compile_seconds": self.ledger.elapsed("compile"), "steps": self.steps,
            "images": self.images, "drawn": self.feed.drawn, "last_loss": self.last_loss,
            "generator": self.generator.get_state(),
        }  # fmt: skip

    def _take_over(self, stage: Stage, found: State) -> None:
        """Go on from a stage that another cell has trained; its cost is charged here in full."""
        for name, weights in found["networks"].items():
            self.method.networks[name].load_state_dict(weights)
        self.train_flops |= found["train_flops"]
        self.ledger.charge("train", found["seconds"])
        self.ledger.charge("compile", found["compile_seconds"])
        self.steps, self.images = found["steps"], found["images"]
        self.feed.drawn, self.last_loss = found["drawn"], found["last_loss"]
        self.generator.set_state(found["generator"].cpu())
        done = sum(each.share for each in self.stages[: self.stage_index + 1])
        self.snapshots = math.floor(done / self.total_share * self.settings.snapshots + 1e-9)

    def _begin(self, stage: Stage) -> StageRun:
        batch, flip = self.usual
        self.feed.batch = batch if stage.batch is None else stage.batch
        self.feed.flip = flip if stage.flip is None else stage.flip
        # Dropout draws from a global generator: a shared first stage must leave no trace in the
        # second's masks.
        checkpoint.seed_everything(derive(self.seed, "dropout", self.stage_index))
        return begin_stage(stage, self.method.networks)

    def _train(self, run: StageRun) -> None:
        base = self.ledger.elapsed("train") - run.seconds
        while self.progress(run) < 1:
            counted = run.is_counted
            with self.ledger.part("compile") if run.compiling else nullcontext():
                self._step(run)
            # The step that counts FLOPs, and the one that compiles, are not the method's own time.
            run.compiling = self.settings.compile and not counted
            if not counted:
                base = self.ledger.elapsed("train")
            run.seconds = self.ledger.elapsed("train") - base
            self._events(run)

    def _step(self, run: StageRun) -> None:
        batch = self.feed.next(self.generator)
        images = run.step * self.feed.batch
        for objective in run.stage.objectives:
            if run.step % objective.every == 0:
                self._update(run, objective, batch, images)
        for name, average in run.averages.items():
            average.update(self.method.networks[name], images + self.feed.batch, self.feed.batch)
        run.step += 1
        self.steps += 1
        self.images += self.feed.batch

    def _update(self, run: StageRun, objective: Objective, batch: Batch, images: int) -> None:
        name, label = objective.network, objective.label
        network, optimizer = self.method.networks[name], run.optimizers[name]
        if len(run.optimizers) > 1:  # Gradients reach the named network's parameters alone.
            for other in run.optimizers:
                self.method.networks[other].requires_grad_(other == name)
        rate = learning_rate(objective.optimizer, images + self.feed.batch, self.progress(run))
        optimizer.zero_grad(set_to_none=True)
        if label in run.flops:
            loss = self._loss_and_gradient(objective, batch)
        else:  # FLOPs are counted before compiling.
            with self.ledger.part("compile"):
                loss, run.flops[label] = count_flops(
                    lambda: self._loss_and_gradient(objective, batch)
                )
                if self.settings.compile and run.is_counted:
                    self._compile(run)
        clip = self.settings.clip if objective.optimizer.clip is None else objective.optimizer.clip
        descend(optimizer, network, rate=rate, clip=clip)
        self.train_flops[label] = self.train_flops.get(label, 0.0) + run.flops[label]
        overs = {f"{name}{OVER}": value for name, value in batch.overs.items()}
        for key, value in {f"loss/{label}": loss, **batch.logs, **overs}.items():
            # Summed on the device, without waiting for it.
            number = value.detach().float()
            self.sums[key] = self.sums[key] + number if key in self.sums else number
            self.counts[key] = self.counts.get(key, 0) + 1
        batch.logs.clear()
        batch.overs.clear()

    def _loss_and_gradient(self, objective: Objective, batch: Batch) -> Tensor:
        with autocast(self.device, self.settings.precision):
            loss = objective.loss(batch)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _compile(self, run: StageRun) -> None:
        for name in run.optimizers:
            if name not in self.method.second_order:
                self.method.networks[name].compile()

    def _finish(self, run: StageRun) -> None:
        """Make the networks of a finished stage their averages."""
        self._emit(run)
        for name, average in run.averages.items():
            self.method.networks[name].load_state_dict(average.weights)
        for network in self.method.networks.values():
            # Sampling runs uncompiled, where hooks can count; compiled calls pass them by.
            network._compiled_call_impl = None

    def progress(self, run: StageRun) -> float:
        """Fraction of the stage's budget that is used; at least one step is always made."""
        allowed = self.budget.amount * run.stage.share
        if self.budget.unit == "s":
            return min(1.0, run.seconds / allowed) if run.step else 0.0
        total = self.total_steps(run)
        return run.step / total if total else 0.0

    def total_steps(self, run: StageRun) -> int | None:
        """Steps of the stage, where the budget tells: not for seconds, nor before FLOPs are known.

        A budget of FLOPs is known after the first step, which counts them.
        """
        allowed = self.budget.amount * run.stage.share
        if self.budget.unit == "kimg":
            return max(1, round(allowed * 1000 / self.feed.batch))
        if self.budget.unit == "flop" and run.is_counted:
            return max(1, round(allowed / run.flops_per_step))
        return None

    def _events(self, run: StageRun) -> None:
        log_every = max(1, round(self.settings.log_kimg * 1000 / self.feed.batch))
        if self.steps % log_every == 0:
            self._emit(run)
        before = sum(stage.share for stage in self.stages[: self.stage_index])
        share = before + run.stage.share * self.progress(run)
        done = min(1.0, share / self.total_share)
        due = math.floor(done * self.settings.snapshots + 1e-9)
        if self.snapshots < due:
            self.snapshots = due
            if done < 1:  # The end of training is evaluated in full.
                # A loss that is not finite says more than the samples that it spoils.
                self._emit(run)
                with self.averaged(run):
                    self.hooks.snapshot(self._place(run))
        self.hooks.progress({"fraction": done, "loss": self.last_loss, **self._place(run)})
        stopping = self.hooks.stopping()
        if self.pace.is_due or stopping:
            self._checkpoint()
        if stopping:
            raise InterruptedTrainingError(f"stopped after {self.steps} steps")

    def _emit(self, run: StageRun) -> None:
        """Write the means since the last point; DivergedError if one of them is not finite."""
        if not self.sums:
            return
        with self.ledger.part("log"):
            means = torch.stack([self.sums[k] / self.counts[k] for k in self.sums]).tolist()
            values = divided(dict(zip(self.sums, means, strict=True)))
            self.sums, self.counts = {}, {}
            self.hooks.log({**self._place(run), "values": values})
        losses = {k: v for k, v in values.items() if k.startswith("loss/")}
        self.last_loss = sum(losses.values())
        for name, value in losses.items():
            if not math.isfinite(value):
                raise DivergedError(f"{name} is {value} at step {self.steps}")

    def _place(self, run: StageRun) -> dict[str, Any]:
        seconds = round(self.ledger.elapsed("train"), 3)
        return {
            "images": self.images, "step": self.steps, "seconds": seconds, "stage": run.stage.name,
        }  # fmt: skip

    @contextmanager
    def averaged(self, run: StageRun) -> Any:
        """Put the averaged weights into the networks for sampling, and the trained ones back."""
        networks = self.method.networks
        kept = {name: clone(networks[name].state_dict()) for name in run.averages}
        modes = {name: network.training for name, network in networks.items()}
        for name, average in run.averages.items():
            networks[name].load_state_dict(average.weights)
        for network in networks.values():
            network.eval()
        try:
            yield
        finally:
            for name, weights in kept.items():
                networks[name].load_state_dict(weights)
            for name, mode in modes.items():
                networks[name].train(mode)

    def _checkpoint(self) -> None:
        with self.pace.saving(), self.ledger.part("checkpoint"):
            self.hooks.checkpoint(self.state())

    def state(self) -> State:
        """Everything that decides how training goes on: tensors, numbers and strings only."""
        run, networks = self.run_, self.method.networks
        on_cuda = self.device.type == "cuda"
        return {
            **{name: getattr(self, name) for name in PLAIN},
            "drawn": self.feed.drawn, "sums": self.sums,
            "networks": {name: network.state_dict() for name, network in networks.items()},
            "generator": self.generator.get_state(),
            "torch_generator": torch.get_rng_state(),
            "other_generators": checkpoint.other_generators(),
            "cuda_generator": torch.cuda.get_rng_state(self.device) if on_cuda else None,
            "run": run and {
                "step": run.step, "seconds": run.seconds, "flops": run.flops,
                "optimizers": {k: o.state_dict() for k, o in run.optimizers.items()},
                "averages": {k: a.model.state_dict() for k, a in run.averages.items()},
            },
        }  # fmt: skip

    def load_state(self, state: State) -> None:
        """Go on where ``state`` was taken."""
        for name in PLAIN:
            setattr(self, name, state[name])
        self.feed.drawn, saved = state["drawn"], state["run"]
        self.sums = {name: value.to(self.device) for name, value in state["sums"].items()}
        for name, weights in state["networks"].items():
            self.method.networks[name].load_state_dict(weights)
        if saved is not None:
            run = self.run_ = self._begin(self.stages[self.stage_index])
            run.step, run.seconds, run.flops = saved["step"], saved["seconds"], saved["flops"]
            for name, optimizer in run.optimizers.items():
                optimizer.load_state_dict(saved["optimizers"][name])
            for name, average in run.averages.items():
                average.model.load_state_dict(saved["averages"][name])
            if self.settings.compile and run.is_counted:
                self._compile(run)
        self.generator.set_state(state["generator"].cpu())
        torch.set_rng_state(state["torch_generator"].cpu())
        checkpoint.set_other_generators(state["other_generators"])
        if state["cuda_generator"] is not None:
            torch.cuda.set_rng_state(state["cuda_generator"].cpu(), self.device)
