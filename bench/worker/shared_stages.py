"""Stages that several cells of a study share: trained once, kept, charged in full to each.

``dlsm`` and ``sde`` with the same settings, budget and seed train the same denoiser, and so do the
variants of ``sde`` that differ in their sampler alone. The first cell that comes to such a stage
trains it and leaves its result under ``stages/`` in the study's folder; the others take it over.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from bench.config.schema import Settings
from bench.config.text import digest
from bench.records.files import write_atomically
from bench.records.record import CURVES, Record, SharedBy, save_anyhow
from bench.records.source_code import source_digest
from bench.training import State
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
    budget = [settings.budget.amount * stage.share, settings.budget.unit]
    place = [settings.device, settings.threads, data_sha256, seed]
    source = source_digest(str(stage.identity["module"]))
    return digest([stage.name, dict(stage.identity), training, budget, place, source])[:20]


class StagePlace:
    """One stage's file, held by one cell at a time: a second waits while the first trains."""

    def __init__(
        self,
        path: Path,
        *,
        stage: str,
        record: Record,
        folder: Path,
        wait: Callable[[], None],
        peak: Callable[[], int],
    ) -> None:
        self.path, self.stage, self.record, self.folder = path, stage, record, folder
        self.wait, self.peak = wait, peak
        path.parent.mkdir(exist_ok=True)
        self.lock = FileLock(f"{path}.lock")

    def __enter__(self) -> StagePlace:
        while True:
            try:
                self.lock.acquire(timeout=0)
            except Timeout:
                self.wait()
                time.sleep(WAIT_SECONDS)
            else:
                return self

    def __exit__(self, *error: object) -> None:
        self.lock.release()

    def load(self) -> State | None:
        """Return the stage's result if it is there, and note in the record whose it is."""
        if not self.path.exists():
            return None
        kept: State = torch.load(self.path, map_location="cpu", weights_only=True)
        result: State = kept["result"]
        self.record.shared_stages[self.stage] = SharedBy(
            cell=kept["cell"],
            train_flops=sum(result["train_flops"].values()),
            seconds=result["seconds"],
        )
        cost = self.record.cost
        cost.peak_memory_bytes = max(kept["peak_memory_bytes"], cost.peak_memory_bytes or 0)
        # At once: after a kill the checkpoint knows the cost, the record alone whose work it was.
        save_anyhow(self.record, self.folder)
        with (self.folder / CURVES).open("a") as file:
            file.writelines(f"{json.dumps(point)}\n" for point in json.loads(kept["curves"]))
        return result

    def save(self, result: State) -> None:
        """Keep a result, with the loss curves and the peak of memory that belong to it."""
        content = {
            "cell": self.record.cell,
            "result": result,
            "curves": json.dumps(list(self._losses())),
            "peak_memory_bytes": self.peak(),
        }
        write_atomically(self.path, lambda file: torch.save(content, file))

    def _losses(self) -> list[dict[str, Any]]:
        """The points of the loss curves; snapshots are of the whole method, not of its stage."""
        lines = (self.folder / CURVES).read_text().splitlines()
        points = [json.loads(line) for line in lines]
        return [p for p in points if any(name.startswith("loss/") for name in p["values"])]
