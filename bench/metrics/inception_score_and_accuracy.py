"""What class probabilities tell: the Inception Score and the accuracy; and counts of classes."""

import numpy as np
from numpy.typing import NDArray

from bench.metrics.frechet_distance import Vectors, permutation

SPLITS = 10
"""Parts that the Inception Score is averaged over (Salimans et al. 2016)."""
LEAST_OF_A_CLASS = 2
"""Samples without which a class has no covariance; fewer than features are enough."""


def inception_score(probabilities: Vectors, splits: int = SPLITS) -> tuple[float, float]:
    """Return the mean and standard deviation over splits of exp E[KL(p(y|x) || p(y))].

    Probabilities are (N, K), rows sum to one. They are put into a fixed random order first: samples
    that come ordered by class would otherwise leave each split with a class or two.
    Source: Salimans et al. 2016, section 4.
    """
    if len(probabilities) < splits:
        raise ValueError(f"{len(probabilities)} images do not fill {splits} splits")
    shuffled = probabilities.astype(np.float64)[permutation(len(probabilities))]
    scores = [_score(part) for part in np.array_split(shuffled, splits)]
    return float(np.mean(scores)), float(np.std(scores))


def _score(part: NDArray[np.float64]) -> float:
    marginal = np.broadcast_to(part.mean(axis=0), part.shape)
    # Zero times the logarithm of zero is zero here: a class never predicted adds nothing.
    log_ratio = np.zeros_like(part)
    seen = part > 0
    log_ratio[seen] = np.log(part[seen]) - np.log(marginal[seen])
    return float(np.exp((part * log_ratio).sum(axis=1).mean()))


def accuracy(probabilities: Vectors, labels: NDArray[np.integer]) -> float:
    """Return the fraction of rows of (N, K) whose largest entry is at the label, 0 to 1."""
    if len(probabilities) != len(labels):
        raise ValueError(f"{len(probabilities)} images but {len(labels)} labels")
    return float((probabilities.argmax(axis=1) == labels).mean())


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
