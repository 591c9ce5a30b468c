"""Repeating a finished cell from its folder alone, and saying whether it gave the same.

The reproduction is a study of its own, ``<study>-rerun``: what it repeats is only read, and nothing
of an earlier reproduction is taken over, a shared stage neither.
"""

import os
import shlex
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bench import study
from bench.commands.finished_cells import read_record
from bench.commands.method_labels import check_labels, load_method
from bench.commands.reproduce.verdict import Reproduction, Row, compare
from bench.config import CellConfig, UserError, build, check_name, one_line, read_cell, unknown
from bench.progress.display import Display
from bench.records import CONFIG, Record, Status, is_study, load, write_text
from bench.records.environment import SOURCE
from bench.records.study_file import REPRODUCED, placed_config
from bench.report.frame import flatten
from bench.report.table.formats import markdown_table
from bench.tracking import NullTracker
from methods import registry

HEAD = ["what", "before", "now", "verdict"]
SHORT = 12
"""Characters that hashes are shown by."""


def configuration(folder: Path, data: Path | None) -> CellConfig:
    """Return what a cell was made with, with the data at another place if one is given.

    UserError if it cannot be read, its method is gone, or what it names is not there.
    """
    path = folder / CONFIG
    try:
        config = placed_config(folder)
    except OSError as error:
        why = f"'{path}' cannot be read ({error.strerror})"
        raise UserError(f"{why}; the cell cannot be repeated") from error
    check_method(config, read_record(folder))
    settings = config.settings
    if data is not None:
        settings = settings.model_copy(update={"data": data.resolve()})
    if settings.data is not None and not settings.data.exists():
        raise UserError(f"the data at '{settings.data}' are gone; give their place with --data")
    for name, file in {**settings.weights, "reference": settings.reference}.items():
        if file is not None and not file.exists():
            raise UserError(
                f"the file for {name}, '{file}', is gone; put it back to repeat the cell"
            )
    return config.model_copy(update={"settings": settings})


def check_method(config: CellConfig, record: Record) -> None:
    """UserError if a cell's method cannot be loaded or does not know its settings any more."""
    if registry.base(config.method) not in registry.names():
        made = record.environment.get("method", {})
        if made.get("distribution"):
            raise UserError(
                f"method '{config.method}' is not installed; it came with {made['distribution']} "
                f"{made['version']}: install that"
            )
        raise unknown("method", config.method, registry.names())
    (label,) = check_labels([config.method])
    kind = load_method(label)
    build(kind.Config, config.method_config, f"settings of {config.method}")


def execute(folder: Path, results: Path, data: Path | None, display: Display) -> Path:
    """Run a cell again, as a study of its own, or go on with that; return the new cell's folder.

    UserError if the cell cannot be repeated, for want of data for example.
    """
    config, record = configuration(folder, data), read_record(folder)
    threads = record.environment.get("threads")
    if config.settings.threads is None and threads is not None:
        # As many as the cell had, where its settings leave that open.
        os.environ["OMP_NUM_THREADS"] = str(threads)
    request = study.Request(
        name=claim(results, record, config), results=results.resolve(), settings=config.settings,
        methods={config.method: config.method_config}, seeds=[config.seed],
        reproduces=f"{record.study}/{record.cell}",
    )  # fmt: skip
    try:
        (cell,) = study.execute(request, NullTracker, display)
    except UserError:
        if not is_study(request.folder):
            shutil.rmtree(request.folder)
        raise
    return cell.folder


def claim(results: Path, record: Record, config: CellConfig) -> str:
    """Return the name of the study to repeat a cell in: of one broken off, else a new one."""
    check_name("the record's study", record.study)
    number = 1
    while True:
        name = f"{record.study}-rerun{'' if number == 1 else number}"
        try:
            (results / name).mkdir(parents=True)
        except FileExistsError:
            if not is_broken_off(results / name / record.cell, config):
                number += 1
                continue
        return name


def is_broken_off(cell: Path, config: CellConfig) -> bool:
    """Whether a folder holds a reproduction of the same cell that did not come to its end."""
    try:
        record = load(cell)
        is_unfinished = record is not None and record.status != Status.FINISHED
        return is_unfinished and read_cell(cell / CONFIG) == config
    except (OSError, ValueError, UserError):
        return False


def judge(before: Path, now: Path) -> tuple[Reproduction, list[Row]]:
    """Compare a cell and its reproduction: what came out, and what they were made with."""
    rows = read_record(before), read_record(now)
    unit = read_cell(before / CONFIG).settings.budget.unit
    reproduction = compare(before, now, rows, by_the_clock=unit == "s")
    return reproduction, [*differences(before, now, rows)]


def differences(before: Path, now: Path, rows: tuple[Record, Record]) -> Iterator[Row]:
    """Yield what the two were not made alike with: it may explain what came out.

    What an older record does not tell of its surroundings or its sources is no difference.
    """
    cells = (read_cell(folder / CONFIG) for folder in (before, now))
    yield from _changes(*(flatten("", study.portable(cell)) for cell in cells))
    old, new = rows[0].identity, rows[1].identity
    for part, told in study.NAMES.items():
        if part in old and part in new:
            yield from _changes({told: old[part]}, {told: new[part]})
    if old.get("source") and new.get("source"):
        sources = (row.identity["source"].items() for row in rows)
        yield from _changes(*({f"{n.replace('.', '/')}.py": v for n, v in s} for s in sources))
    # What of where a cell was run may explain a difference.
    places = ({n: row.environment[n] for n in SOURCE if n in row.environment} for row in rows)
    here, there = (flatten("", place) for place in places)
    shared = here.keys() & there.keys()
    yield from _changes(*({name: side[name] for name in shared} for side in (here, there)))
    for earlier in rows[0].environment.get("earlier", ()):
        yield Row("an earlier process", ", ".join(sorted(earlier)), "", "was unlike the last")


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Row]:
    for name in study.differing(old, new):
        yield Row(name, _short(old.get(name)), _short(new.get(name)), "changed")


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    is_hash = len(text) >= 40 and all(letter in "0123456789abcdef" for letter in text)
    return text[:SHORT] if is_hash else one_line(text)[:60]


def report(before: Path, now: Path) -> tuple[str, bool]:
    """Compare a cell with its reproduction; keep the page beside it, return it, and if it holds.

    The page says what was made otherwise, what came out, and the verdict.
    """
    reproduction, differing = judge(before, now)
    rows = [*differing, *reproduction.rows]
    table = markdown_table(HEAD, [[row.what, row.before, row.now, row.verdict] for row in rows])
    told = f"{before.parent.name}/{before.name}: {reproduction.verdict}"
    if differing and not reproduction.is_equal:
        told += f"\nIt was not made alike: {', '.join(dict.fromkeys(r.what for r in differing))}"
    where = shlex.join([str(before), str(now)])
    page = f"{table}\n{told}\n\nbefore, now: {where}\n"
    write_text(now.parent / REPRODUCED, page)
    return page, reproduction.holds
