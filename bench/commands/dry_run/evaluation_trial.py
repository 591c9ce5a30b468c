"""What evaluation costs: the extractors and the classifier of the CAS take a few images."""

import math
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from bench.commands.dry_run.candidate import Attempts, Candidate, grown
from bench.config import UserError
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
    attempt, found = Attempts(LIMIT, notes), EvaluationCost()
    settings, nan = candidate.settings, math.nan
    for name in settings.evaluation.extractors:
        found.per_image[name] = attempt(
            f"extractor '{name}'", nan, try_extractor, name, found, candidate, cache
        )
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
