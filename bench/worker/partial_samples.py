"""Samples that are being drawn, kept in parts so that a process that is killed loses few of them.

``drawing/part-<first batch>.pt`` in a cell's folder holds some batches and the ledger's state when
they were written; the folder is gone once ``samples.npz`` is there.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.costs.ledger import Ledger
from bench.records import write_archive
from bench.sampling.source import Timed
from bench.training import State
from bench.training.checkpoint import Pace, read_state

FOLDER = "drawing"
PART = {"key": str, "first": int, "batches": list, "ledger": dict}


class Parts:
    """The parts of one cell's samples."""

    def __init__(self, cell: Path, key: str, ledger: Callable[[], Ledger], seconds: float) -> None:
        """Keep batches of the cell of this ``key``, every so many ``seconds``."""
        self.folder, self.key, self.ledger = cell / FOLDER, key, ledger
        self.pace, self.written = Pace(seconds), 0
        self.found = 0
        """Batches that an earlier process had drawn."""
        self.batches: Sequence[Timed] = []

    def load(self) -> list[Timed]:
        """Return the batches that are there, from the first on."""
        found: list[Timed] = []
        for path in sorted(self.folder.glob("part-*.pt")):
            part = read_state(path, PART)
            if part["key"] == self.key and part["first"] == len(found):
                found += [Timed(**_each(batch, Tensor, Tensor.numpy)) for batch in part["batches"]]
        self.found = self.written = len(found)
        self.batches = found
        return found

    def note(self, batches: Sequence[Timed], *, is_last: bool) -> None:
        """Take note of all batches so far; write the new ones when it is time to."""
        self.batches = batches
        if is_last or self.pace.is_due:
            self.save()

    def save(self) -> None:
        """Write the batches that are in no part yet."""
        new = self.batches[self.written :]
        if not new:
            return
        with self.pace.saving(), self.ledger().part("checkpoint"):
            content = {
                "key": self.key, "first": self.written, "ledger": self.ledger().totals(),
                "batches": [_each(asdict(batch), np.ndarray, torch.from_numpy) for batch in new],
            }  # fmt: skip
            path = self.folder / f"part-{self.written:08}.pt"
            write_archive(path, lambda file: torch.save(content, file))
        self.written = len(self.batches)

    def clear(self) -> None:
        """Remove all parts."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.written, self.batches = 0, []


def last_part(cell: Path, key: str) -> State | None:
    """Return the last part of a cell of this ``key``, its samples left on disk, if there is one."""
    paths = sorted((cell / FOLDER).glob("part-*.pt"))
    if not paths:
        return None
    part = read_state(paths[-1], PART, mmap=True)
    return part if part["key"] == key else None


def _each(batch: dict[str, Any], kind: type, change: Callable[[Any], Any]) -> dict[str, Any]:
    """Change arrays into tensors, which load with ``weights_only``, or back."""
    return {key: change(v) if isinstance(v, kind) else v for key, v in batch.items()}
