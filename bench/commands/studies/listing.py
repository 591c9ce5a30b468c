"""What there is to say of a study in one line, and a table of such lines."""

import re
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from bench import records
from bench.commands.settings import resolve_settings
from bench.config import SECTIONS, WHEREABOUTS, Settings, UserError, choose_preset
from bench.records import RECORD, STUDY, CellLock, Record, Status, StudyFile
from bench.report.frame import flatten
from bench.report.table.numbers import size

HEAD = ("study", "data", "methods", "seeds", "differs from the preset", "state", "size", "date")
NOTHING = "-"
WHOLE = {"seeds", "size", "date"}
"""Columns that are never broken into lines."""


def lay_out(rows: Sequence[Sequence[str]]) -> Table:
    """Put studies' lines into a table that gives way where a terminal is narrow."""
    table = Table(*HEAD, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in table.columns:
        column.overflow, column.no_wrap = "fold", column.header in WHOLE
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def describe(folder: Path) -> list[str]:
    """Return a study's line, by column; of one that cannot be read, why, as its state."""
    found = [
        (path.parent, records.readable(path.parent)) for path in sorted(folder.glob(f"*/{RECORD}"))
    ]
    cells = [(cell, record) for cell, record in found if record is not None]
    rows = [record for _, record in cells]
    methods = ", ".join(sorted({row.method for row in rows}))
    seeds = spans(sorted({row.seed for row in rows}))
    space = size(records.disk_usage(folder))
    moments = [moment or "" for row in rows for moment in (row.started, row.ended)]
    try:
        study = records.read_study(folder)
    except UserError:
        broken = f"{STUDY} cannot be read"
        told = ["", methods, seeds, "", broken, space, max(moments, default="")]
    else:
        data = f"{study.settings.dataset} {study.settings.preset}"
        date = study.commanded or max(moments, default="")
        unlike = ", ".join(differences(study, rows))
        told = [data, methods, seeds, unlike, states(cells, len(found)), space, date]
    told[-1] = told[-1][:10]
    return [folder.name, *(text or NOTHING for text in told)]


def spans(seeds: Sequence[int]) -> str:
    """Write seeds, sorted and each once, as they are typed: ``0-2,5``."""
    there = {*seeds}
    starts = [seed for seed in seeds if seed - 1 not in there]
    ends = [seed for seed in seeds if seed + 1 not in there]
    return ",".join(f"{a}" if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True))


def states(cells: Sequence[tuple[Path, Record]], count: int) -> str:
    """Say how many cells stand how; one that runs no more, whatever it says, is interrupted."""
    counts: Counter[str] = Counter()
    for folder, record in cells:
        is_over = record.status == Status.RUNNING and not CellLock(folder).is_held
        counts[str(Status.INTERRUPTED if is_over else record.status)] += 1
    if lost := count - len(cells):
        counts["not readable"] = lost
    return ", ".join(f"{number} {state}" for state, number in counts.most_common()) or "no cells"


def differences(study: StudyFile, rows: Sequence[Record]) -> Iterator[str]:
    """Yield what a study has otherwise than its preset has it now, as it is typed for a run."""
    if study.reproduces:
        yield f"repeats {study.reproduces}"
        return
    have = study.settings
    try:
        name, preset = choose_preset(have.dataset, have.preset, have.device)
        usual = resolve_settings(
            have.dataset, name, preset, device=have.device, data=None, weights=(), reference=None
        )
    except UserError:
        yield "its preset is not known here"
    else:
        if have.budget != usual.budget:
            yield str(have.budget)
        for place in sorted(WHEREABOUTS):
            if getattr(have, place):
                yield place
        mine, theirs = flat(have, exclude_unset=True), flat(usual)
        yield from (f"{key}={value}" for key, value in mine.items() if theirs.get(key) != value)
    typed = dict.fromkeys([*study.overrides, *set_by_commands(rows)])
    ours = {*SECTIONS, *Settings.model_fields}  # Told above, by what they are.
    yield from (text for text in typed if re.split(r"[.=]", text)[0] not in ours)


def flat(settings: Settings, *, exclude_unset: bool = False) -> dict[str, Any]:
    """Return settings by dotted names, beside budget and places; ``exclude_unset``: as stored."""
    told = settings.model_dump(
        mode="json", exclude_unset=exclude_unset, exclude={"budget", *WHEREABOUTS}
    )
    return flatten("", told)


def set_by_commands(rows: Sequence[Record]) -> Iterator[str]:
    """Yield what the commands that made the records were given as ``--set``."""
    for command in {str(record.environment.get("command", "")): None for record in rows}:
        words = list[str]()
        with suppress(ValueError):  # no shell's line
            words = shlex.split(command)
        for word, after in pairwise([*words, ""]):
            if word == "--set" or word.startswith("--set="):
                yield after if word == "--set" else word.removeprefix("--set=")
