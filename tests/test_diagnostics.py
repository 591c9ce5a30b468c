"""The diagnostics of denoisers, held against closed forms."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from pydantic import ValidationError
from scipy import stats
from torch import Tensor

from bench.config.schema import Evaluation
from bench.metrics import PROTOCOL, diagnose
from methods.base import DataSpec, DenoiserFn
from methods.diagnostics import (
    LEVELS,
    Track,
    Violation,
    martingale_violation,
    mean_product,
    score_error,
)
from methods.mixtures import GaussianMixture, gmm2d
from methods.samplers import SamplerSettings, noise_levels, noise_like


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def exact(labels: Tensor | None) -> DenoiserFn:
    return lambda x, sigma: gmm2d().denoise(x, sigma, labels)


# -- score error ----------------------------------------------------------------------------------


@pytest.mark.parametrize("labelled", [False, True])
def test_an_exact_denoiser_has_no_score_error(labelled: bool) -> None:
    levels = (0.002, 0.1, 1.0, 80.0)
    errors = score_error(exact, gmm2d(), levels, n=500, generator=seeded(), labelled=labelled)
    assert errors.shape == (4,)
    assert float(errors.max()) < 1e-6


@pytest.mark.parametrize("labelled", [False, True])
def test_a_constant_offset_is_measured_exactly(labelled: bool) -> None:
    """D off by (c, 0): ``|D - D*|^2 / (sigma^2 d) = c^2 / (2 sigma^2)``."""
    offset = torch.tensor([0.3, 0.0]).reshape(2, 1, 1)

    def shifted(labels: Tensor | None) -> DenoiserFn:
        return lambda x, sigma: exact(labels)(x, sigma) + offset

    errors = score_error(shifted, gmm2d(), n=500, generator=seeded(), labelled=labelled)
    expected = torch.tensor([0.3**2 / (2 * sigma**2) for sigma in LEVELS], dtype=torch.float64)
    torch.testing.assert_close(errors, expected, rtol=1e-4, atol=0)


def test_no_denoising_has_the_norm_of_the_score_as_error() -> None:
    """D = x has score 0; for one Gaussian ``E sigma^2 |s*|^2 / d = sigma^2 / (s^2 + sigma^2)``."""
    one = torch.ones(1, dtype=torch.float64)
    truth = GaussianMixture(one, one[None], 0.25 * one[None, None], torch.tensor([0]))
    errors = score_error(
        lambda labels: lambda x, sigma: x, truth, (0.1, 0.5, 9.0), n=50_000, generator=seeded()
    )
    expected = [sigma**2 / (0.25 + sigma**2) for sigma in (0.1, 0.5, 9.0)]
    assert errors.tolist() == pytest.approx(expected, rel=0.03)


def test_the_wrong_class_is_an_error() -> None:
    """The unconditional denoiser is not the class's: their difference is the likelihood score."""
    blind = score_error(
        lambda labels: exact(None), gmm2d(), n=500, generator=seeded(), labelled=True
    )
    assert float(blind.min()) > 1e-3


def test_a_method_without_the_denoiser_is_refused() -> None:
    with pytest.raises(ValueError, match="with labels"):
        score_error(lambda labels: None, gmm2d(), generator=seeded(), labelled=True)


# -- martingale violation -------------------------------------------------------------------------

SETTINGS = SamplerSettings(steps=30)


@pytest.mark.slow
def test_an_exact_denoiser_is_a_martingale() -> None:
    """0 within three standard errors at every level, and small standard errors."""
    found = martingale_violation(
        exact(None), (3000, 2, 1, 1), SETTINGS, seeded(), substeps=16, branches=6
    )
    assert abs(found.value) < 3 * found.standard_error
    assert found.standard_error < 0.002
    assert (found.by_level.abs() < 3 * found.errors_by_level + 1e-6).all()


def test_a_single_branch_squared_is_not_zero() -> None:
    """What the product of branches avoids: the variance within a branch, 0.06 in noise's unit."""
    D, generator = exact(None), seeded()
    y, _ = gmm2d().sample(20_000, generator)
    x = (y + 0.4 * noise_like(y, generator)).float().reshape(-1, 2, 1, 1)
    track = Track(D, x, D(x, torch.tensor(0.4)), 0.4)
    gaps = torch.stack([track.gap(generator, 16) for _ in range(2)])
    naive = gaps[0].square().flatten(1).mean(1) / 0.4**2
    unbiased = mean_product(gaps) / 0.4**2
    scale = math.sqrt(len(x))
    assert abs(float(unbiased.mean())) < 3 * float(unbiased.std()) / scale
    assert float(naive.mean()) > 50 * float(naive.std()) / scale
    assert float(naive.mean()) > 0.05


def test_a_denoiser_of_the_level_alone_violates_by_its_slope() -> None:
    """``D = g(t)`` has no variance: the violation is ``(g(t/2) - g(t))^2 / t^2``, no error."""
    found = martingale_violation(
        lambda x, sigma: (0.3 * sigma).expand(x.shape), (5, 1, 4, 4), SETTINGS, seeded()
    )
    torch.testing.assert_close(found.by_level, torch.full((6,), 0.15**2).double())
    assert found.value == pytest.approx(0.15**2, rel=1e-4)
    assert found.standard_error < 1e-6
    assert found.levels.tolist() == sorted(LEVELS, reverse=True)


def test_paths_start_from_noise_of_the_largest_level() -> None:
    """And are denoised from there on at every level of the sampler above the last one asked for."""
    seen: list[tuple[float, float]] = []

    def noting(x: Tensor, sigma: Tensor) -> Tensor:
        seen.append((float(sigma), float(x.std())))
        return 0 * x

    settings = SamplerSettings(steps=5, sigma_min=0.1, sigma_max=40.0)
    martingale_violation(noting, (4000, 2, 1, 1), settings, seeded(), levels=(0.3,), branches=2)
    on_path = [level for level in seen if level[0] >= 0.3]
    assert [level[0] for level in on_path] == pytest.approx(
        [t for t in noise_levels(settings).tolist() if t > 0.3] + [0.3]
    )
    # Of points at 0, what is noised to t has that standard deviation.
    for level, spread in on_path:
        assert spread == pytest.approx(level, rel=0.05)


def test_standard_errors_are_those_of_the_paths_means() -> None:
    terms = torch.tensor([[1.0, 2.0], [3.0, 8.0], [2.0, 2.0]], dtype=torch.float64)
    found = Violation(torch.tensor([0.2, 0.1]), terms)
    assert found.value == pytest.approx(3)
    assert found.standard_error == pytest.approx(stats.sem([1.5, 5.5, 2.0]))
    assert found.by_level.tolist() == pytest.approx([2, 4])
    assert found.errors_by_level.tolist() == pytest.approx(stats.sem(terms.numpy(), axis=0))


def test_the_denoiser_asked_for_is_that_of_the_classes_or_of_none() -> None:
    given: list[Tensor | None] = []

    def denoiser_for(labels: Tensor | None) -> DenoiserFn:
        given.append(labels)
        return exact(labels)

    for labelled in (False, True):
        score_error(denoiser_for, gmm2d(), (0.5,), n=9, generator=seeded(), labelled=labelled)
    assert given[0] is None
    _, classes = gmm2d().sample(9, seeded())
    assert given[1] is not None
    assert given[1].tolist() == classes.tolist()


def test_a_jump_violates_by_its_square() -> None:
    """D off by (c, c) at t' = 0.4 alone: at t = 0.8 c^2 / 0.8^2, elsewhere nothing."""
    jump = 0.2

    def jumping(x: Tensor, sigma: Tensor) -> Tensor:
        return exact(None)(x, sigma) + jump * ((sigma - 0.4).abs() < 1e-4)

    found = martingale_violation(
        jumping, (3000, 2, 1, 1), SETTINGS, seeded(), levels=(1.6, 0.8), substeps=16
    )
    errors = found.errors_by_level
    assert abs(float(found.by_level[0])) < 3 * float(errors[0])
    assert float(found.by_level[1]) == pytest.approx((jump / 0.8) ** 2, abs=3 * float(errors[1]))
    assert float(errors[1]) < 0.05 * (jump / 0.8) ** 2


def test_pairs_of_branches_are_averaged() -> None:
    """Against the sum over pairs written out."""
    gaps = torch.randn(4, 3, 2, 5, 5, generator=seeded())
    pairs = [(gaps[i] * gaps[j]).flatten(1).mean(1) for i in range(4) for j in range(i)]
    torch.testing.assert_close(mean_product(gaps).float(), sum(pairs) / 6)


@pytest.mark.slow
def test_the_standard_error_is_that_of_repetitions() -> None:
    """Of 40 violations measured anew, the spread is the standard error stated."""
    found = [
        martingale_violation(
            exact(None), (100, 2, 1, 1), SamplerSettings(steps=10), seeded(seed), substeps=2
        )
        for seed in range(40)
    ]
    spread = float(torch.tensor([one.value for one in found]).std())
    stated = sum(one.standard_error for one in found) / len(found)
    assert stated == pytest.approx(spread, rel=0.35)


def test_a_measurement_follows_its_seed() -> None:
    first, again, other = (
        martingale_violation(exact(None), (10, 2, 1, 1), SETTINGS, seeded(seed)).value
        for seed in (0, 0, 1)
    )
    assert first == again != other


def test_the_violation_is_measured_at_the_levels_asked_for() -> None:
    """``D = g(t)`` again, at 30 and 80, where a path begins above its sampler's levels or on them.

    What is kept names the levels from the smallest on, and the values in the same order.
    """

    def D(x: Tensor, sigma: Tensor) -> Tensor:
        return sigma.expand(len(x)).reshape(-1, 1, 1, 1) ** 2 / 10 + 0 * x

    plain = SimpleNamespace(needs_labels=False, denoiser_for=lambda labels: D)
    dataset: Any = SimpleNamespace(variant="points", sha256="0", truth=None)
    found = {}
    for levels in ((80.0, 30.0), LEVELS):
        value = diagnose(
            cast(Any, plain), dataset, DataSpec(channels=2, size=1), n=3, labels=lambda: None,
            generator=seeded(), levels=levels,
        )["violation"]  # fmt: skip
        expected = [((t**2 - (t / 2) ** 2) / 10 / t) ** 2 for t in sorted(levels)]
        assert value.provenance["levels"] == sorted(levels)
        assert value.provenance["by_level"] == pytest.approx(expected, rel=1e-4)
        assert value.value == pytest.approx(sum(expected) / len(expected), rel=1e-4)
        found[levels] = value.value
    assert len(set(found.values())) == 2
    assert Evaluation(extractor="digits").violation_levels == LEVELS
    for wrong in ((), (0.0,), (-1.0, 2.0), (math.inf,)):
        with pytest.raises(ValidationError, match="violation_levels"):
            Evaluation(extractor="digits", violation_levels=wrong)


OFFSET = torch.tensor([0.3, 0.0]).reshape(2, 1, 1)


@pytest.mark.parametrize("without_classes", [True, False])
@pytest.mark.parametrize("needs_labels", [True, False])
def test_what_is_measured_is_the_denoiser_that_is_sampled_with(
    needs_labels: bool, without_classes: bool
) -> None:
    """With the classes where it needs them, along its own levels; the score, as far as it has it.

    D is off by (0.3, 0), and by twice as much of a class, which the error at each level shows.
    """
    asked: list[Tensor | None] = []
    levels: set[float] = set()

    def denoiser_for(labels: Tensor | None) -> DenoiserFn | None:
        asked.append(labels)
        if labels is None and needs_labels and not without_classes:
            return None

        def D(x: Tensor, sigma: Tensor) -> Tensor:
            levels.add(round(float(sigma), 4))
            assert len(x) == n
            return exact(labels)(x, sigma) + OFFSET * (1 if labels is None else 2)

        return D

    n, classes = 100, gmm2d().sample(100, seeded())[1]
    own = SamplerSettings(steps=3, sigma_min=0.05, sigma_max=7.0)
    method: Any = SimpleNamespace(
        needs_labels=needs_labels, denoiser_for=denoiser_for, config=SimpleNamespace(sampler=own)
    )
    dataset: Any = SimpleNamespace(variant="points", sha256="1", truth=gmm2d())
    found = diagnose(
        method, dataset, DataSpec(channels=2, size=1, classes=3), n=n, generator=seeded(),
        labels=lambda: classes if needs_labels else pytest.fail("it asked for classes"),
    )  # fmt: skip
    assert asked[0] is (classes if needs_labels else None)
    assert {7.0, round(float(noise_levels(own)[1]), 4)} <= levels
    names = {"violation"}
    names |= {"score_error"} if without_classes or not needs_labels else set()
    names |= {"score_error_class"} if needs_labels else set()
    assert found.keys() == names
    for name, value in found.items():
        provenance = dict(value.provenance)
        assert provenance.pop("by_level") is not None
        assert provenance.pop("levels") == list(LEVELS)
        if name == "violation":
            assert provenance.pop("standard_error") > 0
        else:
            off = 0.6 if name == "score_error_class" else 0.3
            expected = [off**2 / (2 * sigma**2) for sigma in LEVELS]
            assert value.provenance["by_level"] == pytest.approx(expected, rel=1e-3)
            assert value.value == pytest.approx(sum(expected) / len(expected), rel=1e-3)
        assert provenance == {"protocol": PROTOCOL, "n": n, "data": "points", "data_sha256": "1"}
