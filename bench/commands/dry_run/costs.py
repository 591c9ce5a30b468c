"""What is told of a study's cost: of each cell in the plan, the sum, and the wall clock.

``nan`` is what is not known, and so is all that is made of it.
"""

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pydantic import BaseModel, Field

from bench.study.plan import Planned


class CellCost(BaseModel, extra="forbid"):
    """The cost of one cell from its beginning to its end, or of what is charged of it.

    Seconds are those of the parts of a ledger: ``train`` with ``compile``, ``sample``, ``evaluate``
    (with the diagnostics), and the others together.
    """

    train_flops: float = math.nan
    train_seconds: float = math.nan
    first_stage_seconds: float = 0.0
    """What of them a stage takes that other cells may have trained already."""
    sample_flops: float = math.nan
    """Of all that is drawn: samples, warm-up, timing, snapshots, diagnostics."""
    sample_seconds: float = math.nan
    evaluate_seconds: float = math.nan
    other_seconds: float = 0.0
    sources: list[str] = Field(default_factory=list)
    """Where the numbers come from."""
    troubles: list[str] = Field(default_factory=list)
    """Why some are missing."""

    @property
    def seconds(self) -> list[float]:
        """Seconds of the parts."""
        return [getattr(self, part) for part in SECONDS]

    @property
    def known_seconds(self) -> float:
        """Seconds of the parts that are known."""
        return sum(part for part in self.seconds if not math.isnan(part))


SECONDS = ("train_seconds", "sample_seconds", "evaluate_seconds", "other_seconds")
SUMMED = ("train_flops", "sample_flops", *SECONDS)
FREE = CellCost(**dict.fromkeys(SUMMED, 0.0))
"""Of a cell that nothing is done with."""


class Remaining(BaseModel, extra="forbid"):
    """How much of a cell remains to be done, as fractions of the whole."""

    is_begun: bool = False
    """Whether there is a checkpoint to go on from."""
    train: float = 1.0
    sample: float = 1.0
    has_first_stage: bool = False
    """Whether another cell has left its first stage for it."""
    trouble: str = ""


class Findings(BaseModel, extra="forbid"):
    """All that the dry run's process tells of costs."""

    at: str = ""
    """What is being estimated at this moment; empty when all is."""
    methods: dict[str, CellCost] = Field(default_factory=dict)
    cells: dict[str, Remaining] = Field(default_factory=dict)
    """By the names of the cells' folders; what is not here is all to do."""
    prepare_seconds: float = 0.0
    """Of the study's own preparation: reference statistics and anchors that are not there yet."""
    notes: list[str] = Field(default_factory=list)
    """Why something is missing that all cells need."""
    load: float = 0.0
    """Processes that wanted to run on this machine before the measurements."""


@dataclass(frozen=True)
class PlannedCost:
    """A cell, what is done with it, and what that costs."""

    name: str
    method: str
    action: str
    cost: CellCost
    trained_by: str = ""
    """The cell that spends the seconds of its first stage, whose FLOPs are charged here too."""


@dataclass(frozen=True)
class PlanEstimate:
    """The costs of a plan."""

    rows: Sequence[PlannedCost]
    """All cells, in the order of the plan."""
    jobs: int
    findings: Findings

    @property
    def active(self) -> list[PlannedCost]:
        """The cells that something is done with."""
        return [row for row in self.rows if row.cost is not FREE]

    @property
    def total(self) -> CellCost:
        """All that is to be run; parts that are known of some cells alone are not known."""
        costs = [row.cost for row in self.active]
        return CellCost(**{part: sum(getattr(cost, part) for cost in costs) for part in SUMMED})

    @property
    def wall_clock(self) -> float:
        """Seconds of preparing and of all cells, ``jobs`` at a time; what is not known counts 0."""
        preparing = self.findings.prepare_seconds
        slots = [0.0 if math.isnan(preparing) else preparing] * max(1, self.jobs)
        for row in self.active:
            heapq.heapreplace(slots, slots[0] + row.cost.known_seconds)
        return max(slots)


def estimate_plan(
    planned: Sequence[Planned], stages: Mapping[str, str | None], findings: Findings, jobs: int
) -> PlanEstimate:
    """Cost a plan; ``stages`` are the keys of the methods' first stages, which cells share."""
    trained: dict[tuple[str, int], str] = {}
    rows = []
    for cell in planned:
        action = f"{cell.action} ({cell.why})"
        row = PlannedCost(cell.folder.name, cell.config.method, action, FREE)
        if not cell.is_idle:
            key, by = stages.get(row.method), row.name
            if key is not None and cell.config.training.share_stages:
                by = trained.setdefault((key, cell.config.seed), row.name)
            row = charged(row, by, findings, is_resumed=cell.action == "resume")
        rows.append(row)
    return PlanEstimate(rows, jobs, findings)


def charged(row: PlannedCost, by: str, findings: Findings, *, is_resumed: bool) -> PlannedCost:
    """Charge what remains of a cell, whose first stage is trained ``by`` this or another one."""
    whole = findings.methods.get(row.method, CellCost())
    remaining = findings.cells.get(row.name, Remaining())
    by = "an earlier cell" if remaining.has_first_stage else by
    remaining = remaining if is_resumed else Remaining()
    # A cell that has begun goes on with its own training.
    is_shared = by != row.name and not remaining.is_begun
    others = whole.first_stage_seconds if is_shared else 0.0
    changes = {
        "train_flops": whole.train_flops * remaining.train,
        "train_seconds": whole.train_seconds * remaining.train - others,
        "sample_flops": whole.sample_flops * remaining.sample,
        "sample_seconds": whole.sample_seconds * remaining.sample,
    }
    cost = whole.model_copy(update=changes)
    return replace(row, cost=cost, trained_by=by if is_shared else "")
