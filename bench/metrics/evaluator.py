"""All that a study measures quality with, opened once: its extractors, each with its reference."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from bench.config import Settings
from bench.data.dataset import Dataset, Pixels, Progress, unheard
from bench.metrics import classification_score, extractors
from bench.metrics.evaluation import NO_LABELS, evaluate
from bench.metrics.extractors.loading import Extractor
from bench.metrics.features import features_of, share_of
from bench.metrics.protocol import Say, cas_name, to_stderr
from bench.metrics.references import Reference, reference
from bench.records import Value


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

        Raises UserError where an extractor is not to be had, or cannot take these images.
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
    def device(self) -> torch.device:
        """Where features are extracted."""
        return self.pairs[0][0].device

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
        for place, (extractor, against) in enumerate(self.pairs):
            share = share_of(progress, place, len(self.pairs))
            values |= evaluate(
                features_of(extractor, images, batch=self.batch, folder=folder, progress=share),
                against, extractor=extractor, n=len(images), labels=labels, families=families,
                jackknife=jackknife, insist=insist, extra_provenance=provenance, say=say,
            )  # fmt: skip
        if families is not None and "cas" not in families:
            return values
        if labels is not None:
            values |= classification_score.cas(
                images, labels, self.dataset,
                device=self.device, extra_provenance=provenance, say=say,
            )  # fmt: skip
        elif insist:
            say(f"no {cas_name(self.dataset.name, len(images))}: {NO_LABELS}")
        return values

    def measure_for_curve(self, images: Pixels) -> dict[str, Value]:
        """Return what the curves of training show of samples, by the lead extractor alone."""
        return replace(self, pairs=self.pairs[:1]).measure(images, families=("fd", "is"))
