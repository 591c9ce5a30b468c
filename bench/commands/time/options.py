"""The options of ``bench time``."""

from __future__ import annotations

from dataclasses import dataclass

from cyclopts import Parameter

from bench.commands.options import Names, StudyOptions, Tracking, check_each_once, check_number
from bench.config.errors import UserError
from bench.records.interleaved import FEWEST_ROUNDS, ROUNDS


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class TimeOptions(StudyOptions):
    """Which cells to time together, and how often; UserError where a value makes no sense."""

    cells: Names | None = None
    """Cells, comma-separated: sde-seed0,cdm-seed0. Default: all finished ones."""
    rounds: int = ROUNDS
    """Rounds there and back: A B C C B A times each cell twice. At least 6."""
    batch: int | None = None
    """Images a batch. Default: the protocol's, which the table's times are of."""
    tracking: Tracking = True
    """Log to MLflow."""

    def __post_init__(self) -> None:
        check_each_once("cells", self.cells)
        check_number("batch", self.batch, 1, "images")
        if self.rounds < FEWEST_ROUNDS:
            raise UserError(
                f"--rounds {self.rounds}: give at least {FEWEST_ROUNDS}; the median of fewer has "
                "no 95 % interval"
            )
