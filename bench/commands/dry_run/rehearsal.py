"""What the cells of a study cost, one method after the other: as recorded, else as rehearsed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.commands.dry_run import recorded
from bench.commands.dry_run.candidate import Candidate
from bench.commands.dry_run.costs import CellCost, Findings, Remaining, known_sum
from bench.commands.dry_run.evaluation_trial import (
    EvaluationCost,
    evaluation_seconds,
    preparation_seconds,
    try_evaluation,
)
from bench.commands.dry_run.sampling_trial import DrawCost, diagnostic_evaluations, try_draws
from bench.commands.dry_run.training_trial import StageCost, cost_of_stage, whole_training
from bench.commands.dry_run.trials import Attempts
from bench.config.text import one_line
from bench.records.record import ANCHORS, cell_name
from bench.worker.build import Built

METHOD_SECONDS = 30.0
"""After which nothing more of a method is tried; what is not known by then stays open."""


@dataclass
class Shared:
    """What the cells of all methods have in common."""

    startup: float
    """Seconds until a cell's process has loaded its data."""
    evaluation: EvaluationCost = field(default_factory=EvaluationCost)
    stages: dict[str, StageCost] = field(default_factory=dict)
    """First stages that several methods have, by what identifies them."""


def rehearse(
    candidates: Sequence[Candidate],
    seeds: Sequence[int],
    *,
    study: Path,
    cache: Path,
    startup: float,
    note: Callable[[Findings], None],
) -> Findings:
    """Estimate what cells in ``study`` cost; an error or a lack of time leaves a hole, and why.

    Args:
        candidates: the study's methods.
        seeds: of the cells.
        study: its folder, in which cells may lie.
        cache: where extractors' weights and reference statistics are kept.
        startup: seconds from the start of this process until its data were loaded.
        note: is told all that is known before each step, any of which may end this process.
    """
    found, shared = Findings(load=os.getloadavg()[0]), Shared(startup)

    def begin(what: str) -> None:
        found.at = what
        note(found)

    begin("the evaluation")
    attempt = Attempts(METHOD_SECONDS, found.notes)
    known = {
        each.label: attempt("records", lambda each=each: recorded.from_records(each, study))  # type: ignore[misc]
        for each in candidates
    }
    if None in known.values():
        shared.evaluation = try_evaluation(candidates[0], cache, found.notes)
        anchors = not (study / ANCHORS).exists()
        found.prepare_seconds = preparation_seconds(
            candidates[0], shared.evaluation, anchors=anchors
        )
    for candidate in candidates:
        begin(candidate.label)
        whole = found.methods[candidate.label] = known[candidate.label] or CellCost()
        try:
            if known[candidate.label] is None:
                fill(whole, candidate, shared)
            found.cells |= cells_of(candidate, seeds, study, whole)
        except Exception as error:  # Of whatever kind a method's own are.
            whole.troubles.append(one_line(f"{type(error).__name__}: {error}")[:160])
    found.at = ""
    return found


def fill(whole: CellCost, candidate: Candidate, shared: Shared) -> None:
    """Find out what a cell costs by doing a little of all that it does."""
    attempt, began = Attempts(METHOD_SECONDS, whole.troubles), time.perf_counter()
    built = candidate.shortened().built()
    whole.other_seconds = shared.startup + time.perf_counter() - began
    drawn = attempt("sampling", lambda: try_draws(candidate, built))
    note_training(whole, built, candidate.stage, shared, attempt)
    note_sampling(whole, candidate, drawn, shared)


def note_training(
    whole: CellCost, built: Built, first: str | None, shared: Shared, attempt: Attempts
) -> None:
    """Note what all stages cost, one that other methods have ``first`` too as for those."""
    costs: list[StageCost | None] = []
    for index, stage in enumerate(built.method.stages()):
        key = first if index == 0 else None
        cost = shared.stages.get(key) if key is not None else None
        cost = cost or cost_of_stage(built, stage, attempt)
        if key is not None and cost is not None:
            shared.stages[key] = cost
            whole.first_stage_seconds = cost.seconds
        costs.append(cost)
    whole.train_flops, whole.train_seconds = whole_training(costs)
    told = dict.fromkeys(part for cost in costs if cost is not None for part in cost.told)
    whole.sources.append(f"training: {'; '.join(told)}")


def note_sampling(
    whole: CellCost, candidate: Candidate, drawn: DrawCost | None, shared: Shared
) -> None:
    """Note what all images cost that a cell draws, and what becomes of them."""
    if drawn is None:
        return
    at_once = candidate.at_once(drawn.seconds * candidate.settings.sampling.batch)
    alone = candidate.alone(drawn.single_seconds)
    diagnosing = drawn.evaluation_flops * diagnostic_evaluations(candidate)
    whole.sample_flops = drawn.flops * (at_once + alone) + diagnosing
    whole.sample_seconds = drawn.seconds * at_once + drawn.single_seconds * alone
    whole.sources.append(f"sampling: {drawn.told}")
    whole.evaluate_seconds = known_sum(
        [
            evaluation_seconds(candidate, shared.evaluation),
            diagnosing * drawn.seconds / drawn.flops if diagnosing else 0.0,
        ]
    )


def cells_of(
    candidate: Candidate, seeds: Sequence[int], study: Path, whole: CellCost
) -> dict[str, Remaining]:
    """How much remains of the method's cells; those of which all does are not named."""
    first = candidate.outlined().stages()[0]
    cells = {}
    for seed in seeds:
        name = cell_name(candidate.label, seed)
        remaining = recorded.remaining_of(study / name, candidate, whole)
        remaining.has_first_stage = recorded.is_kept(candidate, first, study, seed)
        if remaining != Remaining():
            cells[name] = remaining
    return cells
