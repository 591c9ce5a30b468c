"""The closed-form mixtures, held against autograd, finite differences, quadrature and sampling."""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from methods.mixtures import GaussianMixture, gmm2d, moons, ring


def crowd(dim: int = 3, components: int = 5, seed: int = 0) -> GaussianMixture:
    """A random mixture with full covariances and three classes."""
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    roots = 0.5 * randn(components, dim, dim)
    return GaussianMixture(
        weights=randn(components).softmax(0),
        means=randn(components, dim),
        covariances=roots @ roots.mT,
        labels=torch.arange(components) % 3,
    )


MIXTURES = {"crowd": crowd, "gmm2d": gmm2d, "moons": moons, "ring": ring}
LEVELS = (0.002, 0.05, 0.5, 3.0, 80.0)


@pytest.fixture(params=MIXTURES)
def mixture(request: pytest.FixtureRequest) -> GaussianMixture:
    return MIXTURES[request.param]()


def noised(mixture: GaussianMixture, sigma: float, n: int = 20) -> tuple[Tensor, Tensor]:
    """Points of the mixture at a level, float64, and labels of any class."""
    generator = torch.Generator().manual_seed(1)
    y, _ = mixture.sample(n, generator)
    x = y + sigma * torch.randn(y.shape, generator=generator, dtype=y.dtype)
    return x, torch.randint(mixture.classes, (n,), generator=generator)


def gradient(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(function(leaf).sum(), leaf)[0]


@pytest.mark.parametrize("sigma", LEVELS)
@pytest.mark.parametrize("conditional", [False, True])
def test_the_score_is_the_gradient_of_the_density(
    mixture: GaussianMixture, sigma: float, conditional: bool
) -> None:
    x, labels = noised(mixture, sigma)
    given = labels if conditional else None
    expected = gradient(lambda leaf: mixture.log_prob(leaf, sigma, given), x)
    torch.testing.assert_close(mixture.score(x, sigma, given), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("conditional", [False, True])
def test_the_score_is_the_finite_difference_of_the_density(
    mixture: GaussianMixture, conditional: bool
) -> None:
    x, labels = noised(mixture, 0.3)
    given, step = labels if conditional else None, 1e-5
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=x.dtype)
    ahead = mixture.log_prob(x + step * direction, 0.3, given)
    behind = mixture.log_prob(x - step * direction, 0.3, given)
    slope = (mixture.score(x, 0.3, given) * direction).sum(1)
    torch.testing.assert_close((ahead - behind) / (2 * step), slope, rtol=1e-6, atol=1e-6)


def line() -> GaussianMixture:
    """Four Gaussians of two classes on a line."""
    return GaussianMixture(
        weights=torch.tensor([0.4, 0.1, 0.3, 0.2], dtype=torch.float64),
        means=torch.tensor([[-1.0], [-0.2], [0.3], [1.1]], dtype=torch.float64),
        covariances=torch.tensor([0.2, 0.05, 0.1, 0.3], dtype=torch.float64).reshape(4, 1, 1) ** 2,
        labels=torch.tensor([0, 1, 1, 0]),
    )


@pytest.mark.parametrize("label", [None, 0, 1])
@pytest.mark.parametrize("sigma", [0.05, 0.4, 5.0])
def test_the_denoiser_is_the_posterior_mean_by_quadrature(sigma: float, label: int | None) -> None:
    """``E[y | x] = int y p(y) N(x; y, sigma^2) dy / int p(y) N(x; y, sigma^2) dy``."""
    mixture = line()
    y = torch.linspace(-4, 4, 40_001, dtype=torch.float64)
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)
    labels = None if label is None else torch.full((len(y),), label)
    prior = mixture.log_prob(y[:, None], 0.0, labels).exp()
    assert float(torch.trapezoid(prior, y)) == pytest.approx(1, abs=1e-9)
    joint = prior * (-0.5 * ((x[:, None] - y) / sigma) ** 2).exp()
    expected = torch.trapezoid(joint * y, y) / torch.trapezoid(joint, y)
    given = None if label is None else labels[: len(x)]
    denoised = mixture.denoise(x[:, None], sigma, given)[:, 0]
    torch.testing.assert_close(denoised, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("sigma", LEVELS)
@pytest.mark.parametrize("conditional", [False, True])
def test_score_and_denoiser_agree_by_tweedie(
    mixture: GaussianMixture, sigma: float, conditional: bool
) -> None:
    x, labels = noised(mixture, sigma)
    given = labels if conditional else None
    score = (mixture.denoise(x, sigma, given) - x) / sigma**2
    torch.testing.assert_close(mixture.score(x, sigma, given), score, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("sigma", LEVELS)
def test_class_posteriors_are_bayes_rule(mixture: GaussianMixture, sigma: float) -> None:
    x, labels = noised(mixture, sigma)
    posterior = mixture.class_log_posterior(x, sigma)
    assert posterior.shape == (len(x), mixture.classes)
    torch.testing.assert_close(posterior.exp().sum(1), torch.ones(len(x), dtype=x.dtype))
    chosen = posterior.gather(1, labels[:, None])[:, 0]
    prior = mixture.class_weights.log()[labels]
    joint = chosen + mixture.log_prob(x, sigma)
    torch.testing.assert_close(joint, mixture.log_prob(x, sigma, labels) + prior)


@pytest.mark.parametrize("sigma", LEVELS)
def test_the_likelihood_score_is_the_gradient_of_the_class_posterior(
    mixture: GaussianMixture, sigma: float
) -> None:
    """And the class's score is the whole's plus it."""
    x, labels = noised(mixture, sigma)

    def log_posterior(leaf: Tensor) -> Tensor:
        return mixture.class_log_posterior(leaf, sigma).gather(1, labels[:, None])

    likelihood = mixture.likelihood_score(x, sigma, labels)
    torch.testing.assert_close(likelihood, gradient(log_posterior, x), rtol=1e-7, atol=1e-7)
    total = mixture.score(x, sigma) + likelihood
    torch.testing.assert_close(mixture.score(x, sigma, labels), total, rtol=1e-7, atol=1e-7)


def test_samples_have_the_mixture_s_moments(mixture: GaussianMixture) -> None:
    n = 100_000
    points, labels = mixture.sample(n, torch.Generator().manual_seed(0))
    spread = mixture.covariance.diagonal().sqrt()
    # Five standard errors of a mean; of a covariance at kurtosis up to that of the Gaussian.
    assert ((points.mean(0) - mixture.mean).abs() < 5 * spread / n**0.5).all()
    bound = 5 * (2 / n) ** 0.5 * spread[:, None] * spread
    assert ((points.T.cov() - mixture.covariance).abs() < bound).all()
    counted = labels.bincount(minlength=mixture.classes) / n
    torch.testing.assert_close(counted.double(), mixture.class_weights, rtol=0, atol=0.01)


@pytest.mark.slow
def test_samples_of_a_class_are_that_class_s(mixture: GaussianMixture) -> None:
    """Given labels, and by the labels returned: the score's mean over draws is zero."""
    asked = torch.arange(30_000) % mixture.classes
    drawn = mixture.sample(30_000, torch.Generator().manual_seed(0), labels=asked)
    whole = mixture.sample(30_000, torch.Generator().manual_seed(1))
    assert torch.equal(drawn[1], asked)
    for points, labels in (drawn, whole):
        noisy = points + 0.1 * torch.randn(points.shape, generator=torch.Generator().manual_seed(2))
        score = mixture.score(noisy, 0.1, labels)
        assert ((score.mean(0) / score.std(0)).abs() < 4 / math.sqrt(30_000)).all()


def test_a_level_for_each_point_is_as_one_at_a_time(mixture: GaussianMixture) -> None:
    x, labels = noised(mixture, 0.5, n=len(LEVELS))
    sigma = torch.tensor(LEVELS, dtype=x.dtype)
    for function in (mixture.score, mixture.denoise, mixture.log_prob):
        together = function(x, sigma, labels)
        alone = [function(x[i : i + 1], LEVELS[i], labels[i : i + 1]) for i in range(len(LEVELS))]
        torch.testing.assert_close(together, torch.cat(alone))


def test_images_are_points_and_types_are_kept() -> None:
    mixture = gmm2d()
    x, labels = noised(mixture, 0.5)
    images = x.reshape(-1, 2, 1, 1).float()
    for function in (mixture.score, mixture.denoise):
        result = function(images, torch.tensor(0.5), labels)
        assert (result.shape, result.dtype) == (images.shape, torch.float32)
        expected = function(x, 0.5, labels).reshape(images.shape).float()
        torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4)
    assert mixture.to(torch.float32).sample(3, torch.Generator())[0].dtype == torch.float32


def test_float32_denoises_well_at_large_levels() -> None:
    """At 80 the posterior mean is near the data's mean; ``x + 80^2 score`` would lose digits."""
    mixture = gmm2d()
    x, _ = noised(mixture, 80.0)
    error = mixture.denoise(x.float(), 80.0).double() - mixture.denoise(x, 80.0)
    assert float(error.abs().max()) < 1e-6


def test_the_data_sets_lie_in_the_unit_square() -> None:
    for mixture in (gmm2d(), moons(), ring()):
        points, _ = mixture.sample(10_000, torch.Generator().manual_seed(0))
        assert mixture.dim == 2
        assert float((points.abs() < 1).double().mean()) > 0.99
    assert (gmm2d().classes, moons().classes, ring().classes) == (3, 2, 8)
    assert gmm2d().labels.bincount().tolist() == [3, 2, 4]


@pytest.mark.parametrize("modes", [1, 3, 8])
def test_the_modes_of_a_ring_are_even(modes: int) -> None:
    """At the corners of a regular polygon, the first to the right; each its own class."""
    mixture = ring(modes, radius=0.5, std=0.04)
    corners = [cmath.rect(0.5, 2 * math.pi * k / modes) for k in range(modes)]
    expected = torch.tensor([[z.real, z.imag] for z in corners], dtype=torch.float64)
    torch.testing.assert_close(mixture.means, expected)
    torch.testing.assert_close(mixture.weights, torch.full((modes,), 1 / modes).double())
    round_ = 0.04**2 * torch.eye(2, dtype=torch.float64)
    torch.testing.assert_close(mixture.covariances, round_.expand(modes, 2, 2))
    assert mixture.labels.tolist() == list(range(modes))


def test_samples_have_the_mixture_s_precision() -> None:
    """Of 64 bits, the noise too: no point is a number of 32 bits about its mean."""
    points, _ = ring(1, radius=0.0, std=1.0).sample(100, torch.Generator().manual_seed(0))
    assert points.dtype == torch.float64
    assert float((points == points.float().double()).double().mean()) < 0.1


def test_the_arcs_of_moons_are_smooth() -> None:
    """Along the middle of the arc the density ripples by less than one percent."""
    angles = torch.linspace(0.5, math.pi - 0.5, 500, dtype=torch.float64)
    arc = torch.stack([angles.cos(), angles.sin()], 1) - torch.tensor([0.5, 0.25])
    density = moons().log_prob(0.6 * arc, 0.0, torch.zeros(500, dtype=torch.int64)).exp()
    assert float(density.std() / density.mean()) < 0.01


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": torch.tensor([0.5, 0.6])}, "sum to 1"),
        ({"weights": torch.ones(3) / 3}, "must be"),
        ({"labels": torch.tensor([0, 2])}, "labels"),
        ({"covariances": torch.eye(2)}, "covariances"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(changes: dict[str, Tensor], message: str) -> None:
    good = {
        "weights": torch.ones(2) / 2,
        "means": torch.zeros(2, 2),
        "covariances": torch.eye(2).repeat(2, 1, 1),
        "labels": torch.tensor([0, 1]),
    }
    with pytest.raises(ValueError, match=message):
        GaussianMixture(**{**good, **changes})
