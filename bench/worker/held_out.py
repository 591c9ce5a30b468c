"""Some held-out images of a study beside its cells, so that its pictures can show real ones."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.data import Dataset
from bench.records import REAL, write_archive
from bench.records.grid import MOST_POINTS, WINDOW, by_class

IMAGES = 64
CELLS = 96
"""Rows and columns of the grid that a true density is kept on."""


def keep_held_out(study: Path, dataset: Dataset) -> None:
    """Write ``real.npz``: images, in the order of their classes, or points and their density.

    Nothing where the data have no held-out split, or their file is there.
    """
    path, split = study / REAL, dataset.test
    if split is None or _is_of(path, dataset.sha256):
        return
    count = min(len(split), MOST_POINTS if dataset.is_points else IMAGES)
    places = np.arange(count) if split.labels is None else by_class(split.labels, count)
    kept: dict[str, Any] = {
        "images": np.asarray(split.images[places]), "data_sha256": np.array(dataset.sha256),
    }  # fmt: skip
    if split.labels is not None:
        kept["labels"] = split.labels[places]
    if dataset.truth is not None:
        kept["density"] = density_grid(dataset)
    write_archive(path, lambda file: np.savez_compressed(file, **kept))


def density_grid(dataset: Dataset) -> NDArray[np.float32]:
    """Return the true density of points over the window of their pictures, (CELLS, CELLS)."""
    assert dataset.truth is not None
    middles = ((torch.arange(CELLS, dtype=torch.float64) + 0.5) / CELLS * 2 - 1) * WINDOW
    y, x = torch.meshgrid(-middles, middles, indexing="ij")
    points = torch.stack([x.flatten(), y.flatten()], 1)
    return dataset.truth.log_prob(points).exp().reshape(CELLS, CELLS).float().numpy()


def _is_of(path: Path, sha256: str) -> bool:
    if not path.exists():
        return False
    with np.load(path) as kept:
        return str(kept.get("data_sha256")) == sha256
