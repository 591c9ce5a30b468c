"""A study on disk as the worker leaves it, made without training: for the tests of reports."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from bench.costs.intervals import Interval
from bench.records import files, record
from bench.records.record import Anchors, Cost, Record, Status, Value
from bench.report.study_report import StudyReport
from bench.report.table.formats import render_table

METHODS = ("sde", "cdm", "dlsm", "smm")
QUALITY = {"sde": 6.1, "cdm": 5.4, "dlsm": 7.9, "smm": 19.5}
NFE = {"sde": 36.0, "cdm": 36.0, "dlsm": 108.0, "smm": 1.0}
FLOPS = {"sde": 1.2e13, "cdm": 2.9e13, "dlsm": 3.3e13, "smm": 4.1e13}
SECONDS = {"sde": 38.0, "cdm": 71.0, "dlsm": 66.0, "smm": 54.0}
LOSSES = {
    "sde": ("loss/score",),
    "cdm": ("loss/score", "loss/consistency"),
    "dlsm": ("loss/score", "loss/classifier"),
    "smm": ("loss/score", "loss/generator"),
}
SEGMENTS = ("abcdef", "bc", "abged", "abgcd", "fgbc", "afgcd", "afgedc", "abc", "abcdefg", "abcdfg")
IMAGES_SEEN = 512_000
PREPARED = {
    "data_sha256": "d" * 64,
    "extractors": {"digits": "e" * 64},
    "reference_sha256": None,
    "protocol": "1",
}
"""What preparing has found out, as the plan takes it."""


def digit(number: int) -> np.ndarray:
    """Draw a seven-segment digit, uint8 (8, 8)."""
    image = np.zeros((8, 8), np.uint8)
    strokes = {
        "a": np.s_[1, 2:6], "b": np.s_[1:4, 5], "c": np.s_[4:7, 5], "d": np.s_[6, 2:6],
        "e": np.s_[4:7, 2], "f": np.s_[1:4, 2], "g": np.s_[4, 2:6],
    }  # fmt: skip
    for segment in SEGMENTS[number % 10]:
        image[strokes[segment]] = 230
    return image


def samples(count: int, seed: int, blur: float = 20.0) -> np.ndarray:
    """Draw noisy digits, uint8 (count, 1, 8, 8)."""
    generator = np.random.default_rng(seed)
    clean = np.stack([digit(number) for number in generator.integers(0, 10, count)])[:, None]
    return np.clip(clean + generator.normal(0, blur, clean.shape), 0, 255).astype(np.uint8)


def provenance(**changes: Any) -> dict[str, Any]:
    """Build what the evaluation stores beside a value."""
    return {
        "protocol": "1",
        "n": 500,
        "reference_split": "train",
        "reference_n": 1297,
        "data": "digits",
        "data_sha256": "bb" * 32,
        "extractor": "digits",
        "extractor_sha256": "aa" * 32,
        "resize": "none",
        "quantisation": "uint8",
    } | changes


def values(fd: float, inception: float, accuracy: float | None, **changes: Any) -> dict[str, Value]:
    """Build the metrics of one cell or anchor."""
    found = {
        "fd_digits_500": Value(value=fd, provenance=provenance(**changes)),
        "is_digits_500": Value(value=inception, spread=0.11, provenance=provenance(**changes)),
    }
    if accuracy is not None:
        found["accuracy_digits_500"] = Value(value=accuracy, provenance=provenance(**changes))
    return found


def interval(median: float, batch: int) -> Interval:
    """Build a timing around its median."""
    return Interval(
        median=median, q25=0.97 * median, q75=1.05 * median, low=0.95 * median,
        high=1.08 * median, batch=batch, repeats=10,
    )  # fmt: skip


def curve(method: str, seed: int, points: int = 60, start: int = 1) -> list[dict[str, Any]]:
    """Build the lines of ``metrics.jsonl``; every tenth carries the metric."""
    generator = np.random.default_rng([seed, len(method)])
    lines = []
    for index in range(1, points + 1):
        done = index / points
        noise = generator.normal(0, 0.04, len(LOSSES[method]))
        found = {
            name: float((0.25 + 0.1 * place) * (1 + 2.5 * np.exp(-6 * done)) * (1 + noise[place]))
            for place, name in enumerate(LOSSES[method])
        }
        if index % (points // 6 or 1) == 0:
            found["fd_digits_500"] = QUALITY[method] * (1 + 12 * float(np.exp(-5 * done)))
        lines.append(
            {
                "images": round(IMAGES_SEEN * done),
                "step": round(4000 * done),
                "seconds": SECONDS[method] * done,
                "stage": "score",
                "values": found,
            }
        )
    return lines[start - 1 :]


def write_curve(folder: Path, lines: Iterable[dict[str, Any]]) -> None:
    """Append lines to the cell's ``metrics.jsonl``."""
    with (folder / record.CURVES).open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def cost(method: str, seed: int) -> Cost:
    """Build the measured cost of a cell."""
    per_image = {"sde": 2.1, "cdm": 2.2, "dlsm": 7.4, "smm": 0.061}[method]
    networks = {"unet": NFE[method]} if method != "smm" else {"generator": 1.0}
    return Cost(
        steps=4000,
        images_seen=IMAGES_SEEN,
        train_flops=FLOPS[method],
        train_flops_by_objective={"score": FLOPS[method]},
        sample_flops_per_image=NFE[method] * 4.2e6,
        nfe=NFE[method],
        nfe_by_network=networks,
        ms_per_image=interval(per_image * (1 + 0.01 * seed), 100),
        latency_ms=interval(per_image * 9, 1),
        parameters=431_617,
        peak_memory_bytes=612 * 2**20,
        peak_memory_kind="rss",
    )


def ledger(method: str, seed: int) -> dict[str, float]:
    """Build the seconds of each part, and the wall clock they sum to."""
    train = SECONDS[method] + seed
    parts = {
        "compile": 0.0, "train": train, "sample": 4.0 * NFE[method] / 36, "evaluate": 1.3,
        "log": 0.2, "checkpoint": 0.9, "other": 2.1,
    }  # fmt: skip
    return parts | {"wall": sum(parts.values())}


def make_record(study: Path, method: str, seed: int, **changes: Any) -> Record:
    """Build a finished cell's record; ``changes`` replace fields."""
    fields: dict[str, Any] = {
        "study": study.name,
        "cell": f"{method}-seed{seed}",
        "method": method,
        "seed": seed,
        "dataset": "digits",
        "data_variant": "digits",
        "preset": "quick",
        "key": f"key-{method}-{seed}",
        "status": Status.FINISHED,
        "started": f"2026-01-0{seed + 1}T10:00:00+00:00",
        "ended": f"2026-01-0{seed + 1}T10:02:00+00:00",
        "metrics": values(
            QUALITY[method] * (1 + 0.03 * (seed - 1)),
            9.6 - 0.1 * QUALITY[method] + 0.02 * seed,
            0.97 if method == "dlsm" else None,
        ),
        "cost": cost(method, seed),
        "ledger": ledger(method, seed),
        "environment": {
            "commit": "0123456789abcdef", "dirty": False, "device": "cpu: fake processor",
            "threads": 2, "packages": {"torch": "2.15"}, "command": "bench run", "host": "box",
            "pid": 4242,
        },
    }  # fmt: skip
    return Record(**(fields | changes))


def write_cell(
    folder: Path, row: Record, lines: Sequence[dict[str, Any]] | None = None, images: int = 80
) -> None:
    """Write a cell's folder; ``lines`` replace its curves, ``images=0`` leaves samples out."""
    folder.mkdir(parents=True, exist_ok=True)
    record.save(row, folder)
    settings = {
        "dataset": row.dataset,
        "method": {"name": row.method, "batch": 128, "betas": [0.9, 0.999], "ema": None},
        "budget": {"images": IMAGES_SEEN},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    (folder / "log.txt").write_text("a log\n")
    write_curve(folder, curve(row.method, row.seed) if lines is None else lines)
    if images:
        drawn = samples(images, row.seed, blur=6 * QUALITY[row.method])
        np.savez(folder / "samples.npz", images=drawn)
        (folder / "grid.png").write_bytes(b"\x89PNG fake")


def write_study(
    study: Path,
    methods: Sequence[str] = METHODS,
    seeds: Sequence[int] = (0, 1, 2),
    failed: str | None = "smm-seed2",
    **changes: Any,
) -> Path:
    """Write a whole study: cells, one of them failed, anchors and ``study.yaml``."""
    study.mkdir(parents=True, exist_ok=True)
    for method in methods:
        for seed in seeds:
            row = make_record(study, method, seed, **changes)
            if row.cell == failed:
                row = fail(row)
            short = curve(method, seed)[:20] if row.cell == failed else None
            write_cell(study / row.cell, row, short, images=0 if row.cell == failed else 80)
    anchors = {"noise": values(412.0, 1.7, None), "real (held-out)": values(2.3, 9.4, None)}
    files.write_text(study / record.ANCHORS, Anchors(rows=anchors).model_dump_json())
    (study / "study.yaml").write_text(f"methods: [{', '.join(methods)}]\n")
    return study


def table(study: Path, format: str = "md") -> str:
    """Write a study's table as the command does."""
    return render_table(StudyReport.read(study), format)


def fail(row: Record) -> Record:
    """Turn a finished record into one that diverged."""
    return row.model_copy(
        update={
            "status": Status.DIVERGED,
            "reason": "loss of 'generator' is nan at step 1333 | lr=1e-2",
            "metrics": {},
            "cost": Cost(steps=1333, images_seen=170_624),
        }
    )
