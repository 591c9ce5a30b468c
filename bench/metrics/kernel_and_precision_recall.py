"""What looks at all pairs of features: the kernel distance, precision, recall, density, coverage.

Kernel distance: the unbiased squared maximum mean discrepancy. The kernel is (x . y / d + 1)^3; all
pairs of 10,000 features are steadier than the mean over a hundred subsets of a thousand, and their
expectation is the same.
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

from bench.metrics.frechet_distance import Vectors

ROWS, COLUMNS = 512, 2048
"""Of a tile: small enough to stay near the processor, large enough for a fast product."""
NEIGHBOUR = 3
"""k of precision and recall."""
NEIGHBOUR_OF_DENSITY = 5
"""k of density and coverage."""
LEAST = max(NEIGHBOUR, NEIGHBOUR_OF_DENSITY) + 1
"""The fewest features that have so many neighbours."""
_ROUNDING = 1e-12
"""Share of the largest squared length below which squared distances do not differ."""


def kernel_distance(
    one: Vectors, other: Vectors, *, own_mean: float | None = None,
    device: str | torch.device = "cpu",
) -> float:  # fmt: skip
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


def overlap(real: Vectors, samples: Vectors, *, device: str | torch.device = "cpu") -> Overlap:
    """Return the four measures of samples (N, d) against real features (M, d).

    Raises ValueError where either has fewer than ``LEAST`` rows.
    """
    radii = radii_of(real, device=device)
    real_radii, density_radii = radii[:, NEIGHBOUR - 1], radii[:, NEIGHBOUR_OF_DENSITY - 1]
    own_radii = radii_of(samples, device=device)[:, NEIGHBOUR - 1]
    inside = torch.zeros(len(samples), dtype=torch.bool, device=device)
    balls = torch.zeros(len(samples), dtype=torch.float64, device=device)
    reached, covered = torch.zeros((2, len(real)), dtype=torch.bool, device=device)
    centre = _centre(real)
    slack = _ROUNDING * max(_largest(real, centre), _largest(samples, centre))
    for tile in pairs(samples, real, centre=centre, device=device):
        distances, rows, columns = tile.distances, tile.rows, tile.columns
        inside[rows] |= (distances <= real_radii[columns] + slack).any(1)
        reached[columns] |= (distances <= own_radii[rows, None] + slack).any(0)
        open_balls = distances < density_radii[columns] - slack
        balls[rows] += open_balls.sum(1)
        covered[columns] |= open_balls.any(0)
    shares = (inside.double(), reached.double(), balls / NEIGHBOUR_OF_DENSITY, covered.double())
    return Overlap(*(float(share.mean()) for share in shares))


def radii_of(features: Vectors, *, device: str | torch.device = "cpu") -> Tensor:
    """Return squared distances (N, k) of features (N, d) to their k nearest others, in order."""
    if len(features) < LEAST:
        raise ValueError(f"neighbours need {LEAST} features or more, not {len(features)}")
    nearest: list[Tensor] = []
    for tile in pairs(features, features, centre=_centre(features), device=device):
        distances = tile.distances
        offset = tile.rows.start - tile.columns.start
        if -len(distances) < offset < COLUMNS:
            distances.diagonal(offset).fill_(torch.inf)  # Each is no neighbour of itself.
        if tile.columns.start == 0:
            nearest.append(distances.new_full((len(distances), LEAST - 1), torch.inf))
        candidates = torch.cat([nearest[-1], distances], dim=1)
        nearest[-1] = candidates.topk(LEAST - 1, largest=False).values
    return torch.cat(nearest)


def _largest(features: Vectors, centre: NDArray[np.float64]) -> float:
    """Return the largest squared length of features (N, d) about a centre, a block at a time."""
    blocks = (features[start : start + COLUMNS] for start in range(0, len(features), COLUMNS))
    return max(float(np.square(block - centre).sum(axis=1).max()) for block in blocks)


def _centre(features: Vectors) -> NDArray[np.float64]:
    return np.asarray(features.mean(axis=0, dtype=np.float64))


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
