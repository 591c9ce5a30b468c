"""What finished cells of the same settings cost, and how much remains of those that were begun."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from bench.commands.dry_run.candidate import Candidate
from bench.commands.dry_run.costs import CellCost, Remaining
from bench.commands.dry_run.trials import diagnostic_evaluations
from bench.config import WHEREABOUTS, UserError, read_cell
from bench.records import CHECKPOINT, RECORD, Record, Status, cell_name, is_sampled
from bench.records import load as load_record
from bench.records.environment import device_name
from bench.records.plugins import method_class
from bench.records.source_code import source_hashes
from bench.worker.partial_samples import last_part
from methods.base import Stage

APART: Any = {"seed": True, "settings": WHEREABOUTS}
"""What cells may differ in that do the same work."""


def from_records(candidate: Candidate, study: Path) -> CellCost | None:
    """The cost of a finished cell of the same settings, on the same device; ``None`` without one.

    One of the present source is taken where there is one, in order of the seeds otherwise. It is
    as if the cell had trained every stage itself.
    """
    source = source_hashes(method_class(candidate.cell.method).__module__)
    found = sorted(finished(candidate, study), key=lambda row: row.identity.get("source") != source)
    if not found:
        return None
    record, ledger = found[0], found[0].ledger
    changed = ", before its source changed" if record.identity.get("source") != source else ""
    train = ledger["train"] + ledger["compile"]
    other = ledger["log"] + ledger["checkpoint"] + ledger["other"] - ledger.get("lost", 0.0)
    return CellCost(
        train_flops=record.cost.train_flops, train_seconds=train,
        first_stage_seconds=first_stage_seconds(record, candidate.outlined().stages()[0], train),
        sample_flops=sample_flops(candidate, record), sample_seconds=ledger["sample"],
        evaluate_seconds=ledger["evaluate"], other_seconds=max(0.0, other),
        sources=[f"from the record of {record.cell}{changed}"],
    )  # fmt: skip


def finished(candidate: Candidate, study: Path) -> Iterator[Record]:
    """The records of finished cells of the same settings on the same device."""
    name, wanted = device_name(candidate.device), candidate.cell.model_dump(exclude=APART)
    for path in sorted(study.glob(f"{cell_name(candidate.cell.method, '*')}/{RECORD}")):
        try:
            record, config = load_record(path.parent), read_cell(path.parent / "config.yaml")
        except (OSError, ValueError, UserError):
            continue
        if record is None or record.status != Status.FINISHED or not record.ledger:
            continue
        is_same = config.model_dump(exclude=APART) == wanted
        if is_same and record.environment.get("device") == name:
            yield record


def sample_flops(candidate: Candidate, record: Record) -> float:
    """FLOPs of all that a cell draws, those of its diagnostics included."""
    cost, images = record.cost, candidate.at_once() + candidate.alone()
    if cost.sample_flops_per_image is None:
        return math.nan
    evaluation = cost.sample_flops_per_image / candidate.evaluations(cost.nfe or 1.0)
    return cost.sample_flops_per_image * images + evaluation * diagnostic_evaluations(candidate)


def first_stage_seconds(record: Record, first: Stage, train: float) -> float:
    """Seconds of the first stage: as another cell spent them, else by its share of the FLOPs."""
    if first.name in record.shared_stages:
        return record.shared_stages[first.name].seconds
    flops = record.cost.train_flops_by_objective
    own = sum(flops.get(objective.label, 0.0) for objective in first.objectives)
    return train * own / record.cost.train_flops if record.cost.train_flops else 0.0


def remaining_of(folder: Path, candidate: Candidate, whole: CellCost) -> Remaining:
    """How much of a cell remains to be done, by its own checkpoint and its samples."""
    path = folder / CHECKPOINT
    try:
        record = load_record(folder)
        if record is None or not path.exists():
            return Remaining()
        # Its tensors are left on disk.
        state = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        if state["key"] != record.key:
            return Remaining()
    except Exception as error:  # Whatever is wrong with the file is told, and no reason to stop.
        return Remaining(trouble=f"its checkpoint cannot be read ({type(error).__name__})")
    done, of = sum(state["trainer"]["train_flops"].values()), whole.train_flops
    budget = candidate.settings.budget
    if budget.unit == "s":
        done = state["ledger"]["train"]
        of = budget.amount * sum(stage.share for stage in candidate.outlined().stages())
    # Where the whole is not known, all of it remains.
    train = max(0.0, 1 - done / of) if of > 0 else 1.0
    part = last_part(folder, state["key"])
    batches = part["first"] + len(part["batches"]) if part else 0
    moments = float(state["trainer"]["snapshots"]) / max(1, candidate.cell.training.snapshots)
    drawn = batches * candidate.settings.sampling.batch + moments * candidate.snapshots
    sample = max(0.0, 1.0 - drawn / (candidate.at_once() + candidate.alone()))
    sample = 0.0 if is_sampled(record, folder) else sample
    return Remaining(is_begun=True, train=train, sample=sample)
