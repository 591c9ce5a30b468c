"""A study's table: Markdown for reading, LaTeX for a paper, CSV and JSON for further work."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import unknown
from bench.record import Status, write_text
from bench.report import published, ranking
from bench.report.frame import (
    TEXT,
    TOGETHER,
    aggregate,
    direction,
    headline,
    is_comparable,
    load_frame,
    metric_names,
    of_one_source,
)

if TYPE_CHECKING:
    import pandas as pd

NOTHING = "—"
MARK = "†"
"""Stands at times that were taken while the machine was not fit."""
UNBALANCED = "‡"
"""Stands at seconds of a ledger that does not sum to the wall clock."""
REASONS_SHOWN = 3

Row = Mapping[str, Any]


# Numbers for people -----------------------------------------------------------------------------


def number(value: float, digits: int = 3) -> str:
    """Write a number with so many significant digits, never in scientific notation."""
    if math.isnan(value):
        return NOTHING
    if value == 0 or math.isinf(value):
        return f"{value:.0f}"
    # Rounded first: 0.9996 has three significant digits as 1.00, not as 1.000.
    rounded = float(f"{value:.{digits - 1}e}")
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(rounded))))
    return f"{value:.{decimals}f}"


def plus_minus(mean: float, half: float) -> str:
    """Write a mean with its half-width, both to the half-width's second significant digit."""
    if math.isnan(half) or half <= abs(mean) * 1e-9:
        return number(mean, 4)
    decimals = min(6, max(0, 1 - math.floor(math.log10(half))))
    return f"{mean:.{decimals}f} ± {half:.{decimals}f}"


def with_error(value: float, error: float) -> str:
    """Write a value of one seed with its standard error within it, told apart from ±."""
    if math.isnan(error) or error <= 0:
        return number(value, 4)
    decimals = min(6, max(0, 1 - math.floor(math.log10(error))))
    return f"{value:.{decimals}f} (se {error:.{decimals}f})"


def scaled(value: float, unit: str, half: float = float("nan")) -> str:
    """Write a large number with a prefix: 1.2e13 with ``FLOP`` as ``12.0 TFLOP``."""
    if math.isnan(value):
        return NOTHING
    for power, prefix in ((18, "E"), (15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k")):
        # 999.6e9 rounds up to three digits of the next prefix.
        if abs(value) >= 0.9995 * 10**power:
            text = _with_half(value / 10**power, half / 10**power)
            return f"{text} {prefix}{unit}".rstrip()
    return f"{_with_half(value, half)} {unit}".rstrip()


def _with_half(value: float, half: float) -> str:
    visible = not math.isnan(half) and half > abs(value) * 5e-4
    return plus_minus(value, half) if visible else number(value)


def size(value: float) -> str:
    """Write bytes as MiB or GiB."""
    if math.isnan(value):
        return NOTHING
    large = value >= 2**30
    return f"{number(value / (2**30 if large else 2**20))} {'GiB' if large else 'MiB'}"


# Columns ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Column:
    """A column of the table: its heading, and how a method's or an anchor's row fills it."""

    title: str
    fill: Callable[[Row], str]
    in_paper: bool = True


def columns(frame: pd.DataFrame) -> list[Column]:
    """Build the table's columns for what the study measured."""
    return [
        Column("method", lambda row: str(row["method"])),
        Column("seeds", _seeds),
        *_rank_column(frame),
        *(_metric_column(name) for name in headline(metric_names(frame))),
        Column("NFE", lambda row: _calls(*_pair(row, "cost.nfe"))),
        _time_column(frame, "ms_per_image", "ms/image"),
        _time_column(frame, "latency_ms", "latency ms"),
        Column("train FLOPs", lambda row: _scaled(row, "cost.train_flops", "FLOP")),
        Column("images seen", lambda row: _scaled(row, "cost.images_seen", "")),
        Column("train s", lambda row: _seconds(row, "ledger.train")),
        Column("total s", lambda row: _seconds(row, "ledger.wall"), in_paper=False),
        Column("parameters", lambda row: _scaled(row, "cost.parameters", "")),
        Column(
            "peak memory",
            lambda row: size(_pair(row, "cost.peak_memory_bytes")[0]),
            in_paper=False,
        ),
    ]


def quality_columns(frame: pd.DataFrame) -> list[Column]:
    """Build the columns of the second table: what else was measured of the samples."""
    names = metric_names(frame)
    rest = [name for name in names if name not in headline(names)]
    more = [*map(_metric_column, rest), *map(_corrected_column, _corrected(frame))]
    return [Column("method", lambda row: str(row["method"])), *more] if more else []


def _corrected(frame: pd.DataFrame) -> list[str]:
    """Return the metrics that have the jackknife's corrected value."""
    return [name for name in metric_names(frame) if f"metrics.{name}.corrected" in frame.columns]


def _rank_column(frame: pd.DataFrame) -> list[Column]:
    """Build the column of ranks by the leading metric, where any is claimed."""
    lead = _lead(frame)
    if lead is None or not lead.ranks:
        return []

    def fill(row: Row) -> str:
        rank = lead.ranks.get(str(row["method"]))
        return NOTHING if rank is None else ranking.rank_text(rank)

    return [Column("rank", fill)]


def _lead(frame: pd.DataFrame) -> ranking.Ranking | None:
    """Return the ranking by the first metric of the table that ranks."""
    names = headline(metric_names(frame))
    return next((one for one in ranking.rankings(frame) if one.metric in names), None)


def _pair(row: Row, name: str) -> tuple[float, float]:
    return float(row.get(name, math.nan)), float(row.get(f"{name}:half", math.nan))


def _scaled(row: Row, name: str, unit: str) -> str:
    mean, half = _pair(row, name)
    return scaled(mean, unit, half)


def _seconds(row: Row, name: str) -> str:
    mark = f" {UNBALANCED}" if row.get("ledger.unbalanced") else ""
    return f"{_with_half(*_pair(row, name))}{mark}"


def _calls(mean: float, half: float) -> str:
    return f"{mean:.0f}" if mean.is_integer() else _with_half(mean, half)


def _seeds(row: Row) -> str:
    return f"{row['seeds']}/{row['seeds_total']}" if "seeds" in row else NOTHING


def _metric_column(name: str) -> Column:
    title = f"{name} {direction(name)}".rstrip()
    return Column(title, lambda row: _quality(row, name))


def _corrected_column(name: str) -> Column:
    title = f"{name} corrected {direction(name)}".rstrip()
    return Column(title, lambda row: _quality(row, name, ".corrected"))


def _quality(row: Row, name: str, part: str = "") -> str:
    """Write a metric's mean with its interval over seeds; of one seed, with the error within."""
    pair = _pair(row, f"metrics.{name}{part}")
    return with_error(pair[0], _error(row, name)) if math.isnan(pair[1]) else plus_minus(*pair)


def _error(row: Row, name: str) -> float:
    """Return the standard error within the seed of a row of one, else NaN."""
    alone = row.get(f"metrics.{name}:n", 1) == 1
    return float(row.get(f"metrics.{name}.error", math.nan)) if alone else math.nan


def _time_column(frame: pd.DataFrame, field: str, title: str) -> Column:
    """Build a timing's column: over seeds, median of the medians and the widest interval."""
    name = f"cost.{field}.batch"
    batches = sorted(frame[name].dropna().unique()) if name in frame.columns else []
    sizes = ", ".join(f"{batch:.0f}" for batch in batches)

    def fill(row: Row) -> str:
        median, low, high = (row.get(f"time.{field}.{part}") for part in ("median", "low", "high"))
        if median is None or low is None or high is None or math.isnan(median):
            return NOTHING
        mark = f" {MARK}" if row.get("time.unfit") else ""
        return f"{number(median)} [{number(low)}, {number(high)}]{mark}"

    return Column(f"{title} (batch {sizes})" if sizes else title, fill)


def method_rows(frame: pd.DataFrame) -> list[Row]:
    """Return one mapping per method: the aggregate, and timings as ``time.<field>.<part>``."""
    done = frame[(frame["kind"] == "cell") & (frame["status"] == str(Status.FINISHED))]
    summary: list[dict[str, Any]] = aggregate(frame).to_dict("records")  # type: ignore[assignment]
    return [row | _times(done[done["method"] == row["method"]]) for row in summary]


def _times(done: pd.DataFrame) -> dict[str, Any]:
    times: dict[str, Any] = {
        "time.unfit": bool((done["unfit"] != "").any()),
        "ledger.unbalanced": bool((done["imbalance"] != "").any()),
    }
    for field in ("ms_per_image", "latency_ms"):
        if f"cost.{field}.median" in done.columns:
            times |= {
                f"time.{field}.median": float(done[f"cost.{field}.median"].median()),
                f"time.{field}.low": float(done[f"cost.{field}.low"].min()),
                f"time.{field}.high": float(done[f"cost.{field}.high"].max()),
            }
    return times


def foreign_rows(frame: pd.DataFrame) -> list[Row]:
    """Return one mapping per set of samples from elsewhere; they carry metrics and no cost."""
    rows: list[Any] = aggregate(frame, "foreign").to_dict("records")
    return rows


def anchor_rows(frame: pd.DataFrame) -> list[Row]:
    """Return one mapping per anchor; they carry metrics and no cost."""
    rows: list[Any] = frame[frame["kind"] == "anchor"].to_dict("records")
    return rows


def body(frame: pd.DataFrame, chosen: Sequence[Column]) -> tuple[list[list[str]], list[list[str]]]:
    """Return the filled rows of the methods and those of the anchors."""

    def fill(rows: list[Row]) -> list[list[str]]:
        return [[column.fill(row) for column in chosen] for row in rows]

    return fill([*method_rows(frame), *foreign_rows(frame)]), fill(anchor_rows(frame))


# Notes ------------------------------------------------------------------------------------------


def notes(frame: pd.DataFrame) -> list[str]:
    """Return the sentences under the table: what the numbers are, and what may be claimed."""
    cells = frame[frame["kind"] == "cell"]
    return [
        *_data_notes(cells),
        *_provenance_notes(frame),
        *_timing_notes(cells),
        *_fitness_notes(cells),
        *_ledger_notes(cells),
        *_source_notes(cells),
        *_shared_notes(cells),
        *_foreign_notes(frame),
        *_published_notes(frame),
        *_certainty_notes(frame),
    ]


def _data_notes(cells: pd.DataFrame) -> Iterator[str]:
    pairs = cells[["dataset", "data_variant", "preset"]].drop_duplicates()
    for _, row in pairs.iterrows():
        yield f"Data: {row['dataset']} (variant {row['data_variant']}), preset {row['preset']}."
    for variant in _altered(cells):
        yield f"Data variant '{variant}': values are not comparable with published ones."


def _altered(cells: pd.DataFrame) -> list[str]:
    variants = zip(cells["dataset"], cells["data_variant"], strict=True)
    return sorted({str(v) for d, v in variants if v != d or "jpeg" in str(v).lower()})


def _provenance_notes(frame: pd.DataFrame) -> Iterator[str]:
    """Yield one sentence per way of measuring, with the metrics that were measured so."""
    provenance = frame.attrs["provenance"]
    groups: dict[str, list[str]] = {}
    for name in metric_names(frame):
        groups.setdefault(measured(provenance.get(name, {})), []).append(name)
    for how, names in groups.items():
        yield f"{', '.join(names)}: {how}."


def measured(provenance: Mapping[str, Any]) -> str:
    """Say how a value was measured, as far as two must agree in it to be compared."""
    parts = [
        f"{key.replace('_', ' ')} {_hash_or_text(key, value)}"
        for key, value in provenance.items()
        if is_comparable(key) and not isinstance(value, (dict, list)) and value not in (None, "")
    ]
    return ", ".join(parts) or "provenance not stored"


def _hash_or_text(key: str, value: object) -> str:
    text = str(value)
    return f"{text[:12]}…" if "sha" in key or "hash" in key else text


def _timing_notes(cells: pd.DataFrame) -> Iterator[str]:
    devices = sorted({str(device) for device in cells["device"].dropna()})
    if devices:
        yield f"Device: {'; '.join(devices)}."
    if len(devices) > 1:
        yield "Seconds and milliseconds of different devices do not compare."
    yield (
        "ms: median over repeated batches after warm-up [95 % interval]; over seeds, the median "
        "of the medians and the widest interval. NFE: network calls per image, counted. "
        "FLOPs: 2 per multiply-add, all networks of all objectives."
    )


def _fitness_notes(cells: pd.DataFrame) -> Iterator[str]:
    """Say which times were taken in turn, and which while the machine was not fit."""
    done = cells[cells["status"] == str(Status.FINISHED)]
    together = done.loc[done["timed"] == TOGETHER, "cell"].tolist()
    if together:
        named = "all cells" if len(together) == len(done) else ", ".join(together)
        yield f"ms of {named}: interleaved, bench time; see timing.md for paired ratios."
    reasons: dict[str, list[str]] = {}
    for method, rows in done[done["unfit"] != ""].groupby("method"):
        reasons.setdefault(_shortened("; ".join(rows["unfit"])), []).append(str(method))
    for told, methods in reasons.items():
        yield f"{MARK} {', '.join(methods)}: timed while the machine was not fit ({told})."


def _shortened(reasons: str) -> str:
    """Name each reason once, and no more than a few; all are in the table as CSV."""
    found = list(dict.fromkeys(reasons.split("; ")))
    more = len(found) - REASONS_SHOWN
    return "; ".join(found[:REASONS_SHOWN]) + (f"; {more} more in table.csv" if more > 0 else "")


def _ledger_notes(cells: pd.DataFrame) -> Iterator[str]:
    """Say which ledgers do not sum to the wall clock."""
    for cell, missed in zip(cells["cell"], cells["imbalance"], strict=True):
        if missed:
            yield f"{UNBALANCED} {cell}: the parts of its ledger miss its wall clock by {missed}."


def _source_notes(cells: pd.DataFrame) -> Iterator[str]:
    """Say which methods' seeds were not made by the same source."""
    done = cells[cells["status"] == str(Status.FINISHED)]
    for method, rows in done[~of_one_source(done)].groupby("method"):
        made = "; ".join(map(": ".join, zip(rows["cell"], rows["source"], strict=True)))
        yield f"{method}: its seeds are of different source ({made}); it has no rank, run it again."


def _shared_notes(cells: pd.DataFrame) -> Iterator[str]:
    """Say which cells took a first stage over from another."""
    for cell, told in zip(cells["cell"], cells["shared"], strict=True):
        if told:
            yield f"{cell}: {told}; trained once, charged in full to both."


def _foreign_notes(frame: pd.DataFrame) -> Iterator[str]:
    """Say which rows are of samples from elsewhere."""
    for name, rows in frame[frame["kind"] == "foreign"].groupby("method"):
        sources = "; ".join(rows["reason"])
        yield f"{name}: {sources}, made elsewhere at a cost unknown here; not ranked."


def _published_notes(frame: pd.DataFrame) -> Iterator[str]:
    """Say to which methods no published value applies, and why; and what the bands are."""
    found = published.compare(frame)
    for reason, methods in found.reasons.items():
        yield f"No published value applies to {', '.join(methods)}: {reason}."
    if found.beside:
        yield "Published: 'inside' is said of our mean; outside, on either side, asks for a reason."
    for why, sources in _grouped((one.published.why, one.published.source) for one in found.beside):
        yield f"Band of {'; '.join(sources)}: {why}."


def _grouped(pairs: Iterable[tuple[str, str]]) -> Iterator[tuple[str, list[str]]]:
    groups: dict[str, list[str]] = {}
    for key, value in pairs:
        if value not in groups.setdefault(key, []):
            groups[key].append(value)
    yield from groups.items()


def _certainty_notes(frame: pd.DataFrame) -> Iterator[str]:
    summary = aggregate(frame)
    seeds = sorted(set(summary["seeds"]))
    told = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    meaning = "; ± is the half-width of the 95 % t interval over seeds" if seeds[-1] > 1 else ""
    yield f"Seeds: {told} finished per method{meaning}."
    yield from _jackknife_notes(frame)
    yield from _rank_notes(frame, fewest=seeds[0])


def _jackknife_notes(frame: pd.DataFrame) -> Iterator[str]:
    """Say what the errors within a seed are, where the table shows any, and what is corrected."""
    names = _corrected(frame)
    rows = [*method_rows(frame), *foreign_rows(frame), *anchor_rows(frame)]
    if any(not math.isnan(_error(row, name)) for row in rows for name in names):
        yield (
            "(se ...): standard error within the one seed, by a jackknife over blocks of its "
            "samples; no interval over seeds, since of another training it says nothing."
        )
    if names:
        yield (
            "corrected: less the jackknife's estimate of the term in 1/n, for infinitely many "
            "samples; it may be negative."
        )


def _rank_notes(frame: pd.DataFrame, fewest: int) -> Iterator[str]:
    found = ranking.rankings(frame)
    ranked = [one for one in found if one.ranks]
    if ranked:
        lead = _lead(frame)
        column = f' The column "rank" is by {lead.metric}.' if lead and lead.ranks else ""
        yield (
            "Ranks: 1 is best, and methods whose ranges overlap are tied. Every two methods are "
            f"compared by a paired t test on the seeds that both have, {ranking.MIN_SEEDS} or "
            "more, with Holm's correction over the pairs of a metric (5 % in all); a range "
            f"leaves room for all from which a method was not separated.{column}"
        )
        seeds, tests, hurdle = ranked[0].hurdle
        if tests:
            yield (
                f"With {seeds} seeds and {tests} pairs ({ranked[0].metric}) the clearest gap "
                f"must be {number(hurdle)} times its standard error to count: more seeds separate "
                "more."
            )
        yield from map(ranking.sentence, ranked)
    bare = [one.metric for one in found if not one.ranks]
    if bare or (not found and fewest < ranking.MIN_SEEDS):
        by = f" by {', '.join(bare)}" if ranked else ""
        few = f"fewer than {ranking.MIN_SEEDS} seeds that two methods share"
        yield f"With {few} no rank{by} is claimed."


def unfinished(frame: pd.DataFrame) -> list[list[str]]:
    """Return cell, status, reason and log of each cell without a result."""
    cells = frame[(frame["kind"] == "cell") & (frame["status"] != str(Status.FINISHED))]
    return [
        [str(row[name] or NOTHING) for name in ("cell", "status", "reason", "log")]
        for _, row in cells.iterrows()
    ]


PUBLISHED = ["row", "metric", "ours", "published", "band", "ours is", "source"]


def published_rows(frame: pd.DataFrame) -> list[list[str]]:
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
        for one in published.compare(frame).beside
    ]


# Formats ----------------------------------------------------------------------------------------


def markdown(frame: pd.DataFrame) -> str:
    """Write the table with anchors, unfinished cells and notes, aligned for a terminal too."""
    parts = []
    for chosen in filter(None, (columns(frame), quality_columns(frame))):
        methods, anchors = body(frame, chosen)
        parts.append(markdown_table([column.title for column in chosen], methods + anchors))
    if rows := published_rows(frame):
        parts += ["Published:\n", markdown_table(PUBLISHED, rows)]
    if rest := unfinished(frame):
        parts += ["Not finished:\n", markdown_table(["cell", "status", "reason", "log"], rest)]
    parts.append("\n".join(f"- {note}" for note in notes(frame)) + "\n")
    return "\n".join(parts)


def markdown_table(head: list[str], rows: list[list[str]]) -> str:
    """Write a Markdown table whose columns are aligned for a terminal too."""
    clean = [[_one_line(text).replace("|", "\\|") for text in row] for row in [head, *rows]]
    widths = [max(map(len, column)) for column in zip(*clean, strict=True)]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in clean]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines) + "\n"


def _one_line(text: str) -> str:
    return " ".join(text.split())


LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "±": r"$\pm$", "↓": r"$\downarrow$", "↑": r"$\uparrow$", "≈": r"$\approx$",
    ">": r"$>$", "<": r"$<$", "|": r"\textbar{}", "—": "--", "…": r"\ldots{}",
    "‡": r"$\ddagger$", "†": r"$\dagger$",
}  # fmt: skip


def escape_latex(text: str) -> str:
    """Escape what LaTeX would read as a command, and write our signs as its own."""
    return "".join(LATEX.get(letter, letter) for letter in _one_line(text))


def latex(frame: pd.DataFrame) -> str:
    """Write a booktabs table for a paper; unfinished cells and notes go into its caption."""
    caption = [*notes(frame), *(f"Not finished: {row[0]}, {row[1]}." for row in unfinished(frame))]
    tables = [(columns(frame), caption)]
    if rest := quality_columns(frame):
        tables.append((rest, ["Further metrics of the same samples."]))
    texts = [_latex_of(frame, *given) for given in tables]
    if rows := published_rows(frame):
        texts.append(_latex_table(PUBLISHED, [rows], ["Published values beside ours."]))
    return "\n".join(texts)


def _latex_of(frame: pd.DataFrame, given: Sequence[Column], caption: Sequence[str]) -> str:
    chosen = [column for column in given if column.in_paper]
    return _latex_table([column.title for column in chosen], body(frame, chosen), caption)


def _latex_table(
    head: Sequence[str], parts: Sequence[Sequence[Sequence[str]]], caption: Sequence[str]
) -> str:
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


def csv(frame: pd.DataFrame) -> str:
    """Write every cell and anchor with its raw numbers at full precision."""
    return frame.to_csv(index=False)


def to_json(frame: pd.DataFrame) -> str:
    """Write cells, anchors, the aggregate per method, provenance and notes; no NaN in it."""
    cells = frame[frame["kind"] == "cell"]
    content = {
        "cells": _plain(cells),
        "foreign": _plain(frame[frame["kind"] == "foreign"]),
        "anchors": _plain(frame[frame["kind"] == "anchor"]),
        "methods": _plain(aggregate(frame)),
        "rankings": [_ranking(one) for one in ranking.rankings(frame)],
        "published": [_published(one) for one in published.compare(frame).beside],
        "provenance": frame.attrs["provenance"],
        "notes": notes(frame),
    }
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _ranking(one: ranking.Ranking) -> dict[str, Any]:
    pairs = [
        {
            "methods": [pair.one, pair.other],
            "seeds": pair.test.count,
            **_known(difference=pair.test.mean, half=pair.test.half),
            **_known(p=pair.test.p, p_holm=pair.adjusted),
            "apart": pair.is_apart,
        }
        for pair in one.pairs
    ]
    return {
        "metric": one.metric,
        "ranks": one.ranks,
        "unranked": one.unranked,
        "pairs": pairs,
    }


def _published(one: published.Beside) -> dict[str, Any]:
    named = {"row": one.row, **one.published.model_dump(exclude={"rows"}), "verdict": one.verdict}
    return named | {"ours": one.mean} | _known(half=one.half, error=one.error)


def _known(**numbers: float) -> dict[str, float]:
    """Return the numbers that are there."""
    return {name: value for name, value in numbers.items() if math.isfinite(value)}


def _plain(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return rows of Python's own types; what is missing is left out, but for text columns."""
    rows = []
    for _, row in frame.iterrows():
        values = {str(name): _python(value) for name, value in row.items()}
        rows.append({k: v for k, v in values.items() if v is not None or k in TEXT})
    return rows


def _python(value: Any) -> Any:
    import pandas as pd

    if pd.isna(value):
        return None
    value = value.item() if hasattr(value, "item") else value
    return str(value) if isinstance(value, float) and math.isinf(value) else value


FORMATS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "md": ("table.md", markdown),
    "csv": ("table.csv", csv),
    "latex": ("table.tex", latex),
    "json": ("table.json", to_json),
}


def render(study: Path, format: str = "md") -> str:
    """Write a study's table as ``md``, ``csv``, ``latex`` or ``json``.

    Raises:
        UserError: an unknown format, no cells, or values that were not measured alike.
    """
    if format not in FORMATS:
        raise unknown("format", format, FORMATS)
    return FORMATS[format][1](load_frame(study))


def write_tables(study: Path) -> list[Path]:
    """Write ``table.md``, ``.csv``, ``.tex`` and ``.json`` into the study, each atomically."""
    frame = load_frame(study)
    paths = []
    for name, write in FORMATS.values():
        write_text(study / name, write(frame))
        paths.append(study / name)
    return paths
