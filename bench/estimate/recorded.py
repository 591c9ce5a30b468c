"""What finished cells of the same settings cost, and how far those are that were begun."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from bench.config.schema import WHEREABOUTS, CellConfig, read_cell
from bench.estimate.draws import draws_of
from bench.estimate.subject import Subject
from bench.estimate.whole import Left, Whole
from bench.records.environment import device_name
from bench.records.record import CHECKPOINT, RECORD, Record, Status, cell_name, is_sampled
from bench.records.record import load as load_record
from bench.records.source_code import source_hashes
from bench.worker.partial_samples import last_part
from bench.worker.shared_stages import stage_key
from methods import registry
from methods.base import Stage

# -- from a finished cell -------------------------------------------------------------------------


def from_records(subject: Subject, study: Path) -> Whole | None:
    """The cost of a finished cell of the same settings, on the same device; ``None`` without one.

    One of the present source is taken where there is one, in order of the seeds otherwise.
    """
    source = source_hashes(registry.load(subject.label).__module__)
    found = list(finished(subject, study))
    found.sort(key=lambda record: record.identity.get("source") != source)
    if not found:
        return None
    changed = found[0].identity.get("source") != source
    first = subject.on_meta().stages()[0]
    return cost_of(found[0], first, "before its source changed" if changed else "")


def finished(subject: Subject, study: Path) -> Iterator[Record]:
    """The records of finished cells that do what the subject does."""
    name = device_name(subject.device)
    for path in sorted(study.glob(f"{cell_name(subject.label, '*')}/{RECORD}")):
        try:
            record, config = load_record(path.parent), read_cell(path.parent / "config.yaml")
        except (OSError, ValueError):
            continue
        if record is None or record.status != Status.FINISHED or not record.ledger:
            continue
        if record.environment.get("device") == name and is_same(config, subject):
            yield record


def is_same(config: CellConfig, subject: Subject) -> bool:
    """Whether a cell's configuration asks for the same work, whatever its seed."""
    both = (config.settings, subject.settings)
    before, now = (settings.model_dump(exclude=WHEREABOUTS) for settings in both)
    method = (config.method, config.method_config)
    return before == now and method == (subject.label, subject.config)


def cost_of(record: Record, first: Stage, remark: str) -> Whole:
    """What a finished cell cost, as if it had trained every stage itself."""
    ledger, cost = record.ledger, record.cost
    train = ledger["train"] + ledger["compile"]
    lost = ledger.get("lost", 0.0)
    return Whole(
        train_flops=cost.train_flops,
        train_seconds=train,
        first_stage_seconds=first_stage_seconds(record, first, train),
        sample_flops_per_image=cost.sample_flops_per_image,
        sample_seconds=ledger["sample"],
        evaluate_seconds=ledger["evaluate"],
        other_seconds=max(0.0, ledger["log"] + ledger["checkpoint"] + ledger["other"] - lost),
        sources=[f"from the record of {record.cell}" + (f", {remark}" if remark else "")],
    )


def first_stage_seconds(record: Record, first: Stage, train: float) -> float:
    """Seconds of the first stage: as another cell spent them, else by its share of the FLOPs."""
    if first.name in record.shared_stages:
        return record.shared_stages[first.name].seconds
    flops = record.cost.train_flops_by_objective
    own = sum(flops.get(objective.label, 0.0) for objective in first.objectives)
    return train * own / record.cost.train_flops if record.cost.train_flops else 0.0


# -- of what was begun ----------------------------------------------------------------------------


def left_of(folder: Path, subject: Subject, whole: Whole | None) -> Left:
    """How much of a cell is left to do, by its checkpoint and its samples, if there are any."""
    try:
        state = read_state(folder)
    except Exception as error:  # Whatever is wrong with the file is told, and no reason to stop.
        return Left(trouble=f"its checkpoint cannot be read ({type(error).__name__})")
    if state is None:
        return Left()
    train = max(0.0, 1 - trained(state, subject, whole))
    return Left(is_begun=True, train=train, sample=undrawn(folder, state, subject))


def read_state(folder: Path) -> dict[str, Any] | None:
    """A cell's checkpoint with its tensors left on disk; ``None`` if it has none of its own."""
    path = folder / CHECKPOINT
    record = load_record(folder)
    if record is None or not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    return state if state["key"] == record.key else None


def trained(state: Mapping[str, Any], subject: Subject, whole: Whole | None) -> float:
    """The fraction of its training that a checkpoint has behind it."""
    budget = subject.settings.budget
    if budget.unit == "s":
        shares = sum(stage.share for stage in subject.on_meta().stages())
        return float(state["ledger"]["train"] / (budget.amount * shares))
    if whole is None or not whole.train_flops:
        return 0.0
    return float(sum(state["trainer"]["train_flops"].values()) / whole.train_flops)


def undrawn(folder: Path, state: Mapping[str, Any], subject: Subject) -> float:
    """The fraction of its images that a cell has still to draw."""
    draws, settings = draws_of(subject.settings), subject.training
    record = load_record(folder)
    if record is not None and is_sampled(record, folder):
        return 0.0
    part = last_part(folder, state["key"])
    batches = part["first"] + len(part["batches"]) if part else 0
    moments = float(state["trainer"]["snapshots"]) / max(1, settings.snapshots)
    done = batches * draws.size + moments * draws.snapshots
    return max(0.0, 1.0 - done / draws.images())


def is_kept(subject: Subject, first: Stage, study: Path, seed: int) -> bool:
    """Whether a cell of the seed finds its first stage trained by another."""
    if not subject.training.share_stages:
        return False
    key = stage_key(first, subject.label, subject.settings, subject.dataset.sha256, seed)
    return key is not None and (study / "stages" / f"{key}.pt").exists()
