"""The common interface of all methods.

A method says *what* is learned (stages of objectives over named networks) and *how* a sample is
drawn. It owns no optimizer, device, mixed-precision context, moving average, checkpoint or logger:
whoever trains it owns these, so that all methods are treated alike and their costs are counted by
the same code.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

DenoiserFn = Callable[[Tensor, Tensor], Tensor]
"""``D(x, sigma)``: noised images (B, C, H, W) and their level, a scalar or (B,), to clean ones."""


class Settings(BaseModel):
    """Base of all settings: frozen, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Adam(Settings):
    """Adam with linear warm-up and an optional cosine decay over its stage (Kingma & Ba 2015)."""

    lr: float = Field(1e-3, gt=0)
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    warmup_kimg: float = Field(0.0, ge=0)
    """Thousands of images over which the rate rises linearly from 0."""
    decay: Literal["constant", "cosine"] = "constant"
    """``cosine`` falls to 0 at the end of the stage."""
    clip: float | None = Field(None, gt=0)
    """Largest norm of the network's gradient; ``None``: the study's, which has none by default."""


class EMA(Settings):
    """Exponential moving average of the weights; half-life and ramp-up as in Karras et al. 2022."""

    halflife_kimg: float = Field(500.0, gt=0)
    rampup_ratio: float | None = Field(0.05, gt=0)
    """The half-life is at most this fraction of the images seen so far; ``None``: no ramp-up."""


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """What a method may know of the data before training."""

    channels: int
    size: int
    classes: int = 0
    """Number of classes; 0 where the images have no labels."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape (C, H, W) of one image."""
        return self.channels, self.size, self.size


@dataclass(kw_only=True)
class Batch:
    """What a loss gets: real images in [-1, 1], labels if there are any, and its randomness."""

    x: Tensor
    """Images, (B, C, H, W), float32 in [-1, 1]."""
    labels: Tensor | None
    """Class indices, (B,), int64."""
    generator: torch.Generator
    """On the device of ``x``; all noise is drawn from it."""
    logs: dict[str, Tensor] = field(default_factory=dict)
    overs: dict[str, Tensor] = field(default_factory=dict)
    """Of what :meth:`log` was given ``over`` another value: that value."""

    def randn(self, *shape: int) -> Tensor:
        """Draw standard normal noise of ``shape`` (default: that of ``x``)."""
        return torch.randn(
            shape or self.x.shape,
            generator=self.generator,
            device=self.x.device,
            dtype=self.x.dtype,
        )

    def rand(self, *shape: int) -> Tensor:
        """Draw uniform numbers in [0, 1) of ``shape``."""
        return torch.rand(shape, generator=self.generator, device=self.x.device, dtype=self.x.dtype)

    def randint(self, high: int, *shape: int) -> Tensor:
        """Draw integers in [0, high) of ``shape``."""
        return torch.randint(high, shape, generator=self.generator, device=self.x.device)

    def log(self, name: str, value: Tensor, *, over: Tensor | None = None) -> None:
        """Report a scalar beside the loss, averaged over the logging interval; no sync.

        With ``over``, a ratio: the mean of ``value`` divided by that of ``over``, which is not the
        mean of a batch's ratios where ``over`` comes near 0. What would be divided by 0 is left
        out.
        """
        self.logs[name] = value.detach()
        if over is not None:
            self.overs[name] = over.detach()


@dataclass(frozen=True, kw_only=True)
class Objective:
    """One loss and the one network that it updates."""

    network: str
    """Key into :attr:`Method.networks`; gradients reach no other network's parameters."""
    loss: Callable[[Batch], Tensor]
    """Returns a scalar."""
    optimizer: Adam
    """Objectives of one stage that share a network share its first optimizer."""
    ema: EMA | None = None
    """If set, the network becomes its moving average when the stage ends and when it samples."""
    every: int = 1
    """Runs on each ``every``-th step."""
    name: str = ""
    """Name in logs; the network's by default."""

    @property
    def label(self) -> str:
        """The name in logs and in the count of FLOPs."""
        return self.name or self.network


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Objectives that alternate within each step, in order; networks named by none are frozen."""

    name: str
    objectives: Sequence[Objective]
    share: float = 1.0
    """Fraction of the training budget; the shares of a method sum to 1 unless it says so."""
    batch: int | None = None
    """Images a step; ``None``: the study's."""
    flip: bool | None = None
    """Whether images are mirrored with probability 1/2; ``None``: as the study says."""
    identity: Mapping[str, Any] | None = None
    """If set, all that decides the result of this stage, the module that holds its objectives as
    ``module``. A first stage of equal identity, budget, data and seed is trained once for all the
    cells that have it, and charged in full to each."""


class Method(ABC):
    """A way of learning and sampling a score.

    ``Config`` holds every hyperparameter with its source. The constructor builds the networks on
    the CPU from torch's global random generator; the caller moves them.
    """

    name: ClassVar[str]
    Config: ClassVar[type[Settings]]
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Named settings that differ from the default: ``cdm:semi`` runs ``cdm`` with ``semi``'s."""
    needs_labels: bool = False
    """Whether training or sampling needs class labels; may depend on the settings."""
    sampling_settings: frozenset[str] = frozenset()
    """Settings that act when samples are drawn and in no loss: trained networks can be drawn from
    with others (``bench sample --sweep``)."""
    second_order: frozenset[str] = frozenset()
    """Networks whose input gradient is differentiated again; torch.compile cannot do that."""

    networks: dict[str, nn.Module]
    """Everything that is trained or called."""

    @abstractmethod
    def __init__(self, config: Settings, data: DataSpec) -> None:
        """Build the networks for images of ``data``'s shape."""

    @abstractmethod
    def stages(self) -> Sequence[Stage]:
        """Return the stages of training, run in order."""

    @abstractmethod
    def sample(self, n: int, *, labels: Tensor | None = None, generator: torch.Generator) -> Tensor:
        """Draw ``n`` images, (n, C, H, W), nominally in [-1, 1], on the generator's device.

        Where :attr:`needs_labels`, ``labels`` (n,) int64 are the classes asked for.
        """

    def denoiser_for(self, labels: Tensor | None) -> DenoiserFn | None:
        """Return the learned denoiser ``D(x, sigma)``, of the classes ``labels`` (B,) if given.

        ``None`` where there is none; diagnostics such as the martingale violation use it.
        """
        return None
