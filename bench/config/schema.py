"""``configs/NAME.yaml`` and the command line make one frozen, validated configuration."""

import re
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, Field, field_validator, model_validator

from bench.config.errors import UserError
from bench.config.text import StrictLoader, one_line

MOST = 10**7
"""Images, batches and the like beyond which a number must be a slip of the pen."""
WHEREABOUTS = {"data", "weights", "reference"}
"""Settings that tell where files lie, on which nothing but their content depends."""


class Section(BaseModel, frozen=True, extra="forbid"):
    """Base of all sections: frozen, and unknown keys are refused."""


class Budget(Section):
    """How much training a method gets: images seen, seconds of training, or FLOPs."""

    amount: float = Field(gt=0)
    unit: Literal["kimg", "s", "flop"]

    def __str__(self) -> str:
        return f"{self.amount:g}{self.unit}"


def parse_budget(text: object) -> object:
    """Parse ``50kimg``, ``600s`` or ``1e15flop``; ValueError says what is allowed."""
    if not isinstance(text, str):
        return text
    with suppress(ValueError):
        found = re.fullmatch("(.+)(kimg|s|flop)", text, re.DOTALL)
        if found and 0 < (amount := float(found[1])) < float("inf"):
            return {"amount": amount, "unit": found[2]}
    raise ValueError("a budget is a positive number and a unit: 50kimg, 600s or 1e15flop")


class Training(Section):
    """The training loop's settings, the same for every method."""

    batch: int = Field(512, ge=1, le=MOST)
    """Images a step."""
    flip: bool = False
    """Mirror each image with probability 1/2."""
    clip: float | None = Field(None, gt=0)
    """Largest norm of a network's gradient; ``null``: no clipping."""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """Arithmetic of the networks, in training and sampling."""
    compile: bool = False
    """Train with torch.compile, from the second step of each stage; sampling stays uncompiled."""
    log_kimg: float = Field(1.0, gt=0)
    """Thousands of images between points of the loss curves."""
    snapshots: int = Field(0, ge=0, le=MOST)
    """Evenly spaced moments of training at which the metrics are taken for the curves."""
    checkpoint_seconds: float = Field(60.0, gt=0)
    """Seconds between checkpoints."""
    share_stages: bool = True
    """Whether cells that have a first stage in common train it once; each is charged in full."""
    per_method: dict[str, dict[str, Any]] = {}
    """What a method's own recipe has otherwise: ``smm: {batch: 64}``."""

    @field_validator("per_method")
    @classmethod
    def _as_typed(cls, given: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """Read the words among a recipe's values as the settings that they are for."""
        read = {method: cls.model_validate(own) for method, own in given.items()}
        return {
            name: {k: getattr(read[name], k) if isinstance(v, str) else v for k, v in own.items()}
            for name, own in given.items()
        }

    def of(self, label: str) -> "Training":
        """The settings of one method or variant."""
        own = self.per_method.get(label.split(":", maxsplit=1)[0], {})
        return Training.model_validate(self.model_dump(exclude={"per_method"}) | own)


class Sampling(Section):
    """How samples are drawn and timed."""

    batch: int = Field(500, ge=1, le=MOST)
    """Images at a time: the protocol's batch, at which throughput is measured."""
    timed_batches: int = Field(10, ge=10, le=MOST)
    """Fewest batches to time, after warm-up."""
    latency_repeats: int = Field(10, ge=10, le=MOST)
    """Single images to time for the latency at batch 1, after a warm-up of their own."""


class Evaluation(Section):
    """What quality is measured with."""

    extractor: str
    """Name of the feature extractor; see ``bench datasets``."""
    also: tuple[str, ...] = ()
    """Further extractors of the final samples, each with values under its own name."""
    samples: int = Field(50_000, ge=2, le=MOST)
    """Samples a method draws; part of the metrics' names."""
    reference_images: int | None = Field(None, ge=2, le=MOST)
    """Training images that make the reference; ``null``: all."""
    snapshot_samples: int = Field(500, ge=2, le=MOST)
    """Samples at each snapshot of the curves; with ``samples`` or more, all extractors' values."""
    batch: int = Field(250, ge=1, le=MOST)
    """Images through the extractor at a time."""
    diagnostic_samples: int = Field(64, ge=2, le=MOST)
    """Paths on which a denoiser's martingale violation is measured, and draws of its score error;
    some 250 network evaluations each."""
    is_splits: int = Field(10, ge=1, le=1000)
    """Parts that the Inception Score is averaged over: 10 (Salimans et al. 2016); Song et al. 2021
    and Chao et al. 2022 report that of all samples, 1."""
    violation_levels: tuple[Annotated[float, Field(gt=0, le=1e4)], ...] = Field(
        (0.1, 0.2, 0.4, 0.8, 1.6, 3.2), min_length=1
    )
    """Levels at which the violation is measured, its mean being over all of them; Daras et al. 2023
    show 30 and 80."""

    @property
    def extractors(self) -> tuple[str, ...]:
        """All extractors, the one that leads the tables and curves first."""
        return (self.extractor, *self.also)

    @model_validator(mode="after")
    def _extractors_differ(self) -> "Evaluation":
        for name in self.also:
            if self.extractors.count(name) > 1:
                raise ValueError(f"extractor '{name}' stands twice; name each once")
        return self


class Settings(Section):
    """One fully resolved preset: what every cell of a study shares."""

    dataset: str
    preset: str
    data: Path | None = None
    """A file or folder given by the user; ``null``: the default place."""
    size: int | None = Field(None, ge=4, le=1024)
    """Side in pixels to which images of one's own are cropped and resized; ``null``: none are."""
    weights: Annotated[dict[str, Path], BeforeValidator(lambda given: given or {})] = {}
    """Files of extractors' weights, given by the user; others lie where they belong."""
    reference: Path | None = None
    """Statistics (.npz) made elsewhere, in place of the training split's own."""
    device: str
    threads: int | None = Field(None, ge=1, le=MOST)
    """CPU threads a cell; ``null``: as many as torch takes."""
    budget: Annotated[Budget, BeforeValidator(parse_budget)]
    training: Training = Training()
    sampling: Sampling = Sampling()
    evaluation: Evaluation


class CellConfig(Section):
    """Everything that decides a cell's result, stored as ``config.yaml`` beside it."""

    settings: Settings
    method: str
    method_config: dict[str, Any]
    """The method's own settings, resolved."""
    seed: int

    @property
    def training(self) -> Training:
        """Settings of training, the method's own in place of the common ones."""
        return self.settings.training.of(self.method)


class Preset(Section):
    """A preset as written in a file, before it is resolved."""

    extends: str | None = None
    source: str = ""
    size: int | None = None
    budget: str | None = None
    threads: int | None = None
    training: dict[str, Any] = {}
    sampling: dict[str, Any] = {}
    evaluation: dict[str, Any] = {}
    common: dict[str, Any] = {}
    """Settings for every method that has such a key."""
    methods: dict[str, dict[str, Any]] = {}


def read_cell(path: Path) -> CellConfig:
    """Read a cell's ``config.yaml``; UserError if it is not one."""
    try:
        body = yaml.load(path.read_bytes(), Loader=StrictLoader)
        return CellConfig.model_validate(body)
    except (yaml.YAMLError, ValueError) as error:
        why = one_line(error)[:200]
        raise UserError(f"'{path}' cannot be read ({why}); run the cell again") from error
