"""What training costs: FLOPs of each stage, and seconds of a step on this device."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise

from bench.config.schema import Budget
from bench.costs.flops import count_flops
from bench.costs.ledger import Ledger, synchronize
from bench.estimate.subject import ShapesOnly, Subject, counting_on_meta, grown
from bench.training import Feed, Hooks, InterruptedTrainingError, StageRun, Trainer
from methods.base import Batch, Method, Objective, Stage

STEP_SECONDS = 0.15
"""What a step on a CPU should take at least to be timed: of fewer images than the true batch."""
TIMED_SECONDS = 0.4
TIMED_STEPS = 3
LONGEST_STEP = 2.0
"""Seconds above which a step is not tried."""
BY_FLOPS = "steps by FLOPs at the speed of draws"
ENDLESS = Budget(amount=1e12, unit="kimg")
IDLE = Hooks(
    log=lambda point: None,
    snapshot=lambda place: None,
    checkpoint=lambda state: None,
    progress=lambda place: None,
    stopping=lambda: False,
)
"""Nothing is kept of an estimate's training."""


@dataclass(frozen=True)
class StageCost:
    """What one stage of a whole training costs."""

    flops: float | None
    seconds: float | None
    told: str
    """How the seconds are known."""


@dataclass(frozen=True)
class Update:
    """What one update by one objective costs at the true batch, and how that is known."""

    flops: float | None
    seconds: float | None
    told: str


Updates = Mapping[str, Update]
"""By the objectives' labels."""


# -- FLOPs ----------------------------------------------------------------------------------------


def count_update(subject: Subject, method: Method, stage: Stage, objective: Objective) -> float:
    """FLOPs of one evaluation of an objective and of its gradient."""
    trained = {each.network for each in stage.objectives}
    for name, network in method.networks.items():
        network.train(name in trained).requires_grad_(name == objective.network)
    size = subject.training.batch
    batch = Batch(x=subject.images(size), labels=subject.labels(size), generator=ShapesOnly())

    def update() -> None:
        objective.loss(batch).backward()  # type: ignore[no-untyped-call]

    with counting_on_meta():
        return count_flops(update)[1]


# -- seconds --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Timed:
    """Updates that the trainer made with one objective."""

    size: int
    """Images each."""
    seconds: float
    """Of one, the median."""
    steps: int
    flops: float
    """Of one, as the trainer counted."""


def cost_of_update(
    subject: Subject, method: Method, objective: Objective, flops: float | None, speed: float | None
) -> Update:
    """Time an objective's updates; ``flops`` of one and the ``speed`` of a forward pass, if known.

    An accelerator takes the true batch. A CPU takes as many images as fill a fraction of a second,
    and where one image takes too long, the FLOPs are divided by the speed.
    """
    true = subject.training.batch
    size = true
    if subject.device.type == "cpu":
        image = flops / true / speed if flops is not None and speed is not None else None
        if image is not None and image > LONGEST_STEP:
            assert flops is not None
            return Update(flops, image * true, BY_FLOPS)
        size = 1 if image is None else min(true, max(1, int(STEP_SECONDS / image)))
    found = time_updates(subject, method, objective, size)
    while found.seconds < STEP_SECONDS / 2 and size < true:
        size = grown(size, found.seconds, STEP_SECONDS, true)
        found = time_updates(subject, method, objective, size)
    told = f"steps of {size} timed" + ("" if size == true else f" for {true}")
    counted = flops if flops is not None and size != true else found.flops * true / size
    return Update(counted, found.seconds * true / size, told)


def time_updates(subject: Subject, method: Method, objective: Objective, size: int) -> Timed:
    """Let the trainer run one objective for a moment, with batches of ``size``."""
    moments: list[float] = []

    def note(place: object) -> None:
        synchronize(subject.device)
        moments.append(time.perf_counter())

    trainer = make_trainer(
        subject,
        method,
        size,
        ENDLESS,
        replace(IDLE, progress=note, stopping=lambda: enough(moments)),
    )
    # Each on its own and at every step: a rare one would hardly be seen.
    trainer.stages = [Stage(name="timed", objectives=[replace(objective, every=1)])]
    with suppress(InterruptedTrainingError):
        trainer.run()
    assert trainer.run_ is not None
    # The first step counts FLOPs, which takes longer.
    steps = [after - before for before, after in pairwise(moments)]
    flops = trainer.run_.flops[objective.label]
    return Timed(size, statistics.median(steps), len(steps), flops)


def enough(moments: Sequence[float]) -> bool:
    """Whether enough steps have been timed: some, or fewer that take long."""
    if len(moments) < 2:
        return False
    limit = TIMED_SECONDS if len(moments) > TIMED_STEPS else 2 * TIMED_SECONDS
    return moments[-1] - moments[0] > limit


def make_trainer(
    subject: Subject, method: Method, size: int, budget: Budget, hooks: Hooks
) -> Trainer:
    """A trainer as a cell has it, but for the size of a batch and a feed of one batch."""
    train = subject.dataset.train
    feed = Feed(
        train.images[:size],
        None if train.labels is None else train.labels[:size],
        device=subject.device,
        batch=size,
        flip=subject.training.flip,
        seed=0,
    )
    return Trainer(
        method,
        feed,
        settings=subject.training.model_copy(update={"compile": False, "snapshots": 0}),
        budget=budget,
        seed=0,
        ledger=Ledger(subject.device),
        hooks=hooks,
    )


# -- a whole stage --------------------------------------------------------------------------------


def cost_of_stage(subject: Subject, method: Method, stage: Stage, updates: Updates) -> StageCost:
    """What a stage costs by the budget, given what each objective's updates cost."""
    told = "; ".join(dict.fromkeys(update.told for update in updates.values()))
    seconds = seconds_per_step(stage, updates)
    budget = subject.settings.budget
    if budget.unit == "s":
        steps = None if seconds is None else max(1, round(budget.amount * stage.share / seconds))
        spent: float | None = budget.amount * stage.share
        told = f"the budget is the time; {told}"
    else:
        steps = total_steps(subject, method, stage, updates)
        spent = None if seconds is None or steps is None else steps * seconds
    return StageCost(None if steps is None else total_flops(stage, updates, steps), spent, told)


def seconds_per_step(stage: Stage, updates: Updates) -> float | None:
    """Mean seconds of a step, rarer objectives by their frequency; ``None`` if one is unknown."""
    parts = [(updates[o.label].seconds, o.every) for o in stage.objectives]
    return known_sum(None if seconds is None else seconds / every for seconds, every in parts)


def total_steps(subject: Subject, method: Method, stage: Stage, updates: Updates) -> int | None:
    """Steps of a stage by the trainer's own rule; ``None`` if that needs FLOPs not known."""
    trainer = make_trainer(subject, method, subject.training.batch, subject.settings.budget, IDLE)
    flops = {label: u.flops for label, u in updates.items() if u.flops is not None}
    return trainer.total_steps(StageRun(stage, {}, {}, flops=flops))


def total_flops(stage: Stage, updates: Updates, steps: int) -> float | None:
    """FLOPs of so many steps: each objective runs at the first of them, and each ``every``-th."""
    parts = [(updates[o.label].flops, math.ceil(steps / o.every)) for o in stage.objectives]
    return known_sum(None if flops is None else flops * times for flops, times in parts)


def known_sum(values: Iterable[float | None]) -> float | None:
    """The sum; ``None`` if one of the values is."""
    total = 0.0
    for value in values:
        if value is None:
            return None
        total += value
    return total
