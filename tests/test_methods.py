"""Methods, networks and samplers against closed forms and invariants."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.costs.flops import count_calls, count_flops
from bench.training.optimizing import MovingAverage
from methods import augmentation, registry
from methods.augmentation import LABELS, SMALLEST
from methods.base import EMA, Batch, DataSpec, Method
from methods.cdm import CDM, Start, branch_levels, same_dropout
from methods.dlsm import DLSM, DLSMConfig, log_likelihood_gradient
from methods.networks.classifier import Classifier, ClassifierSettings
from methods.networks.unet import UNetSettings
from methods.noise import Denoiser, EDMNoise, VENoise, VPNoise, per_image, vp_discrete_sigmas
from methods.samplers import SamplerSettings, noise_levels
from methods.sde import SDE, Noised

from .conftest import Build
from .tiny import GREY, draw, make_batch

ALL = registry.names()


# -- the interface, for every method --------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("data", [GREY, DataSpec(channels=3, size=16, classes=3)], ids=str)
def test_samples_have_the_data_s_shape(build: Build, name: str, data: DataSpec) -> None:
    method = build(name, data=data)
    images = draw(method, 3)
    assert images.shape == (3, *data.shape)
    assert images.dtype == torch.float32
    assert torch.isfinite(images).all()


@pytest.mark.parametrize("name", ALL)
def test_samples_follow_the_seed(build: Build, name: str) -> None:
    method = build(name)
    assert torch.equal(draw(method, seed=1), draw(method, seed=1))
    assert not torch.equal(draw(method, seed=1), draw(method, seed=2))


@pytest.mark.parametrize("name", ALL)
def test_shares_of_the_budget_sum_to_one(build: Build, name: str) -> None:
    assert sum(stage.share for stage in build(name).stages()) == pytest.approx(1)


def test_a_batch_draws_what_its_images_are_where_they_are() -> None:
    """Whatever torch would choose by itself."""
    generator = torch.Generator().manual_seed(0)
    images = torch.zeros(2, 1, 4, 4, dtype=torch.float64)
    batch = Batch(x=images, labels=None, generator=generator)
    with torch.device("meta"):
        drawn = [batch.randn(), batch.randn(3), batch.rand(5, 2), batch.randint(9, 7)]
    assert [tuple(each.shape) for each in drawn] == [(2, 1, 4, 4), (3,), (5, 2), (7,)]
    assert {each.device.type for each in drawn} == {"cpu"}
    assert [each.dtype for each in drawn] == [torch.float64] * 3 + [torch.int64]


@pytest.mark.parametrize("name", ALL)
def test_gradients_reach_the_named_network(build: Build, name: str) -> None:
    method = build(name)
    for stage in method.stages():
        for objective in stage.objectives:
            for key, network in method.networks.items():
                network.zero_grad()
                network.requires_grad_(key == objective.network)
            loss = objective.loss(make_batch())
            assert loss.shape == ()
            loss.backward()
            gradients = [p.grad for p in method.networks[objective.network].parameters()]
            assert any(g is not None and g.abs().sum() > 0 for g in gradients)
            assert all(g is None or torch.isfinite(g).all() for g in gradients)


@pytest.mark.parametrize("name", ALL)
def test_function_evaluations_are_those_of_the_sampler(build: Build, name: str) -> None:
    method = build(name)
    with count_calls(method.networks) as calls:
        draw(method, 4)
    expected = {"denoiser": 6, "classifier": 6, "generator": 1, "score": 0}
    assert {key: count / 4 for key, count in calls.items()} == {
        key: expected[key] for key in method.networks
    }


# -- preconditioning and loss ---------------------------------------------------------------------


class LinearGaussian(nn.Module):
    """The network F whose denoiser is exact for data N(0, s^2) in every pixel."""

    def __init__(self, s: float, sigma_data: float = 0.5) -> None:
        super().__init__()
        self.s, self.sigma_data = s, sigma_data

    def forward(self, x: Tensor, label: Tensor, *told: Tensor | None) -> Tensor:
        sigma = per_image((4 * label).exp())
        total = sigma**2 + self.sigma_data**2
        c_skip, c_in = self.sigma_data**2 / total, total.rsqrt()
        c_out = sigma * self.sigma_data / total.sqrt()
        exact = self.s**2 / (self.s**2 + sigma**2)
        return (exact - c_skip) / (c_out * c_in) * x


def exact_denoiser(s: float = 0.8) -> Denoiser:
    return Denoiser(LinearGaussian(s), EDMNoise()).double()


def test_preconditioning_gives_the_exact_score() -> None:
    x = torch.randn(64, 1, 2, 2, dtype=torch.float64)
    sigma = torch.logspace(-2, 1.5, 64, dtype=torch.float64)
    score = exact_denoiser(0.8).score(x, sigma)
    expected = -x / (0.8**2 + per_image(sigma) ** 2)
    torch.testing.assert_close(score, expected, rtol=1e-9, atol=1e-12)


def test_an_untrained_denoiser_has_unit_loss_per_pixel_at_unit_variance(build: Build) -> None:
    """With F = 0 and data of variance sigma_data^2, w |D - y|^2 is 1 in expectation."""
    method = build("sde", data=DataSpec(channels=1, size=4), noise={"sigma_data": 0.5})
    method.denoiser.network = Zero()
    generator = torch.Generator().manual_seed(0)
    x = 0.5 * torch.randn(4096, 1, 4, 4, generator=generator)
    loss = method.loss(Batch(x=x, labels=None, generator=generator))
    assert float(loss) / 16 == pytest.approx(1, abs=0.03)


class Zero(nn.Module):
    def forward(self, x: Tensor, label: Tensor, *told: Tensor | None) -> Tensor:
        return torch.zeros_like(x)


def many(n: int) -> Batch:
    """A batch of ``n`` images of one pixel."""
    return make_batch(n, DataSpec(channels=1, size=1, classes=1))


def assert_even(values: Tensor, n: int, low: float, high: float) -> None:
    """``n`` values, uniform by Kolmogorov's distance: fails by chance once in 1500."""
    assert values.shape == (n,)
    even = low + (high - low) * (torch.arange(n) + 0.5) / n
    assert (values.sort().values - even).abs().max() < (high - low) * 2 / math.sqrt(n)


def test_the_vp_preconditioning_predicts_the_scaled_noise() -> None:
    """EDM table 1, VP: ``D = x - sigma F(x / sqrt(1 + sigma^2), 999 t)``.

    The signal's share is ``1 / (1 + sigma^2) = exp(-int beta)``, by trapezoids.
    """
    noise, t = VPNoise(), torch.linspace(1e-3, 1, 9, dtype=torch.float64)
    grid = t * torch.linspace(0, 1, 1001, dtype=torch.float64)[:, None]
    share = (-torch.trapezoid(0.1 + 19.9 * grid, grid, dim=0)).exp()
    sigma = (1 / share - 1).sqrt()
    torch.testing.assert_close(noise.sigma(t), sigma)
    torch.testing.assert_close(noise.time(sigma), t)
    expected = (torch.ones_like(t), -sigma, share.sqrt(), 999 * t)
    for ours, wanted in zip(noise.coefficients(sigma), expected, strict=True):
        torch.testing.assert_close(ours, wanted)


def test_the_ve_preconditioning_predicts_the_unscaled_noise() -> None:
    """EDM table 1, VE: ``D = x + sigma F(x, ln(sigma / 2))``."""
    sigma = torch.tensor([0.02, 2.0, 100.0], dtype=torch.float64)
    one = torch.ones_like(sigma)
    expected = (one, sigma, one, (sigma / 2).log())
    for ours, wanted in zip(VENoise().coefficients(sigma), expected, strict=True):
        torch.testing.assert_close(ours, wanted)
    with pytest.raises(ValueError, match=r"sigma_min 2\.0 is not below sigma_max 2\.0"):
        VENoise(sigma_min=2.0, sigma_max=2.0)


def test_ve_s_score_is_song_s_at_twice_the_level() -> None:
    """Song et al. have images in [0, 1], a network ``h(2 x - 1, ln sigma) / sigma`` for the score.

    Ours are in [-1, 1], so that the same noise has twice the level, and the score half the size.
    """
    h = Waves()
    x = torch.rand(4, 1, 8, 8, dtype=torch.float64)
    sigma = torch.tensor([0.01, 0.1, 2.0, 50.0], dtype=torch.float64)
    theirs = h(2 * x - 1, sigma.log()) / per_image(sigma)
    ours = Denoiser(h, VENoise()).score(2 * x - 1, 2 * sigma)
    torch.testing.assert_close(2 * ours, theirs)
    assert not torch.allclose(2 * Denoiser(h, VENoise()).score(2 * x - 1, sigma), theirs, rtol=0.5)


class Waves(nn.Module):
    """A network that is a smooth function of both its inputs."""

    def forward(self, x: Tensor, label: Tensor, *told: Tensor | None) -> Tensor:
        return (3 * x + per_image(label)).sin()


def test_the_ve_sde_runs_from_the_largest_distance_of_images_to_2_in_255() -> None:
    """Song et al.'s 0.01 to 50 in our units, in training and in sampling."""
    for chosen in (VENoise(), VENoise.model_validate(SDE.variants["ve"]["noise"])):
        assert (chosen.sigma_min, chosen.sigma_max) == (2 * 0.01, 2 * 50)
    for given in ({"schedule": "geometric"}, SDE.variants["ve"]["sampler"]):
        levels = noise_levels(SamplerSettings.model_validate(given))
        assert (float(levels[0]), float(levels[-2])) == pytest.approx((2 * 50, 2 * 0.01))


def test_the_network_is_told_the_classes_and_the_transforms() -> None:
    """``D = c_skip x + c_out F`` at sigma = sigma_data, where c_skip = 1/2 and c_out^2 = 1/8."""

    class Told(nn.Module):
        def forward(self, x: Tensor, noise: Tensor, labels: Tensor, augment: Tensor) -> Tensor:
            told = labels if augment is None else labels + 10 * augment.sum(1)
            return per_image(told) * torch.ones_like(x)

    denoiser, x = Denoiser(Told(), EDMNoise()), make_batch(3).x
    labels, augment, sigma = torch.tensor([1.0, 2, 3]), torch.ones(3, 9), torch.full((3,), 0.5)
    expected = x / 2 + per_image(labels + 90) / math.sqrt(8)
    torch.testing.assert_close(denoiser(x, sigma, labels, augment), expected)
    score = (x / 2 + per_image(labels) / math.sqrt(8) - x) / 0.25
    torch.testing.assert_close(denoiser.score(x, sigma, labels), score)


def test_training_levels_of_the_sdes_are_even_in_time_and_in_ln_sigma() -> None:
    vp, ve = VPNoise(epsilon=0.2), VENoise(sigma_min=0.1, sigma_max=30.0)
    assert_even(vp.time(vp.draw(many(5000))), 5000, 0.2, 1)
    assert_even(ve.draw(many(5000)).log(), 5000, math.log(0.1), math.log(30))


def test_training_noise_levels_are_log_normal() -> None:
    levels = exact_denoiser().draw_sigma(many(20_000))
    assert float(levels.log().mean()) == pytest.approx(-1.2, abs=0.03)
    assert float(levels.log().std()) == pytest.approx(1.2, abs=0.03)


@pytest.mark.parametrize("conditional", [True, False])
@pytest.mark.parametrize("augment", [0.0, 0.5])
def test_images_are_noised_and_the_network_told_as_asked_for(
    build: Build, monkeypatch: pytest.MonkeyPatch, conditional: bool, augment: float
) -> None:
    built: list[dict[str, int]] = []
    original = UNetSettings.build
    monkeypatch.setattr(
        UNetSettings,
        "build",
        lambda self, data, **told: built.append(told) or original(self, data, **told),
    )
    method = build("sde", conditional=conditional, augment=augment)
    assert built == [{"classes": 10 * conditional, "augment": LABELS * bool(augment)}]
    at, own = method.noised(make_batch(4)), make_batch(4)
    if augment:
        own.x, told = augmentation.augment(own, augment)
        torch.testing.assert_close(at.augment, told)
    sigma = method.denoiser.draw_sigma(own)
    torch.testing.assert_close(at.y, own.x)
    torch.testing.assert_close(at.x, own.x + per_image(sigma) * own.randn())
    torch.testing.assert_close(at.sigma, sigma)
    assert (at.augment is None) == (not augment)
    assert at.labels is None if not conditional else torch.equal(at.labels, own.labels)


def test_augmentation_needs_images_of_its_smallest_size(build: Build) -> None:
    for size, augment in ((SMALLEST, 0.1), (SMALLEST - 2, 0.0)):
        build("sde", data=DataSpec(channels=1, size=size), augment=augment)
    with pytest.raises(ValueError, match="augment needs images"):
        build("sde", data=DataSpec(channels=1, size=SMALLEST - 2), augment=0.1)


def test_a_first_stage_is_that_of_others_of_the_same_loss_and_settings_alone(build: Build) -> None:
    """The sampler does not count; a class from elsewhere shares nothing, whatever its loss."""
    one, other = (build("sde", sampler={"name": name}) for name in ("heun", "euler"))
    known = one.stages()[0].identity
    assert known is not None
    assert known == other.stages()[0].identity == build("dlsm").stages()[0].identity
    assert known != build("sde", augment=0.1).stages()[0].identity
    assert known != build("cdm").stages()[0].identity
    own = type("Own", (SDE,), {"__module__": "elsewhere"})
    assert own(one.config, GREY).stages()[0].identity is None


def test_samples_are_of_the_classes_asked_for(build: Build) -> None:
    """One Euler step from noise ends at D, which is told the class here."""
    method = build("sde", conditional=True, sampler={"name": "euler", "steps": 1})
    method.denoiser.forward = lambda x, sigma, labels: per_image(labels) + 0 * x
    labels = torch.tensor([3, 1, 4])
    drawn = method.sample(3, labels=labels, generator=torch.Generator())
    assert torch.equal(drawn, per_image(labels) * torch.ones_like(drawn))
    for wrong in (None, labels[:2]):
        with pytest.raises(ValueError, match="one class label an image"):
            method.sample(3, labels=wrong, generator=torch.Generator())
    plain = build("sde", sampler={"name": "euler", "steps": 1})
    plain.denoiser.forward = lambda x, sigma: 0 * x
    assert not plain.sample(3, labels=labels, generator=torch.Generator()).any()


# -- cdm ------------------------------------------------------------------------------------------


def begin(method: Method, batch: Batch, x: Tensor, sigma: Tensor) -> Start:
    return Start(Noised(batch.x, x, sigma, None, None), method.denoiser(x, sigma))


def test_consistency_of_an_exact_denoiser_is_zero_in_expectation(build: Build) -> None:
    """Two branches of the exact reverse SDE: the mean product is 0 within four standard errors."""
    method = build("cdm", branch_steps=20, max_gap=0.5)
    method.denoiser = exact_denoiser(0.8)
    batch = Batch(
        x=0.8 * torch.randn(30_000, 1, 2, 2, dtype=torch.float64),
        labels=None,
        generator=torch.Generator().manual_seed(0),
    )
    sigma = torch.full((30_000,), 1.0, dtype=torch.float64)
    x = batch.x + batch.randn()
    terms = method.consistency(batch, begin(method, batch, x, sigma))
    standard_error = float(terms.std()) / math.sqrt(len(terms))
    assert abs(float(terms.mean())) < 4 * standard_error
    # The branches do move: the squared single branch is far from 0.
    assert float(terms.std()) > 0.01


def test_consistency_of_a_wrong_denoiser_is_its_squared_violation(build: Build) -> None:
    """A denoiser off by a constant c at small levels alone violates by c^2 a pixel."""

    class Jump(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.exact = exact_denoiser(0.8)

        def forward(self, x: Tensor, sigma: Tensor, *told: Tensor | None) -> Tensor:
            return self.exact(x, sigma) + 0.5 * (per_image(sigma) < 1.0)

    method = build("cdm", branch_steps=1, max_gap=1e-3)
    method.denoiser = Jump()
    n = 20_000
    batch = Batch(
        x=0.8 * torch.randn(n, 1, 2, 2, dtype=torch.float64),
        labels=None,
        generator=torch.Generator().manual_seed(0),
    )
    sigma = torch.ones(n, dtype=torch.float64)
    x = batch.x + batch.randn()
    terms = method.consistency(batch, begin(method, batch, x, sigma))
    assert float(terms.mean()) == pytest.approx(4 * 0.25, rel=0.02)


def test_branches_run_on_karras_levels_from_t_to_t_prime() -> None:
    start, end = torch.tensor([1.0, 0.1]), torch.tensor([0.96, 0.06])
    levels = branch_levels(start, end, 5, 7.0)
    assert levels.shape == (6, 2)
    torch.testing.assert_close(levels[0], start)
    torch.testing.assert_close(levels[-1], end)
    assert (levels.diff(dim=0) < 0).all()


class Told(Denoiser):
    """A denoiser of one weight that depends on all that it is told."""

    def __init__(self) -> None:
        super().__init__(Zero(), EDMNoise())
        self.a = nn.Parameter(torch.tensor(0.7))

    def forward(
        self, x: Tensor, sigma: Tensor, labels: Tensor | None = None, told: Tensor | None = None
    ) -> Tensor:
        assert labels is not None
        shift = per_image(0.1 * labels + (0 if told is None else 0.2 * told.sum(1)))
        return (self.a * x / (1 + per_image(sigma))).tanh() + self.a * shift


@pytest.mark.parametrize("variant", ["published", "as_released", "one_step", "semi"])
def test_cdm_s_loss_and_gradient_are_the_paper_s(build: Build, variant: str) -> None:
    """The module's equations by hand, from the same noise, for images with labels and transforms.

    Of ``semi``, the target has no gradient; of the others, the branches have none. Those of
    ``as_released`` hear nothing of the transforms, and evaluate D at their start for themselves.
    """
    settings = {**CDM.variants[variant], "conditional": True, "augment": 0.5, "max_gap": 0.3}
    method = build("cdm", **settings)
    method.denoiser = D = Told()
    loss = method.loss(batch := make_batch(4))
    loss.backward()
    gradient, D.a.grad = D.a.grad, None

    own = make_batch(4)
    at = method.noised(own)
    sigma, weight = at.sigma, (at.sigma**2 + 0.25) / (0.25 * at.sigma**2)
    told = (at.labels, at.augment)
    d0 = D(at.x, sigma, *told)
    end = torch.minimum((sigma - 0.3 * own.rand(4)).clamp(min=0.002), sigma)
    whole, released = variant in ("published", "as_released"), variant == "as_released"
    steps, within = 5 if whole else 1, (at.labels, 0 * at.augment if released else at.augment)
    levels = [
        (sigma ** (1 / 7) + i / steps * (end ** (1 / 7) - sigma ** (1 / 7))) ** 7
        for i in range(steps + 1)
    ]
    branches = [at.x] if variant == "semi" else [at.x, at.x]
    with torch.no_grad():
        for i in range(steps):
            high, low = per_image(levels[i]), per_image(levels[i + 1])
            noise = own.randn(4 * len(branches), *at.x.shape[1:]).chunk(len(branches))
            for k, x in enumerate(branches):
                d = d0 if i == 0 and not released else D(x, levels[i], *within)
                if whole:
                    drift = 2 * (low - high) / high * (x - d)
                    branches[k] = x + drift + (2 * high * (high - low)).sqrt() * noise[k]
                else:
                    r = (low / high) ** 2
                    branches[k] = d + r * (x - d) + low * (1 - r).sqrt() * noise[k]
    ends = [D(x, end, *told) for x in branches]
    if variant == "semi":
        terms = weight * ((d0 - ends[0].detach()) ** 2).sum((1, 2, 3))
    else:
        terms = ((ends[0] - d0) * (ends[1] - d0)).sum((1, 2, 3))
    denoising = (weight * ((d0 - at.y) ** 2).sum((1, 2, 3))).mean()
    expected = denoising + (1 if variant == "semi" else 10) * terms.mean()
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(gradient, D.a.grad, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(batch.logs["denoising"], denoising.detach())
    torch.testing.assert_close(
        batch.logs["consistency"], terms.mean().detach(), rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize(
    ("variant", "within"), [("published", [True] * 4), ("as_released", [False] * 5)]
)
def test_a_branch_s_evaluations_are_the_code_s(
    build: Build, variant: str, within: list[bool]
) -> None:
    """D0 is evaluated once, or anew in both branches; whether each hears of the transforms."""
    method = build("cdm", **{**CDM.variants[variant], "augment": 0.5, "conditional": True})
    seen: list[tuple[int, bool]] = []

    class Noting(Told):
        def forward(self, x: Tensor, sigma: Tensor, *told: Tensor | None) -> Tensor:
            seen.append((len(x), told[1] is not None))
            return super().forward(x, sigma, *told)

    method.denoiser = Noting()
    method.loss(make_batch(4))
    assert seen == [(4, True), *((8, told) for told in within), (8, True)]


@pytest.mark.parametrize(
    ("settings", "least"), [({"max_gap": 0.3}, 0.7), ({"gap": "relative", "min_ratio": 0.2}, 0.2)]
)
def test_branches_end_evenly_within_the_gap(
    build: Build, settings: dict[str, object], least: float
) -> None:
    """``t'`` is uniform from the widest gap to t, never below the floor, never above t."""
    method, n = build("cdm", sigma_floor=0.002, **settings), 10_000
    assert_even(method.draw_end(many(n), torch.ones(n)), n, least, 1)
    low = torch.tensor([0.0021, 0.002, 0.001])
    assert (method.draw_end(make_batch(3), low) <= low).all()
    if "max_gap" in settings:
        ends = method.draw_end(make_batch(1000), torch.full((1000,), 0.01))
        assert float(ends.min()) == pytest.approx(0.002)


@pytest.mark.slow
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("steps", [5, 1])
def test_a_consistency_step_costs_what_is_said(build: Build, dropout: float, steps: int) -> None:
    """D0, D1, D2 with gradients (9 forward-equivalents) and 2 (steps - 1) calls without.

    The gauge of dropout has two more of an eighth of the batch, here 1 of 12 images.
    """
    method = build("cdm", network={"channels": 8, "dropout": dropout}, branch_steps=steps)
    method.networks["denoiser"].train()
    (objective,) = method.stages()[0].objectives
    with count_calls(method.networks) as counted:
        objective.loss(make_batch())
    gauge = 2 if dropout else 0
    assert counted["denoiser"] == (3 + 2 * (steps - 1)) * 12 + gauge
    plain = build("sde", network={"channels": 8, "dropout": dropout})
    (baseline,) = plain.stages()[0].objectives
    _, flops = count_flops(lambda: objective.loss(make_batch()).backward())
    _, base = count_flops(lambda: baseline.loss(make_batch()).backward())
    assert flops / base == pytest.approx((9 + 2 * (steps - 1) + gauge / 12) / 3, rel=0.01)


def test_dropout_does_not_enter_the_consistency_term(build: Build) -> None:
    """With a gap of nothing all three evaluations agree, whatever the dropout."""
    method = build("cdm", network={"channels": 8, "dropout": 0.5}, max_gap=1e-12)
    method.networks["denoiser"].train()
    for parameter in method.denoiser.parameters():  # The last layer is zero before training.
        nn.init.normal_(parameter, std=0.1)
    batch = make_batch()
    method.loss(batch)
    assert abs(float(batch.logs["consistency"])) < 1e-6


class Masked(Denoiser):
    """``D = a x + m``, of whose dropout's mask each number of m is 0 or twice 1/4."""

    def __init__(self) -> None:
        super().__init__(Zero(), EDMNoise())
        self.a = nn.Parameter(torch.tensor(0.5))
        self.mask = nn.Dropout(0.5)

    def forward(self, x: Tensor, sigma: Tensor, *told: Tensor | None) -> Tensor:
        return self.a * x + self.mask(torch.full_like(x, 0.25))


def dropout_term(build: Build, **settings: object) -> tuple[float, float, float]:
    """Mean term, its dropout by the gauge, and their ratio as logged, with a gap of nothing."""
    method = build("cdm", network={"channels": 8, "dropout": 0.5}, max_gap=1e-12, **settings)
    method.denoiser = Masked()
    torch.manual_seed(0)
    method.loss(batch := make_batch(4000))
    share, over = float(batch.logs["dropout_share"]), float(batch.overs["dropout_share"])
    return float(batch.logs["consistency"]), share, over


def test_dropout_enters_the_released_term_with_its_variance(build: Build) -> None:
    """A mask's variance is 1/16 a number, 4 an image of 64, and all of the term without a gap.

    With one mask for all, the term is 0, and so is what dropout has of it.
    """
    released = CDM.variants["as_released"]
    own = {key: released[key] for key in released if key.startswith("branch_")}
    term, share, over = dropout_term(build, **own)
    assert term == pytest.approx(64 / 16, rel=0.03)
    assert (share, over) == pytest.approx((4, 4), rel=0.05)
    term, share, _ = dropout_term(build)
    assert abs(term) < 1e-3
    assert abs(share) < 1e-3


@pytest.mark.parametrize("dropout", ["shared", "independent"])
def test_the_gauge_of_dropout_looks_at_an_eighth_of_the_batch(build: Build, dropout: str) -> None:
    """With its own labels, and another mask: at the start, and where one is shared at the end."""
    method = build(
        "cdm", conditional=True, branch_dropout=dropout,
        network={"channels": 8, "dropout": 0.5}, branch_steps=1,
    )  # fmt: skip
    asked: list[tuple[int, int]] = []
    own = method.evaluate

    def evaluate(start: Start, x: Tensor, sigma: Tensor, **how: Any) -> Tensor:
        given = own(start, x, sigma, **how)
        if "shift" in how:
            assert how["shift"] != 0
            assert start.at.labels is not None
            assert start.at.labels.tolist() == batch.labels[: len(x)].tolist()
            asked.append((len(x), len(start.denoised)))
        return given

    method.evaluate = evaluate
    method.networks["denoiser"].train()
    for count in (7, 17):
        batch = make_batch(count)
        asked.clear()
        method.loss(batch)
        assert asked == ([(2, 2)] * (2 if dropout == "shared" else 1) if count == 17 else [])
        assert ("dropout_share" in batch.logs) == (count == 17)


def test_a_shared_mask_is_the_same_each_time_and_leaves_the_generator() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    drawn = []
    for seed in (5, 5, 6):
        with same_dropout(seed, torch.device("cpu")):
            drawn.append(torch.rand(4))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert torch.equal(torch.get_rng_state(), before)
    with same_dropout(None, torch.device("cpu")):
        torch.rand(1)
    assert not torch.equal(torch.get_rng_state(), before)


def test_the_gauge_of_dropout_leaves_the_training_s_masks_alone(build: Build) -> None:
    """Shared masks: the next step's dropout is what it would be without the gauge."""
    states = []
    for gauge in (True, False):
        method = build("cdm", network={"channels": 8, "dropout": 0.5})
        method.networks["denoiser"].train()
        if not gauge:
            method.log_dropout = lambda *given: None
        torch.manual_seed(0)
        loss = method.loss(make_batch())
        states.append((loss.detach(), torch.get_rng_state()))
    assert torch.equal(states[0][0], states[1][0])
    assert torch.equal(states[0][1], states[1][1])


# -- dlsm -----------------------------------------------------------------------------------------


def test_likelihood_gradient_is_the_finite_difference() -> None:
    torch.manual_seed(0)
    classifier = Classifier(ClassifierSettings(channels=8, blocks=(1, 1)), GREY).double()
    nn.init.normal_(classifier.out.weight)
    x, sigma = torch.randn(3, *GREY.shape, dtype=torch.float64), torch.tensor([0.1, 1.0, 9.0])
    sigma, labels = sigma.double(), torch.tensor([3, 1, 4])
    direction = torch.randn_like(x)

    def log_likelihood(images: Tensor) -> Tensor:
        return classifier(images, sigma).log_softmax(1).gather(1, labels[:, None]).squeeze(1)

    gradient, _ = log_likelihood_gradient(classifier, x, sigma, labels, create_graph=False)
    step = 1e-6
    with torch.no_grad():
        ahead, behind = log_likelihood(x + step * direction), log_likelihood(x - step * direction)
    slope = (gradient * direction).flatten(1).sum(1)
    torch.testing.assert_close(slope, (ahead - behind) / (2 * step), rtol=1e-5, atol=1e-8)


def test_dlsm_loss_of_two_points_is_least_for_the_true_posterior(build: Build) -> None:
    """Two classes, one point each: the exact classifier leaves no residual, a wrong one does."""
    method = build("dlsm", data=DataSpec(channels=1, size=8, classes=2), ce_weight=0.0)
    centre = torch.full((1, 8, 8), 0.05, dtype=torch.float64)

    def log_odds(x: Tensor, sigma: Tensor) -> Tensor:
        return 2 * (x * centre).flatten(1).sum(1) / sigma**2

    class Posterior(nn.Module):
        def __init__(self, factor: float) -> None:
            super().__init__()
            self.factor = factor

        def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
            odds = self.factor * log_odds(x, sigma)
            return torch.stack([-odds / 2, odds / 2], 1)

    class Exact(Denoiser):
        def forward(self, x: Tensor, sigma: Tensor, *told: Tensor | None) -> Tensor:
            sigma = sigma.expand(len(x))
            return centre * per_image((log_odds(x, sigma) / 2).tanh())

    method.denoiser = Exact(Zero(), EDMNoise())
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(2, (500,), generator=generator)
    x = centre * per_image(2.0 * labels - 1)
    losses = {}
    for factor in (0.5, 1.0, 2.0):
        method.classifier = Posterior(factor)
        batch = Batch(x=x, labels=labels, generator=torch.Generator().manual_seed(1))
        losses[factor] = float(method.classifier_loss(batch).detach())
    assert losses[1.0] < 1e-12
    assert min(losses[0.5], losses[2.0]) > 1e-4


def test_guidance_moves_samples_towards_their_class(build: Build) -> None:
    """A classifier that likes bright images for class 1 makes these brighter than class 0."""
    method = build("dlsm", data=DataSpec(channels=1, size=8, classes=2))

    class Brightness(nn.Module):
        def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
            level = x.flatten(1).mean(1) * 200 / (1 + sigma**2)
            return torch.stack([-level, level], 1)

    method.classifier = Brightness()
    method.denoiser = exact_denoiser(0.5).float()
    bright, dark = (
        method.sample(
            200,
            labels=torch.full((200,), label),
            generator=torch.Generator().manual_seed(0),
        ).mean()
        for label in (1, 0)
    )
    assert float(bright) > 0.2
    assert float(dark) < -0.2


class Logits(nn.Module):
    """A classifier linear in x: log p has the gradient ``(W_c - sum_k p_k W_k) / (1 + sigma)``."""

    def __init__(self) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.randn(10, 64, generator=torch.Generator().manual_seed(3)) / 8)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return x.flatten(1) @ self.W.T / (1 + sigma[:, None])

    def gradient(self, x: Tensor, sigma: Tensor, labels: Tensor) -> Tensor:
        p = self(x, sigma).softmax(1)
        return ((self.W[labels] - p @ self.W) / (1 + sigma[:, None])).reshape(x.shape)


@pytest.mark.parametrize(
    ("dlsm", "ce", "balance"),
    [(0.3, 0.7, 1.0), (0.0, 0.7, 1.0), (0.3, 0.0, 1.0), (0.3, 0.7, 0.0), (0.3, 0.7, 2.0)],
)
def test_dlsm_s_loss_is_the_paper_s(build: Build, dlsm: float, ce: float, balance: float) -> None:
    """By hand: ``1/2 |sigma^b (grad log p + s) + sigma^(b-1) n|^2``, and lambda times the CE."""
    method = build("dlsm", dlsm_weight=dlsm, ce_weight=ce, balance=balance)
    method.denoiser, method.classifier = exact_denoiser(0.8).float(), Logits()
    loss = method.classifier_loss(batch := make_batch(5))
    loss.backward()
    W = method.classifier.W
    gradient, W.grad = W.grad, None

    own = make_batch(5)
    sigma, labels = method.denoiser.draw_sigma(own), own.labels
    noise, s = own.randn(), per_image(sigma)
    x = own.x + s * noise
    score = -x / (0.64 + s**2)
    pull = method.classifier.gradient(x, sigma, labels) + score
    residual = s**balance * pull + s ** (balance - 1) * noise
    mismatch = 0.5 * (residual**2).mean()
    cross_entropy = -method.classifier(x, sigma).log_softmax(1)[range(5), labels].mean()
    expected = dlsm * mismatch + ce * cross_entropy
    expected.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient, W.grad)
    assert set(batch.logs) == ({"dlsm", "cross_entropy"} if dlsm else {"cross_entropy"})
    torch.testing.assert_close(batch.logs["cross_entropy"], cross_entropy.detach())


def test_the_classifier_s_levels_are_a_setting_of_their_own(build: Build) -> None:
    """The score's by default; else VE's, even in ln sigma, where 35 % are above 5, or another's."""
    seen: list[Tensor] = []
    levels = {}
    for name, settings in {
        "score": {"noise": {"kind": "edm", "p_mean": 0.3}},
        "ve": {"noise": {"kind": "edm"}, "classifier_noise": {"kind": "ve"}},
        "both": {"noise": {"kind": "ve"}},
    }.items():
        method = build(
            "dlsm", data=DataSpec(channels=1, size=8, classes=1), dlsm_weight=0, **settings
        )
        method.classifier.forward = lambda x, sigma: seen.append(sigma) or torch.zeros(len(x), 1)
        method.classifier_loss(make_batch(4000, DataSpec(channels=1, size=8, classes=1)))
        levels[name] = seen[-1]
    assert float(levels["score"].log().mean()) == pytest.approx(0.3, abs=0.07)
    for name in ("ve", "both"):
        assert_even(levels[name].log(), 4000, math.log(0.02), math.log(100))
    assert float((levels["ve"] > 5).float().mean()) == pytest.approx(0.35, abs=0.03)


def test_dlsm_s_stages_have_the_authors_batches_and_flips(build: Build) -> None:
    """128 mirrored images for the score, 150 as they are for the classifier; else the study's."""
    plain = build("dlsm").stages()
    assert [(stage.batch, stage.flip) for stage in plain] == [(None, None), (None, None)]
    released = build("dlsm", **DLSM.variants["as_released"]).stages()
    assert [(stage.batch, stage.flip) for stage in released] == [(128, True), (150, False)]
    assert [o.optimizer.clip for stage in released for o in stage.objectives] == [1.0, 1.0]
    assert [o.ema is None for stage in released for o in stage.objectives] == [False, True]
    # Of 130,600 kimg: 950,000 steps of 128 images, and 60,000 of 150.
    for stage, images in zip(released, (950_000 * 128, 60_000 * 150), strict=True):
        assert stage.share * 130_600e3 == pytest.approx(images, rel=1e-3)


def test_the_released_averages_are_the_authors() -> None:
    """0.999 a step of 128 images, ``(1 + k) / (10 + k)`` at the start: 1 - that, to 4 %."""
    released = EMA.model_validate(DLSM.variants["as_released"]["ema"])
    for step, keep in ((200, 201 / 210), (2000, 2001 / 2010), (50_000, 0.999)):
        average = MovingAverage(nn.Linear(1, 1), released)
        average.update(nn.Linear(1, 1), step * 128, 128)
        assert 1 - average.keep == pytest.approx(1 - keep, rel=0.04)


def test_guidance_adds_the_scaled_gradient_to_the_denoised_image(build: Build) -> None:
    """``D + sigma^2 alpha grad log p(c|x)``, whether sigma is one for all or each image's own."""
    method = build("dlsm", guidance=3.0)
    method.denoiser, method.classifier = exact_denoiser(0.8).float(), Logits()
    x, labels = make_batch(3).x, torch.tensor([4, 0, 9])
    guided = method.denoiser_for(labels)
    for sigma in (torch.tensor(0.5), torch.tensor([0.1, 1.0, 7.0])):
        levels = sigma.expand(3)
        plain = 0.64 / (0.64 + per_image(levels) ** 2) * x
        pull = 3 * per_image(levels) ** 2 * method.classifier.gradient(x, levels, labels)
        torch.testing.assert_close(guided(x, sigma), plain + pull)
    torch.testing.assert_close(method.denoiser_for(None)(x, levels), plain)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"score_share": 1.0}, "leaves no classifier_share"),
        ({"score_share": 0.6, "classifier_share": 0.39}, "part of the budget unused"),
        ({"dlsm_weight": 0.0, "ce_weight": 0.0}, "both 0"),
        ({"conditional": True}, "told no class"),
        ({"score_share": 0.5, "classifier_share": 0.5}, None),
        ({"score_share": 1.0, "classifier_share": 0.5}, None),
        ({"score_share": 0.6}, None),
    ],
)
def test_dlsm_s_shares_and_weights_make_sense(
    settings: dict[str, object], message: str | None
) -> None:
    with pytest.raises(ValueError, match=message) if message else nullcontext():
        DLSMConfig.model_validate(settings)


def test_dlsm_refuses_to_sample_without_labels(build: Build) -> None:
    with pytest.raises(ValueError, match="label"):
        build("dlsm").sample(3, generator=torch.Generator())


# -- smm ------------------------------------------------------------------------------------------


def test_smm_levels_are_the_paper_s() -> None:
    """The ten levels in METHODS, from Ye & Liu's code."""
    expected = "0.0100 0.0491 0.0832 0.1167 0.1498 0.1826 0.2151 0.2472 0.2790 0.3103"
    levels = vp_discrete_sigmas(10)
    assert " ".join(f"{level:.4f}" for level in levels.tolist()) == expected
    assert float(levels[0]) == pytest.approx(0.01, rel=1e-6)
    assert float(vp_discrete_sigmas(20)[-1]) == pytest.approx(0.428, abs=5e-4)


def test_an_untrained_smm_has_unit_losses(build: Build) -> None:
    """S = 0 predicts no noise: every term is E n^2 = 1 a pixel."""
    method = build("smm")
    batch = make_batch(256)
    (score, generator) = (o.loss(batch) for o in method.stages()[0].objectives)
    assert float(score.detach()) == pytest.approx(2, abs=0.05)
    assert float(generator.detach()) == pytest.approx(1, abs=0.05)


class Slope(nn.Module):
    """A score network of one weight: ``S(x, t) = a x + t / 10``."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(0.4))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.a * x + per_image(t / 10)


class Spread(nn.Module):
    """A generator of one weight, which spreads two numbers over an image of 8 x 8."""

    def __init__(self) -> None:
        super().__init__()
        self.b = nn.Parameter(torch.tensor(0.6))

    def forward(self, z: Tensor) -> Tensor:
        return self.b * z.repeat(1, 32).reshape(-1, 1, 8, 8)


def smm_by_hand(build: Build, game: str) -> tuple[Method, Batch, Tensor, Tensor]:
    """The method with two known networks, a batch, and its fakes and latents by hand."""
    levels = (0.1, 0.5, 0.9)
    settings = {"sigmas": levels, "generator": {"z": 2}, "generator_noises": 2}
    method = build("smm", game=game, mismatch_weight=0.7, **settings)
    method.score, method.generator = Slope(), Spread()
    own = make_batch(6)
    fakes = method.generator(own.randn(6, 2))
    return method, own, fakes, torch.tensor(levels)


@pytest.mark.parametrize("game", ["mismatch", "gan"])
def test_smm_s_score_loss_is_the_paper_s(build: Build, game: str) -> None:
    """By hand: match the noise of real images, another noise than the fakes' own; or the logits."""
    method, own, fakes, levels = smm_by_hand(build, game)
    fakes = fakes.detach()
    t = own.randint(3, 12)
    noise, independent = own.randn(12, 1, 8, 8), own.randn()
    x = torch.cat([own.x, fakes]) + per_image(levels[t]) * noise
    answer = 0.4 * x + per_image(t / 10)
    logs = {
        "std_ratio": fakes.std(0).mean() / own.x.std(0).mean(),
        "distance_ratio": distance(fakes) / distance(own.x),
    }
    if game == "gan":
        logit = answer.mean((1, 2, 3))
        expected = (1 + (-logit[:6]).exp()).log().mean() + (1 + logit[6:].exp()).log().mean()
    else:
        real = ((answer[:6] - noise[:6]) ** 2).mean()
        fake = ((answer[6:] - independent) ** 2).mean()
        expected = real + 0.7 * fake
        logs |= {"real": real, "fake": fake, "rho": 3 * (fake - 1)}
    loss = method.score_loss(batch := make_batch(6))
    torch.testing.assert_close(loss.detach(), expected)
    assert batch.logs.keys() == logs.keys()
    for name, value in logs.items():
        torch.testing.assert_close(batch.logs[name], value)
    # A ratio of the means over many batches, not the mean of their ratios.
    overs = {} if game == "gan" else {"rho": 1 - real}
    torch.testing.assert_close(batch.overs, overs)
    loss.backward()
    assert method.generator.b.grad is None


def distance(x: Tensor) -> Tensor:
    """Mean distance of each image to the one before it, the first's to the last."""
    pairs = [(x[i] - x[i - 1]).norm() for i in range(len(x))]
    return torch.stack(pairs).mean()


@pytest.mark.parametrize("game", ["mismatch", "gan"])
def test_smm_s_generator_loss_is_the_paper_s(build: Build, game: str) -> None:
    """By hand: each fake noised twice, and S asked for just that noise."""
    method, own, fakes, levels = smm_by_hand(build, game)
    t = own.randint(3, 12)
    noise = own.randn(12, 1, 8, 8)
    answer = method.score(torch.cat([fakes, fakes]) + per_image(levels[t]) * noise, t)
    if game == "gan":
        expected = (1 + (-answer.mean((1, 2, 3))).exp()).log().mean()
    else:
        expected = ((answer - noise) ** 2).mean()
    (gradient,) = torch.autograd.grad(expected, method.generator.b)
    loss = method.generator_loss(make_batch(6))
    loss.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(method.generator.b.grad, gradient)


def test_the_score_network_sees_and_says_what_the_main_code_s_does(build: Build) -> None:
    """``S(x, t) = F(2 x - 1, t) / sigma_t`` with NCSN's levels, 50.0 to 46.3 for t = 0 to 9."""
    method, x, t = build("smm"), make_batch(10).x, torch.arange(10)
    method.score = Slope()
    torch.testing.assert_close(method.predict(x, t), method.score(x, t))
    chosen = {"score_input": "doubled", "score_output": "over_ncsn"}
    method = build("smm", **chosen)
    method.score = Slope()
    table = torch.logspace(math.log10(50), math.log10(0.01), 1000, dtype=torch.float64).float()
    expected = (0.4 * (2 * x - 1) + per_image(t / 10)) / per_image(table[:10])
    torch.testing.assert_close(method.predict(x, t), expected)
    assert [f"{level:.1f}" for level in table[[0, 9]].tolist()] == ["50.0", "46.3"]
    # All three losses ask this S: with F = 0 where x = 1/2, they have no noise to match.
    one = dict.fromkeys(("score_loss", "generator_loss", "r1_loss"))
    for name in one:
        found = {}
        for settings in ({}, chosen):
            method = build("smm", generator={"z": 2}, r1_gamma=1.0, **settings)
            method.score, method.generator = Slope(), Spread()
            found[bool(settings)] = float(getattr(method, name)(make_batch(6)).detach())
        assert found[False] != pytest.approx(found[True], rel=1e-3), name


def test_smm_s_samples_are_the_generator_s(build: Build) -> None:
    method, _, _, _ = smm_by_hand(build, "mismatch")
    drawn = method.sample(4, generator=torch.Generator().manual_seed(5))
    z = torch.randn(4, 2, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(drawn, 0.6 * z.repeat(1, 32).reshape(4, 1, 8, 8))


def test_smm_s_variants_order_and_tie_its_objectives(build: Build) -> None:
    (stage,) = build("smm", order="generator_first", score_lr_ratio=None).stages()
    assert [o.network for o in stage.objectives] == ["generator", "score"]
    (stage,) = build("smm", order="score_first", score_lr_ratio=3.0).stages()
    score, generator = stage.objectives
    assert (score.network, generator.network) == ("score", "generator")
    assert score.optimizer.lr == pytest.approx(3 * generator.optimizer.lr)
    assert (build("smm").second_order, build("smm", r1_gamma=1.0).second_order) == (
        frozenset(),
        {"score"},
    )


def test_the_r1_penalty_has_a_gradient(build: Build) -> None:
    """Of ``S = a x``: ``gamma / 2 a^2`` a pixel, times the interval, and its derivative."""
    method = build("smm", r1_gamma=0.1, r1_every=16)
    method.score = Slope()
    loss = method.r1_loss(make_batch())
    loss.backward()
    assert loss.item() == pytest.approx(0.05 * 16 * 64 * 0.4**2)
    assert method.score.a.grad.item() == pytest.approx(0.05 * 16 * 64 * 2 * 0.4)


def test_the_r1_penalty_of_the_main_code_stands_beside_a_sum(build: Build) -> None:
    """``gamma / 2 |grad|^2`` beside a sum over 12 x 64 numbers: 16 x 12 x 64 times less than ours.

    At the paper's 64 images of 32x32 that is 16 x 64 x 3072, 3.1 million.
    """
    penalties = {}
    for beside in ("mean", "sum"):
        method = build("smm", r1_gamma=0.1, r1_every=16, r1_beside=beside)
        method.score = Slope()
        penalties[beside] = float(method.r1_loss(make_batch(12)).detach())
    assert penalties["sum"] == pytest.approx(0.05 * 64 * 0.4**2 / (12 * 64))
    assert penalties["mean"] / penalties["sum"] == pytest.approx(16 * 12 * 64)


class Affine(nn.Module):
    """``G(z) = m + s z`` in one dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.m, self.s = nn.Parameter(torch.tensor(0.5)), nn.Parameter(torch.tensor(0.6))

    def forward(self, z: Tensor) -> Tensor:
        return (self.m + self.s * z)[:, :, None, None]


class Mlp(nn.Module):
    """The noise predictor S for one number."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(1, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU())
        self.out = nn.Linear(64, 1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.out(self.layers(x.flatten(1)))[:, :, None, None]


def train_one_dimension(build: Build, mismatch_weight: float) -> Affine:
    """Train smm on N(0, 1) numbers with the single level sigma = 1."""
    method = build("smm", mismatch_weight=mismatch_weight, levels=1, generator={"z": 1})
    method.sigmas = torch.ones(1)
    torch.manual_seed(0)
    method.score, method.generator = Mlp(), Affine()
    optimizers = {
        "score": torch.optim.Adam(method.score.parameters(), 3e-3, betas=(0.5, 0.99)),
        "generator": torch.optim.Adam(method.generator.parameters(), 3e-3, betas=(0.5, 0.99)),
    }
    losses = {"score": method.score_loss, "generator": method.generator_loss}
    generator = torch.Generator().manual_seed(0)
    for _ in range(2500):
        for name, optimizer in optimizers.items():
            x = torch.randn(512, 1, 1, 1, generator=generator)
            optimizer.zero_grad()
            losses[name](Batch(x=x, labels=None, generator=generator)).backward()
            optimizer.step()
    return method.generator


@pytest.mark.slow
def test_smm_s_fixed_point_in_one_dimension(build: Build) -> None:
    """One level sigma = 1 on N(0, 1): the generator ends at std 0.227 (METHODS), mean 0."""
    generator = train_one_dimension(build, mismatch_weight=1.0)
    assert abs(generator.s.item()) == pytest.approx(0.227, abs=0.04)
    assert generator.m.item() == pytest.approx(0, abs=0.1)


@pytest.mark.slow
def test_smm_without_the_mismatch_term_collapses(build: Build) -> None:
    generator = train_one_dimension(build, mismatch_weight=0.0)
    assert abs(generator.s.item()) < 0.08


def test_r1_is_an_objective_of_its_own_and_zero_for_a_constant_score(build: Build) -> None:
    assert len(build("smm").stages()[0].objectives) == 2
    method = build("smm", r1_gamma=0.1)
    penalty = method.stages()[0].objectives[-1]
    assert (penalty.label, penalty.network, penalty.every) == ("r1", "score", 16)

    class Linear(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return 3 * x

    method.score = Linear()
    # |grad sum 3 x|^2 = 9 a pixel; gamma / 2 = 0.05, times the interval 16.
    assert float(penalty.loss(make_batch())) == pytest.approx(0.05 * 16 * 9 * 64, rel=1e-4)
