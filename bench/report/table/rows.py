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
    rows = []
    for one in report.published.beside:
        known, (low, high) = one.published, one.published.band
        alone = math.isnan(one.half)
        ours = with_error(one.mean, one.error) if alone else plus_minus(one.mean, one.half)
        told = [f"{known.value:g}", f"{low:g} to {high:g}", one.verdict, known.source]
        rows.append([one.row, known.metric, ours, *told])
    return rows
