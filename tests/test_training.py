"""The training loop: resuming, budgets, averages, data order, cost."""

from __future__ import annotations

import math
import random
import time
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn

from bench.costs.intervals import interval
from bench.costs.ledger import PARTS, Ledger
from bench.training import DivergedError, Feed, InterruptedTrainingError, Trainer, checkpoint
from bench.training.optimizing import (
    MovingAverage,
    autocast,
    begin_stage,
    learning_rate,
    make_optimizer,
    move,
)
from methods import registry
from methods.base import EMA, Adam, Batch, Method, Objective, Stage

from .conftest import Build
from .tiny import CPU, Watch, copy, make_feed, make_trainer, weights

ALL = registry.names()


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_a_resumed_run_ends_with_the_same_bits(build: Build, name: str) -> None:
    """Stopped in either stage, with dropout: weights, curves and FLOPs are the same."""
    dropout: dict[str, object] = (
        {"score_network": {"dropout": 0.1}} if name == "smm" else {"network": {"dropout": 0.1}}
    )
    torch.manual_seed(3)
    whole, watch = build(name, **dropout), Watch()
    trainer = make_trainer(whole, watch, snapshots=2)
    trainer.run()

    for stop_at in (1, 7, 17):
        first = Watch(stop_at)
        torch.manual_seed(3)
        with pytest.raises(InterruptedTrainingError):
            make_trainer(build(name, **dropout), first, snapshots=2).run()
        torch.manual_seed(99)  # What another process would have.
        resumed, second = build(name, seed=5, **dropout), Watch()
        again = make_trainer(resumed, second, snapshots=2)
        again.run(first.state)

        assert weights(whole).keys() == weights(resumed).keys()
        for key, value in weights(whole).items():
            assert torch.equal(value, weights(resumed)[key]), key
        assert again.train_flops == trainer.train_flops
        losses = [(p["step"], p["values"]) for p in watch.points]
        assert losses == [(p["step"], p["values"]) for p in first.points + second.points]
        assert len(first.snapshots + second.snapshots) == len(watch.snapshots) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_a_budget_in_images_is_kept(build: Build, name: str) -> None:
    trainer = make_trainer(build(name), Watch(), budget="0.32kimg")
    trainer.run()
    assert trainer.images == pytest.approx(320, abs=16)


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_a_budget_in_flops_is_kept(build: Build, name: str) -> None:
    trainer = make_trainer(build(name), Watch(), budget="3e9flop")
    trainer.run()
    spent = sum(trainer.train_flops.values())
    step = spent / trainer.steps
    assert spent == pytest.approx(3e9, abs=max(3e7, 2 * step))


def test_a_budget_in_seconds_is_kept(build: Build) -> None:
    trainer = make_trainer(build("sde"), Watch(), budget="1s")
    started = time.perf_counter()
    trainer.run()
    assert trainer.steps > 5
    # The trainer's own account is exact to a step; the clock around it has the first step too.
    assert time.perf_counter() - started > 1


@pytest.mark.slow
def test_each_stage_gets_its_share(build: Build) -> None:
    watch = Watch()
    make_trainer(build("dlsm", score_share=0.75), watch, budget="0.64kimg").run()
    last = {point["stage"]: point["step"] for point in watch.points}
    assert last == {"score": 30, "classifier": 40}


@pytest.mark.slow
def test_a_frozen_network_does_not_change(build: Build) -> None:
    method = build("dlsm")
    trainer = make_trainer(method, watch := Watch())
    original = trainer._finish
    after_score: dict[str, torch.Tensor] = {}

    def finish(run: Any) -> None:
        original(run)
        after_score.setdefault("x", copy(method.networks["denoiser"].state_dict()))

    trainer._finish = finish  # type: ignore[method-assign]
    trainer.run()
    assert watch.points
    for key, value in after_score["x"].items():  # type: ignore[attr-defined]
        assert torch.equal(value, method.networks["denoiser"].state_dict()[key])


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_gradients_reach_only_the_objective_s_network(build: Build, name: str) -> None:
    method = build(name)
    trainer = make_trainer(method, Watch(), budget="0.064kimg")
    original = trainer._loss_and_gradient
    seen: set[str] = set()

    def watched(objective: Any, batch: Any) -> torch.Tensor:
        for key, network in method.networks.items():
            wanted = {parameter.requires_grad for parameter in network.parameters()}
            assert wanted == {key == objective.network}
        seen.add(objective.network)
        return original(objective, batch)

    trainer._loss_and_gradient = watched  # type: ignore[method-assign]
    trainer.run()
    assert seen == set(method.networks)


@pytest.mark.slow
def test_training_lowers_the_loss_and_ends_with_the_average(build: Build) -> None:
    method, watch = build("sde", optimizer={"lr": 1e-2, "warmup_kimg": 0}), Watch()
    feed = make_feed()
    feed.images = torch.full_like(feed.images, 200)
    trainer = make_trainer(method, watch, budget="3.2kimg", feed=feed)
    ends: dict[str, Any] = {}
    original = trainer._finish

    def finish(run: Any) -> None:
        ends["average"] = copy(run.averages["denoiser"].weights)
        original(run)

    trainer._finish = finish  # type: ignore[method-assign]
    trainer.run()
    losses = [point["values"]["loss/denoiser"] for point in watch.points]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    for key, value in method.networks["denoiser"].state_dict().items():
        assert torch.equal(value, ends["average"][key])


def test_a_loss_that_is_not_finite_is_reported(build: Build) -> None:
    method = build("sde")
    with torch.no_grad():
        next(method.networks["denoiser"].parameters()).fill_(float("nan"))
    with pytest.raises(DivergedError, match="loss/denoiser is nan at step 3"):
        make_trainer(method, Watch()).run()


@pytest.mark.slow
def test_snapshots_use_averaged_weights_and_leave_the_trained_ones(build: Build) -> None:
    method, watch = build("sde"), Watch()
    trainer = make_trainer(method, watch, snapshots=4)
    seen: list[bool] = []

    def snapshot(place: Any) -> None:
        run = trainer.run_
        assert run is not None
        average = run.averages["denoiser"].weights
        network = method.networks["denoiser"]
        seen.append(all(torch.equal(v, average[k]) for k, v in network.state_dict().items()))
        assert not network.training

    trainer.hooks.snapshot = snapshot
    trainer.run()
    assert seen == [True, True, True]


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_a_run_resumed_after_training_samples_without_dropout(build: Build, name: str) -> None:
    watch = Watch()
    make_trainer(build(name), watch).run()
    resumed = build(name)
    make_trainer(resumed, Watch()).run(watch.state)
    for network in resumed.networks.values():
        assert not network.training
        assert not any(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.slow
def test_a_run_stopped_at_its_last_step_takes_no_further_one(build: Build) -> None:
    watch = Watch(stop_at=20)
    with pytest.raises(InterruptedTrainingError):
        make_trainer(build("sde"), watch).run()
    assert watch.state["steps"] == 20
    again = make_trainer(build("sde"), Watch())
    again.run(watch.state)
    assert again.steps == 20


# -- a run whose every number is known ------------------------------------------------------------


class Plane(nn.Module):
    """``w . x``, whose gradient for an image of ones is 1 in each of 64 entries, of norm 8."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 1, bias=False)
        nn.init.zeros_(self.layer.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x.flatten(1))

    @property
    def w(self) -> float:
        assert len(set(self.layer.weight.flatten().tolist())) == 1
        return float(self.layer.weight[0, 0])


class Ramps(Method):
    """Two planes; Adam with eps = 1 moves them by ``lr g / (g + 1)`` a step, g the gradient."""

    second_order = frozenset({"b"})

    def __init__(self) -> None:
        self.a, self.b = Plane(), Plane()
        self.networks = {"a": self.a, "b": self.b}
        self.last_share = 0.25
        self.evaluated: Callable[[str], float] = lambda name: 1.0
        """Told of each loss, and a factor of it."""

    def stages(self) -> list[Stage]:
        falling = Adam(lr=0.1, eps=1, warmup_kimg=0.08, decay="cosine")
        ema = EMA(halflife_kimg=0.016, rampup_ratio=None)
        a = Objective(network="a", loss=self.loss_a, optimizer=falling, ema=ema)
        b = Objective(network="b", loss=self.loss_b, optimizer=Adam(lr=0.2, eps=1), every=2)
        late = Objective(network="b", loss=self.loss_b, optimizer=Adam(lr=0.4, eps=1), name="late")
        first = Stage(name="both", objectives=[a, b], share=0.75, identity={"module": __name__})
        return [first, Stage(name="one", objectives=[late], share=self.last_share)]

    def loss_a(self, batch: Batch) -> torch.Tensor:
        loss = self.evaluated("a") * self.a(batch.x).mean()
        batch.log("twice", 2 * loss)
        return loss

    def loss_b(self, batch: Batch) -> torch.Tensor:
        return self.evaluated("b") * self.b(batch.x).mean()

    def sample(self, n: int, **_: Any) -> torch.Tensor:
        raise NotImplementedError


def ramps(watch: Watch, *, last_share: float = 0.25, **settings: Any) -> tuple[Ramps, Trainer]:
    """The planes, and what trains them: 15 steps and 5 of 16 images of ones, unless it is told."""
    method, feed = Ramps(), make_feed(flip=True)
    method.last_share = last_share
    feed.images = torch.full_like(feed.images, 255)
    return method, make_trainer(method, watch, feed=feed, **settings)


def falling_rate(step: int) -> float:
    """Warm-up over five steps, times a cosine over fifteen."""
    return 0.1 * min(1, (step + 1) / 5) * 0.5 * (1 + math.cos(math.pi * step / 15))


@pytest.mark.parametrize(("clip", "move"), [(None, 1 / 2), (4.0, 1 / 3)])
def test_every_number_of_a_run_is_the_one_by_hand(clip: float | None, move: float) -> None:
    method, trainer = ramps(watch := Watch(), clip=clip, snapshots=4)
    told: list[dict[str, Any]] = []
    trainer.hooks.progress = told.append
    trainer.run()

    a, average = [0.0], 0.0
    for step in range(15):
        a.append(a[-1] - move * falling_rate(step))
        average = a[-1] if step == 0 else (average + a[-1]) / 2
    assert method.a.w == pytest.approx(average)
    assert method.b.w == pytest.approx(-move * (8 * 0.2 + 5 * 0.4))

    assert (trainer.steps, trainer.images, trainer.feed.drawn) == (20, 320, 320)
    step_flops = 2 * (2 * 16 * 64)  # Forward, and backward to the weights.
    assert trainer.train_flops == {
        "a": 15 * step_flops,
        "b": 8 * step_flops,
        "late": 5 * step_flops,
    }
    assert [(p["step"], p["images"], p["stage"]) for p in watch.points] == [
        *((step, 16 * step, "both") for step in (3, 5, 6, 9, 10, 12, 15)),
        *((step, 16 * step, "one") for step in (18, 20)),
    ]
    points = {point["step"]: point["values"] for point in watch.points}
    assert points[3] == pytest.approx(
        {"loss/a": 64 * sum(a[:3]) / 3, "twice": 128 * sum(a[:3]) / 3, "loss/b": -64 * move * 0.1}
    )
    assert points[20] == pytest.approx({"loss/late": -64 * move * (8 * 0.2 + 3.5 * 0.4)})
    assert [place["step"] for place in watch.snapshots] == [5, 10, 15]
    assert [p["fraction"] for p in told] == pytest.approx([step / 20 for step in range(1, 21)])
    assert told[-2]["loss"] == points[18]["loss/late"]
    assert told[2]["loss"] == pytest.approx(points[3]["loss/a"] + points[3]["loss/b"])


def test_a_network_s_own_clipping_comes_before_the_study_s() -> None:
    """Of gradients of norm 8: at 4 they move a half-sized step each, at 2 a fifth."""
    for study, moves in ((None, (1 / 3, 1 / 2)), (2.0, (1 / 3, 1 / 5))):
        method, trainer = ramps(Watch(), clip=study)
        (a, b), late = trainer.stages[0].objectives, trainer.stages[1]
        a = replace(a, optimizer=a.optimizer.model_copy(update={"clip": 4.0}), ema=None)
        trainer.stages = [replace(trainer.stages[0], objectives=[a, b]), late]
        trainer.run()
        assert method.a.w == pytest.approx(-moves[0] * sum(map(falling_rate, range(15))))
        assert method.b.w == pytest.approx(-moves[1] * (8 * 0.2 + 5 * 0.4))


def test_a_stage_s_own_batch_and_flips_come_before_the_study_s() -> None:
    """30 steps of 8 images as they are, then 5 of 16 that may be mirrored; resumed in either."""

    def begin(watch: Watch) -> tuple[Trainer, list[Any]]:
        method, trainer = ramps(watch)
        trainer.stages[0] = replace(trainer.stages[0], batch=8, flip=False)
        seen: list[Any] = []
        original = method.loss_b

        def note(batch: Batch) -> torch.Tensor:
            seen.append((len(batch.x), trainer.feed.flip))
            return original(batch)

        trainer.stages = [
            replace(
                stage,
                objectives=[
                    replace(o, loss=note) if o.network == "b" else o for o in stage.objectives
                ],
            )
            for stage in trainer.stages
        ]
        return trainer, seen

    whole, seen = begin(watch := Watch())
    whole.run()
    assert seen == [(8, False)] * 15 + [(16, True)] * 5
    assert (whole.steps, whole.images, whole.feed.drawn) == (35, 320, 320)
    assert {p["images"] / p["step"] for p in watch.points if p["stage"] == "both"} == {8}
    for stop_at, left in ((7, [(8, False)] * 11 + [(16, True)] * 5), (32, [(16, True)] * 3)):
        with pytest.raises(InterruptedTrainingError):
            begin(first := Watch(stop_at))[0].run()
        again, seen = begin(Watch())
        again.run(first.state)
        assert seen == left
        assert (again.steps, again.images, again.feed.drawn) == (35, 320, 320)
        for key, value in weights(whole.method).items():
            assert torch.equal(value, weights(again.method)[key]), key


def test_a_logged_ratio_is_that_of_the_means() -> None:
    """1, 2, 3 over 4, 1, 1 have a ratio of 1, where the mean of the ratios is 7/4.

    What would be divided by 0 is left out; a run may be stopped within an interval.
    """
    numbers = {0: (1.0, 4.0), 1: (2.0, 1.0), 2: (3.0, 1.0)}

    def begin(watch: Watch) -> Trainer:
        method, trainer = ramps(watch)

        def loss(batch: Batch) -> torch.Tensor:
            value, over = numbers[trainer.steps % 3]
            batch.log("ratio", torch.tensor(value), over=torch.tensor(over))
            batch.log("lost", torch.tensor(value), over=torch.tensor(0.0))
            return method.a(batch.x).mean()

        a = replace(trainer.stages[0].objectives[0], loss=loss)
        trainer.stages = [replace(trainer.stages[0], objectives=[a])]
        return trainer

    begin(watch := Watch()).run()
    with pytest.raises(InterruptedTrainingError):
        begin(first := Watch(7)).run()
    begin(second := Watch()).run(first.state)
    assert [point["values"].keys() for point in watch.points] == [{"loss/a", "ratio"}] * 5
    assert [point["values"]["ratio"] for point in watch.points] == [1.0] * 5
    values = [point["values"] for point in first.points + second.points]
    assert values == [point["values"] for point in watch.points]


def test_a_budget_in_flops_counts_rarer_objectives_by_their_share() -> None:
    """A step of the first stage has 1.5 evaluations, one of the second has one."""
    _, trainer = ramps(Watch(), budget=f"{40 * 4096}flop")
    trainer.run()
    assert trainer.steps == 30 / 1.5 + 10


def test_a_stage_taken_over_leaves_what_training_it_does() -> None:
    """Another cell goes on from the shared stage: same weights, counts and order, charged."""
    kept: dict[str, Any] = {}

    class Place:
        def load(self) -> Any:
            return kept.get("result")

        def save(self, result: Any) -> None:
            kept["result"] = result

    trainers = []
    for _ in range(2):
        method, trainer = ramps(watch := Watch(), snapshots=7)
        trainer.hooks.shared = lambda stage: nullcontext(Place())
        trainer.run()
        trainers.append((method, trainer, watch))
    (whole, first, _), (taken, second, watch) = trainers
    assert {point["step"] for point in watch.points} == {18, 20}
    assert [place["step"] for place in watch.snapshots] == [18]
    assert (taken.a.w, taken.b.w) == (whole.a.w, whole.b.w)
    for name in ("steps", "images", "snapshots", "last_loss", "train_flops"):
        assert getattr(second, name) == getattr(first, name), name
    assert second.feed.drawn == first.feed.drawn
    assert torch.equal(second.generator.get_state(), first.generator.get_state())
    result = kept["result"]
    assert second.ledger.totals()["charged"] == pytest.approx(
        result["seconds"] + result["compile_seconds"]
    )
    assert min(result["seconds"], result["compile_seconds"]) > 0


def test_a_stopped_run_goes_on_with_all_that_it_had() -> None:
    """Stopped in either stage: random images, and losses that draw from three generators."""

    def begin(watch: Watch) -> tuple[Ramps, Trainer]:
        method, trainer = ramps(watch, snapshots=4)
        trainer.feed.images = make_feed().images
        method.evaluated = lambda name: float(
            1 + random.random() + np.random.rand() + torch.rand(())
        )
        return method, trainer

    whole, trainer = begin(watch := Watch())
    trainer.run()
    for stop_at in (7, 17):
        with pytest.raises(InterruptedTrainingError):
            begin(first := Watch(stop_at))[1].run()
        checkpoint.seed_everything(99)  # What another process would have.
        resumed, again = begin(second := Watch())
        again.run(first.state)
        for key, value in weights(whole).items():
            assert torch.equal(value, weights(resumed)[key]), key
        assert again.train_flops == trainer.train_flops
        values = [point["values"] for point in first.points + second.points]
        assert values == [point["values"] for point in watch.points]
        assert len(first.snapshots + second.snapshots) == len(watch.snapshots) == 3
        assert second.state["steps"] == 20


class Clock:
    """A clock that each evaluation of a loss moves on by a second."""

    now = 0.0

    def __call__(self) -> float:
        return self.now

    def tick(self, name: str) -> float:
        self.now += 1
        return 1.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("bench.costs.ledger.time.perf_counter", clock)
    return clock


@pytest.mark.parametrize(("compiled", "charged"), [(False, (25, 3)), (True, (23, 5))])
def test_steps_that_count_and_compile_are_not_charged_to_training(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, compiled: bool, charged: tuple[int, int]
) -> None:
    """Of 28 evaluations the first of each objective counts FLOPs, the next step compiles.

    What has second derivatives is not compiled, and after a stage nothing is.
    """
    compiles: list[nn.Module] = []

    def compile_(self: nn.Module) -> None:
        compiles.append(self)

    monkeypatch.setattr(Plane, "compile", compile_)
    method, trainer = ramps(Watch(), compile=compiled)
    method.a._compiled_call_impl = method.a._call_impl  # type: ignore[assignment]
    method.evaluated = clock.tick
    trainer.run()
    totals = trainer.ledger.totals()
    assert (totals["train"], totals["compile"]) == charged
    assert compiles == ([method.a] if compiled else [])
    assert method.a._compiled_call_impl is None


def test_a_budget_in_seconds_is_of_training_alone(clock: Clock) -> None:
    """Evaluations take a second, those of odd steps one and of even steps two, the first none."""
    method, trainer = ramps(Watch(), budget="20s", last_share=0.5)
    told: list[float] = []
    trainer.hooks.progress = lambda place: told.append(place["fraction"])
    method.evaluated = clock.tick
    trainer.run()
    seconds = [0, 1, 3, 4, 6, 7, 9, 10, 12, 13, 15]  # Of 20 times 0.75, then of 20 times 0.5.
    assert told == pytest.approx([s / 25 for s in seconds] + [(15 + s) / 25 for s in range(11)])


def test_a_stage_of_seconds_is_never_more_than_done(clock: Clock) -> None:
    method, trainer = ramps(Watch(), budget="2s")
    told: list[float] = []
    trainer.hooks.progress = lambda place: told.append(place["fraction"])
    method.evaluated = clock.tick
    trainer.run()
    assert told == pytest.approx([0, 1 / 2, 0.75, 0.75, 1])


def test_long_stages_have_the_steps_of_their_budget() -> None:
    _, trainer = ramps(Watch(), budget="64kimg")
    (run, _) = (begin_stage(stage, trainer.method.networks) for stage in trainer.stages)
    assert trainer.total_steps(run) == 3000


def test_checkpoints_are_written_when_due_and_at_the_end() -> None:
    _, trainer = ramps(Watch())
    trainer.settings = trainer.settings.model_copy(update={"log_kimg": 0.001})
    states: list[Any] = []
    trainer.hooks.checkpoint = lambda state: states.append(state["steps"])
    points: list[Any] = []
    trainer.hooks.log = points.append
    trainer.pace = cast(Any, SimpleNamespace(is_due=True, saving=nullcontext))
    trainer.run()
    assert states == [*range(1, 21), 20]
    assert [point["step"] for point in points] == list(range(1, 21))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_losses_are_taken_in_the_precision_asked_for(precision: str) -> None:
    """And no other network's weights ask for gradients meanwhile; snapshots drop nothing out."""
    method, trainer = ramps(Watch(), precision=precision, snapshots=4)

    def look(name: str) -> float:
        assert torch.is_autocast_enabled("cpu") == (precision == "bf16")
        for key, network in method.networks.items():
            assert network.layer.weight.requires_grad == (key == name)  # type: ignore[union-attr]
            assert network.training
        return 1.0

    def snapshot(place: Any) -> None:
        assert not any(network.training for network in method.networks.values())

    method.evaluated = look
    trainer.stages = trainer.stages[:1]
    trainer.hooks.snapshot = snapshot
    trainer.run()


# -- pieces -----------------------------------------------------------------------------------


def test_every_image_comes_once_an_epoch() -> None:
    feed, generator = make_feed(batch=15, n=50), torch.Generator()
    feed.labels = torch.arange(50)
    drawn = torch.cat([feed.next(generator).labels for _ in range(10)])  # type: ignore[misc]
    assert Counter(drawn.tolist()) == dict.fromkeys(range(50), 3)
    assert drawn[:50].tolist() != drawn[50:100].tolist()


def test_a_batch_may_be_larger_than_the_data() -> None:
    batch = make_feed(batch=120, n=50).next(torch.Generator())
    assert batch.x.shape == (120, 1, 8, 8)
    assert float(batch.x.min()) >= -1
    assert float(batch.x.max()) <= 1


def test_images_up_to_the_limit_lie_on_the_device_and_others_do_not() -> None:
    images = np.zeros((3, 1, 8, 8), np.uint8)
    for resident, kind in ((images.nbytes, torch.Tensor), (images.nbytes - 1, np.ndarray)):
        feed = Feed(images, None, batch=2, flip=False, seed=0, resident=resident)
        assert isinstance(feed.images, kind)
        assert feed.device == CPU
        assert feed.next(torch.Generator()).labels is None


@pytest.mark.parametrize("resident", [0, 2**30])
def test_labels_are_their_images_and_all_go_to_the_device(resident: int) -> None:
    images = np.arange(50, dtype=np.uint8).reshape(50, 1, 1, 1) * np.ones((1, 1, 8, 8), np.uint8)
    feed = Feed(images, np.arange(50), batch=20, flip=False, seed=0, resident=resident)
    batch = feed.next(torch.Generator())
    assert batch.labels is not None
    assert torch.equal(((batch.x[:, 0, 0, 0] + 1) * 127.5).round().long(), batch.labels)
    meta = torch.device("meta")
    feed = Feed(images, np.arange(50), batch=20, flip=False, seed=0, device=meta, resident=resident)
    batch = feed.next(torch.Generator())
    assert batch.labels is not None
    assert (batch.x.device, batch.labels.device) == (meta, meta)
    given = Feed(torch.from_numpy(images).to(meta), None, batch=20, flip=False, seed=0)
    assert given.next(torch.Generator()).x.device == given.device == meta


def test_flips_mirror_half_the_images() -> None:
    feed = make_feed(batch=1000, n=1, flip=True)
    x = feed.next(torch.Generator().manual_seed(0)).x
    original = feed.images[0].float() / 127.5 - 1
    same = (x == original).flatten(1).all(1)
    mirrored = (x == original.flip(2)).flatten(1).all(1)
    assert bool((same ^ mirrored).all())
    assert float(mirrored.float().mean()) == pytest.approx(0.5, abs=0.06)


def test_the_average_has_its_half_life() -> None:
    """A network that jumps from 0 to 1 is at 1/2 in its average after one half-life."""
    network = nn.Linear(1, 1)
    nn.init.zeros_(network.weight)
    average = MovingAverage(network, EMA(halflife_kimg=1, rampup_ratio=None))
    average.update(network, 0, 10)
    nn.init.ones_(network.weight)
    for step in range(100):
        average.update(network, 10_000 + 10 * step, 10)
    assert float(average.weights["weight"]) == pytest.approx(0.5, abs=1e-3)


def test_the_average_ramps_up() -> None:
    """Early on the half-life is a fraction of the images seen: the average keeps near."""
    network = nn.Linear(1, 1)
    nn.init.zeros_(network.weight)
    average = MovingAverage(network, EMA(halflife_kimg=500, rampup_ratio=0.05))
    average.update(network, 10, 10)
    nn.init.ones_(network.weight)
    average.update(network, 200, 10)
    assert float(average.weights["weight"]) == pytest.approx(0.5, abs=1e-3)


def test_learning_rates() -> None:
    warm = Adam(lr=1.0, warmup_kimg=1)
    assert learning_rate(warm, 500, 0.1) == pytest.approx(0.5)
    assert learning_rate(warm, 5000, 0.9) == 1
    cosine = Adam(lr=1.0, decay="cosine")
    assert [learning_rate(cosine, 1, p) for p in (0, 0.5, 1)] == pytest.approx([1, 0.5, 0])
    both = Adam(lr=1.0, warmup_kimg=1, decay="cosine")
    assert learning_rate(both, 500, 0.5) == pytest.approx(0.25)
    assert learning_rate(both, 2000, 0.5) == pytest.approx(0.5)


def test_the_average_follows_at_once_at_first_and_takes_buffers_as_they_are() -> None:
    """Two images in, the half-life is a tenth of an image: 2^-10 of the old weight is left."""
    network = nn.BatchNorm1d(1)
    nn.init.zeros_(network.weight)
    average = MovingAverage(network, EMA(halflife_kimg=500, rampup_ratio=0.05))
    average.update(network, 1, 1)
    nn.init.ones_(network.weight)
    nn.init.constant_(network.running_mean, 3)  # type: ignore[arg-type]
    average.update(network, 2, 1)
    assert float(average.weights["weight"]) == pytest.approx(1 - 2**-10)
    assert float(average.weights["running_mean"]) == 3
    assert not any(parameter.requires_grad for parameter in average.model.parameters())


def test_a_stage_trains_the_networks_it_names_and_freezes_the_others() -> None:
    method = Ramps()
    first, second = (begin_stage(stage, method.networks) for stage in method.stages())
    assert (set(first.optimizers), set(first.averages)) == ({"a", "b"}, {"a"})
    assert (set(second.optimizers), set(second.averages)) == ({"b"}, set())
    assert (method.b.training, method.b.layer.weight.requires_grad) == (True, True)
    assert (method.a.training, method.a.layer.weight.requires_grad) == (False, False)


def test_precision_is_bfloat16_where_it_is_asked_for() -> None:
    a = torch.ones(2, 2)
    for precision, expected in {"bf16": torch.bfloat16, "fp32": torch.float32}.items():
        with autocast(CPU, precision):
            assert (a @ a).dtype == expected


def test_networks_lie_as_convolutions_are_fastest(build: Build) -> None:
    method = build("sde")
    assert move(method, CPU) is method
    kernels = [w for w in method.denoiser.parameters() if w.dim() == 4 and min(w.shape[1:]) > 1]
    assert kernels
    assert all(w.is_contiguous(memory_format=torch.channels_last) for w in kernels)
    assert move(Ramps(), torch.device("meta")).a.layer.weight.is_meta  # type: ignore[attr-defined]


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_the_optimizer_is_adam_as_asked_for_and_adamw_where_weights_decay(decay: float) -> None:
    """Two steps by hand, with gradients 3 and 1 (Kingma & Ba 2015; Loshchilov & Hutter 2019)."""
    network = nn.Linear(1, 1, bias=False)
    nn.init.ones_(network.weight)
    settings = Adam(lr=0.1, betas=(0.5, 0.8), eps=0.7, weight_decay=decay)
    optimizer = make_optimizer(settings, network)
    expected, m, v = 1.0, 0.0, 0.0
    for step, gradient in enumerate((3.0, 1.0), 1):
        network.weight.grad = torch.full((1, 1), gradient)
        optimizer.step()
        m, v = 0.5 * m + 0.5 * gradient, 0.8 * v + 0.2 * gradient**2
        expected -= 0.1 * decay * expected
        expected -= 0.1 * m / (1 - 0.5**step) / (math.sqrt(v / (1 - 0.8**step)) + 0.7)
    assert network.weight.item() == pytest.approx(expected)


def test_the_ledger_balances(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock of our own: nested parts are charged once, carried seconds are kept."""
    clock = [100.0]
    monkeypatch.setattr("bench.costs.ledger.time.perf_counter", lambda: clock[0])
    ledger = Ledger(CPU, carried={"train": 2.0, "wall": 3.0, "other": 1.0})
    clock[0] += 5
    with ledger.part("train"):
        clock[0] += 30
        with ledger.part("log"):
            clock[0] += 20
        clock[0] += 10
        assert ledger.elapsed("train") == 42
    totals = ledger.totals()
    assert set(totals) == {*PARTS, "wall", "charged", "lost"}
    assert (totals["train"], totals["log"], totals["other"]) == (42, 20, 6)
    assert sum(totals[part] for part in PARTS) == totals["wall"] == 68


def test_a_new_ledger_is_empty_but_for_the_time_since_the_process_began(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bench.costs.ledger.time.perf_counter", lambda: 100.0)
    ledger = Ledger(CPU, started=93.0)
    assert ledger.elapsed("other") == 7
    assert ledger.elapsed("train") == 0
    assert ledger.totals() == dict.fromkeys([*PARTS, "charged", "lost"], 0) | {
        "other": 7,
        "wall": 7,
    }


def test_a_part_waits_for_the_device_at_both_edges(monkeypatch: pytest.MonkeyPatch) -> None:
    device, said = torch.device("cuda", 1), []
    monkeypatch.setattr(torch.cuda, "synchronize", said.append)
    with Ledger(device).part("train"):
        assert said == [device]
    assert said == [device, device]
    with Ledger(CPU).part("train"):
        assert len(said) == 2


def test_all_that_came_before_a_first_checkpoint_is_lost() -> None:
    ledger = Ledger(CPU, spent=5.0)
    assert ledger.lost == ledger.totals()["lost"] == 5


def test_the_ledger_counts_what_a_kill_has_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """What processes took beyond what they kept is ``other``; another cell's work is none of it."""
    clock = [0.0]
    monkeypatch.setattr("bench.costs.ledger.time.perf_counter", lambda: clock[0])
    ledger = Ledger(CPU)
    with ledger.part("train"):
        clock[0] += 10
    ledger.charge("train", 50.0)
    kept = ledger.totals()
    assert (kept["train"], kept["charged"], kept["wall"]) == (60, 50, 60)
    clock[0] += 7  # Killed 7 s after its checkpoint.
    resumed = Ledger(CPU, carried=kept, spent=17.0)
    assert resumed.lost == 7
    clock[0] += 2
    totals = resumed.totals()
    assert (totals["train"], totals["other"], totals["wall"]) == (60, 9, 69)
    # Killed again before another checkpoint: all of that is lost too.
    assert Ledger(CPU, carried=kept, spent=19.0).lost == 9
    # A checkpoint at the very end has lost nothing more.
    again = Ledger(CPU, carried=totals, spent=19.0)
    assert (again.lost, again.totals()["lost"]) == (0, 7)


def test_a_timing_s_interval_holds_its_median() -> None:
    summary = interval([1.0, 2.0, 3.0, 4.0, 100.0], batch=8)
    assert (summary.median, summary.q25, summary.q75) == (3, 2, 4)
    assert summary.low <= 3 <= summary.high
    assert summary.repeats == 5
    assert math.isfinite(summary.high)


def test_generators_threads_and_precision_are_left_as_they_were() -> None:
    """Whatever is done inside, and however it ends."""

    def states() -> tuple[Any, ...]:
        numpy = np.random.get_state()
        return (
            random.getstate(), numpy[1].tolist(), numpy[2:], torch.get_rng_state().tolist(),
            torch.get_num_threads(), torch.get_float32_matmul_precision(),
            torch.backends.cudnn.allow_tf32,
        )  # fmt: skip

    # Half of a pair of normal numbers is kept for the next call: it is part of the state.
    np.random.standard_normal()
    random.gauss()
    before = states()

    def change() -> list[float]:
        checkpoint.seed_everything(2**33 + 7)
        drawn = [random.random(), float(np.random.rand())]
        torch.set_num_threads(torch.get_num_threads() + 1)
        torch.set_float32_matmul_precision("medium")
        torch.backends.cudnn.allow_tf32 = not torch.backends.cudnn.allow_tf32
        assert all(a != b for a, b in zip(states(), before, strict=True))
        return drawn

    with checkpoint.generators_kept():
        within = change()
    assert states() == before
    with suppress(ZeroDivisionError), checkpoint.generators_kept():
        change()
        raise ZeroDivisionError
    assert states() == before
    # numpy takes 32 bits of a seed.
    assert within[1] == np.random.RandomState(7).rand()
    assert within[0] == random.Random(2**33 + 7).random()
