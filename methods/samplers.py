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
from itertools import pairwise
from typing import Protocol, get_args

import torch
from torch import Tensor

from methods.base import DenoiserFn
from methods.levels import Name, SamplerSettings, noise_levels
from methods.multistep import dpmpp_2m, dpmpp_3m, ipndm, ipndm_v, unipc

__all__ = [
    "SAMPLERS", "Sampler", "SamplerSettings", "ancestral", "ancestral_step", "draw",
    "edm_stochastic", "euler", "euler_maruyama", "euler_maruyama_step", "heun", "langevin_step",
    "nfe", "noise_levels", "noise_like", "predictor_corrector", "steps_for_nfe",
]  # fmt: skip
CONCENTRATED = 16
"""Numbers an image from which its norms concentrate: of Gaussian data, a Langevin step of snr 0.16
passes their variance with a probability of 1.5e-7 there, and of 0.05 in a plane."""


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
