"""What finished cells of the same settings cost, and how much remains of those that were begun."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from bench.commands.dry_run.candidate import Candidate
from bench.commands.dry_run.costs import CellCost, Remaining
from bench.commands.dry_run.sampling_trial import diagnostic_evaluations
from bench.config.schema import WHEREABOUTS, CellConfig, read_cell
from bench.records.environment import device_name
from bench.records.record import CHECKPOINT, RECORD, Record, Status, cell_name, is_sampled
from bench.records.record import load as load_record
from bench.records.source_code import source_hashes
from bench.worker.partial_samples import last_part
from bench.worker.shared_stages import stage_key
from methods import registry
from methods.base import Stage

# -- from a finished cell -------------------------------------------------------------------------


def from_records(candidate: Candidate, study: Path) -> CellCost | None:
    """The cost of a finished cell of the same settings, on the same device; ``None`` without one.

    One of the present source is taken where there is one, in order of the seeds otherwise.
    """
    source = source_hashes(registry.load(candidate.label).__module__)
    found = sorted(
        finished(candidate, study), key=lambda record: record.identity.get("source") != source
    )
    if not found:
        return None
    changed = found[0].identity.get("source") != source
    whole = cost_of(found[0], candidate.outlined().stages()[0])
    whole.sample_flops = sample_flops(candidate, found[0])
    whole.sources = [
        f"from the record of {found[0].cell}" + (", before its source changed" if changed else "")
    ]
    return whole


def sample_flops(candidate: Candidate, record: Record) -> float | None:
    """FLOPs of all that a cell draws, those of its diagnostics included."""
    cost = record.cost
    if cost.sample_flops_per_image is None:
        return None
    evaluation = cost.sample_flops_per_image / candidate.evaluations(cost.nfe or 1.0)
    images = candidate.at_once() + candidate.alone()
    return cost.sample_flops_per_image * images + evaluation * diagnostic_evaluations(candidate)


def finished(candidate: Candidate, study: Path) -> Iterator[Record]:
    """The records of finished cells of the same settings on the same device."""
    name = device_name(candidate.device)
    for path in sorted(study.glob(f"{cell_name(candidate.label, '*')}/{RECORD}")):
        try:
            record, config = load_record(path.parent), read_cell(path.parent / "config.yaml")
        except (OSError, ValueError):
            continue
        if record is None or record.status != Status.FINISHED or not record.ledger:
            continue
        if record.environment.get("device") == name and is_same(config, candidate):
            yield record


def is_same(config: CellConfig, candidate: Candidate) -> bool:
    """Whether a cell's configuration asks for the same work, whatever its seed."""
    both = (config.settings, candidate.settings)
    before, now = (settings.model_dump(exclude=WHEREABOUTS) for settings in both)
    method = (config.method, config.method_config)
    return before == now and method == (candidate.label, candidate.config)


def cost_of(record: Record, first: Stage) -> CellCost:
    """What a finished cell cost, as if it had trained every stage itself."""
    ledger = record.ledger
    train = ledger["train"] + ledger["compile"]
    other = ledger["log"] + ledger["checkpoint"] + ledger["other"] - ledger.get("lost", 0.0)
    return CellCost(
        train_flops=record.cost.train_flops,
        train_seconds=train,
        first_stage_seconds=first_stage_seconds(record, first, train),
        sample_seconds=ledger["sample"],
        evaluate_seconds=ledger["evaluate"],
        other_seconds=max(0.0, other),
    )


def first_stage_seconds(record: Record, first: Stage, train: float) -> float:
    """Seconds of the first stage: as another cell spent them, else by its share of the FLOPs."""
    if first.name in record.shared_stages:
        return record.shared_stages[first.name].seconds
    flops = record.cost.train_flops_by_objective
    own = sum(flops.get(objective.label, 0.0) for objective in first.objectives)
    return train * own / record.cost.train_flops if record.cost.train_flops else 0.0


# -- of what was begun ----------------------------------------------------------------------------


def remaining_of(folder: Path, candidate: Candidate, whole: CellCost | None) -> Remaining:
    """How much of a cell remains to be done, by its checkpoint and its samples."""
    try:
        state = read_state(folder)
    except Exception as error:  # Whatever is wrong with the file is told, and no reason to stop.
        return Remaining(trouble=f"its checkpoint cannot be read ({type(error).__name__})")
    if state is None:
        return Remaining()
    train = max(0.0, 1 - trained(state, candidate, whole))
    return Remaining(is_begun=True, train=train, sample=undrawn(folder, state, candidate))


def read_state(folder: Path) -> dict[str, Any] | None:
    """A cell's checkpoint with its tensors left on disk; ``None`` if it has none of its own."""
    path = folder / CHECKPOINT
    record = load_record(folder)
    if record is None or not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    return state if state["key"] == record.key else None


def trained(state: Mapping[str, Any], candidate: Candidate, whole: CellCost | None) -> float:
    """The fraction of its training that a checkpoint has behind it."""
    budget = candidate.settings.budget
    if budget.unit == "s":
        shares = sum(stage.share for stage in candidate.outlined().stages())
        return float(state["ledger"]["train"] / (budget.amount * shares))
    if whole is None or not whole.train_flops:
        return 0.0
    return float(sum(state["trainer"]["train_flops"].values()) / whole.train_flops)


def undrawn(folder: Path, state: Mapping[str, Any], candidate: Candidate) -> float:
    """The fraction of its images that a cell has still to draw."""
    record = load_record(folder)
    if record is not None and is_sampled(record, folder):
        return 0.0
    part = last_part(folder, state["key"])
    batches = part["first"] + len(part["batches"]) if part else 0
    moments = float(state["trainer"]["snapshots"]) / max(1, candidate.training.snapshots)
    done = batches * candidate.settings.sampling.batch + moments * candidate.snapshots
    return max(0.0, 1.0 - done / (candidate.at_once() + candidate.alone()))


def is_kept(candidate: Candidate, first: Stage, study: Path, seed: int) -> bool:
    """Whether a cell of the seed finds its first stage trained by another."""
    if not candidate.training.share_stages:
        return False
    label, sha256 = candidate.label, candidate.dataset.sha256
    key = stage_key(first, label, candidate.settings, sha256, seed)
    return key is not None and (study / "stages" / f"{key}.pt").exists()
