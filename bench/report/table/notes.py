"""The sentences under the table: what the numbers are, and what may be claimed."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from bench.report.certainty import LEVEL, MIN_SEEDS, MOST_NEEDED
from bench.report.frame import TEXT, TOGETHER, USUAL, is_altered, is_comparable, of_one_source
from bench.report.ranking import sentence
from bench.report.study_report import StudyReport
from bench.report.table.columns import corrected, error_within, leading
from bench.report.table.numbers import MARK, UNBALANCED


def notes(report: StudyReport) -> list[str]:
    """Return the sentences under the table: what the numbers are, and what may be claimed."""
    cells, finished = report.cell_frame[[*TEXT]], report.finished[[*TEXT]]
    return [
        f"Study: {report.folder.name}.",
        *_data_notes(cells),
        *_provenance_notes(report),
        *_timing_notes(cells, finished),
        *_row_notes(report, cells, finished),
        *_published_notes(report),
        *_certainty_notes(report),
        *_rank_notes(report),
    ]


def _data_notes(cells: pd.DataFrame) -> Iterator[str]:
    told = cells[["dataset", "data_variant", "preset"]].drop_duplicates()
    for dataset, variant, preset in told.itertuples(index=False):
        yield f"Data: {dataset} (variant {variant}), preset {preset}."
    variants = zip(cells["dataset"], cells["data_variant"], strict=True)
    altered = {str(variant) for name, variant in variants if is_altered(name, variant)}
    for variant in sorted(altered):
        yield f"Data variant '{variant}': values are not comparable with published ones."


def _provenance_notes(report: StudyReport) -> Iterator[str]:
    """Yield one sentence per way of measuring, with the metrics that were measured so."""
    groups: dict[str, list[str]] = {}
    for name in report.metrics:
        groups.setdefault(measured(report.provenance.get(name, {})), []).append(name)
    for how, names in groups.items():
        yield f"{', '.join(names)}: {how}."


def measured(provenance: Mapping[str, Any]) -> str:
    """Say how a value was measured, as far as two must agree in it to be compared."""
    parts = [
        f"{key.replace('_', ' ')} "
        + (f"{str(value)[:12]}…" if "sha" in key or "hash" in key else str(value))
        for key, value in provenance.items()
        if is_comparable(key, value)
        and value not in (None, "")
        and (key in USUAL or not isinstance(value, (dict, list)))
    ]
    return ", ".join(parts) or "provenance not stored"


def _timing_notes(cells: pd.DataFrame, done: pd.DataFrame) -> Iterator[str]:
    """Say what the times are, which were taken in turn, and which on an unfit machine."""
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
    together = done.loc[done["timed"] == TOGETHER, "cell"].tolist()
    if together:
        named = "all cells" if len(together) == len(done) else ", ".join(together)
        yield f"ms of {named}: interleaved, bench time; see timing.md for paired ratios."
    reasons: dict[str, list[str]] = {}
    for method, rows in done[done["unfit"] != ""].groupby("method"):
        # Each reason once, and no more than a few; all are in the table as CSV.
        found = list(dict.fromkeys("; ".join(rows["unfit"]).split("; ")))
        more = [f"{len(found) - 3} more in table.csv"] if len(found) > 3 else []
        reasons.setdefault("; ".join(found[:3] + more), []).append(str(method))
    for told, methods in reasons.items():
        yield f"{MARK} {', '.join(methods)}: timed while the machine was not fit ({told})."


def _row_notes(report: StudyReport, cells: pd.DataFrame, done: pd.DataFrame) -> Iterator[str]:
    """Say whose ledger, source, first stage or origin is not as that of the others."""
    for cell, missed in cells.loc[cells["imbalance"] != "", ["cell", "imbalance"]].to_numpy():
        yield f"{UNBALANCED} {cell}: the parts of its ledger miss its wall clock by {missed}."
    noted: dict[str, list[str]] = {}
    for _, row in report.cells:
        for note in row.notes:
            noted.setdefault(note, []).append(row.cell)
    for note, found in noted.items():
        yield f"{'all cells' if len(found) == len(cells) > 1 else ', '.join(found)}: {note}."
    for method, rows in done[~of_one_source(done)].groupby("method"):
        made = "; ".join(map(": ".join, zip(rows["cell"], rows["source"], strict=True)))
        yield f"{method}: its seeds are of different source ({made}); it has no rank, run it again."
    for cell, told in cells.loc[cells["shared"] != "", ["cell", "shared"]].to_numpy():
        yield f"{cell}: {told}; trained once, charged in full to both."
    for name, rows in report.of_kind("foreign").groupby("method"):
        sources = "; ".join(rows["reason"])
        yield f"{name}: {sources}, made elsewhere at a cost unknown here; not ranked."


def _published_notes(report: StudyReport) -> Iterator[str]:
    """Say to which methods no published value applies, and why; and what the bands are."""
    found = report.published
    for reason, methods in found.reasons.items():
        yield f"No published value applies to {', '.join(methods)}: {reason}."
    if found.beside:
        yield "Published: 'inside' is said of our mean; outside, on either side, asks for a reason."
    bands: dict[str, dict[str, None]] = {}
    for one in found.beside:
        bands.setdefault(one.published.why, {})[one.published.source] = None
    for why, sources in bands.items():
        yield f"Band of {'; '.join(sources)}: {why}."


def _certainty_notes(report: StudyReport) -> Iterator[str]:
    """Say over how many seeds means are, what errors within one are, and what is corrected."""
    seeds = sorted({row["seeds"] for row in report.method_rows})
    told = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    meaning = "; ± is the half-width of the 95 % t interval over seeds" if seeds[-1] > 1 else ""
    yield f"Seeds: {told} finished per method{meaning}."
    names = corrected(report)
    rows = [*report.method_rows, *report.foreign_rows, *report.anchor_rows]
    if any(not math.isnan(error_within(row, name)) for row in rows for name in names):
        yield (
            "(se ...): standard error within the one seed, by a jackknife over blocks of its "
            "samples; no interval over seeds, since of another training it says nothing."
        )
    if names:
        yield (
            "corrected: less the jackknife's estimate of the term in 1/n, for infinitely many "
            "samples; it may be negative."
        )


def _rank_notes(report: StudyReport) -> Iterator[str]:
    found = report.rankings
    ranked = [one for one in found if one.ranks]
    if ranked:
        lead = leading(report)
        column = f' The column "rank" is by {lead.metric}.' if lead and lead.ranks else ""
        yield (
            "Ranks: 1 is best, and methods whose ranges overlap are tied. One model, method + "
            f"seed, compares all methods that share {MIN_SEEDS} seeds or more: distances and "
            "errors by their logarithms where all are positive, the others as they are, by the "
            "studentised range: the chance of any false separation by a metric is at most "
            f"{LEVEL * 100:g} %.{column}"
        )
        if lead and lead.ranks:
            yield (
                "sd: standard deviation, in % of logarithms; within: of one seed, by the "
                "jackknife. Seeds to separate: with them two tied methods would be told apart 8 "
                f"times of 10, if gap and spread stay; looked for up to {MOST_NEEDED}."
            )
        yield from map(sentence, ranked)
    bare = [one.metric for one in found if not one.ranks]
    if bare or (not found and min(row["seeds"] for row in report.method_rows) < MIN_SEEDS):
        by = f" by {', '.join(bare)}" if ranked else ""
        few = f"fewer than {MIN_SEEDS} seeds that two methods share"
        yield f"With {few} no rank{by} is claimed."
