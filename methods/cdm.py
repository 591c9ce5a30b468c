"""Consistency-regularised denoising score matching (CDM).

Daras et al. 2023, "Consistent Diffusion Models: Mitigating Sampling Drift by Learning to be
Consistent" (NeurIPS). A denoiser should be a martingale along its own reverse SDE,
``D(x_t, t) = E[D(x_t', t') | x_t]`` for t' < t. The objective, with ``D0 = D(x_t, t)`` on
ordinary noised data and ``D1, D2`` at t' on two independent reverse-SDE branches from x_t:

    L(D) = E  w(t) |D0 - y|^2 + lambda <D1 - D0, D2 - D0>

Two branches make the product an unbiased estimate of ``|E D1 - D0|^2``; it can be negative for
one image. Gradients flow through D0, D1 and D2, not through the branches. ``t' = max(t - eps,
0.002)``, ``eps ~ U(0, 0.05)`` absolute, one for both branches; a branch takes 5 Euler-Maruyama
steps on 6 Karras levels from t to t'.

Variants: ``published`` (the above); ``one_step``, one exact ancestral step a branch, which reuses
D0; ``semi``, ``w(t) |D0 - D1|^2`` of one such step with no gradient through D1, whose gradient is
then unbiased with a single branch; ``relative``, ``t' = t U(0.5, 1)``, since an absolute gap of
0.05 is too small to act where t is large.

Where we differ from the authors' code, and why:

- Noise and augmentation are drawn once: the consistency term starts from the x_t of the denoising
  term; the labels of augmentation are kept inside the branches.
- All evaluations of one step share one dropout mask, so that the variance of D0's dropout does
  not enter the product.
- Each branch's first sub-step reuses D0, which is the same value: 17 forward-equivalents a step
  in place of 19 (denoising score matching: 3; ``one_step``: 9; ``semi``: 4).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from methods import samplers
from methods.base import Batch, DenoiserFn, Settings
from methods.noise import image_sum, per_image, weighted_error
from methods.sde import SAMPLER_VARIANTS, SDE, DenoiserConfig, Noised

STEPS = {
    "euler_maruyama": samplers.euler_maruyama_step,
    "ancestral": samplers.ancestral_step,
}


class CDMConfig(DenoiserConfig):
    """EDM's settings and the consistency term's, as on the authors' command line."""

    consistency_weight: float = Field(10.0, ge=0)
    """lambda: 10 on the authors' command line (their class's default is 2)."""
    estimator: Literal["two_branches", "semi"] = "two_branches"
    """``two_branches``: the published product; ``semi``: one branch, no gradient through it, and
    weighted by w (ours; lambda = 10 diverged there in trials, 1 did not)."""
    gap: Literal["absolute", "relative"] = "absolute"
    """How t' is drawn: ``t - U(0, max_gap)`` (authors' code) or ``t U(min_ratio, 1)`` (ours)."""
    max_gap: float = Field(0.05, gt=0)
    """Largest eps in ``t' = t - eps`` (authors' code)."""
    min_ratio: float = Field(0.5, gt=0, lt=1)
    """Smallest ``t' / t`` of a relative gap."""
    branch_steps: int = Field(5, ge=1)
    """Reverse-SDE steps of a branch (authors' code: 6 levels)."""
    branch_sampler: Literal["euler_maruyama", "ancestral"] = "euler_maruyama"
    """Kernel of a branch's steps. Euler-Maruyama is the authors'; it leaves too much noise near the
    floor, where ``ancestral`` is exact for a constant D, so that one step of it may do."""
    sigma_floor: float = Field(0.002, gt=0)
    """Smallest t' (authors' code)."""
    rho: float = Field(7.0, gt=0)
    """Exponent of the branch's levels (EDM eq. 5)."""


PUBLISHED = {
    "estimator": "two_branches",
    "gap": "absolute",
    "consistency_weight": 10.0,
    "branch_steps": 5,
    "branch_sampler": "euler_maruyama",
}
ONE_STEP = PUBLISHED | {"branch_steps": 1, "branch_sampler": "ancestral"}


def branch_levels(sigma: Tensor, end: Tensor, steps: int, rho: float) -> Tensor:
    """Karras levels from ``sigma`` (B,) to ``end`` (B,), both included: (steps + 1, B)."""
    ramp = torch.linspace(0, 1, steps + 1, device=sigma.device, dtype=sigma.dtype)[:, None]
    high, low = sigma ** (1 / rho), end ** (1 / rho)
    return (high + ramp * (low - high)) ** rho


@contextmanager
def same_dropout(seed: int | None, device: torch.device) -> Iterator[None]:
    """Draw the dropout masks inside from ``seed`` and leave the global generators untouched."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


@dataclass(frozen=True)
class Start:
    """Where branches begin: noised images, D0 there, and the seed of the step's dropout."""

    at: Noised
    denoised: Tensor
    seed: int | None = None


def several(values: Tensor | None, times: int) -> Tensor | None:
    """Stack copies of a batch along its first dimension."""
    return None if values is None else values.repeat(times, *[1] * (values.dim() - 1))


class CDM(SDE):
    """Denoising score matching with the published consistency term."""

    name = "cdm"
    Config: ClassVar[type[Settings]] = CDMConfig
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "published": PUBLISHED,
        "one_step": ONE_STEP,
        "semi": ONE_STEP | {"estimator": "semi", "consistency_weight": 1.0},
        "relative": PUBLISHED | {"gap": "relative"},
        "conditional": {"conditional": True},
        **SAMPLER_VARIANTS,
    }

    config: CDMConfig

    def loss(self, batch: Batch) -> Tensor:
        """The denoising loss plus lambda times the consistency term, averaged over the batch."""
        at = self.noised(batch)
        dropout = self.denoiser.training and has_dropout(self.config)
        # A seed from the CPU's generator: no device has to be waited for.
        seed = int(torch.randint(2**62, ())) if dropout else None
        with same_dropout(seed, at.x.device):
            denoised = self.denoiser(at.x, at.sigma, at.labels, at.augment)
        denoising = weighted_error(self.denoiser, denoised, at.y, at.sigma).mean()
        consistency = self.consistency(batch, Start(at, denoised, seed)).mean()
        batch.log("denoising", denoising)
        batch.log("consistency", consistency)
        return denoising + self.config.consistency_weight * consistency

    def consistency(self, batch: Batch, start: Start) -> Tensor:
        """The consistency term of each image, (B,), from branches that begin at ``start``."""
        if self.config.estimator == "semi":
            return self.semi(batch, start)
        first, second = self.differences(batch, start)
        return image_sum(first * second)

    def draw_end(self, batch: Batch, sigma: Tensor) -> Tensor:
        """Draw the level t' at which the branches of each image end, (B,)."""
        u = batch.rand(sigma.shape[0])
        if self.config.gap == "relative":
            end = sigma * (1 - (1 - self.config.min_ratio) * u)
        else:
            end = sigma - self.config.max_gap * u
        return torch.minimum(end.clamp(min=self.config.sigma_floor), sigma)

    def differences(self, batch: Batch, start: Start) -> tuple[Tensor, Tensor]:
        """``D1 - D0`` and ``D2 - D0``, each (B, C, H, W), with gradients."""
        end = self.draw_end(batch, start.at.sigma)
        if start.seed is None:
            # Both branches go through the network at once; shared dropout masks forbid it.
            after = self.after_branch(batch, start, end, copies=2)
            first, second = after.chunk(2)
        else:
            first = self.after_branch(batch, start, end)
            second = self.after_branch(batch, start, end)
        return first - start.denoised, second - start.denoised

    def semi(self, batch: Batch, start: Start) -> Tensor:
        """``w |D0 - D1|^2`` of each image, (B,), without a gradient through D1."""
        with torch.no_grad():
            end = self.draw_end(batch, start.at.sigma)
            target = self.after_branch(batch, start, end)
        return weighted_error(self.denoiser, start.denoised, target, start.at.sigma)

    def after_branch(self, batch: Batch, start: Start, end: Tensor, copies: int = 1) -> Tensor:
        """``D`` at ``end`` (B,) after ``copies`` independent branches, (copies B, C, H, W)."""
        at = start.at
        labels, told = several(at.labels, copies), several(at.augment, copies)

        def D(x: Tensor, sigma: Tensor) -> Tensor:
            with same_dropout(start.seed, x.device):
                return self.denoiser(x, sigma, labels, told)

        levels = branch_levels(at.sigma, end, self.config.branch_steps, self.config.rho)
        x = self.branch(batch, D, start, levels.repeat(1, copies), copies)
        return D(x, end.repeat(copies))

    @torch.no_grad()
    def branch(
        self,
        batch: Batch,
        D: DenoiserFn,
        start: Start,
        levels: Tensor,
        copies: int,
    ) -> Tensor:
        """Run the reverse SDE down the ``levels`` (N + 1, copies B); the first step reuses D0."""
        x = start.at.x.repeat(copies, 1, 1, 1)
        for index in range(len(levels) - 1):
            denoised = D(x, levels[index]) if index else start.denoised.repeat(copies, 1, 1, 1)
            now, next_ = per_image(levels[index]), per_image(levels[index + 1])
            x = STEPS[self.config.branch_sampler](x, denoised, now, next_, batch.randn(*x.shape))
        return x


def has_dropout(config: CDMConfig) -> bool:
    """Whether the network has dropout to be shared."""
    return bool(getattr(config.network, "dropout", 0.0))
