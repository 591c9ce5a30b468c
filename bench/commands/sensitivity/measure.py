"""What each metric sees of known damage to real images, and what it misses.

Held-out images as they are, and after each ``damage``, are measured against the training split,
by each extractor. Every set has the same number of images n, since most metrics depend on it.

The yardstick is how far a metric moves from one set of n clean images to another: the standard
deviation of their difference, sqrt(2) times that of one set. The latter is taken from ``SETS`` sets
of n drawn without replacement from ``POOL`` n held-out images, or as many as there are. Such sets
have images in common, and averages over them vary by 1 - n / pool less than over sets that have
none (the correction for a finite population; Cochran 1977, section 2.6), which is made up for.
Halves of the clean set alone would not do: distances between equal distributions fall with 1/n and
vary two to four times as much in halves. A share that is 0 or 1 in every set still is not known
without error; for shares the binomial deviation, two hits and two misses added (Agresti and Coull
1998), is the least.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.commands.sensitivity.damage import Damage, LeftOut, Real, damages
from bench.config import UserError
from bench.data.dataset import Dataset, Progress, Split, unheard
from bench.metrics.evaluation import evaluate
from bench.metrics.evaluator import Evaluator
from bench.metrics.extractors.loading import Extractor
from bench.metrics.features import Features, features_of, hash_of, share_of
from bench.metrics.frechet_distance import permutation
from bench.metrics.protocol import FAMILIES, Say, metric_names
from bench.metrics.references import Reference
from bench.records import Value

MEASURED = tuple(name for name in FAMILIES if name not in {"cas", "sw2", "modes"})
"""Families of metrics on the page: those of images that take no training."""
SHARES = ("precision", "recall", "coverage", "accuracy")
MOST = 5000
"""Images of a set, where no other number is asked for."""
LEAST = 20
"""Fewest images of a set."""
SETS = 20
"""Clean sets that the yardstick is taken from."""
POOL = 5
"""Times n images that these are drawn from, at most."""
CLEAN = "clean (held-out)"
EXAMPLES = 10

Labels = NDArray[np.int64] | None
_SEED = 515_377_520


@dataclass(frozen=True)
class DamageRow:
    """A set of images and what was measured of it, by family of metrics."""

    name: str
    kind: str
    strength: float | None
    values: Mapping[str, Value]


@dataclass(frozen=True)
class Panel:
    """All sets by one extractor: the clean one, its yardstick by family, and the damaged ones."""

    extractor: str
    names: Mapping[str, str]
    """Full names of the metrics, by family."""
    clean: DamageRow
    spread: Mapping[str, float]
    """Standard deviation of the difference between two sets of n clean images."""
    rows: tuple[DamageRow, ...]


@dataclass(frozen=True)
class Page:
    """The page of numbers of a data set."""

    dataset: Dataset
    n: int
    panels: list[Panel] = field(default_factory=list)
    left_out: dict[str, None] = field(default_factory=dict)
    """What could not be done to these images, and why; each line once for all extractors."""
    examples: dict[str, NDArray[np.uint8]] = field(default_factory=dict)
    """The first images of each set, (``EXAMPLES``, C, H, W)."""


def check(dataset: Dataset, samples: int | None = None) -> None:
    """Raise UserError where a data set has no page, or none of so many images."""
    if dataset.is_points:
        raise UserError(
            f"'{dataset.name}' has points, which cannot be blurred; give a --dataset of images"
        )
    count = 0 if dataset.test is None else len(dataset.test)
    if count < 2 * LEAST:
        raise UserError(
            f"'{dataset.name}' from {dataset.source} has {count} held-out images and {2 * LEAST} "
            "or more are needed; give --data with a held-out split (X-test.zip beside X-train.zip)"
        )
    if samples is not None and not LEAST <= samples <= count // 2:
        raise UserError(
            f"--samples {samples}: '{dataset.name}' has {count} held-out images, and half of them "
            f"must be left for comparison; give {LEAST} to {count // 2}"
        )


def page(
    evaluator: Evaluator,
    samples: int | None = None,
    *,
    limit: int | None = None,
    cache: Path | None = None,
    progress: Progress = unheard,
) -> Page:
    """Measure clean and damaged held-out images by all of an evaluator's extractors.

    ``samples`` are the images of each set (``None``: half the held-out ones, ``MOST`` at most),
    ``limit`` is as the references were made with; features are kept in ``cache``, so that an
    interrupted command goes on. UserError as ``check`` says.
    """
    dataset = evaluator.dataset
    check(dataset, samples)
    assert dataset.test is not None
    real = Real(dataset, samples or min(MOST, len(dataset.test) // 2), limit)
    made = Page(dataset, real.n)
    for place, (extractor, reference) in enumerate(evaluator.pairs):
        measure = _Measure(evaluator, extractor, reference, cache)
        share = share_of(progress, place, len(evaluator.pairs))
        made.panels.append(_panel(measure, real, made, share))
    return made


def _panel(measure: "_Measure", real: Real, made: Page, progress: Progress) -> Panel:
    sets = [Damage(CLEAN, "clean", None, lambda real: real.clean), *damages(real.dataset)]
    parts = len(sets) + SETS
    rows = []
    for place, damage in enumerate(sets):

        def say(line: str, name: str = damage.name) -> None:
            made.left_out[f"{name}: {line}"] = None

        try:
            split = damage.make(real)
        except LeftOut as reason:
            say(f"left out, {reason}")
            continue
        made.examples[damage.name] = np.asarray(split.images[:EXAMPLES], np.uint8)
        rows.append(measure.row(damage, split, say, share_of(progress, place, parts)))
        progress((place + 1) / parts)
    names = metric_names(measure.extractor.name, real.n)

    def later(fraction: float) -> None:
        progress((len(sets) + SETS * fraction) / parts)

    spread = measure.spread(real.pool(POOL), real.n, rows[0], later)
    return Panel(measure.extractor.name, names, rows[0], spread, tuple(rows[1:]))


@dataclass(frozen=True)
class _Measure:
    """One extractor with its reference."""

    evaluator: Evaluator
    extractor: Extractor
    reference: Reference
    cache: Path | None

    def row(self, damage: Damage, split: Split, say: Say, progress: Progress) -> DamageRow:
        """Measure a set of images."""
        found = self._features(split, progress)
        values = self._values(found, split.labels, {"images": damage.name}, say)
        return DamageRow(damage.name, damage.kind, damage.strength, values)

    def _features(self, split: Split, progress: Progress = unheard) -> Features:
        folder = self.cache and self.cache / "features" / hash_of(split.images)[:24]
        batch = self.evaluator.batch
        return features_of(
            self.extractor, split.images, batch=batch, folder=folder, progress=progress
        )

    def _values(
        self, found: Features, labels: Labels, facts: dict[str, str], say: Say
    ) -> dict[str, Value]:
        values = evaluate(
            found, self.reference, extractor=self.extractor, n=len(found), labels=labels,
            families=MEASURED, extra_provenance=facts, say=say,
        )  # fmt: skip
        names = metric_names(self.extractor.name, len(found))
        return {family: values[names[family]] for family in MEASURED if names[family] in values}

    def spread(self, pool: Split, n: int, row: DamageRow, progress: Progress) -> dict[str, float]:
        """Return by family the standard deviation between clean sets; see the module."""
        found = self._features(pool)
        sets = []
        for rows in subsets(len(pool), n):
            part = Features(found.features[rows], found.probabilities[rows])
            labels = None if pool.labels is None else pool.labels[rows]
            # Nothing is said of one set among many: what is missing there has no yardstick.
            values = self._values(part, labels, {}, lambda line: None)
            sets.append({family: value.value for family, value in values.items()})
            progress(len(sets) / SETS)
        spread = {}
        for name in (name for name in row.values if all(name in one for one in sets)):
            own = float(np.std([one[name] for one in sets], ddof=1)) / (1 - n / len(pool)) ** 0.5
            least = of_share(row.values[name].value, n) if name in SHARES else 0.0
            spread[name] = 2**0.5 * max(own, least)
        return spread


def subsets(count: int, n: int) -> Iterator[NDArray[np.int64]]:
    """Yield which n of ``count`` things make each of ``SETS`` sets."""
    for place in range(SETS):
        yield permutation(count, _SEED + place)[:n]


def of_share(share: float, count: int) -> float:
    """Return the standard deviation of a share of ``count``, two hits and two misses added."""
    centre = (share * count + 2) / (count + 4)
    return float(np.sqrt(centre * (1 - centre) / count))
