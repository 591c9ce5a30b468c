"""A study's table: Markdown for reading, LaTeX for a paper, CSV and JSON for further work."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from bench.config import one_line, unknown
from bench.records import write_text
from bench.report.frame import TEXT
from bench.report.ranking import Pair, Ranking, seeds_text
from bench.report.study_report import StudyReport
from bench.report.table.columns import columns, leading, quality_columns
from bench.report.table.latex import latex, latex_notes
from bench.report.table.notes import notes
from bench.report.table.rows import (
    CERTAINTY,
    PUBLISHED,
    body,
    certainty_rows,
    published_rows,
    unfinished,
)

LATEX_NOTES = "table-notes.tex"
PLACE = re.compile(r"(?<![\w.:/~-])/(?:[^\s/'\",:;()]+/)+(?=[^\s/'\",:;()])")
"""The folders of an absolute path."""


def markdown_table(head: list[str], rows: list[list[str]]) -> str:
    """Write a Markdown table whose columns are aligned for a terminal too."""
    clean = [[one_line(text).replace("|", "\\|") for text in row] for row in [head, *rows]]
    widths = [max(map(len, column)) for column in zip(*clean, strict=True)]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in clean]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines) + "\n"


def markdown(report: StudyReport) -> str:
    """Write the table with anchors, unfinished cells and notes, aligned for a terminal too."""
    parts = []
    for chosen in filter(None, (columns(report), quality_columns(report))):
        methods, anchors = body(report, chosen)
        parts.append(markdown_table([column.title for column in chosen], methods + anchors))
    if (lead := leading(report)) and (rows := certainty_rows(lead)):
        parts += [f"Certainty by {lead.metric}:\n", markdown_table(CERTAINTY, rows)]
    if rows := published_rows(report):
        parts += ["Published:\n", markdown_table(PUBLISHED, rows)]
    if rest := unfinished(report):
        parts += ["Not finished:\n", markdown_table(["cell", "status", "reason", "log"], rest)]
    parts.append("\n".join(f"- {note}" for note in notes(report)) + "\n")
    return "\n".join(parts)


def to_json(report: StudyReport) -> str:
    """Write all that is known of a study as strict JSON, for programs; no NaN in it."""
    published = [
        {"row": one.row, **one.published.model_dump(exclude={"rows"}), "verdict": one.verdict}
        | {"ours": one.mean, **_known(half=one.half, error=one.error)}
        for one in report.published.beside
    ]
    content = {
        "cells": _plain(report.cell_frame),
        "foreign": _plain(report.of_kind("foreign")),
        "anchors": _plain(report.of_kind("anchor")),
        "methods": _plain(report.summary),
        "rankings": [_ranking(one) for one in report.rankings],
        "published": published,
        "provenance": report.provenance,
        "notes": notes(report),
    }
    return (
        json.dumps(_strict(content, report.folder), indent=2, ensure_ascii=False, allow_nan=False)
        + "\n"
    )


def csv(report: StudyReport) -> str:
    """Write every cell and anchor with its raw numbers at full precision."""
    told = report.frame.copy()
    told[[*TEXT]] = told[[*TEXT]].map(lambda value: placeless(value, report.folder))
    return told.to_csv(index=False)


def placeless(value: Any, study: Path) -> Any:
    """Write the paths of a text from the study on, others by their names: a file is shared."""
    if not isinstance(value, str) or "/" not in value:
        return value
    return PLACE.sub("", value.replace(f"{study}/", "").replace(f"{study.resolve()}/", ""))


def _strict(value: Any, study: Path) -> Any:
    """Return a value as strict JSON has it: no NaN, infinity as a text, and no absolute path."""
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    if isinstance(value, dict):
        return {key: _strict(part, study) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(part, study) for part in value]
    return placeless(value, study)


def _ranking(one: Ranking) -> dict[str, Any]:
    spreads = {
        name: _known(between=spread.between, within=spread.within, ratio=spread.ratio)
        for name, spread in one.spreads.items()
    }
    return {
        "metric": one.metric, "scale": "log" if one.is_log else "linear", "ranks": one.ranks,
        "unranked": one.unranked, "spreads": spreads, "pairs": [_pair(pair) for pair in one.pairs],
    }  # fmt: skip


def _pair(pair: Pair) -> dict[str, Any]:
    gap = pair.gap
    needed = None if math.isnan(gap.needed) else seeds_text(gap.needed)
    return {
        "methods": [pair.one, pair.other], "seeds": gap.count,
        **_known(difference=gap.mean, half=gap.half), "apart": gap.is_apart,
        **({"seeds_to_separate": needed} if needed else {}),
    }  # fmt: skip


def _known(**numbers: float) -> dict[str, float]:
    return {name: value for name, value in numbers.items() if math.isfinite(value)}


def _plain(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return rows of Python's own types; what is missing is left out, but for text columns."""
    objects = frame.astype(object).where(frame.notna(), None)
    return [
        {str(name): v for name, v in row.items() if v is not None or name in TEXT}
        for row in objects.to_dict("records")
    ]


FORMATS: dict[str, tuple[str, Callable[[StudyReport], str]]] = {
    "md": ("table.md", markdown),
    "csv": ("table.csv", csv),
    "latex": ("table.tex", latex),
    "json": ("table.json", to_json),
}


def render_table(report: StudyReport, format: str = "md") -> str:
    """Write a study's table as ``md``, ``csv``, ``latex`` or ``json``; UserError if another."""
    if format not in FORMATS:
        raise unknown("format", format, FORMATS)
    return FORMATS[format][1](report)


def write_tables(report: StudyReport) -> list[Path]:
    """Write ``table.md``, ``.csv``, ``.tex`` with its notes, and ``.json``, each atomically."""
    written = [*FORMATS.values(), (LATEX_NOTES, latex_notes)]
    for name, write in written:
        write_text(report.folder / name, write(report))
    return [report.folder / name for name, _ in written]
