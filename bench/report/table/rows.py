"""The table's rows as texts."""

import math
from collections.abc import Sequence

from bench.records import Status
from bench.report.study_report import StudyReport
from bench.report.summary import TableRow
from bench.report.table.columns import Column
from bench.report.table.numbers import NOTHING, plus_minus, with_error

Texts = list[list[str]]


def body(report: StudyReport, chosen: Sequence[Column]) -> tuple[Texts, Texts]:
    """Return the filled rows of the methods and those of the anchors."""

    def fill(rows: Sequence[TableRow]) -> Texts:
        return [[column.fill(row) for column in chosen] for row in rows]

    return fill([*report.method_rows, *report.foreign_rows]), fill(report.anchor_rows)


def unfinished(report: StudyReport) -> Texts:
    """Return cell, status, reason and log of each cell without a result."""
    shown = ["cell", "status", "reason", "log"]
    cells = report.cell_frame[shown]
    cells = cells[cells["status"] != str(Status.FINISHED)]
    return [[str(text or NOTHING) for text in row] for row in cells.itertuples(index=False)]


PUBLISHED = ["row", "metric", "ours", "published", "band", "ours is", "source"]


def published_rows(report: StudyReport) -> Texts:
    """Return a row under ``PUBLISHED`` for each published value that applies to the study."""
    return [
        [
            one.row,
            one.published.metric,
            with_error(one.mean, one.error)
            if math.isnan(one.half)
            else plus_minus(one.mean, one.half),
            f"{one.published.value:g}",
            f"{one.published.band[0]:g} to {one.published.band[1]:g}",
            one.verdict,
            one.published.source,
        ]
        for one in report.published.beside
    ]
