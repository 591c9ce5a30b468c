"""A comparison as Markdown, CSV and JSON."""

import csv
import io
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from bench.commands.compare import comparison
from bench.commands.compare.comparison import Compared, Comparison
from bench.config import unknown
from bench.report.certainty import LEVEL
from bench.report.table.formats import markdown_table
from bench.report.table.numbers import number, plus_minus, scaled

LARGE = 1e5
"""Numbers that are written with a prefix."""


def markdown(found: Comparison) -> str:
    """Write a comparison for reading."""
    parts = [f"A: {found.one}\nB: {found.other}\n"]
    parts.append(_lines("What differs between the studies", found.differences) or _ALIKE)
    for verdict, title in _SECTIONS.items():
        if rows := found.of(verdict):
            parts.append(f"{title}:\n\n{_table(rows, verdict)}")
    equal: dict[str, list[str]] = {}
    for row in found.of(comparison.EQUAL):
        equal.setdefault(row.method, []).append(row.what)
    lines = [f"{method}: {', '.join(names)}" for method, names in equal.items()]
    parts.append(_lines("Equal to the bit, seed by seed", lines))
    parts.append(_lines("Only in one", found.only))
    parts.append(_lines("Not compared", found.left_out))
    return "\n".join([*filter(None, parts), *(f"- {note}" for note in notes(found)), ""])


_ALIKE = "Nothing else differs: settings, data, commit, packages, device and yardsticks agree.\n"
_SECTIONS = {
    comparison.MOVED: "Moved beyond noise",
    comparison.STAYED: "Not moved beyond noise",
    comparison.UNKNOWN: "Not judged: there is no interval, or none that holds for another session",
    comparison.CHANGED: "Counted, changed",
}


def notes(found: Comparison) -> list[str]:
    """Say what the words mean, and of how many comparisons they are."""
    metrics, costs = found.tested("metric"), found.tested("measured")
    told = [
        f"{metrics} comparisons of metrics and {costs} of measured costs. Moved: p is at most "
        f"{LEVEL:g} after Holm's correction within each of the two, so that the chance of any "
        "false move of a metric is 5 %.",
        "B - A: the mean difference with the half-width of its own 95 % interval, which is not "
        "corrected.",
    ]
    if any(row.how.startswith("within") for row in found.rows):
        told.append(
            "Within a seed: against the error of the samples drawn; of another training it says "
            "nothing."
        )
    if any(row.kind == "measured" for row in found.rows):
        told.append(
            "Seconds and memory: the tests know what varies between the seeds of a study, not how "
            "the machine differs from one day to another; those of a single process, or of a "
            "machine that was not fit (the record's cost.unfit), are not judged at all."
        )
    return told


def _table(rows: Sequence[Compared], verdict: str) -> str:
    head = ["method", "what", "A", "B", "B - A", "change"]
    if verdict in {comparison.MOVED, comparison.STAYED}:
        head += ["p (Holm)", "from"]
    if verdict == comparison.MOVED:
        head.append("B is")
    return markdown_table(head, [_cells(row)[: len(head)] for row in rows])


def _cells(row: Compared) -> list[str]:
    """Write all columns, of which a table has the first."""
    is_large = abs(row.difference) >= LARGE
    means = (scaled(m, "") if abs(m) >= LARGE else number(m, 4) for m in (row.one, row.other))
    change = row.difference / abs(row.one) if row.one else math.nan
    return [
        row.method,
        row.what,
        *means,
        scaled(row.difference, "", row.half) if is_large else plus_minus(row.difference, row.half),
        "" if math.isnan(change) else f"{100 * change:+.3g} %",
        f"{row.p_holm:.2g}",
        row.how,
        {None: "", True: "better", False: "worse"}[row.is_better],
    ]


def _lines(title: str, lines: Sequence[str]) -> str:
    return "\n".join([f"{title}:\n", *(f"- {line}" for line in lines), ""]) if lines else ""


def to_json(found: Comparison) -> str:
    """Write a comparison for programs; a number that is not there is left out."""
    content = {
        "one": str(found.one),
        "other": str(found.other),
        "differences": found.differences,
        "comparisons": [_plain(row) for row in found.rows],
        "only": found.only,
        "left_out": found.left_out,
        "notes": notes(found),
    }
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _plain(row: Compared) -> dict[str, Any]:
    plain = {name: value for name, value in asdict(row).items() if value is not None}
    return {k: v for k, v in plain.items() if not isinstance(v, float) or math.isfinite(v)}


def to_csv(found: Comparison) -> str:
    """Write one line for each comparison, at full precision."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(Compared.__dataclass_fields__), lineterminator="\n")
    writer.writeheader()
    writer.writerows(_plain(row) for row in found.rows)
    return text.getvalue()


FORMATS: dict[str, Callable[[Comparison], str]] = {"md": markdown, "json": to_json, "csv": to_csv}


def render_comparison(
    one: Path, other: Path, format: str = "md", named: Sequence[str | Path] = ()
) -> str:
    """Compare two studies and write what was found as ``md``, ``json`` or ``csv``.

    ``named``: what to call the two, where they do not lie to stay.
    """
    if format not in FORMATS:
        raise unknown("format", format, FORMATS)
    found = comparison.compare(one, other)
    if named:
        found = replace(found, one=Path(named[0]), other=Path(named[1]))
    return FORMATS[format](found)
