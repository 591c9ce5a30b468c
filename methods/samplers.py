"""Samplers: one function each, one signature.

Each takes a denoiser ``D(x, sigma) -> (B, C, H, W)`` (``sigma`` a scalar tensor), the start ``x``
at level ``sigmas[0]``, the decreasing levels ``sigmas`` (N + 1,) that end in 0, and a generator;
and returns images at level 0. ``x = y + sigma n`` throughout: the signal is not scaled.

| name | | NFE | source |
|---|---|---|---|
| `ancestral` | stochastic | N | posterior kernel of Ho et al. 2020, in sigma |
| `euler_maruyama` | stochastic | N | Song et al. 2021, eq. 6 |
| `edm_stochastic` | stochastic | 2N - 1 | Karras et al. 2022, algorithm 2 |
| `predictor_corrector` | stochastic | N (1 + corrector steps) | Song et al. 2021, algorithms 2-5 |
| `euler` | order 1 | N | probability flow, Song et al. 2021, eq. 13 |
| `heun` | order 2 | 2N - 1 | Karras et al. 2022, algorithm 1 |
| `dpmpp_2m`, `dpmpp_3m` | orders 2, 3 | N | Lu et al. 2022, DPM-Solver++ |
| `unipc` | order 4 | N | Zhao et al. 2023, UniPC-3 |
| `ipndm` | order 2 on these levels | N | Zhang & Chen 2023, Adams-Bashforth 4 |
| `ipndm_v` | order 4 | N | the same with variable-step coefficients |

Every sampler's last step, from the smallest level to 0, is a plain denoise, so that all of them
end alike. A multistep sampler starts with lower orders, which costs it nothing here: at the
largest levels D hardly changes.

Where we differ from the authors' code, and why. Of all samplers:

- The state is float32, EDM's float64: no pixel of 768 differed once they were rounded.
- An image depends on its own noise alone, never on its companions.

Of some: ``predictor_corrector`` (norms, limit, beta), ``dpmpp_2m``, ``dpmpp_3m``, ``unipc`` (order,
and fewer of it at the end of few steps) and ``ipndm_v`` (the last step) say it themselves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, Protocol, get_args

import torch
from pydantic import Field, model_validator
from torch import Tensor

from methods.base import DenoiserFn, Settings

CONCENTRATED = 16
"""Numbers an image from which its norms concentrate: of Gaussian data, a Langevin step of snr 0.16
passes their variance with a probability of 1.5e-7 there, and of 0.05 in a plane."""
FEW_STEPS = 15
"""Below it the DPM-Solver family lowers its order at the end (diffusers' threshold)."""
Name = Literal[
    "ancestral",
    "dpmpp_2m",
    "dpmpp_3m",
    "edm_stochastic",
    "euler",
    "euler_maruyama",
    "heun",
    "ipndm",
    "ipndm_v",
    "predictor_corrector",
    "unipc",
]


class SamplerSettings(Settings):
    """Which sampler, on which noise levels."""

    name: Name = "ancestral"
    steps: int = Field(18, ge=1)
    """Steps N. Published: 18 for Heun on CIFAR-10 (EDM), 1000 for ``predictor_corrector``."""
    schedule: Literal["karras", "geometric", "vp"] = "karras"
    """Spacing of the N levels: EDM's, the VE SDE's, or the VP SDE's."""
    sigma_min: float = Field(0.002, gt=0)
    """``karras``: the smallest level (EDM table 1)."""
    sigma_max: float = Field(80.0, gt=0)
    """``karras``: the largest level (EDM table 1)."""
    rho: float = Field(7.0, gt=0)
    """``karras``: the exponent (EDM eq. 5)."""
    geometric_min: float = Field(0.02, gt=0)
    """``geometric``: the smallest level (Song et al. 2021, appendix C, CIFAR-10: 0.01 for images in
    [0, 1], which is twice that for ours in [-1, 1])."""
    geometric_max: float = Field(100.0, gt=0)
    """``geometric``: the largest level (the same: 50 for images in [0, 1])."""
    vp_beta_min: float = Field(0.1, gt=0)
    """``vp``: ``beta(0)`` (Song et al. 2021, appendix C)."""
    vp_beta_range: float = Field(19.9, gt=0)
    """``vp``: ``beta(1) - beta(0)`` (Song et al. 2021, appendix C: beta from 0.1 to 20)."""
    vp_end: float = Field(1e-3, gt=0, lt=1)
    """``vp``: the time of the smallest level (Song et al. 2021, appendix C, sampling)."""
    s_churn: float = Field(30.0, ge=0)
    """``edm_stochastic``: amount of noise added a step (EDM table 5, CIFAR-10 VP); 0 is Heun's."""
    s_min: float = Field(0.01, ge=0)
    """``edm_stochastic``: churn from this level (EDM table 5, CIFAR-10 VP)."""
    s_max: float = Field(1.0, gt=0)
    """``edm_stochastic``: churn up to this level (EDM table 5, CIFAR-10 VP)."""
    s_noise: float = Field(1.007, gt=0)
    """``edm_stochastic``: scale of the added noise (EDM table 5, CIFAR-10 VP)."""
    snr: float = Field(0.16, gt=0)
    """``predictor_corrector``: the corrector's signal-to-noise ratio (Song et al. 2021, CIFAR-10:
    0.16, with one corrector step, N = 1000)."""
    corrector_steps: int = Field(1, ge=0)
    """``predictor_corrector``: Langevin steps at each level; 0 leaves the predictor alone."""

    @model_validator(mode="after")
    def _levels_fall(self) -> SamplerSettings:
        for low, high in (("sigma_min", "sigma_max"), ("geometric_min", "geometric_max")):
            if getattr(self, low) >= getattr(self, high):
                raise ValueError(
                    f"{low} {getattr(self, low)} is not below {high} {getattr(self, high)}"
                )
        return self


class Sampler(Protocol):
    """The shared signature."""

    def __call__(
        self,
        D: DenoiserFn,
        x: Tensor,
        sigmas: Tensor,
        *,
        generator: torch.Generator,
        settings: SamplerSettings,
    ) -> Tensor:
        """Return images at level 0."""


# -- levels ---------------------------------------------------------------------------------------


def karras_sigmas(settings: SamplerSettings, device: torch.device | str = "cpu") -> Tensor:
    """The levels ``(a + i/(N-1) (b - a))^rho`` and a final 0, (N + 1,), float64 (EDM eq. 5)."""
    high = settings.sigma_max ** (1 / settings.rho)
    low = settings.sigma_min ** (1 / settings.rho)
    levels = (high + _ramp(settings, device) * (low - high)) ** settings.rho
    return torch.cat([levels, levels.new_zeros(1)])


def geometric_sigmas(settings: SamplerSettings, device: torch.device | str = "cpu") -> Tensor:
    """The VE SDE's ``max (min / max)^(i/(N-1))`` and a final 0, (N + 1,), float64."""
    ratio = settings.geometric_min / settings.geometric_max
    levels = settings.geometric_max * ratio ** _ramp(settings, device)
    return torch.cat([levels, levels.new_zeros(1)])


def vp_sigmas(settings: SamplerSettings, device: torch.device | str = "cpu") -> Tensor:
    """The VP SDE's ``sqrt(exp(beta_range t^2 / 2 + beta_min t) - 1)``, t evenly from 1, and 0."""
    t = 1 + _ramp(settings, device) * (settings.vp_end - 1)
    levels = (settings.vp_beta_range * t**2 / 2 + settings.vp_beta_min * t).expm1().sqrt()
    return torch.cat([levels, levels.new_zeros(1)])


def _ramp(settings: SamplerSettings, device: torch.device | str) -> Tensor:
    return torch.linspace(0, 1, settings.steps, dtype=torch.float64, device=device)


SCHEDULES = {"karras": karras_sigmas, "geometric": geometric_sigmas, "vp": vp_sigmas}


def noise_levels(settings: SamplerSettings) -> Tensor:
    """The levels of the chosen schedule, falling to 0: (N + 1,), float64, on the CPU."""
    return SCHEDULES[settings.schedule](settings)


# -- stochastic samplers --------------------------------------------------------------------------


def noise_like(x: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal noise of the shape, type and device of ``x``."""
    return torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)


def ancestral_step(x: Tensor, denoised: Tensor, sigma: Tensor, next_: Tensor, z: Tensor) -> Tensor:
    """Exact posterior kernel of ``x`` at ``next_`` given ``x`` at ``sigma``, if D is constant."""
    r = (next_ / sigma) ** 2
    return denoised + r * (x - denoised) + next_ * (1 - r).clamp(min=0).sqrt() * z


def euler_maruyama_step(
    x: Tensor, denoised: Tensor, sigma: Tensor, next_: Tensor, z: Tensor
) -> Tensor:
    """One step of the reverse SDE ``dx = 2 (x - D) / sigma d sigma + sqrt(2 sigma) dw``."""
    drift = 2 * (next_ - sigma) / sigma * (x - denoised)
    return x + drift + (2 * sigma * (sigma - next_)).clamp(min=0).sqrt() * z


def ancestral(
    D: DenoiserFn,
    x: Tensor,
    sigmas: Tensor,
    *,
    generator: torch.Generator,
    settings: SamplerSettings,
) -> Tensor:
    """Multi-step reverse-SDE sampler by the exact posterior kernel; stable on coarse grids."""
    for sigma, next_ in pairwise(sigmas):
        x = ancestral_step(x, D(x, sigma), sigma, next_, noise_like(x, generator))
    return x


def euler_maruyama(
    D: DenoiserFn,
    x: Tensor,
    sigmas: Tensor,
    *,
    generator: torch.Generator,
    settings: SamplerSettings,
) -> Tensor:
    """Euler-Maruyama on the reverse SDE, the last step a plain denoise; overshoots if coarse."""
    for sigma, next_ in pairwise(sigmas[:-1]):
        x = euler_maruyama_step(x, D(x, sigma), sigma, next_, noise_like(x, generator))
    return D(x, sigmas[-2])


def edm_stochastic(
    D: DenoiserFn,
    x: Tensor,
    sigmas: Tensor,
    *,
    generator: torch.Generator,
    settings: SamplerSettings,
) -> Tensor:
    """Heun's steps after raising the noise level by churn (EDM alg. 2); NFE 2N - 1."""
    steps = len(sigmas) - 1
    churn = min(settings.s_churn / steps, math.sqrt(2) - 1)
    levels = sigmas.tolist()
    for i in range(steps):
        gamma = churn if settings.s_min <= levels[i] <= settings.s_max else 0.0
        raised = sigmas[i] * (1 + gamma)
        added = (raised**2 - sigmas[i] ** 2).clamp(min=0).sqrt() * settings.s_noise
        x = x + added * noise_like(x, generator)
        x = _heun_step(D, x, raised, sigmas[i + 1], last=i == steps - 1)
    return x


def predictor_corrector(
    D: DenoiserFn,
    x: Tensor,
    sigmas: Tensor,
    *,
    generator: torch.Generator,
    settings: SamplerSettings,
) -> Tensor:
    """Reverse-diffusion predictor, Langevin corrector (Song et al. 2021); NFE N (1 + corrector).

    On levels of the schedule ``vp`` it is the VP version, which walks in ``u = x / c`` with
    ``c = sqrt(1 + sigma^2)``; on others the VE version, c = 1. With ``a = c' / c``, one level is

        u += eps s(u) + sqrt(2 eps) z,     eps = 2 a^2 (snr |z| / |s|)^2      corrector
        u  = (2 - a) u + beta s(u) + sqrt(beta) z                             predictor

    and ``beta = 1 - a^2`` (VP) or ``sigma^2 - sigma'^2`` (VE). The last sample is noise-free.

    Where it differs from the authors' code, which it equals at batch 1:

    - The norms are each image's own, while theirs are means over the batch, which makes an image
      depend on its companions. Norms concentrate in many dimensions; with few, |s| comes near 0
      and the corrector is biased: for points of a plane set its steps to 0.
    - ``eps`` is held below the largest variance that u can have, ``(sigma^2 + 1) / c^2`` for images
      in [-1, 1], above which a Langevin step diverges: the steps of 0.16 are some twenty times
      smaller where data are smooth. In fewer than 16 dimensions it is held below the variance of
      the noise alone, ``(sigma / c)^2``; on CIFAR-10 steps are seven times below that at the
      smallest level and more elsewhere.
    - Scores are taken at the levels, theirs at those of times that end at 1e-5 (a relative 5e-5).
    - VP's beta is exact, theirs linear in time over N (a relative 1e-2 at 300 steps, 4e-3 at 1000).
    """
    vp = settings.schedule == "vp"
    scales = (1 + sigmas**2).sqrt() if vp else torch.ones_like(sigmas)
    u, width = x / scales[0], float(x[0].numel() >= CONCENTRATED)
    for i in range(len(sigmas) - 1):
        sigma, c, a = sigmas[i], scales[i], scales[i + 1] / scales[i]
        for _ in range(settings.corrector_steps):
            z, s = noise_like(u, generator), _scaled_score(D, u, sigma, c)
            u = langevin_step(u, s, z, settings.snr * a, limit=(sigma**2 + width) / c**2)
        beta = 1 - a**2 if vp else sigma**2 - sigmas[i + 1] ** 2
        mean = (2 - a) * u + beta * _scaled_score(D, u, sigma, c)
        u = mean + beta.sqrt() * noise_like(u, generator)
    return mean


def _scaled_score(D: DenoiserFn, u: Tensor, sigma: Tensor, c: Tensor) -> Tensor:
    """The score of ``u = x / c``, where x is at level ``sigma``."""
    return c * (D(c * u, sigma) - c * u) / sigma**2


def langevin_step(x: Tensor, score: Tensor, z: Tensor, snr: Tensor, limit: Tensor) -> Tensor:
    """One Langevin step of size ``2 (snr |z| / |score|)^2``, by each image's own norms."""

    def norm(values: Tensor) -> Tensor:
        return values.flatten(1).norm(dim=1).reshape(-1, *[1] * (values.ndim - 1))

    eps = (2 * (snr * norm(z) / norm(score)) ** 2).minimum(limit)
    return x + eps * score + (2 * eps).sqrt() * z


# -- deterministic samplers: the probability flow dx / d sigma = (x - D) / sigma ------------------


def euler(
    D: DenoiserFn,
    x: Tensor,
    sigmas: Tensor,
    *,
    generator: torch.Generator,
    settings: SamplerSettings,
) -> Tensor:
    """Euler's steps along the probability flow; first order, NFE N."""
    for sigma, next_ in pairwise(sigmas):
        r = next_ / sigma
        x = r * x + (1 - r) * D(x, sigma)
    return x


def _heun_step(D: DenoiserFn, x: Tensor, sigma: Tensor, next_: Tensor, last: bool) -> Tensor:
    slope = (x - D(x, sigma)) / sigma
    proposal = x + (next_ - sigma) * slope
    if last:
        return proposal
    corrected = (proposal - D(proposal, next_)) / next_
    return x + (next_ - sigma) * (slope + corrected) / 2


def heun(
    D: DenoiserFn,
    x: Tensor,
    sigmas: Tensor,
    *,
    generator: torch.Generator,
    settings: SamplerSettings,
) -> Tensor:
    """Deterministic second-order sampler of the probability flow (EDM alg. 1); NFE 2N - 1."""
    steps = len(sigmas) - 1
    for i in range(steps):
        x = _heun_step(D, x, sigmas[i], sigmas[i + 1], last=i == steps - 1)
    return x


def interpolation_weights(nodes: Sequence[float], moments: Sequence[float]) -> list[float]:
    """Weights w with ``sum_j w_j nodes_j^k = moments_k``: exact for polynomials, in float64."""
    points = torch.tensor(nodes, dtype=torch.float64)
    powers = points ** torch.arange(len(nodes))[:, None]
    return torch.linalg.solve(powers, torch.tensor(moments, dtype=torch.float64)).tolist()


def exponential_weights(levels: Sequence[float], start: float, end: float) -> list[float]:
    """Weights of the denoised images at ``levels`` for the step of the flow from start to end.

    In ``l = -ln sigma`` the flow is ``dx / dl = D - x``, so that with ``h = l(end) - l(start)``
    ``x(end) = e^-h x(start) + int_0^h e^(s - h) D(s) ds``. D is replaced by the polynomial through
    its values at ``levels``; the integrals of its powers follow from partial integration.
    """
    h = math.log(start / end)
    nodes = [math.log(start / level) / h for level in levels]
    moments = [-math.expm1(-h)]
    for k in range(1, len(nodes)):
        moments.append(1 - k / h * moments[-1])
    return interpolation_weights(nodes, moments)


def adams_weights(levels: Sequence[float], start: float, end: float) -> list[float]:
    """Weights of the slopes at ``levels`` for the step from start to end (Adams-Bashforth)."""
    h = end - start
    nodes = [(level - start) / h for level in levels]
    return [h * w for w in interpolation_weights(nodes, [1 / (k + 1) for k in range(len(nodes))])]


def _last(levels: Sequence[float], i: int, count: int) -> list[float]:
    """The levels i, i - 1, ... of which there are values, ``count`` at most."""
    return list(levels[max(0, i + 1 - count) : i + 1])[::-1]


def _order(levels: Sequence[float], i: int, order: int) -> int:
    """The order of step ``i``: lower at the start and, for few steps, at the end.

    With few steps the last ones are so much longer than those before them that extrapolating over
    them does harm; the authors of DPM-Solver++ and UniPC lower the order there as well.
    """
    left = len(levels) - 2 - i
    return min(order, i + 1, left) if len(levels) - 1 < FEW_STEPS else min(order, i + 1)


def _weighted(weights: Sequence[float], values: Sequence[Tensor]) -> Tensor:
    """The sum of the first ``values`` times ``weights``."""
    total = weights[0] * values[0]
    for weight, value in zip(weights[1:], values[1:], strict=False):
        total = total + weight * value
    return total


def dpmpp_2m(
    D: DenoiserFn,
    x: Tensor,
    sigmas: Tensor,
    *,
    generator: torch.Generator,
    settings: SamplerSettings,
) -> Tensor:
    """DPM-Solver++(2M), Lu et al. 2022, algorithm 2: second-order multistep in ln sigma; NFE N.

    With ``h = ln(sigma / sigma')`` and ``r = h_previous / h``:
    ``x' = e^-h x + (1 - e^-h) ((1 + 1/2r) D - 1/2r D_previous)``.
    """
    levels = sigmas.tolist()
    previous = denoised = D(x, sigmas[0])
    for i in range(len(levels) - 2):
        ratio, share = levels[i + 1] / levels[i], 0.0
        if _order(levels, i, 2) == 2:
            share = 0.5 * math.log(ratio) / math.log(levels[i] / levels[i - 1])
        x = ratio * x + (1 - ratio) * ((1 + share) * denoised - share * previous)
        previous, denoised = denoised, D(x, sigmas[i + 1])
    return denoised


def dpmpp_3m(
    D: DenoiserFn,
    x: Tensor,
    sigmas: Tensor,
    *,
    generator: torch.Generator,
    settings: SamplerSettings,
) -> Tensor:
    """DPM-Solver++(3M), Lu et al. 2022: third-order multistep in ln sigma; NFE N.

    The exact integral of the parabola through the last three denoised images (two, one at the
    start). The authors' code halves its quadratic term, which costs it the third order.
    """
    levels = sigmas.tolist()
    history = [D(x, sigmas[0])]
    for i in range(len(levels) - 2):
        known = _last(levels, i, _order(levels, i, 3))
        weights = exponential_weights(known, levels[i], levels[i + 1])
        x = levels[i + 1] / levels[i] * x + _weighted(weights, history)
        history = [D(x, sigmas[i + 1]), *history[:2]]
    return history[0]


def unipc(
    D: DenoiserFn,
    x: Tensor,
    sigmas: Tensor,
    *,
    generator: torch.Generator,
    settings: SamplerSettings,
) -> Tensor:
    """UniPC, Zhao et al. 2023, of order 3 with data prediction; NFE N.

    ``dpmpp_3m``'s step predicts; the denoised image there, which the next step needs anyhow, then
    corrects the step by one order more. Solving for all coefficients, as here, cancels their
    function B(h); their code fixes one of them at 1/2 in the first two steps, where B matters.
    """
    levels = sigmas.tolist()
    history = [D(x, sigmas[0])]
    for i in range(len(levels) - 2):
        start, end, ratio = levels[i], levels[i + 1], levels[i + 1] / levels[i]
        known = _last(levels, i, _order(levels, i, 3))
        predicted = ratio * x + _weighted(exponential_weights(known, start, end), history)
        values = [D(predicted, sigmas[i + 1]), *history]
        x = ratio * x + _weighted(exponential_weights([end, *known], start, end), values)
        history = values[:3]
    return history[0]


def ipndm(
    D: DenoiserFn,
    x: Tensor,
    sigmas: Tensor,
    *,
    generator: torch.Generator,
    settings: SamplerSettings,
) -> Tensor:
    """Improved PNDM, Zhang & Chen 2023: fourth-order Adams-Bashforth in sigma; NFE N.

    The first steps are of orders 1, 2, 3. The classical coefficients (55, -59, 37, -9) / 24 are
    used as published, as if the steps were equal; on other levels the order is 2 at most, and yet
    few steps do well. ``ipndm_v`` has the coefficients for the levels given.
    """
    return _adams_bashforth(D, x, sigmas, equal_steps=True)


def ipndm_v(
    D: DenoiserFn,
    x: Tensor,
    sigmas: Tensor,
    *,
    generator: torch.Generator,
    settings: SamplerSettings,
) -> Tensor:
    """``ipndm`` with the coefficients of the levels' own spacing; fourth order, NFE N."""
    return _adams_bashforth(D, x, sigmas, equal_steps=False)


def _adams_bashforth(D: DenoiserFn, x: Tensor, sigmas: Tensor, *, equal_steps: bool) -> Tensor:
    levels = sigmas.tolist()
    denoised = D(x, sigmas[0])
    history: list[Tensor] = []
    for i in range(len(levels) - 2):
        start, end = levels[i], levels[i + 1]
        history = [(x - denoised) / sigmas[i], *history[:3]]
        known = _last(levels, i, 4)
        if equal_steps:
            known = [start - j * (end - start) for j in range(len(known))]
        x = x + _weighted(adams_weights(known, start, end), history)
        denoised = D(x, sigmas[i + 1])
    return denoised


SAMPLERS: dict[str, Sampler] = {
    "ancestral": ancestral,
    "dpmpp_2m": dpmpp_2m,
    "dpmpp_3m": dpmpp_3m,
    "edm_stochastic": edm_stochastic,
    "euler": euler,
    "euler_maruyama": euler_maruyama,
    "heun": heun,
    "ipndm": ipndm,
    "ipndm_v": ipndm_v,
    "predictor_corrector": predictor_corrector,
    "unipc": unipc,
}
assert tuple(SAMPLERS) == get_args(Name)


# -- function evaluations -------------------------------------------------------------------------


def nfe(settings: SamplerSettings) -> int:
    """Denoiser evaluations for one image that the settings lead to."""
    return _evaluations(settings.name, settings.steps, settings.corrector_steps)


def _evaluations(name: str, steps: int, corrector_steps: int) -> int:
    if name in ("heun", "edm_stochastic"):
        return 2 * steps - 1
    if name == "predictor_corrector":
        return steps * (1 + corrector_steps)
    return steps


def steps_for_nfe(name: str, wanted: int, *, corrector_steps: int = 1) -> int | None:
    """Largest number of steps with at most ``wanted`` evaluations; None if one step takes more."""
    per_step = _evaluations(name, 2, corrector_steps) - _evaluations(name, 1, corrector_steps)
    steps = 1 + (wanted - _evaluations(name, 1, corrector_steps)) // per_step
    return steps if steps >= 1 else None


@torch.no_grad()
def draw(
    D: DenoiserFn,
    shape: tuple[int, ...],
    settings: SamplerSettings,
    generator: torch.Generator,
) -> Tensor:
    """Start from noise at the largest level and run the chosen sampler; ``shape`` (B, C, H, W)."""
    # The levels are computed in float64 on the CPU, so that no device rounds them differently.
    sigmas = noise_levels(settings).float().to(generator.device)
    x = torch.randn(shape, generator=generator, device=generator.device) * sigmas[0]
    return SAMPLERS[settings.name](D, x, sigmas, generator=generator, settings=settings)
