"""Finished cells that a command takes up again: which they are, and why others cannot be."""

import os
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from bench import metrics
from bench.config import UserError, one_line, unknown
from bench.records import CHECKPOINT, RECORD, Record, Status, placed_config, read_json, read_study
from bench.records.plugins import method_class
from bench.records.source_code import source_digest
from bench.report.frame import Cells, read_records
from bench.study import cell_key
from bench.worker import Trained, load_finished
from methods import registry


def choose_cells(
    study: Path,
    names: Sequence[str] | None,
    data_sha256: str,
    fits: Callable[[Path], bool] = lambda folder: True,
) -> tuple[Cells, dict[str, str]]:
    """Return the cells that are named, or all finished ones that fit, and why others cannot be.

    UserError where a cell that was named is unknown or cannot be taken up again.
    """
    cells = {path.name: (path, record) for path, record in read_records(study)[0]}
    for name in names or ():
        if name not in cells:
            raise unknown(f"cell of study '{study.name}'", name, cells)
    finished = [name for name, (_, record) in cells.items() if record.status == Status.FINISHED]
    chosen = names or [name for name in finished if fits(cells[name][0])]
    reasons = {name: refusal(*cells[name], data_sha256) for name in chosen}
    refused = {name: reason for name, reason in reasons.items() if reason is not None}
    if names and refused:
        raise UserError("{}: {}".format(*next(iter(refused.items()))))
    return [cells[name] for name in chosen if name not in refused], refused


def made_by(record: Record) -> str:
    """The command that a cell was made by, to be pasted into a shell that stands elsewhere."""
    where = record.environment.get("directory", os.getcwd())
    there = "" if where == os.getcwd() else f"cd {shlex.quote(where)} && "
    return there + str(record.environment.get("command", "bench run"))


def refusal(folder: Path, record: Record, data_sha256: str) -> str | None:
    """Say why a cell cannot be sampled again and what to do, or return ``None`` if it can."""
    again = f"run it again: {made_by(record)}"
    if record.status != Status.FINISHED:
        return f"it is not finished but {record.status}; {again}"
    if not (folder / CHECKPOINT).exists():
        return f"its {CHECKPOINT} is gone; {again}"
    config = placed_config(folder)
    try:
        source = source_digest(method_class(config.method).__module__)
        identity = metrics.identity(config.settings) | {"data_sha256": data_sha256}
    except (KeyError, registry.BrokenMethodError, UserError) as error:
        return f"its method or extractor cannot be loaded ({one_line(error)}); install it again"
    made, now = (key.split("-") for key in (record.key, cell_key(config, identity, source)))
    if made[0] != now[0]:
        return f"its settings, extractor or evaluation protocol have changed since; {again}"
    if made[1] != now[1]:
        commit = str(record.environment.get("commit", "unknown"))[:12]
        return (
            f"the source of '{config.method}' has changed since it was trained (at commit "
            f"{commit}), so its weights may mean something else; check that commit out, or {again}"
        )
    return None


def find_cell(given: str, results: Path) -> Path:
    """Return the folder of a finished cell; ``given`` is STUDY/CELL, a folder or a record.

    UserError if there is none, it cannot be read, is not finished, or came from elsewhere.
    """
    for place in (Path(given), results / given):
        folder = place.parent if place.name == RECORD else place
        if not (folder / RECORD).is_file():
            continue
        record = read_record(folder)
        if record.origin != "cell":
            raise UserError(
                f"'{folder.name}' holds samples that were made elsewhere ({record.reason[:80]}); "
                "only cells can be taken up again"
            )
        if record.status != Status.FINISHED:
            raise UserError(
                f"'{folder}' has no result: it is {record.status}; finish it first: "
                f"{made_by(record)}"
            )
        return folder.resolve()
    raise UserError(
        f"'{given}' has no {RECORD}; give a cell as STUDY/CELL under '{results}', its folder, or "
        f"its {RECORD}"
    )


def read_record(folder: Path) -> Record:
    """Read a cell's record; UserError if it cannot be."""
    if not (folder / RECORD).exists():
        raise UserError(f"'{folder}' has no {RECORD}")
    return read_json(folder / RECORD, Record, "give a cell that a run has left")


def open_cell(folder: Path, record: Record) -> Trained:
    """Load a finished cell's data and networks, in this process; UserError where it cannot be."""
    sha256 = read_study(folder.parent).prepared.data_sha256
    reason = refusal(folder, record, sha256)
    if reason is not None:
        raise UserError(f"{folder.name}: {reason}")
    return load_finished(folder, folder.parent.parent.resolve() / "cache", sha256)
