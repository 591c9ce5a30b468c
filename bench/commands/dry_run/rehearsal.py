"""The process of a dry run: loads the data, checks the methods, and tells what cells will cost.

``python -m bench.commands.dry_run.rehearsal JOB.json`` downloads nothing and writes nothing but its
answer, in the job's own folder, and data that it had to decode, in the job's cache. One method
after the other costs what is recorded of it, else what is rehearsed.
"""

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import isnan
from pathlib import Path

from bench.commands.dry_run import recorded, trials
from bench.commands.dry_run.candidate import Attempts, Candidate
from bench.commands.dry_run.costs import CellCost, Findings, Remaining
from bench.config import CellConfig, Settings, one_line
from bench.executors.job import Job
from bench.executors.serve import serve
from bench.records import ANCHORS, cell_name, check_content, write_text
from bench.worker.build import Built
from bench.worker.preparation import answering, examine
from bench.worker.shared_stages import stage_key

METHOD_SECONDS = 30.0
"""After which nothing more of a method is tried; what is not known by then stays open."""


def estimate(job: Job) -> None:
    """Check what a study needs, estimate its costs, and answer."""
    began = time.perf_counter()
    settings = Settings.model_validate(job.request["settings"])
    methods = job.request["methods"]
    dataset, device, known = examine(settings, methods, job.cache, download=False)
    study = Path(job.request["study"])
    check_content(study, settings, known)

    def note(found: Findings) -> None:
        write_text(job.answer, json.dumps(known | {"findings": found.model_dump()}))

    candidates = []
    for label, config in methods.items():
        cell = CellConfig(settings=settings, method=label, method_config=config, seed=0)
        candidates.append(Candidate(cell, dataset, device, known["stages"][label]))
    # Reading the data takes a cell as long where they are not decoded first.
    loaded = began if dataset.stored else time.perf_counter()
    seeds, startup = job.request["seeds"], loaded - job.begun()
    note(rehearse(candidates, seeds, study=study, cache=job.cache, startup=startup, note=note))


@dataclass
class Shared:
    """What the cells of all methods have in common."""

    startup: float
    """Seconds until a cell's process has loaded its data."""
    evaluation: trials.EvaluationCost = field(default_factory=trials.EvaluationCost)
    stages: dict[str | None, trials.StageCost] = field(default_factory=dict)
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

    ``startup`` are the seconds from the start of this process until its data were loaded; ``note``
    is told all that is known before each step, any of which may end this process.
    """
    found, shared = Findings(at="the evaluation", load=os.getloadavg()[0]), Shared(startup)
    note(found)
    attempt = Attempts(METHOD_SECONDS, found.notes)
    known = [attempt("records", None, recorded.from_records, each, study) for each in candidates]
    if None in known:
        shared.evaluation = trials.try_evaluation(candidates[0], cache, found.notes)
        anchors = not (study / ANCHORS).exists()
        found.prepare_seconds = shared.evaluation.of_preparation(candidates[0], anchors=anchors)
    for candidate, cost in zip(candidates, known, strict=True):
        found.at = candidate.cell.method
        note(found)
        whole = found.methods[candidate.cell.method] = cost or CellCost()
        try:
            if cost is None:
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
    drawn = attempt("sampling", None, trials.try_draws, candidate, built)
    note_training(whole, built, candidate.stage, shared, attempt)
    if drawn is not None:
        note_sampling(whole, candidate, drawn, shared.evaluation)


def note_training(
    whole: CellCost, built: Built, first: str | None, shared: Shared, attempt: Attempts
) -> None:
    """Note what all stages cost, one that other methods have ``first`` too as for those."""
    costs: list[trials.StageCost] = []
    for stage in built.method.stages():
        key = None if costs else first
        cost = shared.stages.get(key) or trials.cost_of_stage(built, stage, attempt)
        if key is not None and not isnan(cost.seconds):
            shared.stages[key] = cost
            whole.first_stage_seconds = cost.seconds
        costs.append(cost)
    whole.train_flops = sum(cost.flops for cost in costs)
    whole.train_seconds = sum(cost.seconds for cost in costs)
    told = dict.fromkeys(part for cost in costs for part in cost.told)
    whole.sources.append(f"training: {'; '.join(told)}")


def note_sampling(
    whole: CellCost, candidate: Candidate, drawn: trials.DrawCost, evaluation: trials.EvaluationCost
) -> None:
    """Note what all images cost that a cell draws, and what becomes of them."""
    at_once = candidate.at_once(drawn.seconds * candidate.settings.sampling.batch)
    alone = candidate.alone(drawn.single_seconds)
    diagnosing = drawn.evaluation_flops * trials.diagnostic_evaluations(candidate)
    whole.sample_flops = drawn.flops * (at_once + alone) + diagnosing
    whole.sample_seconds = drawn.seconds * at_once + drawn.single_seconds * alone
    whole.sources.append(f"sampling: {drawn.told}")
    diagnosing_seconds = diagnosing * drawn.seconds / drawn.flops if diagnosing else 0.0
    whole.evaluate_seconds = evaluation.of_cell(candidate) + diagnosing_seconds


def cells_of(
    candidate: Candidate, seeds: Sequence[int], study: Path, whole: CellCost
) -> dict[str, Remaining]:
    """How much remains of the method's cells; those of which all does are not named."""
    cell, first = candidate.cell, candidate.outlined().stages()[0]
    cells = {}
    for seed in seeds:
        name = cell_name(cell.method, seed)
        remaining = recorded.remaining_of(study / name, candidate, whole)
        if cell.training.share_stages:
            key = stage_key(first, cell.method, cell.settings, candidate.dataset.sha256, seed)
            kept = study / "stages" / f"{key}.pt"
            remaining.has_first_stage = key is not None and kept.exists()
        if remaining != Remaining():
            cells[name] = remaining
    return cells


if __name__ == "__main__":
    serve(answering(estimate))
