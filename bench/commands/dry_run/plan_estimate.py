"""The costs of methods put together with the plan: of each cell, the sum, and the wall clock."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from bench.commands.dry_run.costs import CellCost, Findings, Remaining, known_sum, times
from bench.study.plan import Planned


@dataclass(frozen=True)
class Charge:
    """FLOPs and seconds of a cell, or of several; ``None`` is what is not known."""

    train_flops: float | None = 0.0
    sample_flops: float | None = 0.0
    train: float | None = 0.0
    sample: float | None = 0.0
    evaluate: float | None = 0.0
    other: float | None = 0.0

    @property
    def total(self) -> float | None:
        """Seconds, all in all."""
        return known_sum([self.train, self.sample, self.evaluate, self.other])

    @property
    def known_seconds(self) -> float:
        """Seconds of the parts that are known."""
        parts = (self.train, self.sample, self.evaluate, self.other)
        return sum(part for part in parts if part is not None)


@dataclass(frozen=True)
class PlannedCost:
    """A cell, what is done with it, and what that costs."""

    name: str
    method: str
    action: str
    cost: Charge = Charge()
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
        return [row for row in self.rows if row.cost != Charge()]

    @property
    def total(self) -> Charge:
        """All that is to be run; parts that are known of some cells alone are not known."""
        costs = [row.cost for row in self.active]
        parts = (known_sum(getattr(cost, part) for cost in costs) for part in PARTS)
        return Charge(*parts)

    @property
    def is_whole(self) -> bool:
        """Whether every number is known."""
        total = self.total
        known = (total.train_flops, total.sample_flops, total.total, self.findings.prepare_seconds)
        return None not in known

    @property
    def wall_clock(self) -> float:
        """Seconds of preparing and of all cells, ``jobs`` at a time; what is not known counts 0."""
        slots = [self.findings.prepare_seconds or 0.0] * max(1, self.jobs)
        for row in self.active:
            heapq.heapreplace(slots, slots[0] + row.cost.known_seconds)
        return max(slots)


PARTS = tuple(Charge.__dataclass_fields__)


def estimate_plan(
    planned: Sequence[Planned], stages: Mapping[str, str | None], findings: Findings, jobs: int
) -> PlanEstimate:
    """Cost a plan; ``stages`` are the keys of the methods' first stages, which cells share."""
    trained: dict[tuple[str, int], str] = {}
    rows = []
    for cell in planned:
        row = PlannedCost(cell.folder.name, cell.config.method, f"{cell.action} ({cell.why})")
        if not cell.is_idle:
            key, by = stages.get(row.method), row.name
            if key is not None and cell.config.settings.training.of(row.method).share_stages:
                by = trained.setdefault((key, cell.config.seed), row.name)
            row = charged(row, by, findings, is_resumed=cell.action == "resume")
        rows.append(row)
    return PlanEstimate(rows, jobs, findings)


def charged(row: PlannedCost, by: str, findings: Findings, *, is_resumed: bool) -> PlannedCost:
    """Charge what remains of a cell, whose first stage is trained ``by`` this or another one."""
    whole = findings.methods.get(row.method, CellCost(evaluate_seconds=None))
    remaining = findings.cells.get(row.name, Remaining())
    if remaining.has_first_stage:
        by = "an earlier cell"
    if not is_resumed:
        remaining = Remaining()
    row = replace(row, cost=cost_of(whole, remaining, by != row.name))
    return row if by == row.name or remaining.is_begun else replace(row, trained_by=by)


def cost_of(whole: CellCost, remaining: Remaining, is_shared: bool) -> Charge:
    """What a cell costs from where it stands, with its first stage trained by another or not."""
    train = whole.train_seconds
    if train is not None:
        # A cell that has begun goes on with its own training.
        other = is_shared * whole.first_stage_seconds
        train = train * remaining.train if remaining.is_begun else train - other
    return Charge(
        train_flops=times(whole.train_flops, remaining.train),
        sample_flops=times(whole.sample_flops, remaining.sample),
        train=train,
        sample=times(whole.sample_seconds, remaining.sample),
        evaluate=whole.evaluate_seconds,
        other=whole.other_seconds,
    )
