"""All pairs of two sets of features, a tile at a time: memory does not grow with their number."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.metrics.frechet_distance import Vectors

ROWS, COLUMNS = 512, 2048
"""Small enough to stay near the processor, large enough for a fast product."""


@dataclass(frozen=True)
class Tile:
    """Some ``rows`` of one set against some of the other, the ``columns``; float64."""

    rows: slice
    columns: slice
    one: Tensor
    other: Tensor

    @property
    def products(self) -> Tensor:
        """Scalar products, (rows, columns)."""
        return self.one @ self.other.T

    @property
    def distances(self) -> Tensor:
        """Squared Euclidean distances, (rows, columns); what rounding makes negative is zero."""
        lengths = self.one.square().sum(1)[:, None] + self.other.square().sum(1)
        return (lengths - 2 * self.products).clamp_(min=0)


def pairs(
    one: Vectors, other: Vectors, *, centre: NDArray[np.float64] | None = None,
    device: str | torch.device = "cpu",
) -> Iterator[Tile]:  # fmt: skip
    """Iterate over the tiles of all pairs, those of a row of tiles in order of their columns.

    ``centre`` (d,) is taken off both, which leaves distances as they are and spares their digits.
    """

    def load(part: Vectors) -> Tensor:
        values = part.astype(np.float64)
        return torch.from_numpy(values if centre is None else values - centre).to(device)

    for row in range(0, len(one), ROWS):
        rows = slice(row, row + ROWS)
        loaded = load(one[rows])
        for column in range(0, len(other), COLUMNS):
            columns = slice(column, column + COLUMNS)
            yield Tile(rows, columns, loaded, load(other[columns]))
