"""From samples to named metrics with their provenance: by one extractor, or all of a study's."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.config import Settings, UserError
from bench.data.dataset import Dataset, Pixels, Progress, unheard
from bench.metrics import frechet_distance, inception_score_and_accuracy, points, protocol
from bench.metrics.classification_score import cas
from bench.metrics.extractors.loading import Extractor, load, sha256_of
from bench.metrics.features import Features, features_of, share_of
from bench.metrics.frechet_distance import Vectors
from bench.metrics.inception_score_and_accuracy import SPLITS, count_classes, gap_of
from bench.metrics.kernel_and_precision_recall import LEAST, kernel_distance, overlap
from bench.metrics.protocol import BY_DEFAULT, CLASS_WISE, PROTOCOL, Say, metric_names, to_stderr
from bench.metrics.references import KERNEL, Reference, read_statistics, reference
from bench.records import Value

NO_FEATURES = "imported statistics hold no features"
NO_LABELS = "the samples have no labels"


def identity(settings: Settings) -> dict[str, Any]:
    """Return hashes of all that is measured by; UserError where any of it is not there."""
    names, file = settings.evaluation.extractors, settings.reference
    return {
        "extractors": {name: sha256_of(name, settings.weights) for name in names},
        "reference_sha256": None if file is None else read_statistics(file).file_sha256,
        "protocol": PROTOCOL,
    }


def evaluate(
    samples: Features, reference: Reference, *, extractor: Extractor, n: int,
    labels: NDArray[np.integer] | None = None, families: Collection[str] | None = None,
    jackknife: bool = False, insist: bool = False, splits: int = SPLITS,
    extra_provenance: dict[str, Any] | None = None, say: Say = to_stderr,
    progress: Progress = unheard,
) -> dict[str, Value]:  # fmt: skip
    """Return what stored features and class probabilities tell of n samples, by full names.

    Labelled samples, ``labels`` (n,) being the classes that were asked for, have an accuracy, where
    the extractor tells this data set's classes, and class-wise values; points of a known density
    have ``sw2`` and ``modes``. ``families`` are wanted, of ``FAMILIES`` (``None``: ``BY_DEFAULT``).
    With ``jackknife`` the Fréchet distance of 40 samples or more gets its error within the seed and
    its corrected value, in 34 CPU-seconds for 50,000 of 2048 features. The Inception Score is a
    mean over ``splits``. ``say`` is told what could not be had, and why; with ``insist`` also of
    what such samples never have.

    Raises UserError where the reference was imported and has another number of features.
    """
    if len(samples) != n:
        raise ValueError(f"{len(samples)} samples given, {n} named")
    if reference.extractor_sha256 != extractor.sha256:
        raise ValueError("samples and reference come from different extractors")
    if len(reference.mu) != samples.features.shape[1]:
        raise UserError(
            f"the reference's statistics have {len(reference.mu)} features and extractor "
            f"'{extractor.name}' {samples.features.shape[1]}; give those of the same extractor"
        )
    names, wanted = metric_names(extractor.name, n), BY_DEFAULT if families is None else families
    context = Context(samples, reference, extractor, labels, jackknife, splits)
    values: dict[str, Value] = {}
    for place, (answers, measure) in enumerate(_MEASURES):
        progress(place / len(_MEASURES))
        asked = [family for family in answers if family in wanted]
        found = measure(context) if asked else {}
        if not isinstance(found, str):
            values |= {names[family]: found[family] for family in asked}
        elif insist or not isinstance(found, Never):
            say(f"no {', '.join(names[family] for family in asked)}: {found}")
    provenance = _provenance(reference, extractor, n) | (extra_provenance or {})
    return {
        name: value.model_copy(update={"provenance": provenance | value.provenance})
        for name, value in values.items()
    }


@dataclass(frozen=True)
class Context:
    """What a measure looks at."""

    samples: Features
    reference: Reference
    extractor: Extractor
    labels: NDArray[np.integer] | None
    jackknife: bool
    splits: int


class Never(str):
    """Why such samples, by their nature, never have a metric; told to those alone who insist."""


Answer = dict[str, Value] | str
"""What a measure gives by family, or why it cannot be had."""


def _frechet(context: Context) -> Answer:
    if len(context.samples) < 2:
        return "a covariance needs two images or more"
    given = (context.samples.features, context.reference.mu, context.reference.sigma)
    value = frechet_distance.frechet_to_features(*given)
    least = frechet_distance.BLOCKS * frechet_distance.LEAST_OF_A_BLOCK
    if not context.jackknife or len(context.samples) < least:
        return {"fd": Value(value=value)}
    error, corrected = frechet_distance.frechet_jackknife(*given)
    facts = {"jackknife_blocks": frechet_distance.BLOCKS}
    return {"fd": Value(value=value, error=error, corrected=corrected, provenance=facts)}


def _inception_score(context: Context) -> Answer:
    probabilities = context.samples.probabilities
    if probabilities.shape[1] == 0:
        return f"extractor '{context.extractor.name}' tells no classes"
    splits = min(context.splits, len(probabilities))
    score, spread = inception_score_and_accuracy.inception_score(probabilities, splits)
    return {"is": Value(value=score, spread=spread, provenance={"splits": splits})}


def _kernel(context: Context) -> Answer:
    samples, reference = context.samples.features, context.reference
    if reference.features is None:
        return NO_FEATURES
    real = reference.features[:KERNEL]
    if min(len(real), len(samples)) < 2:
        return "it needs two images or more on either side"
    distance = kernel_distance(
        samples, real, own_mean=reference.kernel_mean, device=context.extractor.device
    )
    facts = {"reference_n": len(real), "estimator": "unbiased, all pairs"}
    return {"kd": Value(value=distance, provenance=facts)}


def _overlap(context: Context) -> Answer:
    samples, reference = context.samples.features, context.reference
    if reference.features is None:
        return NO_FEATURES
    # As many of each: a manifold grows with the features that span it.
    real = reference.features[: len(samples)]
    if min(len(real), len(samples)) < LEAST:
        return f"neighbours need {LEAST} images or more on either side"
    found = overlap(real, samples, device=context.extractor.device)
    facts = {"reference_n": len(real)}
    return {family: Value(value=value, provenance=facts) for family, value in vars(found).items()}


def _accuracy(context: Context) -> Answer:
    if context.labels is None:
        return Never(NO_LABELS)
    if context.extractor.classifies != context.reference.dataset:
        told = f"extractor '{context.extractor.name}' does not tell the classes of these data"
        return Never(told)
    given = (context.samples.probabilities, context.labels)
    return {"accuracy": Value(value=inception_score_and_accuracy.accuracy(*given))}


def _classwise(context: Context) -> Answer:
    pairs = _by_class(context)
    if isinstance(pairs, str):
        return pairs
    distances = [frechet_distance.frechet_between(own, real) for own, real in pairs]
    facts = {"classes": len(pairs), "fewest_of_a_class": min(len(own) for own, _ in pairs)}
    return {"fdc": Value(value=float(np.mean(distances)), provenance=facts)}


def _classwise_overlap(context: Context) -> Answer:
    pairs = _by_class(context)
    if isinstance(pairs, str):
        return pairs
    # As many of each, as of all classes together.
    counts = [min(len(own), len(real)) for own, real in pairs]
    if min(counts) < LEAST:
        return f"neighbours need {LEAST} images or more of each class on either side"
    device = context.extractor.device
    found = [overlap(real[: len(own)], own, device=device) for own, real in pairs]
    facts = {"classes": len(pairs), "fewest_of_a_class": min(counts)}
    return {
        name: Value(value=float(np.mean([vars(one)[name[:-1]] for one in found])), provenance=facts)
        for name in CLASS_WISE
    }


def _by_class(context: Context) -> list[tuple[Vectors, Vectors]] | str:
    """The features of samples and reference of each class, or why there are none."""
    labels, samples, reference = context.labels, context.samples, context.reference
    if labels is None:
        return Never(NO_LABELS)
    if reference.features is None:
        return NO_FEATURES
    if reference.labels is None:
        return "the reference's images have no labels"
    counts = count_classes(labels, len(samples), reference.classes)
    known = np.bincount(reference.labels, minlength=reference.classes)
    if gap := gap_of(counts, "samples") or gap_of(known, "reference images"):
        return gap
    classes = range(reference.classes)
    return [(samples.features[labels == k], reference.of_class(k)) for k in classes]


def _of_points(context: Context) -> Answer:
    extractor = context.extractor
    if extractor.truth is None or extractor.classifies != context.reference.dataset:
        return Never("they are of points whose density is known")
    return points.evaluate(context.samples.features, extractor.truth)


_MEASURES: Sequence[tuple[tuple[str, ...], Callable[[Context], Answer]]] = (
    (("fd",), _frechet),
    (("kd",), _kernel),
    (("is",), _inception_score),
    (("precision", "recall", "density", "coverage"), _overlap),
    (("accuracy",), _accuracy),
    (("fdc",), _classwise),
    (CLASS_WISE, _classwise_overlap),
    (("sw2", "modes"), _of_points),
)
"""Which families each measure answers."""


def _provenance(reference: Reference, extractor: Extractor, n: int) -> dict[str, Any]:
    quantisation = protocol.QUANTISATION if extractor.truth is None else protocol.UNQUANTISED
    return {
        "protocol": PROTOCOL, "n": n,
        "reference_split": reference.split, "reference_n": reference.n, **reference.imported,
        "data": reference.variant, "data_sha256": reference.data_sha256,
        "extractor": extractor.name, "extractor_sha256": extractor.sha256,
        "resize": extractor.resize, "quantisation": quantisation,
        "device": extractor.device.type, "libraries": dict(protocol.libraries()),
    }  # fmt: skip


@dataclass(frozen=True)
class Evaluator:
    """Extractors with their references, the lead first, and the data that they judge by."""

    dataset: Dataset
    pairs: Sequence[tuple[Extractor, Reference]]
    batch: int
    splits: int = SPLITS

    @classmethod
    def open(
        cls, settings: Settings, dataset: Dataset, *, device: torch.device, cache: Path,
        progress: Progress = unheard,
    ) -> "Evaluator":  # fmt: skip
        """Load a study's extractors, and compute or read their references.

        Raises UserError where an extractor is not to be had, or cannot take these images.
        """
        evaluation = settings.evaluation
        loaded = [
            load(name, device=device, weights=settings.weights, cache=cache)
            for name in evaluation.extractors
        ]
        for extractor in loaded:
            extractor.check(dataset.shape)
        pairs = []
        for place, extractor in enumerate(loaded):
            found = reference(
                dataset, extractor, cache=cache, limit=evaluation.reference_images,
                batch=evaluation.batch, file=settings.reference if place == 0 else None,
                progress=share_of(progress, place, len(loaded)),
            )  # fmt: skip
            pairs.append((extractor, found))
        return cls(dataset, pairs, evaluation.batch, evaluation.is_splits)

    def measure(
        self, images: Pixels, labels: NDArray[Any] | None = None, *,
        families: Collection[str] | None = None, jackknife: bool = False, insist: bool = False,
        folder: Path | None = None, provenance: dict[str, Any] | None = None,
        progress: Progress = unheard, say: Say = to_stderr,
    ) -> dict[str, Value]:  # fmt: skip
        """Return what all extractors tell of samples, and for labelled ones the CAS.

        With a ``folder``, features that are kept there are taken, and new ones kept. ``jackknife``,
        ``insist`` and ``say`` as in ``evaluate``.
        """
        values: dict[str, Value] = {}
        parts = 2 * len(self.pairs) + 1
        for place, (extractor, against) in enumerate(self.pairs):
            seen, measured = (share_of(progress, 2 * place + half, parts) for half in (0, 1))
            values |= evaluate(
                features_of(extractor, images, batch=self.batch, folder=folder, progress=seen),
                against, extractor=extractor, n=len(images), labels=labels, families=families,
                jackknife=jackknife, insist=insist, splits=self.splits, extra_provenance=provenance,
                say=say, progress=measured,
            )  # fmt: skip
        if families is not None and "cas" not in families:
            return values
        if labels is not None:
            values |= cas(
                images, labels, self.dataset,
                device=self.pairs[0][0].device, extra_provenance=provenance, say=say,
                progress=share_of(progress, parts - 1, parts),
            )  # fmt: skip
        elif insist:
            say(f"no {protocol.cas_name(self.dataset.name, len(images))}: {NO_LABELS}")
        return values

    def measure_for_curve(self, images: Pixels, *, is_whole: bool = False) -> dict[str, Value]:
        """Return what the curves of training show of samples.

        That is the lead extractor's, or all of them if there are as many samples as at the end.
        """
        chosen = self if is_whole else replace(self, pairs=self.pairs[:1])
        return chosen.measure(images, families=("fd", "is"))
