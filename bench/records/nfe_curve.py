"""What finished cells gave when they were sampled again: ``nfe-curve.json``.

Quality against network evaluations for several samplers, or against a setting of sampling.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from bench.costs.intervals import Amount, Interval
from bench.records.files import FORMAT, Format, parse, to_json, write_text
from bench.records.record import Record, Value

if TYPE_CHECKING:
    from methods.samplers import SamplerSettings

FILE = "nfe-curve.json"
LOG = "nfe-curve.log"
SAMPLERS = (
    "euler_maruyama", "ancestral", "edm_stochastic", "heun", "dpmpp_3m", "ipndm",
    "predictor_corrector",
)  # fmt: skip
"""Drawn where no others are asked for, each kind once, in the order in which they are told."""
SETTING = r"^\w+(\.\w+)*$"
"""A setting's path, which becomes part of a file's name."""
ENVIRONMENT = ("device", "device_type", "threads", "cells_at_once")


class Point(BaseModel, extra="forbid", ser_json_inf_nan="constants"):
    """One sampler with one number of steps: quality and cost, or the reason why there are none."""

    sampler: dict[str, Any]
    """The sampler's settings, resolved."""
    samples: int
    swept: dict[Annotated[str, Field(pattern=SETTING)], float] = Field(default_factory=dict)
    """The setting that was swept, by its path in the method's, and its value; empty for a point of
    quality against evaluations."""
    asked: list[int] = Field(default_factory=list)
    """The network evaluations asked for that these settings are the answer to."""
    seed: int
    nfe: Amount | None = None
    """Network evaluations an image, counted, all networks."""
    nfe_by_network: dict[str, float] = Field(default_factory=dict)
    ms_per_image: Interval | None = None
    """Over the batches that the samples were drawn in."""
    environment: dict[str, Any] = Field(default_factory=dict)
    """Of the timing: device, device_type, threads, cells_at_once; ``timing`` and ``unfit`` as a
    cell's cost has them."""
    metrics: dict[str, Value] = Field(default_factory=dict)
    reason: str = ""
    """Why there is no result; empty if there is."""

    def is_for(self, other: Point) -> bool:
        """Whether the other point is of the same settings."""
        mine, others = ((x.sampler, x.swept, x.samples) for x in (self, other))
        return mine == others

    @property
    def title(self) -> str:
        """What it is of, in words."""
        told = ", ".join(f"{key} {value:g}" for key, value in self.swept.items())
        return told or f"{self.sampler['name']} with {self.sampler['steps']} steps"


class Curve(BaseModel, extra="forbid", ser_json_inf_nan="constants"):
    """The file ``nfe-curve.json`` in a cell's folder."""

    format: Format = FORMAT
    key: str
    """The cell's key when the points were drawn; of another one they are not this cell's."""
    points: list[Point] = Field(default_factory=list)
    too_few: dict[str, list[int]] = Field(default_factory=dict)
    """For each sampler, the evaluations asked for with which it cannot make a single step."""

    def find(self, other: Point) -> Point | None:
        """The point of the same settings, if there is one."""
        return next((point for point in self.points if point.is_for(other)), None)

    def put(self, point: Point) -> None:
        """Add a point in place of an older one of the same settings."""
        self.points = [kept for kept in self.points if not kept.is_for(point)] + [point]


def read(folder: Path, record: Record) -> Curve:
    """Read a cell's curve, ValueError if it cannot be; an empty one if none is of this training."""
    path = folder / FILE
    stored = parse(Curve, path.read_bytes()) if path.exists() else None
    return stored if stored and stored.key == record.key else Curve(key=record.key)


def save(curve: Curve, folder: Path) -> None:
    """Write a cell's curve, whole or not at all."""
    write_text(folder / FILE, to_json(curve, indent=1))


def sampler_of(method_config: Mapping[str, Any]) -> SamplerSettings | None:
    """The sampler's settings of a method, or ``None`` if it has no such setting."""
    from methods.samplers import SamplerSettings

    try:
        return SamplerSettings.model_validate(method_config.get("sampler"))
    except ValidationError:
        return None


def settings_for(
    name: str, asked: int, own: SamplerSettings, calls: float
) -> SamplerSettings | None:
    """The cell's settings with this sampler; ``None`` if ``asked`` evaluations are too few."""
    from methods import samplers

    within = math.floor(asked / calls + 1e-9)
    steps = samplers.steps_for_nfe(name, within, corrector_steps=own.corrector_steps)
    if steps is None:
        return None
    return type(own).model_validate(own.model_dump() | {"name": name, "steps": steps})


def choose(
    names: Sequence[str],
    nfe: Sequence[int],
    *,
    samples: int,
    seed: int,
    own: SamplerSettings,
    calls: float,
) -> list[Point]:
    """The points that are asked for, each setting once, cheap ones of a sampler first."""
    found: dict[SamplerSettings, list[int]] = {}
    for name, asked in product(dict.fromkeys(names), sorted(nfe)):
        settings = settings_for(name, asked, own, calls)
        if settings is not None:
            found.setdefault(settings, []).append(asked)
    return [
        Point(sampler=each.model_dump(mode="json"), asked=asked, samples=samples, seed=seed)
        for each, asked in found.items()
    ]
