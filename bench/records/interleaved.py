"""Timings of several cells taken in turn, A B C C B A: the file ``timing.json`` of a study.

Taken there and back, a machine that gets slower or faster during a round does so to all cells
alike, and two cells are compared within each round.
"""

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from bench.costs.intervals import Amount, Interval, median_bounds
from bench.records.files import FORMAT, Format, read_json, to_json, write_text
from bench.records.record import Record

FILE = "timing.json"
LOG = "timing.log"
AT = "at"
"""File of the job's folder with the name of the cell that it came to last."""
ROUNDS = 10
"""Rounds where no number is given: twenty batches of each cell."""
FEWEST_ROUNDS = 6
"""The median of five values has no interval that holds in 95 % of cases; that of six has. A round
has two batches of each cell, of which ten are the fewest that are timed."""
SAME = ("device", "device_type", "threads")
"""What of the surroundings must be the same for a timing to stand in place of a cell's own."""


class TimedCell(BaseModel, extra="forbid", ser_json_inf_nan="constants"):
    """One cell's times, in the order in which they were taken: two of each round."""

    cell: str
    key: str
    """The cell's key when it was timed; of another one the times are not this cell's."""
    batch_ms: list[Amount]
    """Milliseconds an image at the protocol's batch."""
    single_ms: list[Amount]
    """Milliseconds for a single image."""
    ms_per_image: Interval
    latency_ms: Interval
    warm_up: dict[str, Any] = Field(default_factory=dict)
    unfit: list[str] = Field(default_factory=list)
    """What is in doubt about this cell's times beside the machine."""


class Bounds(BaseModel, frozen=True, extra="forbid", ser_json_inf_nan="constants"):
    """A ratio: its median over the rounds and the 95 % interval of that."""

    median: float
    low: float
    high: float


class Ratio(BaseModel, frozen=True, extra="forbid"):
    """How many times longer one cell takes than another, paired within each round."""

    one: str
    other: str
    ms_per_image: Bounds
    latency_ms: Bounds


class Timing(BaseModel, extra="forbid", ser_json_inf_nan="constants"):
    """The file ``timing.json``: cells that were timed together, on one device."""

    format: Format = FORMAT
    study: str
    started: str
    ended: str
    rounds: int
    batch: int
    """Images a batch."""
    cells: list[TimedCell] = Field(default_factory=list)
    """In the order of the first way of each round."""
    failed: dict[str, str] = Field(default_factory=dict)
    """Why cells that were to be timed have no times."""
    ratios: list[Ratio] = Field(default_factory=list)
    environment: dict[str, Any] = Field(default_factory=dict)
    """commit, dirty, device, threads, package versions, command, host, pid."""
    machine: dict[str, Any] = Field(default_factory=dict)
    """What the machine was like from before the first round to after the last."""
    unfit: list[str] = Field(default_factory=list)
    """Why the machine was not fit to time on."""

    def of(self, record: Record) -> TimedCell | None:
        """The times in place of a record's own: of the same result, device and batch, if any."""
        own, here = record.environment, self.environment
        alike = all(own.get(name) == here.get(name) for name in SAME)
        if not alike or not record.cost.ms_per_image:
            return None
        wanted = (record.cell, record.key, record.cost.ms_per_image.batch)
        found = (cell for cell in self.cells if (cell.cell, cell.key, self.batch) == wanted)
        return next(found, None)


def ratio(one: Sequence[float], other: Sequence[float]) -> Bounds:
    """How many times longer ``one`` takes, paired by rounds, which the bootstrap draws from."""
    import numpy as np

    # (2, rounds): means of the two times of each round, since a drift adds alike to all cells.
    longer, shorter = np.asarray([one, other], np.float64).reshape(2, -1, 2).mean(axis=2)
    ratios = longer / shorter
    low, high = median_bounds(ratios.tolist())
    return Bounds(median=float(np.median(ratios)), low=low, high=high)


def ratios(cells: Sequence[TimedCell]) -> list[Ratio]:
    """Compare every two cells."""
    return [
        Ratio(one=one.cell, other=other.cell, ms_per_image=ratio(one.batch_ms, other.batch_ms),
              latency_ms=ratio(one.single_ms, other.single_ms))
        for one, other in combinations(cells, 2)
    ]  # fmt: skip


def read(study: Path) -> Timing | None:
    """Read a study's timing, ``None`` if there is none; UserError if it is not readable."""
    path = study / FILE
    return read_json(path, Timing, "remove it and time again") if path.exists() else None


def save(timing: Timing, study: Path) -> None:
    """Write a study's timing, whole or not at all."""
    write_text(study / FILE, to_json(timing, indent=1))


def reasons(timing: Timing, cell: TimedCell) -> list[str]:
    """Why a cell's times are in doubt: for the machine, or its own."""
    return [*timing.unfit, *cell.unfit]
