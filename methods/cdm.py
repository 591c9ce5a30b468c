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

Where we differ from the authors' code, and why:

- Noise is drawn once: the consistency term starts from the x_t of the denoising term.
- All evaluations of one step share one dropout mask, so that the variance of D0's dropout does
  not enter the product.
- Each branch's first sub-step reuses D0, which is the same value: 17 forward-equivalents a step
  in place of 19 (denoising score matching: 3).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from methods import samplers
from methods.base import Batch, DataSpec, Method, Objective, Stage
from methods.networks.unet import UNet
from methods.noise import Denoiser, image_sum, per_image, weighted_error
from methods.sde import DenoiserConfig

STEPS = {
    "euler_maruyama": samplers.euler_maruyama_step,
    "ancestral": samplers.ancestral_step,
}


class CDMConfig(DenoiserConfig):
    """EDM's settings and the consistency term's, as on the authors' command line."""

    consistency_weight: float = Field(10.0, ge=0)
    """lambda: 10 on the authors' command line (their class's default is 2)."""
    max_gap: float = Field(0.05, gt=0)
    """Largest eps in ``t' = t - eps`` (authors' code)."""
    branch_steps: int = Field(5, ge=1)
    """Reverse-SDE steps of a branch (authors' code: 6 levels)."""
    branch_sampler: Literal["euler_maruyama", "ancestral"] = "euler_maruyama"
    """Kernel of a branch's steps. Euler-Maruyama is the authors'; it leaves too much noise near the
    floor, where ``ancestral`` is exact for a constant D, so that one step of it may do."""
    sigma_floor: float = Field(0.002, gt=0)
    """Smallest t' (authors' code)."""
    rho: float = Field(7.0, gt=0)
    """Exponent of the branch's levels (EDM eq. 5)."""


def branch_levels(sigma: Tensor, end: Tensor, steps: int, rho: float) -> Tensor:
    """Karras levels from ``sigma`` (B,) to ``end`` (B,), both included: (steps + 1, B)."""
    ramp = torch.linspace(0, 1, steps + 1, device=sigma.device, dtype=sigma.dtype)[:, None]
    high, low = sigma ** (1 / rho), end ** (1 / rho)
    return (high + ramp * (low - high)) ** rho


def repeat(x: Tensor, times: int) -> Tensor:
    """Stack copies of a batch of images: (B, C, H, W) to (times B, C, H, W)."""
    return x.repeat(times, 1, 1, 1)


@contextmanager
def same_dropout(seed: int | None, device: torch.device) -> Iterator[None]:
    """Draw the dropout masks inside from ``seed`` and leave the global generators untouched."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


class CDM(Method):
    """Denoising score matching with the published consistency term."""

    name = "cdm"
    Config = CDMConfig

    def __init__(self, config: CDMConfig, data: DataSpec) -> None:
        self.config, self.data = config, data
        self.denoiser = Denoiser(UNet(config.unet, data), config.noise)
        self.networks = {"denoiser": self.denoiser}

    def stages(self) -> Sequence[Stage]:
        """One stage, one objective: the denoising loss plus the consistency term."""
        objective = Objective(
            network="denoiser",
            loss=self.loss,
            optimizer=self.config.optimizer,
            ema=self.config.ema,
        )
        return [Stage(name="score", objectives=[objective])]

    def loss(self, batch: Batch) -> Tensor:
        """The denoising loss plus lambda times the consistency term, averaged over the batch."""
        sigma = self.denoiser.draw_sigma(batch)
        x = batch.x + per_image(sigma) * batch.randn()
        dropout = self.config.unet.dropout and self.denoiser.training
        # A seed from the CPU's generator: no device has to be waited for.
        seed = int(torch.randint(2**62, ())) if dropout else None
        with same_dropout(seed, x.device):
            denoised = self.denoiser(x, sigma)
        denoising = weighted_error(self.denoiser, denoised, batch.x, sigma).mean()
        consistency = self.consistency(batch, x, sigma, denoised, seed).mean()
        batch.log("denoising", denoising)
        batch.log("consistency", consistency)
        return denoising + self.config.consistency_weight * consistency

    def consistency(
        self, batch: Batch, x: Tensor, sigma: Tensor, denoised: Tensor, seed: int | None = None
    ) -> Tensor:
        """``<D1 - D0, D2 - D0>`` of each image, (B,), from two branches out of ``x``."""
        gap = batch.rand(sigma.shape[0]) * self.config.max_gap
        end = torch.minimum((sigma - gap).clamp(min=self.config.sigma_floor), sigma)
        levels = branch_levels(sigma, end, self.config.branch_steps, self.config.rho)
        # Both branches go through the network at once, unless they have to share dropout masks.
        at_once = 2 if seed is None else 1
        start, first = repeat(x, at_once), repeat(denoised.detach(), at_once)
        differences = []
        for _ in range(2 // at_once):
            branch = self.branch(batch, start, levels.repeat(1, at_once), first, seed)
            with same_dropout(seed, x.device):
                after = self.denoiser(branch, end.repeat(at_once))
            differences += [part - denoised for part in after.chunk(at_once)]
        return image_sum(differences[0] * differences[1])

    @torch.no_grad()
    def branch(
        self,
        batch: Batch,
        x: Tensor,
        levels: Tensor,
        denoised: Tensor,
        seed: int | None = None,
    ) -> Tensor:
        """Run the reverse SDE from ``x`` down the ``levels`` (N + 1, B); ``denoised`` is D0."""
        for index in range(len(levels) - 1):
            if index:
                with same_dropout(seed, x.device):
                    denoised = self.denoiser(x, levels[index])
            now, next_ = per_image(levels[index]), per_image(levels[index + 1])
            noise = batch.randn(*x.shape)
            x = STEPS[self.config.branch_sampler](x, denoised, now, next_, noise)
        return x

    def sample(self, n: int, *, labels: Tensor | None = None, generator: torch.Generator) -> Tensor:
        """Draw images by the configured sampler; labels are not used."""
        return samplers.draw(self.denoiser, (n, *self.data.shape), self.config.sampler, generator)
