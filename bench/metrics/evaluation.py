"""From features to named metrics with their provenance, and the same of two yardsticks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from bench.data.dataset import Dataset, Split
from bench.metrics import classification_score, points
from bench.metrics.extractors import Extractor
from bench.metrics.features import BATCH, Features, extract
from bench.metrics.protocol import (
    PROTOCOL,
    QUANTISATION,
    UNQUANTISED,
    Say,
    metric_names,
    to_stderr,
)
from bench.metrics.references import Reference, selected
from bench.metrics.statistics import (
    SPLITS,
    accuracy,
    frechet_between,
    frechet_to_features,
    inception_score,
    permutation,
)
from bench.record import Value

if TYPE_CHECKING:
    from bench.data.dataset import Pixels

NOISE = "noise"
HELD_OUT = "real (held-out)"
LEAST_OF_A_CLASS = 2
"""Samples without which a class has no covariance; fewer than features are enough."""

_NOISE_SEED = 20_190_712


def evaluate(
    samples: Features,
    reference: Reference,
    *,
    extractor: Extractor,
    n: int,
    labels: NDArray[np.integer] | None = None,
    extra_provenance: dict[str, Any] | None = None,
    say: Say = to_stderr,
) -> dict[str, Value]:
    """Return Fréchet distance, Inception Score and what else these samples allow.

    Labelled samples have an accuracy, where the extractor tells this data set's classes, and a
    class-wise Fréchet distance; points of a known density have their distance to it (``sw2``) and
    the share of its components that they found (``modes``).

    Args:
        samples: features of exactly ``n`` samples, by the reference's extractor.
        reference: what the samples are compared with.
        extractor: the network that both came from.
        n: number of samples, part of the metrics' names.
        labels: the classes that were asked for, (n,).
        extra_provenance: further facts to keep with each value.
        say: is told of a metric that could not be had, and why.
    """
    if len(samples) != n:
        raise ValueError(f"{len(samples)} samples given, {n} named")
    if reference.extractor_sha256 != extractor.sha256:
        raise ValueError("samples and reference come from different extractors")
    names = metric_names(extractor.name, n)
    provenance = _provenance(reference, extractor, n) | (extra_provenance or {})
    distance = frechet_to_features(samples.features, reference.mu, reference.sigma)
    values = {names["fd"]: Value(value=distance, provenance=provenance)}
    splits = min(SPLITS, n)
    score, spread = inception_score(samples.probabilities, splits)
    values[names["is"]] = Value(
        value=score, spread=spread, provenance=provenance | {"splits": splits}
    )
    own = extractor.classifies == reference.dataset
    if labels is not None and own:
        right = accuracy(samples.probabilities, labels)
        values[names["accuracy"]] = Value(value=right, provenance=provenance)
    if labels is not None:
        found = _classwise(samples, labels, reference, name=names["fdc"], say=say)
        values |= {name: _with(value, provenance) for name, value in found.items()}
    if extractor.truth is not None and own:
        found = points.evaluate(samples.features, extractor.truth, names)
        values |= {name: _with(value, provenance) for name, value in found.items()}
    return values


def _classwise(
    samples: Features,
    labels: NDArray[np.integer],
    reference: Reference,
    *,
    name: str,
    say: Say,
) -> dict[str, Value]:
    """Return the mean over classes of the distance to the reference's images of that class."""
    if reference.classes is None:
        say(f"no {name}: the reference's images have no labels")
        return {}
    counts = count_classes(labels, len(samples), len(reference.classes))
    known = np.array([len(features) for features in reference.classes])
    gap = gap_of(counts, "samples") or gap_of(known, "reference images")
    if gap:
        say(f"no {name}: {gap}")
        return {}
    distances = [
        frechet_between(samples.features[labels == label], features)
        for label, features in enumerate(reference.classes)
    ]
    facts = {"classes": len(counts), "fewest_of_a_class": int(counts.min())}
    return {name: Value(value=float(np.mean(distances)), provenance=facts)}


def _with(value: Value, provenance: dict[str, Any]) -> Value:
    return value.model_copy(update={"provenance": provenance | value.provenance})


def count_classes(labels: NDArray[np.integer], n: int, classes: int) -> NDArray[np.int64]:
    """Count each class, (classes,); ValueError unless there are n labels from 0 to classes - 1."""
    if len(labels) != n:
        raise ValueError(f"{n} samples but {len(labels)} labels")
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(
            f"labels from {labels.min()} to {labels.max()}, allowed are 0 to {classes - 1}"
        )
    return np.bincount(labels, minlength=classes).astype(np.int64)


def gap_of(counts: NDArray[np.int64], what: str) -> str | None:
    """Say which class has too few of ``what`` for a covariance, or nothing."""
    poorest = int(counts.argmin())
    if counts[poorest] >= LEAST_OF_A_CLASS:
        return None
    return (
        f"class {poorest} has {counts[poorest]} of {counts.sum()} {what}, "
        f"each needs {LEAST_OF_A_CLASS} or more"
    )


def anchors(
    dataset: Dataset,
    extractor: Extractor,
    reference: Reference,
    n: int,
    *,
    batch: int = BATCH,
    with_cas: bool = True,
) -> dict[str, dict[str, Value]]:
    """Return the metrics of two yardsticks, computed as those of samples are.

    ``noise`` is n images of N(0, 1) noise, clipped and quantised like samples, or n points of
    N(0, I), which are neither; ``real (held-out)`` is the first n images of a fixed random order
    of the held-out split. Its classification accuracy score is of a classifier trained on n real
    training images, and left out with ``with_cas=False``, since it takes a training. What a data
    set is too small for is left out; ``anchor_notes`` says what and why.
    """
    noise = extract(extractor, noise_like(dataset, n), batch=batch)
    rows = {NOISE: evaluate(noise, reference, extractor=extractor, n=n)}
    real: dict[str, Value] = {}
    chosen = _held_out(dataset, n)
    if chosen is not None:
        seen = extract(extractor, chosen.images, batch=batch)
        real |= evaluate(
            seen, reference, extractor=extractor, n=n, labels=chosen.labels, say=_already_noted
        )
    if with_cas:
        real |= _real_cas(dataset, extractor, n)
    return rows | ({HELD_OUT: real} if real else {})


def anchor_notes(dataset: Dataset, n: int, *, limit: int | None = None) -> list[str]:
    """Say which metrics of real images ``anchors`` leaves out with n samples, and why.

    Needs no extractor and computes nothing; ``limit`` is the reference's.
    """
    held_out = 0 if dataset.test is None else len(dataset.test)
    notes = []
    if held_out < n:
        notes.append(f"no anchor of held-out images: {n} are needed and there are {held_out}")
    chosen = _held_out(dataset, n)
    known = selected(dataset, limit).labels
    if chosen is not None and chosen.labels is not None and known is not None:
        gap = gap_of(class_counts(chosen.labels, dataset), "held-out images") or gap_of(
            class_counts(known, dataset), "reference images"
        )
        notes += [f"no class-wise distance of held-out images: {gap}"] if gap else []
    if dataset.train.labels is not None:
        gap = classification_score.missing(dataset)
        if gap is None and len(dataset.train) < n:
            gap = f"{n} training images are needed and there are {len(dataset.train)}"
        notes += [f"no classification accuracy score of real images: {gap}"] if gap else []
    return notes


def class_counts(labels: NDArray[np.integer], dataset: Dataset) -> NDArray[np.int64]:
    """Count each of a data set's classes, (classes,)."""
    return count_classes(labels, len(labels), len(dataset.classes))


def _held_out(dataset: Dataset, n: int) -> Split | None:
    """Return the first n held-out images of a fixed random order; None if there are fewer."""
    test = dataset.test
    if test is None or len(test) < n:
        return None
    chosen = np.sort(permutation(len(test))[:n])
    return Split(test.images[chosen], None if test.labels is None else test.labels[chosen])


def _real_cas(dataset: Dataset, extractor: Extractor, n: int) -> dict[str, Value]:
    real = classification_score.real_samples(dataset, n)
    if real is None or real.labels is None or classification_score.missing(dataset):
        return {}
    return classification_score.cas(real.images, real.labels, dataset, device=extractor.device)


def _already_noted(line: str) -> None:
    """Say nothing: ``anchor_notes`` does, also where stored anchors are used again."""


def noise_like(dataset: Dataset, n: int) -> Pixels:
    """Return n images or points of standard normal noise, always the same.

    Images are clipped and quantised to uint8, as samples are; points stay float32.
    """
    import torch

    from bench.data.dataset import to_uint8

    noise = np.random.RandomState(_NOISE_SEED).standard_normal((n, *dataset.shape))
    if dataset.is_points:
        return noise.astype(np.float32)
    return cast("NDArray[np.uint8]", to_uint8(torch.from_numpy(noise)).numpy())


def _provenance(reference: Reference, extractor: Extractor, n: int) -> dict[str, Any]:
    return {
        "protocol": PROTOCOL,
        "n": n,
        "reference_split": reference.split,
        "reference_n": reference.n,
        "data": reference.variant,
        "data_sha256": reference.data_sha256,
        "extractor": extractor.name,
        "extractor_sha256": extractor.sha256,
        "resize": extractor.resize,
        "quantisation": QUANTISATION if extractor.truth is None else UNQUANTISED,
    }
