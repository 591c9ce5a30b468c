"""What evaluation costs: the extractors and the classifier of the CAS take a few images."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from bench.commands.dry_run.candidate import Candidate
from bench.commands.dry_run.costs import known_sum, times
from bench.commands.dry_run.trials import Attempts, grown
from bench.config.errors import UserError
from bench.config.schema import Settings
from bench.costs.ledger import synchronize
from bench.data.dataset import Dataset, Split
from bench.metrics import classification_score as cas
from bench.metrics import extractors
from bench.metrics.features import extract
from bench.metrics.references import is_stored, selected_rows

LIMIT = 6.0
MOST_IMAGES = 1024
CAS_STEPS = (1, 3)
"""Steps of the classifier that are tried: the first to warm up."""


@dataclass
class EvaluationCost:
    """What evaluation costs, whatever the method."""

    per_image: dict[str, float | None] = field(default_factory=dict)
    """Seconds of each extractor, the lead first; ``None`` is what is not known."""
    has_reference: dict[str, bool] = field(default_factory=dict)
    cas: float | None = None
    """Seconds of the classification accuracy score."""

    @property
    def of_image(self) -> float | None:
        """Seconds of an image by all extractors."""
        return known_sum(self.per_image.values())


def try_evaluation(candidate: Candidate, cache: Path, notes: list[str]) -> EvaluationCost:
    """Time the extractors and the classifier; what goes wrong is noted."""
    attempt, found, evaluation = (
        Attempts(LIMIT, notes),
        EvaluationCost(),
        candidate.settings.evaluation,
    )
    for name in evaluation.extractors:
        found.per_image[name] = attempt(
            f"extractor '{name}'",
            lambda name=name: try_extractor(name, found, candidate, cache),  # type: ignore[misc]
        )
    dataset, device = candidate.dataset, candidate.device
    found.cas = attempt(
        "the classification accuracy score", lambda: try_cas(dataset, evaluation.samples, device)
    )
    return found


def try_extractor(name: str, found: EvaluationCost, candidate: Candidate, cache: Path) -> float:
    """Seconds an image, and whether the reference is there; UserError without the weights."""
    weights, evaluation = candidate.settings.weights, candidate.settings.evaluation
    dataset, device = candidate.dataset, candidate.device
    if not extractors.is_here(name, weights, cache):
        raise UserError("its weights are fetched first: its time is not known here")
    extractor = extractors.load(name, device=device, weights=weights, cache=cache)
    found.has_reference[name] = is_stored(
        dataset, extractor, cache=cache, limit=evaluation.reference_images
    )

    def seconds(size: int) -> float:
        started = time.perf_counter()
        extract(extractor, dataset.train.images[:size], batch=evaluation.batch)
        return time.perf_counter() - started

    seconds(1)
    return grown(seconds, min(MOST_IMAGES, len(dataset.train)), device).of(1)


def try_cas(dataset: Dataset, n: int, device: torch.device) -> float:
    """Seconds of training a classifier on ``n`` labelled samples; 0 where none is trained."""
    if dataset.train.labels is None or cas.missing(dataset):
        return 0.0
    recipe = cas.recipe_for(dataset)
    batch = min(recipe.batch, n)
    step = grown(lambda size: time_cas(dataset, size, device), batch, device).of(batch)
    return step * max(recipe.steps, recipe.epochs * n // batch)


def time_cas(dataset: Dataset, size: int, device: torch.device) -> float:
    """Seconds of a step of the classifier's training on ``size`` images, after warming up."""
    assert dataset.train.labels is not None
    samples = Split(dataset.train.images[:size], dataset.train.labels[:size])
    model, inputs = cas.build(dataset).to(device), cas.tensors(samples, device)
    seconds = 0.0
    for tries in CAS_STEPS:
        synchronize(device)
        started = time.perf_counter()
        cas.fit(model, *inputs, replace(cas.recipe_for(dataset), steps=tries, epochs=0), 0)
        synchronize(device)
        seconds = (time.perf_counter() - started) / tries
    return seconds


def evaluation_seconds(candidate: Candidate, cost: EvaluationCost) -> float | None:
    """Seconds in which a cell's samples and snapshots are extracted, and the CAS is had."""
    evaluation = candidate.settings.evaluation
    few = evaluation.snapshot_samples
    looks = candidate.moments + (few < evaluation.samples)
    lead = cost.per_image[evaluation.extractor]
    labelled = candidate.outlined().needs_labels
    parts = [times(cost.of_image, evaluation.samples), times(lead, looks * few)]
    return known_sum([*parts, cost.cas if labelled else 0.0])


def preparation_seconds(
    candidate: Candidate, cost: EvaluationCost, *, anchors: bool
) -> float | None:
    """Seconds of the reference statistics that are not kept yet, and of the ``anchors``."""
    settings, dataset = candidate.settings, candidate.dataset
    evaluation, samples = settings.evaluation, settings.evaluation.samples
    rows = len(selected_rows(len(dataset.train), evaluation.reference_images))
    test = 0 if dataset.test is None else len(dataset.test)
    drawn = samples * (1 + (test >= samples)) if anchors else 0
    needed: Mapping[str, int] = {
        name: drawn + (0 if is_there(name, settings, cost) else rows) for name in cost.per_image
    }
    parts = [times(cost.per_image[name], images) for name, images in needed.items() if images]
    classifier = cost.cas if anchors and samples <= len(dataset.train) else 0.0
    return known_sum([*parts, classifier])


def is_there(name: str, settings: Settings, cost: EvaluationCost) -> bool:
    """Whether an extractor's reference statistics are given or kept."""
    given = settings.reference is not None and name == settings.evaluation.extractor
    return given or cost.has_reference.get(name, False)
