"""What looks at all pairs of features: kernel distance; precision, recall, density and coverage.

Pairs are taken a tile at a time, so that memory does not grow with their number.

Kernel Inception Distance is the unbiased squared maximum mean discrepancy of features. The kernel
is (x . y / d + 1)^3, and all pairs are taken: on 10,000 features that is steadier than the mean
over a hundred subsets of a thousand, and its expectation is the same.
Source: Binkowski et al. 2018, equation 4; Gretton et al. 2012, lemma 6.

Fidelity and diversity apart: a set of features stands for its manifold, the union of balls around
them, each reaching to its feature's k-th nearest neighbour in the set. Distances are in float64;
those that differ by rounding alone, as a radius and the distance of a copy do, count as equal.
Source: Kynkäänniemi et al. 2019 (precision and recall, k = 3); Naeem et al. 2020 (density and
coverage, k = 5, whose balls are open).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Vectors = NDArray[np.floating]
"""Features (N, d), in memory or mapped from a file."""

ROWS, COLUMNS = 512, 2048
"""Small enough to stay near the processor, large enough for a fast product."""

NEIGHBOUR = 3
"""k of precision and recall."""
NEIGHBOUR_OF_DENSITY = 5
"""k of density and coverage."""
_ROUNDING = 1e-12
"""Share of the largest squared length below which squared distances do not differ."""


@dataclass(frozen=True)
class Tile:
    """Rows from ``row`` of one set against rows from ``column`` of the other, float64."""

    row: int
    column: int
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
    one: Vectors,
    other: Vectors,
    *,
    centre: NDArray[np.float64] | None = None,
    device: str | torch.device = "cpu",
) -> Iterator[Tile]:
    """Iterate over the tiles of all pairs, those of a row of tiles in order of their columns.

    ``centre`` (d,) is taken off both, which leaves distances as they are and spares their digits.
    """
    for row in range(0, len(one), ROWS):
        rows = _load(one[row : row + ROWS], centre, device)
        for column in range(0, len(other), COLUMNS):
            columns = _load(other[column : column + COLUMNS], centre, device)
            yield Tile(row, column, rows, columns)


def _load(part: Vectors, centre: NDArray[np.float64] | None, device: str | torch.device) -> Tensor:
    values = part.astype(np.float64)
    return torch.from_numpy(values if centre is None else values - centre).to(device)


def kernel_distance(
    one: Vectors,
    other: Vectors,
    *,
    own_mean: float | None = None,
    device: str | torch.device = "cpu",
) -> float:
    """Return the unbiased distance of features (N, d) and (M, d), two rows or more each.

    Zero in the mean for two draws of one distribution, so that single values may be negative.
    ``own_mean`` is ``mean_within(other)``, for whoever knows it already.
    """
    if own_mean is None:
        own_mean = mean_within(other, device=device)
    between = _total(one, other, device) / (len(one) * len(other))
    within = mean_within(one, device=device)
    return within + own_mean - 2 * between


def mean_within(features: Vectors, *, device: str | torch.device = "cpu") -> float:
    """Return the mean kernel of all pairs of different rows of (N, d), N two or more."""
    count, dimension = len(features), features.shape[1]
    if count < 2:
        raise ValueError(f"a kernel distance needs two features or more, not {count}")
    norms = np.einsum("nd,nd->n", features, features, dtype=np.float64)
    with_themselves = float(((norms / dimension + 1) ** 3).sum())
    all_pairs = _total(features, features, device)
    return (all_pairs - with_themselves) / (count * (count - 1))


def _total(one: Vectors, other: Vectors, device: str | torch.device) -> float:
    dimension = one.shape[1]
    total = 0.0
    for tile in pairs(one, other, device=device):
        values = tile.products.div_(dimension).add_(1)
        # Twice as fast as a power.
        total += float((values * values * values).sum())
    return total


@dataclass(frozen=True)
class Overlap:
    """How two manifolds overlap; all but the density lie between 0 and 1.

    ``precision``: the share of samples within the real manifold; ``recall``: of real images within
    the samples'; ``density``: in how many real balls a sample lies, on average over k;
    ``coverage``: the share of real balls with a sample in them.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def least() -> int:
    """Return the fewest features that have so many neighbours."""
    return max(NEIGHBOUR, NEIGHBOUR_OF_DENSITY) + 1


def overlap(real: Vectors, samples: Vectors, *, device: str | torch.device = "cpu") -> Overlap:
    """Return the four measures of samples (N, d) against real features (M, d).

    Raises ValueError where either has fewer than ``least()`` rows.
    """
    radii = radii_of(real, device=device)
    real_radii, density_radii = radii[:, NEIGHBOUR - 1], radii[:, NEIGHBOUR_OF_DENSITY - 1]
    own_radii = radii_of(samples, device=device)[:, NEIGHBOUR - 1]
    inside = torch.zeros(len(samples), dtype=torch.bool, device=device)
    balls = torch.zeros(len(samples), dtype=torch.float64, device=device)
    reached = torch.zeros(len(real), dtype=torch.bool, device=device)
    covered = torch.zeros(len(real), dtype=torch.bool, device=device)
    centre = _centre(real)
    slack = _ROUNDING * max(_largest(real, centre), _largest(samples, centre))
    for tile in pairs(samples, real, centre=centre, device=device):
        distances = tile.distances
        rows = slice(tile.row, tile.row + distances.shape[0])
        columns = slice(tile.column, tile.column + distances.shape[1])
        inside[rows] |= (distances <= real_radii[columns] + slack).any(1)
        reached[columns] |= (distances <= own_radii[rows, None] + slack).any(0)
        open_balls = distances < density_radii[columns] - slack
        balls[rows] += open_balls.sum(1)
        covered[columns] |= open_balls.any(0)
    shares = (inside.double(), reached.double(), balls / NEIGHBOUR_OF_DENSITY, covered.double())
    return Overlap(*(float(share.mean()) for share in shares))


def radii_of(features: Vectors, *, device: str | torch.device = "cpu") -> Tensor:
    """Return squared distances (N, k) of features (N, d) to their k nearest others, in order."""
    if len(features) < least():
        raise ValueError(f"neighbours need {least()} features or more, not {len(features)}")
    nearest: list[Tensor] = []
    for tile in pairs(features, features, centre=_centre(features), device=device):
        distances = tile.distances
        offset = tile.row - tile.column
        if -len(distances) < offset < COLUMNS:
            distances.diagonal(offset).fill_(torch.inf)  # Each is no neighbour of itself.
        if tile.column == 0:
            nearest.append(distances.new_full((len(distances), least() - 1), torch.inf))
        candidates = torch.cat([nearest[-1], distances], dim=1)
        nearest[-1] = candidates.topk(least() - 1, largest=False).values
    return torch.cat(nearest)


def _largest(features: Vectors, centre: NDArray[np.float64]) -> float:
    """Return the largest squared length of features (N, d) about a centre, a block at a time."""
    blocks = (features[start : start + COLUMNS] for start in range(0, len(features), COLUMNS))
    return max(float(np.square(block - centre).sum(axis=1).max()) for block in blocks)


def _centre(features: Vectors) -> NDArray[np.float64]:
    return np.asarray(features.mean(axis=0, dtype=np.float64))
