"""What evaluation costs: seconds of the extractors, of the diagnostics and of the CAS."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from bench.config.errors import UserError
from bench.config.schema import Settings
from bench.costs.ledger import synchronize
from bench.data import Dataset
from bench.data.dataset import Split
from bench.estimate.subject import grown
from bench.metrics import classification_score as cas
from bench.metrics import extractors
from bench.metrics.features import extract
from bench.metrics.references import selected_rows

EXTRACTION_SECONDS = 0.2
"""What is extracted from for timing should take this long at least."""
MOST_IMAGES = 1024
CAS_STEPS = (1, 3)
"""Steps of the classifier that are tried: the first to warm up."""
CAS_SECONDS = 0.1
"""What a step on a CPU should take at least to be timed."""
FEW = 8
"""Images of the first step that is tried on a CPU."""


def time_extractor(
    name: str, settings: Settings, dataset: Dataset, device: torch.device, cache: Path
) -> float:
    """Seconds an image, of as many images as take a moment; UserError without its weights."""
    if not extractors.is_here(name, settings.weights, cache):
        raise UserError("its weights are fetched first: its time is not known here")
    extractor = extractors.load(name, device=device, weights=settings.weights, cache=cache)
    batch = settings.evaluation.batch
    count, most = 2, min(MOST_IMAGES, len(dataset.train))
    extract(extractor, dataset.train.images[:count], batch=batch)
    while True:
        started = time.perf_counter()
        extract(extractor, dataset.train.images[:count], batch=batch)
        seconds = time.perf_counter() - started
        if seconds > EXTRACTION_SECONDS or count >= most:
            return seconds / count
        count = min(most, 4 * count)


def extraction_seconds(settings: Settings, per_image: Mapping[str, float]) -> float | None:
    """Seconds in which a cell's samples and snapshots are extracted; ``None`` if not known."""
    evaluation = settings.evaluation
    if per_image.keys() != set(evaluation.extractors):
        return None
    few = evaluation.snapshot_samples
    moments = max(0, settings.training.snapshots - 1) + (few < evaluation.samples)
    samples = evaluation.samples * sum(per_image.values())
    return samples + moments * few * per_image[evaluation.extractor]


def preparation_seconds(
    settings: Settings,
    dataset: Dataset,
    per_image: Mapping[str, float],
    cache: Path,
    anchors: bool,
) -> float | None:
    """Seconds of extracting for the reference statistics that are not kept yet, and ``anchors``."""
    evaluation = settings.evaluation
    rows = len(selected_rows(len(dataset.train), evaluation.reference_images))
    test = 0 if dataset.test is None else len(dataset.test)
    drawn = evaluation.samples * (1 + (test >= evaluation.samples)) if anchors else 0
    total = 0.0
    for place, name in enumerate(evaluation.extractors):
        given = place == 0 and settings.reference is not None
        kept = any((cache / "references").glob(f"{dataset.variant}-{name}-*.npz"))
        images = drawn + (0 if given or kept else rows)
        if images and name not in per_image:
            return None
        total += images * per_image.get(name, 0.0)
    return total


def cas_seconds(dataset: Dataset, n: int, device: torch.device) -> float:
    """Seconds of training a classifier on ``n`` labelled samples; 0 where none is trained."""
    if dataset.train.labels is None or cas.missing(dataset):
        return 0.0
    recipe = cas.recipe_for(dataset)
    batch = min(recipe.batch, n)
    size = min(batch, FEW) if device.type == "cpu" else batch
    seconds = time_cas(dataset, size, device)
    while seconds < CAS_SECONDS / 2 and size < batch:
        size = grown(size, seconds, CAS_SECONDS, batch)
        seconds = time_cas(dataset, size, device)
    steps = max(recipe.steps, recipe.epochs * n // batch)
    return seconds * batch / size * steps


def time_cas(dataset: Dataset, size: int, device: torch.device) -> float:
    """Seconds of a step of the classifier's training on ``size`` images, after warming up."""
    assert dataset.train.labels is not None
    samples = Split(dataset.train.images[:size], dataset.train.labels[:size])
    model, inputs = cas.build(dataset).to(device), cas.tensors(samples, device)
    seconds = 0.0
    for tries in CAS_STEPS:
        synchronize(device)
        started = time.perf_counter()
        short = replace(cas.recipe_for(dataset), steps=tries, epochs=0)
        cas.fit(model, *inputs, short, 0)
        synchronize(device)
        seconds = (time.perf_counter() - started) / tries
    return seconds
