"""The plan of a study: which cells there are, and what is to be done with each, and why."""

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from bench.config import WHEREABOUTS, CellConfig, UserError, digest, read_cell
from bench.records import CONFIG, RECORD, Record, Status, cell_name, load, readable
from bench.records.plugins import method_class
from bench.records.source_code import source_hashes
from bench.report.frame import flatten
from bench.study.request import Request, differing

NAMES = {
    "data_sha256": "the data",
    "extractors": "an extractor",
    "reference_sha256": "the reference",
    "protocol": "the protocol",
}
"""What of a preparation identifies results, beside the configuration, and what it is called."""
BROKEN = "broken"
"""Key of a cell whose method cannot be loaded."""
AFRESH = {Status.DIVERGED}
"""Unfinished states that start afresh; all others go on from their checkpoint."""


@dataclass
class Planned:
    """One cell and what is to be done with it."""

    config: CellConfig
    folder: Path
    key: str
    identity: Mapping[str, Any]
    """What the key is of, for the record; see ``Record.identity``."""
    action: str
    """``reuse``, ``resume``, ``run``, ``keep`` for what is not to be run again, or ``fail``."""
    why: str
    broken: str = ""
    """Why its method cannot be loaded at all."""
    seen: bytes = b""
    """The record's content when this was decided."""

    @property
    def is_idle(self) -> bool:
        """Whether nothing is done with the cell."""
        return self.action in {"reuse", "keep", "fail"}


def portable(config: CellConfig) -> dict[str, Any]:
    """Return a configuration without the places of files, of which the hashes matter instead."""
    body = config.model_dump(mode="json")
    body["settings"] = {key: v for key, v in body["settings"].items() if key not in WHEREABOUTS}
    return body


def cell_key(config: CellConfig, prepared: Mapping[str, Any], source: str) -> str:
    """Identify a result: configuration, data, extractor and protocol; and the method's source."""
    identity = [prepared[name] for name in NAMES]
    return f"{digest([portable(config), identity])[:20]}-{source[:20]}"


def plan(request: Request, prepared: Mapping[str, Any]) -> list[Planned]:
    """Decide for each cell whether its result is reused, resumed or made, and say why."""
    planned = []
    sources = {label: source_hashes(method_class(label).__module__) for label in request.methods}
    for seed, label in product(request.seeds, [*request.methods, *request.broken]):
        body, broken = request.methods.get(label, {}), request.broken.get(label, "")
        config = CellConfig(settings=request.settings, method=label, method_config=body, seed=seed)
        folder = request.folder / cell_name(label, seed)
        key, identity = BROKEN, dict[str, Any]()
        if not broken:
            key = cell_key(config, prepared, digest(sources[label]))
            identity = {name: prepared[name] for name in NAMES} | {"source": sources[label]}
        cell = Planned(config, folder, key, identity, "run", "to do", broken, record_bytes(folder))
        cell.action, cell.why = decide_broken(cell) if broken else decide(cell, request.rerun)
        planned.append(cell)
    return planned


def record_bytes(folder: Path) -> bytes:
    """The content of a cell's record; nothing where there is none."""
    try:
        return (folder / RECORD).read_bytes()
    except OSError:
        return b""


def decide(cell: Planned, rerun: Collection[str]) -> tuple[str, str]:
    """Return the action for a cell and the reason; ``rerun`` as in ``Request``."""
    try:
        record = load(cell.folder)
    except ValueError:
        return "run", "its record cannot be read"
    if record is None or record.status == Status.PENDING:
        return "run", "to do"
    state, why = judge(cell, record)
    if "all" in rerun and state != "interrupted":
        return "run", f"{why}, asked for again"
    if state == "done":
        return "reuse", why
    if state != "interrupted" and state not in rerun:
        return "keep", f"{why}, not run again"
    resumed = state != "stale" and record.status not in AFRESH
    return "resume" if resumed else "run", why


def decide_broken(cell: Planned) -> tuple[str, str]:
    """A cell whose method cannot be loaded fails; what there is of it is kept."""
    record = readable(cell.folder)
    if record is None or record.status == Status.PENDING or record.key == BROKEN:
        return "fail", cell.broken
    return "keep", f"{record.status} before, and now {cell.broken}"


def judge(cell: Planned, record: Record) -> tuple[str, str]:
    """Say how a cell stands, ``done``, ``stale``, ``interrupted`` or ``failed``, and in words."""
    if record.key != cell.key:
        return "stale", f"stale: {', '.join(changes(cell, record))} changed"
    if record.status == Status.FINISHED:
        return "done", "done"
    if record.status in {Status.RUNNING, Status.INTERRUPTED}:
        return "interrupted", "interrupted"
    return "failed", f"{record.status} before"


def changes(cell: Planned, record: Record) -> list[str]:
    """Name what a result was made with that is not so any more, files of source by their path."""
    before, now = record.identity, cell.identity
    # An older record does not tell all parts.
    named = [name for part, name in NAMES.items() if before.get(part, now[part]) != now[part]]
    source = before.get("source", {})
    modules = differing(source, now["source"]) if source else []
    files = [f"{name.replace('.', '/')}.py" for name in modules]
    settings = []
    with suppress(OSError, UserError):
        had = portable(read_cell(cell.folder / CONFIG))
        settings = differing(flatten("", had), flatten("", portable(cell.config)))
    return [*settings, *named, *files] or ["its settings, data, protocol or source"]
