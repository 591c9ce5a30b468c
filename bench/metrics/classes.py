"""How many samples there are of each class, and whether these are enough."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bench.data.dataset import Dataset

if TYPE_CHECKING:
    pass

LEAST_OF_A_CLASS = 2
"""Samples without which a class has no covariance; fewer than features are enough."""


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


def class_counts(labels: NDArray[np.integer], dataset: Dataset) -> NDArray[np.int64]:
    """Count each of a data set's classes, (classes,)."""
    return count_classes(labels, len(labels), len(dataset.classes))
