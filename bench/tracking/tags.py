"""What a run says of itself in tags, in its description, and of the data that it is of."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from bench.records import Record, Status, direction, headline
from bench.tracking.content import PAGE

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput, Run

LONGEST_TAG = 8000
NOTE = "mlflow.note.content"
"""A run's description, in Markdown."""
USER = "mlflow.user"
DIGEST = 12
"""Letters of the hash of data that name it: MLflow shows all that it is given."""


def user() -> str:
    """Return the name of whoever runs this process."""
    return str(psutil.Process().username())


def cell_tags(row: Record, study: str, colour: str) -> dict[str, str]:
    """Return the tags of a cell's run; ``colour`` is its method's in the study's pictures."""
    where = {name: row.environment.get(name) for name in ("commit", "device", "host", "pid")}
    names = ("cell", "method", "dataset", "data_variant", "preset", "seed", "key", "status")
    tags = {name: str(value) for name, value in where.items() if value is not None}
    tags |= {name: str(getattr(row, name)) for name in names}
    tags |= {"kind": "cell", "study": study, "reason": row.reason[:LONGEST_TAG]}
    tags |= {"mlflow.runColor": colour, NOTE: _cell_note(row, study)[:LONGEST_TAG]}
    if row.cost.ms_per_image is not None:
        tags |= {"timing_fit": "no" if row.cost.unfit else "yes"}
        tags |= {"unfit": "; ".join(row.cost.unfit)[:LONGEST_TAG]}
    if row.status == Status.FINISHED:
        tags |= {"mlflow.loggedImages": "True"}  # MLflow looks for images only then.
    return tags | _source(row.environment)


def _source(environment: Mapping[str, Any]) -> dict[str, str]:
    """Return what fills MLflow's columns of source and version."""
    command = str(environment.get("command") or "bench").split()
    name = " ".join(command[:2]) if command[0] == "bench" else command[0]
    tags = {"mlflow.source.name": name, "mlflow.source.type": "LOCAL"}
    commit = environment.get("commit")
    return tags | ({"mlflow.source.git.commit": str(commit)} if commit else {})


def _cell_note(row: Record, study: str) -> str:
    """Describe a cell: method, values, cost, why it failed, the command."""
    lines = [f"**{row.method}**, seed {row.seed}, of `{study}` ({row.data_variant}, {row.preset})"]
    if row.status == Status.FINISHED and row.metrics:
        lines.append(f"Quality: {', '.join(_values(row))}.")
    if row.status == Status.FINISHED:
        lines.append(f"Cost: {', '.join(_costs(row))}.")
    if row.cost.unfit:
        lines.append(f"† The machine was not fit to time on: {'; '.join(row.cost.unfit)}.")
    if row.reason:
        lines.append(f"**{row.status}**: {row.reason}")
    if command := row.environment.get("command"):
        lines.append(f"```\n{command}\n```")
    return "\n\n".join(lines)


def _values(row: Record) -> list[str]:
    told = []
    for name in headline(list(row.metrics)):
        found = row.metrics[name]
        error = "" if found.error is None else f" ± {found.error:.2g} (standard error in the seed)"
        told.append(f"{name} {direction(name)} {found.value:.4g}{error}")
    return told


def _costs(row: Record) -> list[str]:
    cost, told = row.cost, []
    if cost.nfe is not None:
        told.append(f"{cost.nfe:g} network calls an image")
    if cost.ms_per_image is not None:
        mark = " †" if cost.unfit else ""
        told.append(f"{cost.ms_per_image.median:.3g} ms an image{mark}")
    told.append(f"{cost.train_flops:.3g} FLOP and {row.ledger.get('train', 0.0):.3g} s of training")
    return told


def study_tags(study: Path, rows: Sequence[Record], run: Run) -> dict[str, str]:
    """Return the tags of a study's run, the way to its page and the table as its note."""
    table, note = study / "table.md", ""
    if (study / PAGE).exists():
        place = f"#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}/artifacts/{PAGE}"
        note = f"[The page of this study]({place})\n\n"
    note += table.read_text("utf-8") if table.exists() else ""
    if len(note) > LONGEST_TAG:
        note = note[:LONGEST_TAG].rsplit("\n", 1)[0]
    return {
        "dataset": rows[0].dataset,
        "preset": rows[0].preset,
        "methods": ",".join(sorted({row.method for row in rows})),
        "seeds": ",".join(str(seed) for seed in sorted({row.seed for row in rows})),
        NOTE: note,
    } | _source(rows[0].environment)


def dataset_input(row: Record, run: Run) -> list[DatasetInput]:
    """Return the data that a run lacks as its input: none where it has them, or none is known."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    digest = str(row.data.get("sha256") or row.identity.get("data_sha256") or "")[:DIGEST]
    has = {each.dataset.digest for each in (run.inputs.dataset_inputs if run.inputs else ())}
    if not digest or digest in has:
        return []
    source = json.dumps({"source": row.data.get("source", row.dataset)})
    profile = json.dumps({part: row.data[part] for part in ("train", "test") if part in row.data})
    data = Dataset(row.data_variant, digest, "scorebench", source, profile=profile)
    return [DatasetInput(data, [InputTag("mlflow.data.context", "training")])]
