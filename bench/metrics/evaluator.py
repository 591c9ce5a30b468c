"""All that a study measures quality with, opened once: its extractors, each with its reference."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.config import Settings
from bench.data.dataset import Dataset, Pixels, Progress, unheard
from bench.metrics import classification_score, extractors
from bench.metrics.evaluation import NO_LABELS, evaluate
from bench.metrics.extractors.loading import Extractor
from bench.metrics.features import Features, extract, features_file, share_of, store, stored
from bench.metrics.protocol import cas_name, to_stderr
from bench.metrics.references import Reference, reference
from bench.metrics.yardsticks import HELD_OUT, NOISE, anchors
from bench.records import Value

CURVE = ("fd", "is")
"""What is measured along the training."""


@dataclass(frozen=True)
class Evaluator:
    """Extractors with their references, the lead first, and the data that they judge by."""

    dataset: Dataset
    pairs: Sequence[tuple[Extractor, Reference]]
    batch: int

    @classmethod
    def open(
        cls, settings: Settings, dataset: Dataset, *, device: torch.device, cache: Path,
        progress: Progress = unheard,
    ) -> "Evaluator":  # fmt: skip
        """Load a study's extractors, and compute or read their references.

        Raises:
            UserError: an extractor or its weights are not to be had, or cannot take these images.
        """
        evaluation = settings.evaluation
        loaded = [
            extractors.load(name, device=device, weights=settings.weights, cache=cache)
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
        return cls(dataset, pairs, evaluation.batch)

    @property
    def lead(self) -> "Evaluator":
        """The evaluator with the first extractor alone."""
        return replace(self, pairs=self.pairs[:1])

    def measure(
        self, images: Pixels, labels: NDArray[np.int64] | None = None, *,
        families: Collection[str] | None = None, jackknife: bool = False, insist: bool = False,
        folder: Path | None = None, provenance: dict[str, Any] | None = None,
        progress: Progress = unheard,
    ) -> dict[str, Value]:  # fmt: skip
        """Return what all extractors tell of samples, and for labelled ones the CAS.

        With a ``folder``, features that are kept there are taken, and new ones kept. ``jackknife``
        and ``insist`` as in ``evaluate``.
        """
        values: dict[str, Value] = {}
        for place, (extractor, against) in enumerate(self.pairs):
            share = share_of(progress, place, len(self.pairs))
            values |= evaluate(
                self.features(extractor, images, folder, share), against,
                extractor=extractor, n=len(images), labels=labels, families=families,
                jackknife=jackknife, insist=insist, extra_provenance=provenance,
            )  # fmt: skip
        wants_cas = families is None or "cas" in families
        if labels is None and wants_cas and insist:
            to_stderr(f"no {cas_name(self.dataset.name, len(images))}: {NO_LABELS}")
        if labels is not None and wants_cas:
            cas, device = classification_score.cas, self.pairs[0][0].device
            values |= cas(images, labels, self.dataset, device=device, extra_provenance=provenance)
        return values

    def features(
        self, extractor: Extractor, images: Pixels, folder: Path | None = None,
        progress: Progress = unheard,
    ) -> Features:  # fmt: skip
        """Return an extractor's features of images, taken from ``folder`` or kept there."""
        path = None if folder is None else features_file(folder, extractor.name)
        found = None if path is None else stored(path, extractor, images)
        if found is None:
            found = extract(extractor, images, batch=self.batch, progress=progress)
            if path is not None:
                store(path, found, extractor, images)
        return found

    def anchors(
        self, n: int, *, families: Collection[str] | None = None, progress: Progress = unheard
    ) -> dict[str, dict[str, Value]]:
        """Return the metrics of noise and of held-out real images by all extractors."""
        rows: dict[str, dict[str, Value]] = {}
        for place, (extractor, against) in enumerate(self.pairs):
            found = anchors(
                self.dataset, extractor, against, n, batch=self.batch, with_cas=place == 0,
                families=families, progress=share_of(progress, place, len(self.pairs)),
            )  # fmt: skip
            for name in (NOISE, HELD_OUT):
                if name in found:
                    rows[name] = rows.get(name, {}) | found[name]
        return rows
