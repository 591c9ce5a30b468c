"""What is told of a study's cost: of whole cells, and of what remains of those begun."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict, Field


class CellCost(BaseModel):
    """The cost of one cell from its beginning to its end; ``None`` is what is not known.

    Seconds are those of the parts of a ledger: ``train`` with ``compile``, ``sample``, ``evaluate``
    (with the diagnostics), and the others together.
    """

    model_config = ConfigDict(extra="forbid")

    train_flops: float | None = None
    train_seconds: float | None = None
    first_stage_seconds: float = 0.0
    """What of them a stage takes that other cells may have trained already."""
    sample_flops: float | None = None
    """Of all that is drawn: samples, warm-up, timing, snapshots, diagnostics."""
    sample_seconds: float | None = None
    evaluate_seconds: float | None = None
    other_seconds: float = 0.0
    sources: list[str] = Field(default_factory=list)
    """Where the numbers come from."""
    troubles: list[str] = Field(default_factory=list)
    """Why some are missing."""


class Remaining(BaseModel):
    """How much of a cell remains to be done, as fractions of the whole."""

    model_config = ConfigDict(extra="forbid")

    is_begun: bool = False
    """Whether there is a checkpoint to go on from."""
    train: float = 1.0
    sample: float = 1.0
    has_first_stage: bool = False
    """Whether another cell has left its first stage for it."""
    trouble: str = ""


class Findings(BaseModel):
    """All that the dry run's process tells of costs."""

    model_config = ConfigDict(extra="forbid")

    at: str = ""
    """What is being estimated at this moment; empty when all is."""
    methods: dict[str, CellCost] = Field(default_factory=dict)
    cells: dict[str, Remaining] = Field(default_factory=dict)
    """By the names of the cells' folders; what is not here is all to do."""
    prepare_seconds: float | None = 0.0
    """Of the study's own preparation: reference statistics and anchors that are not there yet."""
    notes: list[str] = Field(default_factory=list)
    """Why something is missing that all cells need."""
    load: float = 0.0
    """Processes that wanted to run on this machine before the measurements."""


def known_sum(values: Iterable[float | None]) -> float | None:
    """The sum; ``None`` if one of the values is."""
    total = 0.0
    for value in values:
        if value is None:
            return None
        total += value
    return total


def times(value: float | None, factor: float | None) -> float | None:
    """The product; ``None`` if one of the two is."""
    return None if value is None or factor is None else value * factor
