"""The embedded data set: scikit-learn's 1797 handwritten digits of 8x8 grey pixels.

scikit-learn ships no split, so we fix one: 1297 images to train on and 500 held out, each class
in proportion to its size. An image is held out by the SHA-256 of its own pixels, not by a random
generator, so that the split is the same under every version of numpy and scikit-learn and does
not depend on the order of the images.
"""

import hashlib
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.data.catalogue import KNOWN
from bench.data.dataset import Dataset, Split

_BRIGHTEST = 16
"""The data's largest grey value, which becomes 255."""


def load_digits() -> Dataset:
    """Return the digits, 0..16 scaled to 0..255, in scikit-learn's order within each split."""
    rows = np.loadtxt(_file(), delimiter=",", dtype=np.int64)
    grey, labels = rows[:, :-1].reshape(-1, 1, 8, 8), rows[:, -1]
    images = ((grey * 255 + _BRIGHTEST // 2) // _BRIGHTEST).astype(np.uint8)
    held_out = choose_held_out(images, labels, KNOWN["digits"].test)
    train = Split(images[~held_out], labels[~held_out])
    test = Split(images[held_out], labels[held_out])
    source = "scikit-learn's load_digits, split by hash into 1297 + 500"
    return Dataset.of_known("digits", train, test, source)


def _file() -> Path:
    """The table that ``sklearn.datasets.load_digits`` reads: to import that takes over a second."""
    spec = find_spec("sklearn")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz"


def choose_held_out(
    images: NDArray[np.uint8], labels: NDArray[np.int64], count: int
) -> NDArray[np.bool_]:
    """Mark ``count`` images, each class in proportion, those whose pixels hash lowest."""
    chosen = np.zeros(len(images), dtype=np.bool_)
    keys = [hashlib.sha256(b"scorebench split 1" + image.tobytes()).digest() for image in images]
    for label, quota in enumerate(_quotas(np.bincount(labels).tolist(), count)):
        members = np.flatnonzero(labels == label).tolist()
        chosen[sorted(members, key=lambda index: (keys[index], index))[:quota]] = True
    return chosen


def _quotas(sizes: list[int], count: int) -> list[int]:
    """Share ``count`` out in proportion to ``sizes`` by the largest remainders."""
    total = sum(sizes)
    quotas = [size * count // total for size in sizes]
    by_remainder = sorted(range(len(sizes)), key=lambda k: (-(sizes[k] * count % total), k))
    for k in by_remainder[: count - sum(quotas)]:
        quotas[k] += 1
    return quotas
