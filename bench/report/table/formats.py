"""A study's table: Markdown for reading, LaTeX for a paper, CSV and JSON for further work."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from bench.config import one_line, unknown
from bench.records import Status, write_text
from bench.report.frame import TEXT
from bench.report.ranking import Pair, Ranking, rank_text, seeds_text
from bench.report.study_report import StudyReport
from bench.report.table.columns import Column, columns, leading, quality_columns
from bench.report.table.notes import notes
from bench.report.table.numbers import NOTHING, number, percent, plus_minus, with_error

Texts = list[list[str]]
CERTAINTY = [
    "method", "rank", "sd between seeds", "sd within", "ratio", "tied with (seeds to separate)",
]  # fmt: skip
PUBLISHED = ["row", "metric", "ours", "published", "band", "ours is", "source"]
LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "±": r"$\pm$", "↓": r"$\downarrow$", "↑": r"$\uparrow$", "≈": r"$\approx$",
    ">": r"$>$", "<": r"$<$", "|": r"\textbar{}", "—": "--", "…": r"\ldots{}",
    "‡": r"$\ddagger$", "†": r"$\dagger$",
}  # fmt: skip


def body(report: StudyReport, chosen: Sequence[Column]) -> tuple[Texts, Texts]:
    """Return the filled rows of the methods and those of the anchors."""
    parts = ([*report.method_rows, *report.foreign_rows], report.anchor_rows)
    methods, anchors = ([[column.fill(row) for column in chosen] for row in part] for part in parts)
    return methods, anchors


def unfinished(report: StudyReport) -> Texts:
    """Return cell, status, reason and log of each cell without a result."""
    cells = report.cell_frame[["cell", "status", "reason", "log"]]
    cells = cells[cells["status"] != str(Status.FINISHED)]
    return [
        [*(str(text or NOTHING) for text in row), str(report.folder / log)]
        for *row, log in cells.itertuples(index=False)
    ]


def published_rows(report: StudyReport) -> Texts:
    """Return a row under ``PUBLISHED`` for each published value that applies to the study."""
    rows = []
    for one in report.published.beside:
        known, (low, high) = one.published, one.published.band
        alone = math.isnan(one.half)
        ours = with_error(one.mean, one.error) if alone else plus_minus(one.mean, one.half)
        source = known.source if known.checked else f"{known.source} (not checked)"
        told = [f"{known.value:g}", f"{low:g} to {high:g}", one.verdict, source]
        rows.append([one.row, known.metric, ours, *told])
    return rows


def certainty_rows(ranking: Ranking) -> Texts:
    """Return a row under ``CERTAINTY`` for each ranked method, best first."""
    rows = []
    for method, rank in ranking.ranks.items():
        spread = ranking.spreads[method]
        write = percent if ranking.is_log else number
        ties = [f"{name} ({seeds_text(seeds)})" for name, seeds in ranking.ties(method).items()]
        told = [write(spread.between), write(spread.within), number(spread.ratio, 2)]
        rows.append([method, rank_text(rank), *told, ", ".join(ties) or NOTHING])
    return rows


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


def escape_latex(text: str) -> str:
    """Escape what LaTeX would read as a command, and write our signs as its own."""
    return "".join(LATEX.get(letter, letter) for letter in one_line(text))


def latex(report: StudyReport) -> str:
    """Write a booktabs table for a paper; unfinished cells and notes go into its caption."""
    rest = [f"Not finished: {cell}, {status}." for cell, status, *_ in unfinished(report)]
    further = ["Further metrics of the same samples."]
    texts = []
    for given, caption in (
        (columns(report), [*notes(report), *rest]),
        (quality_columns(report), further),
    ):
        if chosen := [column for column in given if column.in_paper]:
            head = [column.title for column in chosen]
            texts.append(_latex_table(head, body(report, chosen), caption))
    if rows := published_rows(report):
        texts.append(_latex_table(PUBLISHED, [rows], ["Published values beside ours."]))
    return "\n".join(texts)


def _latex_table(head: Sequence[str], parts: Sequence[Texts], caption: Sequence[str]) -> str:
    """Write a table whose parts, each of several rows, have a rule between them."""
    lines = [
        "% needs \\usepackage{booktabs,graphicx}",
        r"\begin{table*}",
        r"\centering",
        rf"\caption{{{escape_latex(' '.join(caption))}}}",
        r"\resizebox{\linewidth}{!}{%",
        rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
        r"\toprule",
        _latex_row(head),
        *(line for part in parts if part for line in (r"\midrule", *map(_latex_row, part))),
        r"\bottomrule",
        r"\end{tabular}}",
        r"\end{table*}",
    ]
    return "\n".join(lines) + "\n"


def _latex_row(texts: Sequence[str]) -> str:
    return " & ".join(map(escape_latex, texts)) + r" \\"


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
    return json.dumps(_strict(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _strict(value: Any) -> Any:
    """Return a value as strict JSON has it: no NaN, and infinity as a text."""
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    if isinstance(value, dict):
        return {key: _strict(part) for key, part in value.items()}
    return [_strict(part) for part in value] if isinstance(value, list | tuple) else value


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
    # Every cell and anchor with its raw numbers at full precision.
    "csv": ("table.csv", lambda report: report.frame.to_csv(index=False)),
    "latex": ("table.tex", latex),
    "json": ("table.json", to_json),
}


def render_table(report: StudyReport, format: str = "md") -> str:
    """Write a study's table as ``md``, ``csv``, ``latex`` or ``json``; UserError if another."""
    if format not in FORMATS:
        raise unknown("format", format, FORMATS)
    return FORMATS[format][1](report)


def write_tables(report: StudyReport) -> list[Path]:
    """Write ``table.md``, ``.csv``, ``.tex`` and ``.json`` into the study, each atomically."""
    for name, write in FORMATS.values():
        write_text(report.folder / name, write(report))
    return [report.folder / name for name, _ in FORMATS.values()]
