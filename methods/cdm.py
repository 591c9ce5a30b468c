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

Variants: ``published`` (the above, without the accidents of the authors' code); ``as_released``
(with them, which is what their published values were measured with); ``one_step``, one exact
ancestral step a branch, which reuses D0; ``semi``, ``w(t) |D0 - D1|^2`` of one such step with no
gradient through D1, whose gradient is then unbiased with a single branch; ``relative``,
``t' = t U(0.5, 1)``, since an absolute gap of 0.05 is too small to act where t is large.

Where we differ from the authors' code, and why. Of all variants but ``as_released``:

- All evaluations of one step share one dropout mask. Theirs are independent, so that D0, which
  stands in both factors, adds the variance of its own dropout to the product: on a small network
  that was three quarters of the released term (0.198 an image, 0.048 without dropout, ours 0.047).
  ``dropout_share`` is logged for both: the share of the term that is gone when each factor has
  masks of its own, on an eighth of the batch.
- The labels of augmentation are kept inside the branches, where theirs are dropped.
- Each branch's first sub-step reuses D0, which is the same value but for those two: 17
  forward-equivalents a step in place of 19 (denoising score matching: 3; ``one_step``: 9; ``semi``:
  4).

Of ``as_released`` as well:

- Noise and augmentation are drawn once, where they draw both twice and use the second.
- The branch's state is float32, theirs float64: a relative 6e-6 of the term.
- What is not of this term is EDM's, with the departures of :mod:`methods.sde`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from methods import samplers
from methods.base import Batch, Settings
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
    branch_dropout: Literal["shared", "independent"] = "shared"
    """``shared``: one mask for all evaluations of a step (ours); ``independent``: authors' code."""
    branch_labels: Literal["kept", "dropped"] = "kept"
    """Whether the branches' steps are told of the augmentation (ours) or not (authors' code)."""
    branch_start: Literal["reused", "anew"] = "reused"
    """Whether a branch's first step reuses D0 (ours) or evaluates it again (authors' code)."""


PUBLISHED = {
    "estimator": "two_branches",
    "gap": "absolute",
    "consistency_weight": 10.0,
    "branch_steps": 5,
    "branch_sampler": "euler_maruyama",
}
AS_RELEASED = PUBLISHED | {
    "max_gap": 0.05,
    "sigma_floor": 0.002,
    "branch_dropout": "independent",
    "branch_labels": "dropped",
    "branch_start": "anew",
}
"""The authors' code as it runs (training/loss.py and training/samplers.py)."""
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
    """Where branches begin: noised images, D0 there, and the step's dropout."""

    at: Noised
    denoised: Tensor
    seed: int | None = None
    """Of the mask that all evaluations share; ``None``: each has its own, or there is none."""
    is_live: bool = False
    """Whether there is dropout."""

    def first(self, count: int) -> Start:
        """The same of the first ``count`` images."""
        at = self.at
        labels, told = (v if v is None else v[:count] for v in (at.labels, at.augment))
        few = Noised(at.y[:count], at.x[:count], at.sigma[:count], labels, told)
        return replace(self, at=few, denoised=self.denoised[:count])


def several(values: Tensor | None, times: int) -> Tensor | None:
    """Stack copies of a batch along its first dimension."""
    return None if values is None else values.repeat(times, *[1] * (values.dim() - 1))


class CDM(SDE):
    """Denoising score matching with the published consistency term."""

    name = "cdm"
    Config: ClassVar[type[Settings]] = CDMConfig
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "published": PUBLISHED,
        "as_released": AS_RELEASED,
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
        live = self.denoiser.training and has_dropout(self.config)
        shared = live and self.config.branch_dropout == "shared"
        # A seed from the CPU's generator: no device has to be waited for.
        seed = int(torch.randint(2**62, ())) if shared else None
        with same_dropout(seed, at.x.device):
            denoised = self.denoiser(at.x, at.sigma, at.labels, at.augment)
        denoising = weighted_error(self.denoiser, denoised, at.y, at.sigma).mean()
        consistency = self.consistency(batch, Start(at, denoised, seed, live)).mean()
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
        # Both branches go through the network at once; a shared dropout mask forbids it.
        copies = (2,) if start.seed is None else (1, 1)
        landed = [self.branch(batch, start, end, count) for count in copies]
        after = torch.cat([self.evaluate(start, x, end) for x in landed])
        first, second = (D - start.denoised for D in after.chunk(2))
        if start.is_live:
            last = landed[-1][-len(end) :]
            self.log_dropout(batch, start, (last, end), (first, second))
        return first, second

    def semi(self, batch: Batch, start: Start) -> Tensor:
        """``w |D0 - D1|^2`` of each image, (B,), without a gradient through D1."""
        with torch.no_grad():
            end = self.draw_end(batch, start.at.sigma)
            target = self.evaluate(start, self.branch(batch, start, end), end)
        return weighted_error(self.denoiser, start.denoised, target, start.at.sigma)

    def evaluate(
        self, start: Start, x: Tensor, sigma: Tensor, *, is_told: bool = True, shift: int = 0
    ) -> Tensor:
        """``D`` of ``x`` (k B, C, H, W), copies of the batch, at ``sigma`` (B,) or (k B,).

        Unless ``is_told``, it hears nothing of the augmentation; ``shift`` other than 0 is another
        dropout mask than the step's.
        """
        at, copies = start.at, len(x) // len(start.at.x)
        told = several(at.augment, copies) if is_told else None
        sigma = sigma.repeat(len(x) // len(sigma))
        with same_dropout(None if start.seed is None else start.seed + shift, x.device):
            return self.denoiser(x, sigma, several(at.labels, copies), told)

    @torch.no_grad()
    def branch(self, batch: Batch, start: Start, end: Tensor, copies: int = 1) -> Tensor:
        """Run the reverse SDE from ``start`` to the levels ``end`` (B,), (copies B, C, H, W)."""
        config = self.config
        levels = branch_levels(start.at.sigma, end, config.branch_steps, config.rho)
        levels = levels.repeat(1, copies)
        x, denoised = (each.repeat(copies, 1, 1, 1) for each in (start.at.x, start.denoised))
        for index in range(config.branch_steps):
            if index or config.branch_start == "anew":
                is_told = config.branch_labels == "kept"
                denoised = self.evaluate(start, x, levels[index], is_told=is_told)
            now, next_ = per_image(levels[index]), per_image(levels[index + 1])
            x = STEPS[config.branch_sampler](x, denoised, now, next_, batch.randn(*x.shape))
        return x

    @torch.no_grad()
    def log_dropout(
        self,
        batch: Batch,
        start: Start,
        landed: tuple[Tensor, Tensor],
        differences: tuple[Tensor, Tensor],
    ) -> None:
        """Log the share of dropout in the term, from an eighth of the batch, if that is an image.

        ``<D1 - D0, D2' - D0'>``, where the primes have masks of their own, has no dropout variance
        in expectation. ``landed`` is where the second branch ends: images and levels. Independent
        masks are D2's own already.
        """
        few = len(start.at.x) // 8
        if not few:
            return
        part = start.first(few)
        x, end = (each[:few] for each in landed)
        first, second = (each[:few] for each in differences)
        other = self.evaluate(part, part.at.x, part.at.sigma, shift=1)
        ended = part.denoised + second
        if start.seed is not None:
            ended = self.evaluate(part, x, end, shift=1)
        term, free = image_sum(first * second), image_sum(first * (ended - other))
        batch.log("dropout_share", (term - free).mean(), over=term.mean())


def has_dropout(config: CDMConfig) -> bool:
    """Whether the network has dropout to be shared."""
    return bool(getattr(config.network, "dropout", 0.0))
