"""A comparison for people (Markdown) and for programs (JSON)."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.speed.verdicts import Comparison, Row

HEADER = ("benchmark", "base ms", "current ms", "ratio", "interval", "threshold", "verdict")


@dataclass(frozen=True)
class Report:
    """What was compared, and what came of it."""

    base: str
    current: str
    rows: Sequence[Row]
    remarks: Sequence[str] = ()
    failure: str | None = None
    """Why there is nothing to judge."""

    @property
    def is_red(self) -> bool:
        """Whether the check fails."""
        return bool(self.red or self.failure)

    @property
    def red(self) -> list[Row]:
        """What the check fails for."""
        return [row for row in self.rows if row.red]

    @property
    def conclusion(self) -> str:
        """One line."""
        if self.failure:
            return f"red: {self.failure}"
        if self.red:
            return f"red: {', '.join(f'{row.name} ({row.verdict})' for row in self.red)}"
        compared = sum(row.first is not None for row in self.rows)
        return f"green: {compared} of {len(self.rows)} benchmarks compared, none became slower"


def markdown(report: Report) -> str:
    """The table, its notes, and the conclusion."""
    lines = [f"base: {report.base}", f"current: {report.current}", *report.remarks, ""]
    lines += aligned([HEADER, *map(cells, report.rows)])
    notes = [f"- {row.name}: {note}" for row in report.rows for note in told(row)]
    return "\n".join([*lines, "", *notes, *([""] if notes else []), report.conclusion, ""])


def told(row: Row) -> list[str]:
    """Notes on a row, that of a second measurement included."""
    second = [] if row.again is None else [f"once more: {timing(row.again)}"]
    return [*second, *row.notes]


def timing(found: Comparison) -> str:
    low, high = found.interval
    return f"{found.ratio:.3f} ({low:.2f} to {high:.2f}), threshold {found.threshold:.2f}"


def cells(row: Row) -> tuple[str, ...]:
    """A row of the table."""
    verdict = f"{row.verdict} (accepted)" if row.accepted else str(row.verdict)
    if row.first is None:
        now = "" if row.seconds is None else milliseconds(row.seconds)
        return row.name, "", now, "", "", "", verdict
    found = row.first
    low, high = found.interval
    times = milliseconds(found.base), milliseconds(found.current)
    numbers = f"{found.ratio:.3f}", f"{low:.2f} to {high:.2f}", f"{found.threshold:.2f}"
    return row.name, *times, *numbers, verdict


def milliseconds(seconds: float) -> str:
    """Four significant digits."""
    value = 1000 * seconds
    return f"{value:.{max(0, 3 - math.floor(math.log10(value)))}f}" if value > 0 else "0"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table that reads well as it is; numbers are right-aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    ends = {0, len(widths) - 1}

    def line(row: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if index in ends else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |"

    rule = ["-" * w if i in ends else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    return [line(rows[0]), line(rule), *map(line, rows[1:])]


def as_json(report: Report) -> str:
    """All numbers of the report."""
    content = {
        "base": report.base,
        "current": report.current,
        "remarks": list(report.remarks),
        "failure": report.failure,
        "red": [row.name for row in report.red],
        "benchmarks": [_row(row) for row in report.rows],
    }
    return json.dumps(content, indent=1) + "\n"


def _row(row: Row) -> dict[str, Any]:
    return {
        "name": row.name,
        "verdict": row.verdict.value,
        "red": row.red,
        "accepted": row.accepted,
        "first": _comparison(row.first),
        "again": _comparison(row.again),
        "current_seconds": row.seconds if row.first is None else row.first.current,
        "notes": list(row.notes),
    }


def _comparison(found: Comparison | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "base_seconds": found.base,
        "current_seconds": found.current,
        "ratio": found.ratio,
        "interval": list(found.interval),
        "threshold": found.threshold,
        "noise": found.noise,
    }
