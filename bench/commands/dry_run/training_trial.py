"""What training costs: the cell's own trainer makes a few steps, of which its budget is made up."""

import math
import statistics
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise

from bench.commands.dry_run.candidate import Attempts, grown
from bench.config import Budget
from bench.costs.ledger import Ledger, synchronize
from bench.training.hooks import Hooks, InterruptedTrainingError
from bench.training.optimizing import StageRun
from bench.training.trainer import Trainer
from bench.worker.build import Built
from bench.worker.train import feed_of
from methods.base import Objective, Stage

STEPS, STEPS_SECONDS = 3, 0.4
"""Steps that are timed at least, and seconds of them where all images are tried."""
SLOW = 2.0
"""Seconds of a first step, which counts FLOPs, after which there is no second one."""
ENDLESS = Budget(amount=1e12, unit="kimg")
IDLE = Hooks(
    log=lambda point: None,
    snapshot=lambda place: None,
    checkpoint=lambda state: None,
    progress=lambda place: None,
    stopping=lambda: False,
)
"""Nothing is kept of a rehearsal."""


@dataclass(frozen=True)
class Updates:
    """One update by each of some objectives of a stage, at the true batch."""

    every: int
    flops: Mapping[str, float]
    """By the objectives' labels."""
    seconds: float
    told: str


@dataclass(frozen=True)
class StageCost:
    """FLOPs and seconds of a whole stage; ``nan`` is what is not known."""

    flops: float = math.nan
    seconds: float = math.nan
    told: Sequence[str] = ()


def make_trainer(built: Built, budget: Budget, hooks: Hooks = IDLE) -> Trainer:
    """A trainer as a cell has it, which compiles nothing and leaves nothing."""
    return Trainer(
        built.method,
        feed_of(built),
        settings=built.config.training.model_copy(update={"compile": False, "snapshots": 0}),
        budget=budget,
        seed=0,
        ledger=Ledger(built.device),
        hooks=hooks,
    )


def cost_of_stage(built: Built, stage: Stage, attempt: Attempts) -> StageCost:
    """Try the steps of a stage, and scale them to its share of the budget."""
    parts = []
    # Objectives that run equally often are tried together; a rare one would else hardly be seen.
    for every in sorted({objective.every for objective in stage.objectives}):
        group = [objective for objective in stage.objectives if objective.every == every]
        labels = ", ".join(objective.label for objective in group)
        parts.append(attempt(f"steps of '{labels}'", None, try_updates, built, group))
    known = [part for part in parts if part is not None]
    return scaled_up(built, stage, known) if len(known) == len(parts) else StageCost()


def try_updates(built: Built, group: Sequence[Objective]) -> Updates:
    """Time updates and count their FLOPs, which are proportional to the images of a batch."""
    settings, flops = built.config.training, dict[str, float]()
    true = settings.batch

    def attempt(size: int) -> float:
        rehearsed = Rehearsal(built, group, size)
        flops.update({name: each * true / size for name, each in rehearsed.flops.items()})
        return rehearsed.seconds

    trial = grown(attempt, true, built.device)
    told = trial.told("steps", true) + (" uncompiled" if settings.compile else "")
    return Updates(group[0].every, flops, trial.of(true), told)


class Rehearsal:
    """A few steps of some objectives by a trainer with ``size`` images a batch."""

    def __init__(self, built: Built, group: Sequence[Objective], size: int) -> None:
        hooks = replace(IDLE, progress=self._note, stopping=self._is_over)
        self.trainer = trainer = make_trainer(built, ENDLESS, hooks)
        self.is_whole = size == trainer.feed.batch
        self.marks: list[float] = []
        trainer.feed.batch = size
        objectives = [replace(objective, every=1) for objective in group]
        trainer.stages = [Stage(name="rehearsal", objectives=objectives)]
        with suppress(InterruptedTrainingError):
            trainer.run()
        assert trainer.run_ is not None
        self.flops = trainer.run_.flops

    def _note(self, place: object) -> None:
        synchronize(self.trainer.device)
        assert self.trainer.run_ is not None
        self.marks.append(self.trainer.run_.seconds)

    def _is_over(self) -> bool:
        if len(self.marks) == 1:
            return self.first_seconds > SLOW
        wanted = STEPS_SECONDS if self.is_whole else 0.0
        return self.marks[-1] > (wanted if len(self.marks) > STEPS else 2 * STEPS_SECONDS)

    @property
    def first_seconds(self) -> float:
        """Seconds of the first step, which counts FLOPs."""
        return self.trainer.ledger.elapsed("compile")

    @property
    def seconds(self) -> float:
        """Seconds of a step by the trainer's ledger, the median of all but the first.

        Of few images the least: a busy machine makes what is short look long.
        """
        steps = [after - before for before, after in pairwise(self.marks)] or [self.first_seconds]
        return statistics.median(steps) if self.is_whole else min(steps)


def scaled_up(built: Built, stage: Stage, parts: Sequence[Updates]) -> StageCost:
    """The cost of all steps that the trainer would make of the stage."""
    budget = built.config.settings.budget
    flops = {name: each for part in parts for name, each in part.flops.items()}
    step_seconds = sum(part.seconds / part.every for part in parts)
    told = list(dict.fromkeys(part.told for part in parts))
    steps = make_trainer(built, budget).total_steps(StageRun(stage, {}, {}, flops=flops))
    if steps is None:
        seconds = budget.amount * stage.share
        steps = max(1, round(seconds / step_seconds))
        told.insert(0, "the budget is the time")
    else:
        seconds = steps * step_seconds
    # Each objective runs at the first step, and at each ``every``-th after it.
    done = (flops[o.label] * math.ceil(steps / o.every) for o in stage.objectives)
    return StageCost(sum(done), seconds, told)
