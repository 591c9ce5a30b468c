"""Fidelity and diversity apart: precision and recall, density and coverage.

A set of features stands for its manifold, the union of balls around them, each reaching to its
feature's k-th nearest neighbour in the set. Distances are in float64; those that differ by
rounding alone, as a radius and the distance of a copy do, count as equal.
Source: Kynkäänniemi et al. 2019 (precision and recall, k = 3); Naeem et al. 2020 (density and
coverage, k = 5, whose balls are open).
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.metrics.frechet_distance import Vectors
from bench.metrics.tiles import COLUMNS, pairs

NEIGHBOUR = 3
"""k of precision and recall."""
NEIGHBOUR_OF_DENSITY = 5
"""k of density and coverage."""
LEAST = max(NEIGHBOUR, NEIGHBOUR_OF_DENSITY) + 1
"""The fewest features that have so many neighbours."""
_ROUNDING = 1e-12
"""Share of the largest squared length below which squared distances do not differ."""


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
