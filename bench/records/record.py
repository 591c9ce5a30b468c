"""What a cell leaves on disk: the truth that tables, plots and MLflow are made from.

``results/<study>/<method>-seed<k>/`` holds ``config.yaml``, ``record.json``, ``metrics.jsonl``,
``features-EXTRACTOR.npz``, ``samples.npz``, ``grid.png``, ``checkpoint.pt`` and ``log.txt``. Every
file is written whole or not at all; ``metrics.jsonl`` and ``log.txt`` only grow.
"""

import errno
import json
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field

from bench.costs.intervals import Amount, Clocked, Interval
from bench.records.files import FORMAT, Format, parse, to_json, write_atomically, write_text

RECORD = "record.json"
CURVES = "metrics.jsonl"
CHECKPOINT = "checkpoint.pt"
CONFIG = "config.yaml"
GRID = "grid.png"
LOG = "log.txt"
SAMPLES = "samples.npz"
ANCHORS = "anchors.json"
REAL = "real.npz"
"""Some held-out images of a study, for its pictures; of points the true density too."""
SIGN = "alive"
"""File that a process tells its progress in: its sign of life, for whoever misses its end."""
RESERVE = ".reserve"
RESERVED = 2**21
"""Bytes in the file ``.reserve`` of a study: room for hundreds of records on a full disk."""
SAVES, SAVE_PAUSE = 5, 0.2
"""Tries to write a record on a full disk, and seconds between them: others may fill it again."""
BESIDE = {"wall", "charged", "lost"}
"""What stands in a ledger beside its parts."""
BALANCE = 0.01
"""Fraction of the wall clock that a ledger's parts may miss it by."""
FOREIGN = "foreign"
"""Folder within a study of samples that came from elsewhere, each with a record like a cell's."""


def now() -> str:
    """The present moment, UTC, ISO 8601."""
    return stamp(time.time())


def stamp(seconds: float) -> str:
    """A moment given in seconds since 1970, UTC, ISO 8601 to the millisecond."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


class Status(StrEnum):
    """How a cell stands; only ``FINISHED`` carries numbers that may be compared."""

    PENDING = "pending"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    DIVERGED = "diverged"
    TIMEOUT = "timeout"
    KILLED = "killed"
    INTERRUPTED = "interrupted"
    MEMORY = "memory"
    """Ran out of memory, or past the limit that was set."""

    @property
    def is_failure(self) -> bool:
        """Whether the cell ended without a result, other than by the user's wish."""
        return self not in {Status.PENDING, Status.RUNNING, Status.FINISHED, Status.INTERRUPTED}


class Value(BaseModel, frozen=True, extra="forbid", ser_json_inf_nan="constants"):
    """One metric's value with what makes it comparable."""

    value: float
    """The number itself."""
    spread: float | None = None
    """Standard deviation over the metric's own splits (Inception Score), if it has any."""
    error: float | None = None
    """Standard error within the seed, by a jackknife over blocks of samples, if there is one."""
    corrected: float | None = None
    """The jackknife's estimate for infinitely many samples, if there is one."""
    provenance: dict[str, Any] = Field(default_factory=dict)
    """n, reference split and hash, extractor and hash, resizer, quantisation, protocol, ..."""


class Cost(BaseModel, extra="forbid", ser_json_inf_nan="constants"):
    """What a cell cost; every field is measured, none is claimed by the method."""

    steps: int = 0
    images_seen: int = 0
    train_flops: Amount = 0.0
    train_flops_by_objective: dict[str, Amount] = Field(default_factory=dict)
    sample_flops_per_image: Amount | None = None
    nfe: Amount | None = None
    nfe_by_network: dict[str, float] = Field(default_factory=dict)
    ms_per_image: Interval | None = None
    latency_ms: Interval | None = None
    timing: dict[str, Any] = Field(default_factory=dict)
    """What the machine was like while the samples were timed: clocks, temperature, load, ..."""
    unfit: list[str] = Field(default_factory=list)
    """Why the machine was not fit to time on; empty where it was."""
    parameters: int | None = None
    parameters_by_network: dict[str, int] = Field(default_factory=dict)
    peak_memory_bytes: int | None = None
    peak_memory_kind: str | None = None


class CurvePoint(BaseModel):
    """A line of ``metrics.jsonl``, as far as it must be there."""

    images: float
    seconds: Amount
    values: dict[str, float]


class SharedBy(BaseModel, extra="forbid"):
    """Who trained a stage, and the cost that is charged here too."""

    cell: str
    train_flops: Amount
    seconds: Amount


class Attempt(BaseModel, extra="forbid"):
    """One process that worked on a cell."""

    started: str
    """UTC, ISO 8601."""
    pid: int
    host: str
    seconds: Clocked | None = None
    """From its start to its end; ``None`` while it runs."""
    lost: Amount | None = None
    """Seconds at its end that were not kept: work since its last checkpoint."""
    ended: Status | None = None


class Record(BaseModel, extra="forbid", ser_json_inf_nan="constants"):
    """A cell's record; see the module's docstring for the files beside it."""

    format: Format = FORMAT
    study: str
    cell: str
    method: str
    seed: int
    dataset: str
    data_variant: str
    preset: str
    data: dict[str, Any] = Field(default_factory=dict)
    """Hash, counts, classes, shape, source and notes of the data."""
    key: str
    identity: dict[str, Any] = Field(default_factory=dict)
    """What ``key`` is the hash of beside the configuration: hashes of data, extractors and
    reference, the protocol, and ``source``, the hashes of the method's modules."""
    origin: Literal["cell", "foreign"] = "cell"
    """Whether the harness made the samples, or they were given to it and have no cost."""
    status: Status = Status.PENDING
    reason: str = ""
    started: str | None = None
    ended: str | None = None
    attempts: list[Attempt] = Field(default_factory=list)
    """Every process that worked on the cell, in order."""
    metrics: dict[str, Value] = Field(default_factory=dict)
    cost: Cost = Field(default_factory=Cost)
    shared_stages: dict[str, SharedBy] = Field(default_factory=dict)
    """Stages that another cell trained for this one; their cost is in this record all the same."""
    ledger: dict[str, Clocked] = Field(default_factory=dict)
    """Seconds of compile, train, sample, evaluate, log, checkpoint, other, which sum to ``wall``;
    ``charged`` is what of them another cell has spent for this one, ``lost`` what in ``other`` was
    lost when processes were killed."""
    environment: dict[str, Any] = Field(default_factory=dict)
    """commit, dirty, device, threads, package versions, command, host, pid."""
    notes: list[str] = Field(default_factory=list)
    """What a reader of its numbers must know of it."""

    @property
    def spent(self) -> float:
        """Seconds that the cell's processes took until they ended."""
        return sum(attempt.seconds or 0.0 for attempt in self.attempts)

    @property
    def imbalance(self) -> float:
        """Fraction by which the ledger's parts miss the processes' wall clock; 0 without either."""
        if not self.ledger or not self.attempts:
            return 0.0
        parts = sum(s for name, s in self.ledger.items() if name not in BESIDE)
        clock = self.spent + self.ledger.get("charged", 0.0)
        return abs(parts - clock) / clock if clock else 0.0

    @property
    def is_balanced(self) -> bool:
        """Whether the ledger's parts are the wall clock within ``BALANCE``."""
        return self.imbalance <= BALANCE


class Anchors(BaseModel, extra="forbid", ser_json_inf_nan="constants"):
    """Metrics of noise and of the held-out real split, computed as the methods' are."""

    rows: dict[str, dict[str, Value]] = Field(default_factory=dict)


def cell_name(label: str, seed: int | str) -> str:
    """Return the name of a cell's folder, ``cdm-semi-seed0`` for ``cdm:semi``; ``*``: any seed."""
    return f"{label.replace(':', '-')}-seed{seed}"


def is_sampled(record: Record, folder: Path) -> bool:
    """Whether all samples of a cell are drawn, and their cost is noted."""
    return record.cost.ms_per_image is not None and (folder / SAMPLES).exists()


def save(record: Record, folder: Path) -> None:
    """Write ``record.json`` into the cell's folder, as ``write_anyhow`` does."""
    write_anyhow(folder / RECORD, to_json(record, indent=2))


def write_anyhow(path: Path, text: str) -> None:
    """Write a cell's file even on a full disk, in the study's reserve; OSError past that."""
    for _ in range(SAVES):
        try:
            write_text(path, text)
            return
        except OSError as error:
            if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
                raise
            (path.parent.parent / RESERVE).unlink(missing_ok=True)
            time.sleep(SAVE_PAUSE)
    write_text(path, text)


def keep_reserve(study: Path) -> None:
    """Set some room aside in a study's folder, for the records of cells that fill the disk."""
    path = study / RESERVE
    if not path.exists():
        with suppress(OSError):
            write_atomically(path, lambda file: file.write(bytes(RESERVED)))


def load(folder: Path) -> Record | None:
    """Read a cell's record, or ``None`` where there is none; ValueError if it is not readable."""
    path = folder / RECORD
    return parse(Record, path.read_bytes()) if path.exists() else None


def readable(folder: Path) -> Record | None:
    """Read a cell's record; ``None`` where there is none that can be read."""
    try:
        return load(folder)
    except (OSError, ValueError):
        return None


def cells(study: Path) -> Iterator[tuple[Path, Record]]:
    """Iterate over a study's cells in order of their folders' names."""
    for path in sorted(study.glob(f"*/{RECORD}")):
        if (record := load(path.parent)) is not None:
            yield path.parent, record


def read_anchors(study: Path) -> Anchors:
    """Read the study's anchors; empty if they have not been computed yet."""
    path = study / ANCHORS
    return parse(Anchors, path.read_bytes()) if path.exists() else Anchors()


def read_curves(folder: Path) -> list[dict[str, Any]]:
    """Read ``metrics.jsonl``: one dict a line, ``{"images", "step", "seconds", "values"}``.

    A last line that is still being written is left out; so is one that is no point, with a word.
    """
    path, points = folder / CURVES, list[dict[str, Any]]()
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    for line in lines:
        with suppress(ValueError):
            parse(CurvePoint, line)
            points.append(json.loads(line))
    if bad := len(lines) - len(points):
        print(f"note: {bad} of {len(lines)} lines of '{path}' are no points", file=sys.stderr)
    return points
