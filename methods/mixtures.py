"""Gaussian mixtures: densities, scores and denoisers in closed form at every noise level.

The ground truth that learned scores and samplers are held against. A mixture
``p(y) = sum_k w_k N(y; m_k, C_k)`` whose components belong to classes, noised to
``x = y + sigma n``, stays a mixture, with covariances ``C_k + sigma^2 I``. With the
responsibilities ``r_k(x) = p(k | x)`` and the eigenvectors U and eigenvalues l of each C_k,

    score(x)    = -sum_k r_k U 1/(l + sigma^2) U' (x - m_k)
    E[y | x]    =  sum_k r_k (m_k + U l/(l + sigma^2) U' (x - m_k))  =  x + sigma^2 score(x)

Conditioning on a class restricts the sums to its components. Everything is computed in the type
and on the device of ``x``, by log-sum-exp and without autograd.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

Level = Tensor | float
"""A noise level: a number, a scalar tensor, or one for each point, (n,)."""


@dataclass(frozen=True, eq=False)
class GaussianMixture:
    """Exact density, scores and denoisers of a class-conditional Gaussian mixture, noised.

    Points ``x`` are (n, ...) with d numbers each, so images (n, 2, 1, 1) are points of a plane;
    ``sigma`` is a :data:`Level`; ``labels`` (n,) int64 ask for the density of a class in place of
    the whole. ValueError for parameters that do not fit together.
    """

    weights: Tensor
    """(K,), positive, sum 1."""
    means: Tensor
    """(K, d)."""
    covariances: Tensor
    """(K, d, d), symmetric, positive semi-definite (singular ones have a density at sigma > 0)."""
    labels: Tensor
    """(K,) int64, the class of each component: 0 to C - 1, none missing."""

    def __post_init__(self) -> None:
        k, d = self.means.shape
        shapes = {"weights": (k,), "covariances": (k, d, d), "labels": (k,)}
        for name, shape in shapes.items():
            given = tuple(getattr(self, name).shape)
            if given != shape:
                raise ValueError(f"{name} are {given}; for {k} means in {d}-D they must be {shape}")
        if not bool((self.weights > 0).all()) or abs(float(self.weights.sum()) - 1) > 1e-5:
            raise ValueError("weights must be positive and sum to 1")
        if sorted(set(self.labels.tolist())) != list(range(self.classes)):
            raise ValueError("labels must be 0 to C - 1, each with a component")

    @property
    def classes(self) -> int:
        """The number of classes C."""
        return int(self.labels.max()) + 1

    @property
    def dim(self) -> int:
        """The number of dimensions d."""
        return self.means.shape[1]

    @cached_property
    def mean(self) -> Tensor:
        """The mean of the whole mixture, (d,)."""
        return self.weights @ self.means

    @cached_property
    def covariance(self) -> Tensor:
        """The covariance of the whole mixture, (d, d)."""
        centred = self.means - self.mean
        spread = centred[:, :, None] * centred[:, None, :]
        return torch.einsum("k,kij->ij", self.weights, self.covariances + spread)

    @cached_property
    def class_weights(self) -> Tensor:
        """The frequency of each class, (C,)."""
        return self.weights.new_zeros(self.classes).index_add(0, self.labels, self.weights)

    def to(
        self, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> GaussianMixture:
        """Return the mixture with parameters of this type, on this device."""
        return GaussianMixture(
            self.weights.to(dtype=dtype, device=device),
            self.means.to(dtype=dtype, device=device),
            self.covariances.to(dtype=dtype, device=device),
            self.labels.to(device=device),
        )

    def sample(
        self, n: int, generator: torch.Generator, labels: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Draw points (n, d) and their classes (n,); of the classes ``labels`` if given."""
        here = self.means.device == generator.device
        mixture = self if here else self.to(device=generator.device)
        chances = mixture.weights.expand(n, -1)
        if labels is not None:
            chances = chances * (mixture.labels == labels[:, None])
        component = torch.multinomial(chances, 1, generator=generator)[:, 0]
        z = torch.randn(
            n, self.dim, generator=generator, dtype=self.means.dtype, device=generator.device
        )
        variances, axes = mixture._spectrum
        stretched = variances.sqrt()[component] * z
        points = mixture.means[component] + torch.einsum("nde,ne->nd", axes[component], stretched)
        return points, mixture.labels[component]

    def log_prob(self, x: Tensor, sigma: Level = 0.0, labels: Tensor | None = None) -> Tensor:
        """``log p(x)`` at level ``sigma``, or ``log p(x | class)``, (n,)."""
        joint = self._joint(x, sigma, labels).logsumexp(1)
        if labels is None:
            return joint
        return joint - self.class_weights.to(x).log()[labels]

    def score(self, x: Tensor, sigma: Level, labels: Tensor | None = None) -> Tensor:
        """``grad_x log p(x)`` at level ``sigma``, or of ``log p(x | class)``; as ``x``."""
        variances, axes = self._cast_spectrum(x)
        scale = -1 / (variances + self._squared(x, sigma))
        pulls = self._rotated_back(scale * self._projected(x, axes), axes)
        return self._averaged(pulls, x, sigma, labels)

    def denoise(self, x: Tensor, sigma: Level, labels: Tensor | None = None) -> Tensor:
        """``E[y | x]`` at level ``sigma``, or ``E[y | x, class]``; shaped as ``x``."""
        variances, axes = self._cast_spectrum(x)
        # Not x + sigma^2 score: that cancels at large levels.
        shrink = variances / (variances + self._squared(x, sigma))
        offsets = self._rotated_back(shrink * self._projected(x, axes), axes)
        return self._averaged(self.means.to(x) + offsets, x, sigma, labels)

    def class_log_posterior(self, x: Tensor, sigma: Level = 0.0) -> Tensor:
        """``log p(class | x)`` at level ``sigma``, (n, C)."""
        joint = self._joint(x, sigma, None)
        of_class = self.labels.to(x.device) == torch.arange(self.classes, device=x.device)[:, None]
        per_class = joint[:, None].masked_fill(~of_class, -math.inf).logsumexp(2)
        return per_class.log_softmax(1)

    def likelihood_score(self, x: Tensor, sigma: Level, labels: Tensor) -> Tensor:
        """``grad_x log p(class | x)`` at level ``sigma``: what a perfect classifier's is."""
        return self.score(x, sigma, labels) - self.score(x, sigma)

    @cached_property
    def _spectrum(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues (K, d) and eigenvectors (K, d, d) of the covariances, found in float64."""
        variances, axes = torch.linalg.eigh(self.covariances.double())
        return variances.clamp(min=0).to(self.means.dtype), axes.to(self.means.dtype)

    def _cast_spectrum(self, x: Tensor) -> tuple[Tensor, Tensor]:
        variances, axes = self._spectrum
        return variances.to(x), axes.to(x)

    def _squared(self, x: Tensor, sigma: Level) -> Tensor:
        """``sigma^2`` for each point or for all, (n or 1, 1, 1)."""
        return torch.as_tensor(sigma, dtype=x.dtype, device=x.device).reshape(-1, 1, 1) ** 2

    def _projected(self, x: Tensor, axes: Tensor) -> Tensor:
        """``U' (x - m_k)``, (n, K, d)."""
        return torch.einsum("nkd,kde->nke", x.flatten(1)[:, None] - self.means.to(x), axes)

    def _rotated_back(self, projected: Tensor, axes: Tensor) -> Tensor:
        return torch.einsum("nke,kde->nkd", projected, axes)

    def _joint(self, x: Tensor, sigma: Level, labels: Tensor | None) -> Tensor:
        """``log w_k N(x; m_k, C_k + sigma^2 I)``, (n, K); -inf outside the class asked for."""
        variances, axes = self._cast_spectrum(x)
        total = variances + self._squared(x, sigma)
        distances = (self._projected(x, axes) ** 2 / total).sum(2)
        log_volume = total.log().sum(2) + self.dim * math.log(2 * math.pi)
        joint = self.weights.to(x).log() - 0.5 * (distances + log_volume)
        if labels is None:
            return joint
        return joint.masked_fill(self.labels.to(x.device) != labels[:, None], -math.inf)

    def _averaged(self, values: Tensor, x: Tensor, sigma: Level, labels: Tensor | None) -> Tensor:
        """``sum_k r_k values_k`` of values (n, K, d), shaped as ``x``."""
        responsibilities = self._joint(x, sigma, labels).softmax(1)
        return torch.einsum("nk,nkd->nd", responsibilities, values).reshape(x.shape)


def isotropic(means: Tensor, std: float, labels: Tensor) -> GaussianMixture:
    """Equally weighted round Gaussians of one width around ``means`` (K, d)."""
    k, d = means.shape
    covariances = std**2 * torch.eye(d, dtype=means.dtype).repeat(k, 1, 1)
    return GaussianMixture(torch.full((k,), 1 / k, dtype=means.dtype), means, covariances, labels)


def _on_circle(angles: Tensor) -> Tensor:
    return torch.stack([angles.cos(), angles.sin()], 1)


def ring(modes: int = 8, radius: float = 0.75, std: float = 0.04) -> GaussianMixture:
    """``modes`` round Gaussians on a circle in the plane, a class each."""
    angles = torch.arange(modes, dtype=torch.float64) * (2 * math.pi / modes)
    return isotropic(radius * _on_circle(angles), std, torch.arange(modes))


# Class, weight, mean, standard deviations along the axes, and the first axis' angle in degrees.
_GMM2D = (
    (0, 0.15, (-0.60, 0.45), (0.16, 0.05), 30.0),
    (0, 0.10, (0.10, 0.62), (0.05, 0.05), 0.0),
    (0, 0.15, (-0.15, 0.05), (0.12, 0.06), -45.0),
    (1, 0.20, (0.50, 0.25), (0.18, 0.06), 75.0),
    (1, 0.10, (-0.50, -0.30), (0.07, 0.07), 0.0),
    (2, 0.12, (0.05, -0.20), (0.14, 0.05), 20.0),
    (2, 0.06, (0.62, -0.55), (0.05, 0.05), 0.0),
    (2, 0.08, (-0.20, -0.65), (0.15, 0.04), -15.0),
    (2, 0.04, (-0.72, -0.08), (0.04, 0.09), 10.0),
)


def gmm2d() -> GaussianMixture:
    """Three classes of 3, 2 and 4 Gaussians in the plane, uneven and elongated, that overlap."""
    labels, weights, means, stds, angles = zip(*_GMM2D, strict=True)
    turn = torch.tensor(angles, dtype=torch.float64).deg2rad()
    first = _on_circle(turn)
    axes = torch.stack([first, _on_circle(turn + math.pi / 2)], 2)
    variances = torch.tensor(stds, dtype=torch.float64) ** 2
    return GaussianMixture(
        torch.tensor(weights, dtype=torch.float64),
        torch.tensor(means, dtype=torch.float64),
        torch.einsum("kie,ke,kje->kij", axes, variances, axes),
        torch.tensor(labels),
    )


def moons(components: int = 32, std: float = 0.05) -> GaussianMixture:
    """Two interleaved half circles, a class each, of small round Gaussians along the arc.

    The shape of scikit-learn's ``make_moons``, centred and scaled by 0.6 to lie in [-1, 1].
    """
    arc = _on_circle(torch.linspace(0, math.pi, components, dtype=torch.float64))
    upper, lower = arc - arc.new_tensor([0.5, 0.25]), arc.new_tensor([0.5, 0.25]) - arc
    labels = torch.arange(2).repeat_interleave(components)
    return isotropic(0.6 * torch.cat([upper, lower]), std, labels)
