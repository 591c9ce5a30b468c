"""The table's columns: what stands in them for a method, foreign samples or an anchor."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from bench.records import direction, headline
from bench.report.ranking import Ranking, rank_text
from bench.report.study_report import StudyReport
from bench.report.summary import TableRow
from bench.report.table import numbers
from bench.report.table.numbers import NOTHING, number, with_half


@dataclass(frozen=True)
class Column:
    """A column of the table: its heading, and how a method's or an anchor's row fills it."""

    title: str
    fill: Callable[[TableRow], str]


def columns(report: StudyReport) -> list[Column]:
    """Build the table's columns for what the study measured."""
    return [
        Column("method", lambda row: str(row["method"])),
        Column("seeds", _seeds),
        *_rank_column(report),
        *(metric_column(name) for name in headline(report.metrics)),
        Column("NFE", calls),
        _time_column(report, "ms_per_image", "ms/image"),
        _time_column(report, "latency_ms", "latency ms"),
        Column("train FLOPs", lambda row: scaled(row, "cost.train_flops", "FLOP")),
        Column("images seen", lambda row: scaled(row, "cost.images_seen")),
        Column("train s", lambda row: seconds(row, "ledger.train")),
        Column("total s", lambda row: seconds(row, "ledger.wall")),
        Column("parameters", lambda row: scaled(row, "cost.parameters")),
        Column("peak memory", _memory),
    ]


def quality_columns(report: StudyReport) -> list[Column]:
    """Build the columns of the second table: what else was measured of the samples."""
    shown = headline(report.metrics)
    more = [metric_column(name) for name in report.metrics if name not in shown]
    more += [metric_column(name, ".corrected") for name in corrected(report)]
    return [Column("method", lambda row: str(row["method"])), *more] if more else []


def corrected(report: StudyReport) -> list[str]:
    """Return the metrics that have the jackknife's corrected value."""
    there = report.frame.columns
    return [name for name in report.metrics if f"metrics.{name}.corrected" in there]


def _rank_column(report: StudyReport) -> list[Column]:
    lead = leading(report)
    told = {method: rank_text(rank) for method, rank in lead.ranks.items()} if lead else {}
    return [Column("rank", lambda row: told.get(row["method"], NOTHING))] if told else []


def leading(report: StudyReport) -> Ranking | None:
    """Return the ranking by the first metric of the table that ranks."""
    names = headline(report.metrics)
    return next((one for one in report.rankings if one.metric in names), None)


def pair(row: TableRow, name: str) -> tuple[float, float]:
    """Return a row's number and its half-width, NaN where there is none."""
    return float(row.get(name, math.nan)), float(row.get(f"{name}:half", math.nan))


def scaled(row: TableRow, name: str, unit: str = "") -> str:
    """Write a row's large number with a prefix, and its half-width."""
    mean, half = pair(row, name)
    return numbers.scaled(mean, unit, half)


def seconds(row: TableRow, name: str) -> str:
    """Write a part of a row's ledger, marked where that does not sum to the wall clock."""
    mark = f" {numbers.UNBALANCED}" if row.get("ledger.unbalanced") else ""
    return f"{with_half(*pair(row, name))}{mark}"


def _memory(row: TableRow) -> str:
    return numbers.size(pair(row, "cost.peak_memory_bytes")[0])


def calls(row: TableRow) -> str:
    """Write a row's network evaluations an image: a count, unless seeds differ in it."""
    mean, half = pair(row, "cost.nfe")
    is_count = mean.is_integer() and numbers.is_plain(mean)
    return f"{mean:.0f}" if is_count else with_half(mean, half)


def _seeds(row: TableRow) -> str:
    return f"{row['seeds']}/{row['seeds_total']}" if "seeds" in row else NOTHING


def metric_column(name: str, part: str = "") -> Column:
    """Build a metric's column: a mean over seeds ± half-width, or a value (se error)."""

    def fill(row: TableRow) -> str:
        mean, half = pair(row, f"metrics.{name}{part}")
        if math.isnan(half):
            return numbers.with_error(mean, error_within(row, name))
        return numbers.plus_minus(mean, half)

    return Column(f"{name}{part.replace('.', ' ')} {direction(name)}".rstrip(), fill)


def error_within(row: TableRow, name: str) -> float:
    """Return the standard error within the seed of a row of one, else NaN."""
    alone = row.get(f"metrics.{name}:n", 1) == 1
    return float(row.get(f"metrics.{name}.error", math.nan)) if alone else math.nan


def _time_column(report: StudyReport, field: str, title: str) -> Column:
    """Build a timing's column: over seeds, median of the medians and the widest interval."""
    name = f"cost.{field}.batch"
    frame = report.frame
    batches = sorted(frame[name].dropna().unique()) if name in frame.columns else []
    sizes = ", ".join(f"{batch:.0f}" for batch in batches)

    def fill(row: TableRow) -> str:
        median, low, high = (row.get(f"time.{field}.{part}") for part in ("median", "low", "high"))
        if median is None or low is None or high is None or math.isnan(median):
            return NOTHING
        mark = f" {numbers.MARK}" if row.get("time.unfit") else ""
        return f"{number(median)} [{number(low)}, {number(high)}]{mark}"

    return Column(f"{title} (batch {sizes})" if sizes else title, fill)
