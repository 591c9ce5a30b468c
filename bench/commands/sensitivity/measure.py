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

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.commands.sensitivity.damage import Damage, LeftOut, Real, damages
from bench.config import UserError
from bench.data.dataset import Dataset, Progress, Split, unheard
from bench.metrics.evaluation import Evaluator, evaluate
from bench.metrics.extractors.loading import Extractor
from bench.metrics.features import Features, features_of, hash_of, share_of
from bench.metrics.frechet_distance import permutation
from bench.metrics.protocol import BY_DEFAULT, Say, metric_names
from bench.metrics.references import Reference
from bench.records import Value, direction

MEASURED = tuple(name for name in BY_DEFAULT if name not in {"cas", "sw2", "modes"})
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
class Measurement:
    """One metric of one set of images, beside that of the clean images; ``nan`` is not known."""

    family: str
    metric: str
    """The metric's full name."""
    value: Value
    clean: float = math.nan
    spread: float = math.nan
    """Standard deviation of the difference between two sets of n clean images."""

    @property
    def worse(self) -> float:
        """How much worse than clean, in standard deviations between clean sets; below 0: better."""
        change = self.value.value - self.clean
        if change == 0:
            return 0.0
        sign = 1.0 if direction(self.family) == "↓" else -1.0
        return sign * change / self.spread if self.spread > 0 else sign * math.copysign(1e9, change)


@dataclass(frozen=True)
class Panel:
    """All that one extractor has measured: of the clean images first, then of the damaged ones."""

    extractor: str
    measured: Mapping[Damage, Mapping[str, Measurement]]
    """By the family of the metric."""

    @property
    def clean(self) -> list[Measurement]:
        """The yardsticks: a measurement of the clean images for each family."""
        return [*next(iter(self.measured.values())).values()]

    @property
    def damages(self) -> list[Damage]:
        """What was done to the images, in the order of the page."""
        return [*self.measured][1:]


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
    parts, found = len(sets) + SETS, dict[Damage, dict[str, Value]]()
    for place, damage in enumerate(sets):

        def say(line: str, name: str = damage.name) -> None:
            made.left_out[f"{name}: {line}"] = None

        try:
            split = damage.make(real)
        except LeftOut as reason:
            say(f"left out, {reason}")
            continue
        made.examples[damage.name] = np.asarray(split.images[:EXAMPLES], np.uint8)
        features = measure.features(split, share_of(progress, place, parts))
        found[damage] = measure.values(features, split.labels, {"images": damage.name}, say)
        progress((place + 1) / parts)

    def later(fraction: float) -> None:
        progress((len(sets) + SETS * fraction) / parts)

    names, clean = metric_names(measure.extractor.name, real.n), found[sets[0]]
    spread = measure.spread(real.pool(POOL), real.n, clean, later)
    beside = {family: (clean[family].value, spread[family]) for family in spread}
    measured = {
        damage: {
            family: Measurement(family, names[family], value, *beside.get(family, ()))
            for family, value in values.items()
        }
        for damage, values in found.items()
    }
    return Panel(measure.extractor.name, measured)


@dataclass(frozen=True)
class _Measure:
    """One extractor with its reference."""

    evaluator: Evaluator
    extractor: Extractor
    reference: Reference
    cache: Path | None

    def features(self, split: Split, progress: Progress = unheard) -> Features:
        folder = self.cache and self.cache / "features" / hash_of(split.images)[:24]
        batch = self.evaluator.batch
        return features_of(
            self.extractor, split.images, batch=batch, folder=folder, progress=progress
        )

    def values(
        self, found: Features, labels: Labels, facts: dict[str, str], say: Say
    ) -> dict[str, Value]:
        values = evaluate(
            found, self.reference, extractor=self.extractor, n=len(found), labels=labels,
            families=MEASURED, extra_provenance=facts, say=say,
        )  # fmt: skip
        names = metric_names(self.extractor.name, len(found))
        return {family: values[names[family]] for family in MEASURED if names[family] in values}

    def spread(
        self, pool: Split, n: int, clean: Mapping[str, Value], progress: Progress
    ) -> dict[str, float]:
        """Return by family the standard deviation between clean sets; see the module."""
        found, sets = self.features(pool), []
        for rows in subsets(len(pool), n):
            part = Features(found.features[rows], found.probabilities[rows])
            labels = None if pool.labels is None else pool.labels[rows]
            # Nothing is said of one set among many: what is missing there has no yardstick.
            sets.append(self.values(part, labels, {}, lambda line: None))
            progress(len(sets) / SETS)
        spread = {}
        for name in (name for name in clean if all(name in one for one in sets)):
            own = float(np.std([one[name].value for one in sets], ddof=1))
            least = of_share(clean[name].value, n) if name in SHARES else 0.0
            spread[name] = 2**0.5 * max(own / (1 - n / len(pool)) ** 0.5, least)
        return spread


def subsets(count: int, n: int) -> Iterator[NDArray[np.int64]]:
    """Yield which n of ``count`` things make each of ``SETS`` sets."""
    for place in range(SETS):
        yield permutation(count, _SEED + place)[:n]


def of_share(share: float, count: int) -> float:
    """Return the standard deviation of a share of ``count``, two hits and two misses added."""
    centre = (share * count + 2) / (count + 4)
    return float(np.sqrt(centre * (1 - centre) / count))
