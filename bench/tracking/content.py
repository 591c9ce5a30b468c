"""What a run of MLflow holds of a cell or a study: metrics, parameters, files, status."""

from __future__ import annotations

import hashlib
import json
import math
import re
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import yaml

from bench.records import CONFIG, GRID, LOG, STUDY, Record, Status, record

if TYPE_CHECKING:
    from mlflow.entities import Run

LONGEST_NAME = 250
LONGEST_PARAM = 6000
LAYOUT = "3"
"""Version of what runs hold. Raise it where that changes: runs of before are completed then."""
TABLE = "table.json"
PAGE = "report.html"
TABLES = (
    "table.md", "table.csv", "table.tex", "table-notes.tex", TABLE, "nfe-curve.md",
    "nfe-curve.csv", "timing.md", "timing.json", PAGE, STUDY,
)  # fmt: skip
BESIDE = ("spread", "error", "corrected")
"""What a metric's value can have beside it."""
COSTS = (
    "nfe", "train_flops", "sample_flops_per_image", "parameters", "peak_memory_bytes",
    "images_seen", "steps",
)  # fmt: skip
MEANS = {"cost.nfe": "nfe", "cost.train_flops": "train_flops"}
"""Costs of which a study's run has the means, beside the metrics, as the table calls them."""
IMAGE = "quality/samples"
"""Name of a cell's grid among MLflow's charts."""
SMALL = 256
"""Largest side of the copy that the charts show at first."""
LARGEST_LOG = 1_000_000
"""Bytes of ``log.txt`` up to which a failed cell's run carries it."""
STATUS = {
    Status.PENDING: "SCHEDULED",
    Status.RUNNING: "RUNNING",
    Status.FINISHED: "FINISHED",
    Status.INTERRUPTED: "KILLED",
}
"""MLflow's word for a cell's status; all others are ``FAILED``."""


def final_metrics(row: Record) -> dict[str, float]:
    """Return a finished cell's numbers, in the record's units, by the names that MLflow shows.

    What stands before the ``/`` is the group of charts that MLflow puts a number in.
    """
    numbers: dict[str, float | None] = {}
    for name, found in row.metrics.items():
        numbers[f"quality/{name}"] = found.value
        numbers |= {f"quality/{name}_{part}": getattr(found, part) for part in BESIDE}
    numbers |= {f"cost/{name}": getattr(row.cost, name) for name in COSTS}
    numbers |= {f"cost/seconds_{part}": seconds for part, seconds in row.ledger.items()}
    for name in ("ms_per_image", "latency_ms"):
        if (timing := getattr(row.cost, name)) is not None:
            numbers[f"timing/{name}"] = timing.median
            numbers |= {f"timing/{name}_{end}": getattr(timing, end) for end in ("low", "high")}
    return {_name(key): float(value) for key, value in numbers.items() if value is not None}


def study_means(study: Path) -> dict[str, float]:
    """Return the means over each method's seeds, with the half-widths of their intervals.

    They are the table's, under names such as ``means/fd_digits_500 sde half``; none without one.
    """
    try:
        methods = json.loads((study / TABLE).read_bytes())["methods"]
    except (OSError, ValueError, KeyError):
        return {}
    found = {}
    for row in methods:
        for column, value in row.items():
            name, _, part = column.partition(":")
            metric = name.removeprefix("metrics.")
            shown = metric if metric != name and "." not in metric else MEANS.get(name)
            if shown and part in {"", "half"} and isinstance(value, int | float):
                found[_name(f"means/{shown} {row['method']} {part}".rstrip())] = float(value)
    return found


def curve_points(folder: Path) -> dict[tuple[str, int], tuple[float, float]]:
    """Return ``(name, images) -> (value, seconds)`` by images; of a step logged twice the last."""
    found = {
        (_name(f"train/{name}"), int(line["images"])): (float(value), float(line["seconds"]))
        for line in record.read_curves(folder)
        for name, value in line["values"].items()
    }
    return dict(sorted(found.items(), key=lambda item: item[0][1]))


def run_params(path: Path) -> dict[str, str]:
    """Return the parameters that a cell's configuration gives its run."""
    tree = yaml.safe_load(path.read_bytes()) if path.exists() else None
    flat = _flatten("", tree if isinstance(tree, dict) else {})
    return {_name(key): value[:LONGEST_PARAM] for key, value in flat}


def _flatten(prefix: str, tree: Mapping[Any, Any]) -> Iterator[tuple[str, str]]:
    for key, value in tree.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        if isinstance(value, Mapping) and value:
            yield from _flatten(name, value)
        else:
            yield name, value if isinstance(value, str) else json.dumps(value, default=str)


def _name(text: str) -> str:
    """Replace what MLflow does not allow in the name of a metric or parameter."""
    return re.sub(r"[^\w\-. :/]", "_", text, flags=re.ASCII)[:LONGEST_NAME]


def cell_files(folder: Path, row: Record) -> list[Path]:
    """Return what an ended cell's run carries; of one that failed its log too, if it is small."""
    log = folder / LOG
    is_small = log.exists() and log.stat().st_size <= LARGEST_LOG
    names = [CONFIG, record.RECORD, GRID, *([LOG] if row.status.is_failure and is_small else [])]
    return [folder / name for name in names]


def grid_images(grid: Path, row: Record, place: Path) -> list[Path]:
    """Write a grid as MLflow's charts take images, whole and small, and return the files.

    Named as its ``log_image`` does, but the same each time, so that none is there twice.
    """
    from PIL import Image

    stem = f"{IMAGE.replace('/', '~')}+step+{row.cost.images_seen}"
    stem += f"+timestamp+{milliseconds(row.ended) or 0}+{row.key[:8]}"
    whole, small = place / f"{stem}.png", place / f"{stem}+compressed.webp"
    try:
        with Image.open(grid) as image:
            image.save(whole)
            image.thumbnail((SMALL, SMALL))
            image.convert("RGB").save(small)
    except OSError:
        return []  # None, or none that can be read: the file itself is there all the same.
    return [whole, small]


def study_files(study: Path) -> tuple[list[Path], list[Path]]:
    """Return the tables and the plots that a study has."""
    found = [study / name for name in TABLES if (study / name).exists()]
    found += [*sorted(study.glob("sweep-*.*")), *study.glob("report.html")]
    return found, sorted((study / "plots").glob("*.png"))


def run_status(row: Record) -> str:
    """Return MLflow's word for how a cell stands."""
    pid, is_here = row.environment.get("pid"), row.environment.get("host") == socket.gethostname()
    is_dead = is_here and isinstance(pid, int) and not psutil.pid_exists(pid)
    is_lost = is_dead and row.status == Status.RUNNING
    return "KILLED" if is_lost else STATUS.get(row.status, "FAILED")


def study_status(rows: Sequence[Record]) -> str:
    """Return MLflow's word for how a study stands."""
    found = {run_status(row) for row in rows}
    if found == {"FINISHED"}:
        return "FINISHED"
    return next((status for status in ("RUNNING", "FAILED") if status in found), "KILLED")


def is_same(last: Any, value: float) -> bool:
    """Whether a metric's last point, if it has one, has this value."""
    if last is None or math.isnan(value):
        return last is not None and math.isnan(last.value)
    # MLflow keeps infinity as the largest float.
    largest = sys.float_info.max
    return bool(last.value == min(max(value, -largest), largest))


def fingerprint(files: Sequence[Path], beside: str = "") -> str:
    """Return what tells whether one of these files, or what is ``beside`` them, has changed."""
    found = hashlib.sha256(f"{LAYOUT}\0{beside}".encode())
    for file in files:
        if file.exists():
            found.update(file.name.encode() + b"\0" + file.read_bytes())
    return found.hexdigest()[:32]


def last_points(run: Run) -> dict[str, Any]:
    """Return each metric's last point, with ``step``, ``timestamp`` and ``value``."""
    return {point.key: point for point in run.data.to_proto().metrics}


def milliseconds(stamp: str | None) -> int | None:
    """Return a moment in milliseconds since 1970, of its ISO 8601 form."""
    return None if not stamp else round(datetime.fromisoformat(stamp).timestamp() * 1000)
