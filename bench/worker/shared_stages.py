"""Stages that several cells of a study share: trained once, kept, charged in full to each.

``dlsm`` and ``sde`` with the same settings, budget and seed train the same denoiser, and so do the
variants of ``sde`` that differ in their sampler alone. The first cell that comes to such a stage
trains it and leaves its result under ``stages/`` in the study's folder; the others take it over.
"""

import json
import time
from contextlib import suppress

import torch
from filelock import FileLock, Timeout

from bench.config import Settings, digest
from bench.records import SharedBy, read_curves, write_archive
from bench.records.source_code import source_digest
from bench.training import InterruptedTrainingError, State
from bench.training.checkpoint import read_state
from bench.worker.cell import Cell
from methods.base import Stage

WAIT_SECONDS = 0.5
IRRELEVANT = {"log_kimg", "snapshots", "checkpoint_seconds", "share_stages", "per_method"}
"""Settings of training that do not change its result."""


def stage_key(
    stage: Stage, label: str, settings: Settings, data_sha256: str, seed: int | None
) -> str | None:
    """Identify a stage's result; ``None`` where the stage does not say what decides it."""
    if stage.identity is None:
        return None
    training = settings.training.of(label).model_dump(mode="json", exclude=IRRELEVANT)
    training |= {
        name: own
        for name, own in {"batch": stage.batch, "flip": stage.flip}.items()
        if own is not None
    }
    budget = [settings.budget.amount * stage.share, settings.budget.unit]
    place = [settings.device, settings.threads, data_sha256, seed]
    source = source_digest(str(stage.identity["module"]))
    return digest([stage.name, dict(stage.identity), training, budget, place, source])[:20]


class StagePlace:
    """One stage's file, held by one cell at a time: a second waits while the first trains."""

    def __init__(self, cell: Cell, stage: Stage) -> None:
        self.cell, self.stage, config = cell, stage.name, cell.config
        key = stage_key(stage, config.method, cell.settings, cell.dataset.sha256, config.seed)
        self.path = cell.folder.parent / "stages" / f"{key}.pt"
        self.path.parent.mkdir(exist_ok=True)
        self.lock = FileLock(f"{self.path}.lock")

    def __enter__(self) -> "StagePlace":
        while True:
            with suppress(Timeout):
                self.lock.acquire(timeout=0)
                return self
            self.cell.progress("waiting", fraction=0.0)
            if self.cell.stop.requested:
                raise InterruptedTrainingError("stopped while another cell trained its first stage")
            time.sleep(WAIT_SECONDS)

    def __exit__(self, *error: object) -> None:
        self.lock.release()

    def load(self) -> State | None:
        """Return the stage's result if it is there, and note in the record whose it is."""
        if not self.path.exists():
            return None
        kinds = {"cell": str, "result": dict, "curves": str, "peak_memory_bytes": int}
        kept = read_state(self.path, kinds)
        result: State = kept["result"]
        flops, cost = sum(result["train_flops"].values()), self.cell.record.cost
        shared = SharedBy(cell=kept["cell"], train_flops=flops, seconds=result["seconds"])
        self.cell.record.shared_stages[self.stage] = shared
        cost.peak_memory_bytes = max(kept["peak_memory_bytes"], cost.peak_memory_bytes or 0)
        # At once: after a kill the checkpoint knows the cost, the record alone whose work it was.
        self.cell.save()
        for point in json.loads(kept["curves"]):
            self.cell.add_point(point)
        return result

    def save(self, result: State) -> None:
        """Keep a result, with the loss curves and the peak of memory that belong to it."""
        # Of the loss curves alone: snapshots are of the whole method, not of its stage.
        points = read_curves(self.cell.folder)
        losses = [p for p in points if any(name.startswith("loss/") for name in p["values"])]
        content = {
            "cell": self.cell.record.cell, "result": result, "curves": json.dumps(losses),
            "peak_memory_bytes": self.cell.note_peak_memory(),
        }  # fmt: skip
        write_archive(self.path, lambda file: torch.save(content, file))
