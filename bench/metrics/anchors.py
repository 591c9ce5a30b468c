"""Two anchors, measured as the methods are: noise, and real images held out."""

from collections.abc import Collection
from functools import partial

import numpy as np
import torch

from bench.data.dataset import Dataset, Pixels, Progress, Split, to_uint8, unheard
from bench.metrics import classification_score
from bench.metrics.classification_score import random_part
from bench.metrics.evaluation import Evaluator
from bench.metrics.features import share_of
from bench.metrics.inception_score_and_accuracy import gap_of
from bench.metrics.protocol import BY_DEFAULT
from bench.metrics.references import selected_rows
from bench.records import Value

NOISE = "noise"
HELD_OUT = "real (held-out)"
_NOISE_SEED = 20_190_712
_NOISE_BLOCK = 1000


def measure_anchors(
    evaluator: Evaluator, n: int, *, families: Collection[str] | None = None,
    progress: Progress = unheard,
) -> dict[str, dict[str, Value]]:  # fmt: skip
    """Return the metrics of noise and of real images by all extractors, as those of samples.

    ``noise`` is n images of N(0, 1) noise, clipped and quantised like samples, or n points of
    N(0, I), which are neither; ``real (held-out)`` is the first n images of a fixed random order
    of the held-out split. Its classification accuracy score is of a classifier trained on n real
    training images. ``anchor_notes`` says what a data set is too small for.
    """
    dataset, wanted = evaluator.dataset, {*(BY_DEFAULT if families is None else families)}
    held_out = random_part(dataset.test, n)
    splits = {NOISE: Split(noise_like(dataset, n), None), HELD_OUT: held_out}
    rows: dict[str, dict[str, Value]] = {}
    parts = len(splits) + 1
    for place, (name, split) in enumerate(splits.items()):
        if split is not None:
            rows[name] = evaluator.measure(
                split.images, split.labels, families=wanted - {"cas"},
                jackknife=name == HELD_OUT, progress=share_of(progress, place, parts),
                say=lambda line: None,  # ``anchor_notes`` says it, also where anchors are stored.
            )  # fmt: skip
    drawn = classification_score.real_samples(dataset, n) if "cas" in wanted else None
    if drawn is not None and classification_score.missing(dataset) is None:
        assert drawn.labels is not None
        given, device = (drawn.images, drawn.labels, dataset), evaluator.pairs[0][0].device
        share = share_of(progress, parts - 1, parts)
        score = classification_score.cas(*given, device=device, progress=share)
        rows[HELD_OUT] = rows.get(HELD_OUT, {}) | score
    return rows


def anchor_notes(dataset: Dataset, n: int, *, limit: int | None = None) -> list[str]:
    """Say which metrics of real images ``measure_anchors`` leaves out with n samples, and why.

    Needs no extractor and computes nothing; ``limit`` is the reference's.
    """
    held_out = 0 if dataset.test is None else len(dataset.test)
    notes = []
    if held_out < n:
        notes.append(f"no anchor of held-out images: {n} are needed and there are {held_out}")
    chosen, labels = random_part(dataset.test, n), dataset.train.labels
    if chosen is not None and chosen.labels is not None and labels is not None:
        count = partial(np.bincount, minlength=len(dataset.classes))
        known = count(labels[selected_rows(len(labels), limit)])
        gap = gap_of(count(chosen.labels), "held-out images") or gap_of(known, "reference images")
        notes += [f"no class-wise distance of held-out images: {gap}"] if gap else []
    if dataset.train.labels is not None:
        gap = classification_score.missing(dataset)
        if gap is None and len(dataset.train) < n:
            gap = f"{n} training images are needed and there are {len(dataset.train)}"
        notes += [f"no classification accuracy score of real images: {gap}"] if gap else []
    return notes


def noise_like(dataset: Dataset, n: int) -> Pixels:
    """Return n images or points of standard normal noise, always the same.

    Images are clipped and quantised to uint8, as samples are; points stay float32.
    """
    random = np.random.RandomState(_NOISE_SEED)
    made: Pixels = np.empty((n, *dataset.shape), np.float32 if dataset.is_points else np.uint8)
    for start in range(0, n, _NOISE_BLOCK):
        # The stream of numbers does not depend on the blocks, and float64 images take no memory.
        noise = random.standard_normal(made[start : start + _NOISE_BLOCK].shape)
        if not dataset.is_points:
            noise = to_uint8(torch.from_numpy(noise)).numpy()
        made[start : start + _NOISE_BLOCK] = noise
    return made
