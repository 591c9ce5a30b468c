"""What training, sampling and evaluation cost: a little of each is timed, and scaled up."""

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from bench import metrics
from bench.commands.dry_run.candidate import ENOUGH, FEW, Attempts, Candidate, Trial, grown
from bench.config import Budget, UserError
from bench.costs.ledger import Ledger, synchronize
from bench.data.dataset import Split
from bench.metrics import classification_score as cas
from bench.metrics import extractors
from bench.metrics.extractors.classifier import tensors
from bench.metrics.features import extract
from bench.metrics.references import is_stored, selected_rows
from bench.sampling.source import Source, count_sampling, timed
from bench.training.optimizing import StageRun
from bench.training.trainer import Hooks, InterruptedTrainingError, Trainer
from bench.worker.build import Built, data_spec
from bench.worker.run import feed_of
from methods.base import Objective, Stage

STEPS, STEPS_SECONDS = 3, 0.4
"""Steps that are timed at least, and seconds of them where all images are tried."""
SLOW_STEP = 2.0
"""Seconds of a first step, which counts FLOPs, after which there is no second one."""
ENDLESS = Budget(amount=1e12, unit="kimg")
REPEATS, SLOW_BATCH = 3, 1.0
"""Batches that are timed, and seconds of one after which no other is drawn."""
EVALUATION_SECONDS = 6.0
MOST_IMAGES = 1024
"""Images that an extractor is tried on, at most."""
CAS_STEPS = (1, 3)
"""Steps of the classifier that are tried: the first to warm up."""


@dataclass(frozen=True)
class StageCost:
    """FLOPs and seconds of a whole stage; ``nan`` is what is not known."""

    flops: float = math.nan
    seconds: float = math.nan
    told: Sequence[str] = ()


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


Updates = tuple[Mapping[str, float], float, str]
"""FLOPs of an update by each of some objectives, their seconds a step, and what was tried."""


def try_updates(built: Built, group: Sequence[Objective]) -> Updates:
    """Time updates and count their FLOPs, which are proportional to the images of a batch."""
    settings, flops = built.config.training, dict[str, float]()
    true = settings.batch

    def attempt(size: int) -> float:
        counted, seconds = few_steps(built, group, size)
        flops.update({name: each * true / size for name, each in counted.items()})
        return seconds

    trial = grown(attempt, true, built.device)
    told = trial.told("steps", true) + (" uncompiled" if settings.compile else "")
    return flops, trial.of(true) / group[0].every, told


def few_steps(
    built: Built, group: Sequence[Objective], size: int
) -> tuple[Mapping[str, float], float]:
    """FLOPs and seconds of a step of some objectives with ``size`` images, by a trainer's ledger.

    The first step, which counts FLOPs, tells the time where there is no other.
    """
    marks: list[float] = []

    def note(place: object) -> None:
        synchronize(built.device)
        assert trainer.run_ is not None
        marks.append(trainer.run_.seconds)

    def is_over() -> bool:
        if len(marks) == 1:
            return trainer.ledger.elapsed("compile") > SLOW_STEP
        wanted = STEPS_SECONDS if is_whole else 0.0
        return marks[-1] > (wanted if len(marks) > STEPS else 2 * STEPS_SECONDS)

    trainer = make_trainer(built, ENDLESS, Hooks(progress=note, stopping=is_over))
    is_whole = size == trainer.feed.batch
    trainer.feed.batch = size
    trainer.stages = [Stage(name="rehearsal", objectives=[replace(o, every=1) for o in group])]
    with suppress(InterruptedTrainingError):
        trainer.run()
    assert trainer.run_ is not None
    steps = [after - before for before, after in pairwise(marks)]
    steps = steps or [trainer.ledger.elapsed("compile")]
    # Of few images the least: a busy machine makes what is short look long.
    return trainer.run_.flops, statistics.median(steps) if is_whole else min(steps)


def make_trainer(built: Built, budget: Budget, hooks: Hooks) -> Trainer:
    """A trainer as a cell has it, which compiles nothing and leaves nothing."""
    settings = built.config.training.model_copy(update={"compile": False, "snapshots": 0})
    return Trainer(
        built.method, feed_of(built), settings=settings, budget=budget, seed=0,
        ledger=Ledger(built.device), hooks=hooks,
    )  # fmt: skip


def scaled_up(built: Built, stage: Stage, parts: Sequence[Updates]) -> StageCost:
    """The cost of all steps that the trainer would make of the stage."""
    budget = built.config.settings.budget
    flops = {name: each for counted, _, _ in parts for name, each in counted.items()}
    step_seconds = sum(seconds for _, seconds, _ in parts)
    told = list(dict.fromkeys(told for _, _, told in parts))
    steps = make_trainer(built, budget, Hooks()).total_steps(StageRun(stage, {}, {}, flops=flops))
    seconds = budget.amount * stage.share if steps is None else steps * step_seconds
    if steps is None:
        steps = max(1, round(seconds / step_seconds))
        told.insert(0, "the budget is the time")
    # Each objective runs at the first step, and at each ``every``-th after it.
    done = (flops[o.label] * math.ceil(steps / o.every) for o in stage.objectives)
    return StageCost(sum(done), seconds, told)


@dataclass(frozen=True)
class DrawCost:
    """What an image costs by the whole sampler, in a batch and alone."""

    flops: float
    evaluation_flops: float
    """Of one evaluation of the denoiser."""
    seconds: float
    """At the protocol's batch."""
    single_seconds: float
    told: str


def try_draws(candidate: Candidate, built: Built) -> DrawCost:
    """Draw a few batches by a method whose sampler is shortened, and scale them up."""
    for network in built.method.networks.values():
        network.eval().requires_grad_(False)
    source, true = built.source("dry run"), candidate.settings.sampling.batch
    calls, flops = count_sampling(source, FEW)
    nfe = sum(calls.values())
    shortest, whole = candidate.shortened().evaluations(nfe), candidate.evaluations(nfe)
    longer = whole / shortest
    trial = single = Trial(1, time_batches(source, 1, true))
    # One image that is slow has to do for all.
    if built.device.type != "cpu" or single.seconds < ENOUGH:
        trial = grown(lambda size: time_batches(source, size, true), true, built.device)
    told = trial.told("draws", true)
    told += f", {shortest:g} of {whole:g} evaluations" if longer != 1 else ""
    return DrawCost(flops * longer, flops / shortest, trial.of(longer), single.of(longer), told)


def time_batches(source: Source, size: int, true: int) -> float:
    """Seconds of a batch after one, the median of a few, of few images the least."""
    first = timed(source, size, 0)[0]
    if first > SLOW_BATCH:  # It has to do by itself.
        return first
    seconds = [timed(source, size, 0)[0] for _ in range(REPEATS)]
    return statistics.median(seconds) if size == true else min(seconds)


def diagnostic_evaluations(candidate: Candidate) -> float:
    """Evaluations of the denoiser by all diagnostics of a cell."""
    method, images = candidate.outlined(), 0
    whole = method.denoiser_for

    def unchanged(x: Tensor, sigma: Tensor) -> Tensor:
        nonlocal images
        images += len(x)
        return x

    # Where the method has a denoiser, one that does nothing is in its place.
    method.denoiser_for = lambda labels: (  # type: ignore[method-assign]
        None if whole(labels) is None else unchanged
    )
    metrics.diagnose(
        method, candidate.dataset, data_spec(candidate.dataset), n=FEW,
        labels=lambda: torch.zeros(FEW, dtype=torch.int64), generator=torch.Generator(),
        levels=candidate.settings.evaluation.violation_levels,
    )  # fmt: skip
    return images / FEW * candidate.settings.evaluation.diagnostic_samples


@dataclass
class EvaluationCost:
    """What evaluation costs, whatever the method; ``nan`` is what is not known."""

    per_image: dict[str, float] = field(default_factory=dict)
    """Seconds of each extractor, the lead first."""
    ready: set[str] = field(default_factory=set)
    """Extractors whose reference statistics are given or kept."""
    cas: float = math.nan
    """Seconds of the classification accuracy score."""

    def of_cell(self, candidate: Candidate) -> float:
        """Seconds in which a cell's samples and snapshots are extracted, and the CAS is had."""
        evaluation = candidate.settings.evaluation
        few = evaluation.snapshot_samples
        looks = candidate.moments + (few < evaluation.samples)
        extracting = sum(self.per_image.values()) * evaluation.samples
        looking = self.per_image[evaluation.extractor] * looks * few
        return extracting + looking + (self.cas if candidate.outlined().needs_labels else 0.0)

    def of_preparation(self, candidate: Candidate, *, anchors: bool) -> float:
        """Seconds of the reference statistics that are not kept yet, and of the ``anchors``."""
        evaluation, dataset = candidate.settings.evaluation, candidate.dataset
        samples, rows = evaluation.samples, len(dataset.train)
        reference = len(selected_rows(rows, evaluation.reference_images))
        has_test = dataset.test is not None and len(dataset.test) >= samples
        drawn = samples * (1 + has_test) if anchors else 0
        seconds = self.cas if anchors and samples <= rows else 0.0
        for name, each in self.per_image.items():
            images = drawn + (0 if name in self.ready else reference)
            # What is not needed may be unknown.
            seconds += each * images if images else 0.0
        return seconds


def try_evaluation(candidate: Candidate, cache: Path, notes: list[str]) -> EvaluationCost:
    """Time the extractors and the classifier; what goes wrong is noted."""
    attempt, found = Attempts(EVALUATION_SECONDS, notes), EvaluationCost()
    settings, nan = candidate.settings, math.nan
    for name in settings.evaluation.extractors:
        given = (name, found, candidate, cache)
        found.per_image[name] = attempt(f"extractor '{name}'", nan, try_extractor, *given)
    if settings.reference is not None:
        found.ready.add(settings.evaluation.extractor)
    found.cas = attempt("the classification accuracy score", nan, try_cas, candidate)
    return found


def try_extractor(name: str, found: EvaluationCost, candidate: Candidate, cache: Path) -> float:
    """Seconds an image, and whether the reference is there; UserError without the weights."""
    weights, evaluation = candidate.settings.weights, candidate.settings.evaluation
    dataset, device = candidate.dataset, candidate.device
    if not extractors.is_here(name, weights, cache):
        raise UserError("its weights are fetched first: its time is not known here")
    extractor = extractors.load(name, device=device, weights=weights, cache=cache)
    if is_stored(dataset, extractor, cache=cache, limit=evaluation.reference_images):
        found.ready.add(name)

    def seconds(size: int) -> float:
        started = time.perf_counter()
        extract(extractor, dataset.train.images[:size], batch=evaluation.batch)
        return time.perf_counter() - started

    seconds(1)
    return grown(seconds, min(MOST_IMAGES, len(dataset.train)), device).of(1)


def try_cas(candidate: Candidate) -> float:
    """Seconds of training a classifier on labelled samples; 0 where none is trained."""
    dataset, device, n = candidate.dataset, candidate.device, candidate.settings.evaluation.samples
    if dataset.train.labels is None or cas.missing(dataset):
        return 0.0
    images, labels, recipe = dataset.train.images, dataset.train.labels, cas.recipe_for(dataset)
    batch = min(recipe.batch, n)

    def seconds(size: int) -> float:
        model = cas.build(dataset).to(device)
        inputs = tensors(Split(images[:size], labels[:size]), device)
        for tries in CAS_STEPS:
            synchronize(device)
            started = time.perf_counter()
            cas.fit(model, *inputs, replace(recipe, steps=tries, epochs=0), 0)
            synchronize(device)
        return (time.perf_counter() - started) / tries

    step = grown(seconds, batch, device).of(batch)
    return step * max(recipe.steps, recipe.epochs * n // batch)
