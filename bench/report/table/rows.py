"""The rows of a study's tables as texts: methods and anchors, failures, certainty, published."""

import math
from collections.abc import Sequence

from bench.records import Status
from bench.report.ranking import Ranking, rank_text, seeds_text
from bench.report.study_report import StudyReport
from bench.report.table.columns import Column
from bench.report.table.numbers import NOTHING, number, percent, plus_minus, with_error

Texts = list[list[str]]
CERTAINTY = [
    "method", "rank", "sd between seeds", "sd within", "ratio", "tied with (seeds to separate)",
]  # fmt: skip
PUBLISHED = ["row", "metric", "ours", "published", "band", "ours is", "source"]


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
