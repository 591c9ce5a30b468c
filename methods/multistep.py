"""Multistep solvers of the probability flow: a step uses the denoised images of those before it.

In ``l = -ln sigma`` the flow is ``dx / dl = D - x``, whose linear part DPM-Solver++ and UniPC
integrate exactly; ``ipndm`` is Adams and Bashforth's method in sigma. One evaluation a step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from methods.base import DenoiserFn
from methods.levels import SamplerSettings

FEW_STEPS = 15
"""Below it the DPM-Solver family lowers its order at the end (diffusers' threshold)."""


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
