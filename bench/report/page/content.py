"""What the page of a study says: the same records give the same content."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.records import direction, headline
from bench.report.certainty import MIN_SEEDS
from bench.report.page.references import MISSES, bibtex
from bench.report.plots.drawing import SEEDS, WITHIN, PlottedStudy, Z
from bench.report.plots.quality import measured
from bench.report.ranking import Ranking, rank_text, seeds_text
from bench.report.study_report import StudyReport
from bench.report.summary import TableRow
from bench.report.table import columns, numbers
from bench.report.table.formats import placeless
from bench.report.table.notes import measured as how_measured
from bench.report.table.notes import notes
from bench.report.table.rows import CERTAINTY, certainty_rows, published_rows, unfinished
from bench.report.titles import metric_title, metric_words

COSTS = {
    "cost.train_flops": "training compute, FLOP",
    "ledger.train": "training time, s",
    "cost.images_seen": "images seen in training",
    "time.ms_per_image.median": "sampling time, ms/image",
    "time.latency_ms.median": "latency of one image, ms",
    "cost.nfe": "network evaluations an image",
    "cost.peak_memory_bytes": "peak memory, bytes",
}
"""What quality is drawn against."""
BARS = {SEEDS: "95 % t interval over seeds", WITHIN: f"{Z:g} standard errors within one seed"}
"""What an error bar is of, in words."""
FEW = 3
"""Methods beyond this many are not named in an answer: the table of certainty has all."""
VERDICTS = ("better than", "worse than", "not told apart from", "never compared with")
LOG_LINES = 12
"""Lines of a failed cell's log that stand on the page."""


def page_content(report: StudyReport) -> dict[str, Any]:
    """Return all that the template and the script are given; numbers that are none are ``None``."""
    looks = PlottedStudy.of(report).looks
    return {
        "name": report.folder.name,
        "head": list(head(report)),
        "answers": [answer(report, ranking) for ranking in report.rankings],
        "scoreboard": scoreboard(report),
        "data": {
            "costs": COSTS,
            "metrics": [
                {
                    "name": name,
                    "title": sentence_case(metric_words(name)),
                    "better": direction(name),
                }
                for name in report.metrics
            ],
            "methods": [method(report, row, looks) for row in report.method_rows if row["seeds"]],
            "levels": {name: levels(report, name) for name in report.metrics},
        },
        "certainty": [
            {
                "title": f"{metric_words(one.metric)}{', by logarithms' * one.is_log}",
                "head": CERTAINTY,
                "rows": certainty_rows(one),
            }
            for one in report.rankings
            if one.ranks
        ],
        "timing": list(timing(report)),
        "misses": [
            {"title": sentence_case(words), "text": text} for words, text in misses(report.metrics)
        ],
        "unfinished": list(failures(report)),
        "published": published_rows(report),
        "notes": [placeless(note, report.folder) for note in notes(report)],
        "commands": list(commands(report)),
        "environment": list(environment(report)),
        "bibtex": bibtex(sorted({one.split(":")[0] for one in report.cell_frame["method"]})),
    }


def sentence_case(text: str) -> str:
    """Begin a text with a capital letter."""
    return text[:1].upper() + text[1:]


def head(report: StudyReport) -> Iterator[tuple[str, str]]:
    """Yield what was run: names of facts and what they are, of several all."""
    cells = report.cell_frame
    told = {
        "Data": "dataset", "Variant": "data_variant", "Preset": "preset", "Device": "device",
    }  # fmt: skip
    for title, column in told.items():
        found = sorted({str(value) for value in cells[column].dropna() if value})
        if found and not (title == "Variant" and found == sorted({*cells["dataset"]})):
            yield title, "; ".join(found)
    seeds = sorted({int(seed) for seed in cells["seed"].dropna()})
    yield "Seeds", ", ".join(map(str, seeds))
    commits = report.finished[["commit", "dirty"]].dropna(subset="commit").drop_duplicates()
    if len(commits):
        yield (
            "Commit",
            ", ".join(
                f"{commit[:12]}{' with changes' * bool(dirty)}"
                for commit, dirty in commits.to_numpy()
            ),
        )
    ended = [str(moment)[:10] for moment in cells["ended"].dropna() if moment]
    if ended:
        yield "Date", max(ended)
    count = len(cells)
    yield "Cells", f"{len(report.finished)} of {count} finished"


def answer(report: StudyReport, ranking: Ranking) -> dict[str, Any]:
    """Say in a sentence which method leads by a metric, and which are told apart from it."""
    by, means = sentence_case(metric_words(ranking.metric)), _means(report, ranking.metric)
    sign = 1 if direction(ranking.metric) == "↓" else -1
    lead = next(iter(ranking.ranks), None) or min(means, key=lambda name: sign * means[name])
    row = next(row for row in report.method_rows if row["method"] == lead)
    told = f"{lead}, {columns.metric_column(ranking.metric).fill(row)}"
    what = {"metric": ranking.metric, "leads": ranking.metric in headline(report.metrics)}
    if not ranking.ranks:
        few = f"fewer than {MIN_SEEDS} seeds that two methods share, so no order is claimed"
        return what | {"text": f"{by}: the best mean has {told}; {few}."}
    gaps = {
        (pair.other if pair.one == lead else pair.one): (pair, sign if pair.one == lead else -sign)
        for pair in ranking.pairs
        if lead in (pair.one, pair.other)
    }
    found: dict[str, dict[str, float]] = {}
    for name in ranking.ranks.keys() - {lead} & gaps.keys():
        pair, turn = gaps[name]
        verdict = "better than" if turn * pair.gap.mean < 0 else "worse than"
        if not pair.gap.is_apart:
            verdict = "never compared with" if math.isnan(pair.gap.half) else "not told apart from"
        found.setdefault(verdict, {})[name] = pair.gap.needed
    order = [verdict for verdict in VERDICTS if verdict in found]
    text = ", ".join(f"{verdict} {_some(found[verdict], ranking)}" for verdict in order)
    left = [name for name in means if name not in ranking.ranks]
    more = f" Not compared: {_listed(left)}, of too few shared seeds, or mixed." if left else ""
    return what | {"text": f"{by}: first is {told}; {text}.{more}"}


def _some(needed: Mapping[str, float], ranking: Ranking) -> str:
    """Name methods in their order, few by name, with the seeds that would separate what is tied."""
    names = [name for name in ranking.ranks if name in needed]
    known = [seeds for seeds in needed.values() if not math.isnan(seeds)]
    if len(names) > FEW:
        more = (
            f" ({seeds_text(min(known))} seeds would separate the first of them)" if known else ""
        )
        return f"{len(names)} others{more}"
    return _listed([
        name if math.isnan(needed[name]) else f"{name} ({seeds_text(needed[name])} seeds would do)"
        for name in names
    ])  # fmt: skip


def _listed(names: Sequence[str]) -> str:
    *before, last = names
    return f"{', '.join(before)} and {last}" if before else last


def _means(report: StudyReport, metric: str) -> dict[str, float]:
    found = {row["method"]: _number(row, f"metrics.{metric}") for row in report.method_rows}
    return {name: mean for name, mean in found.items() if mean is not None}


def scoreboard(report: StudyReport) -> dict[str, Any]:
    """Return the table's columns and rows: texts, and the numbers that rows are sorted by."""
    lead = columns.leading(report)
    ranks = {name: rank_text(rank) for name, rank in lead.ranks.items()} if lead else {}
    quality = headline(report.metrics)[:2]
    cost = ["cost.nfe", "time.ms_per_image.median", "cost.train_flops", "ledger.train"]
    titles = ["NFE", "ms/image", "train FLOP", "train s"]
    told = [
        _column("method", "method", "Method, and its variant."),
        *([_column("rank", "rank", f"By {metric_words(lead.metric)}.")] if lead and ranks else []),
        *(
            _column(
                f"metrics.{name}", f"{metric_title(name)} {direction(name)}".rstrip(),
                protocol(report, name), sorted(report.best(name)), extra=name not in quality,
            )
            for name in report.metrics
        ),
        *(_column(key, title, COSTS[key]) for key, title in zip(cost, titles, strict=True)),
    ]  # fmt: skip
    rows = [*report.method_rows, *report.foreign_rows, *report.anchor_rows]
    anchors = {row["method"] for row in report.anchor_rows}
    filled = []
    for row in rows:
        texts = {"method": str(row["method"]), "rank": ranks.get(row["method"], numbers.NOTHING)}
        texts |= {f"metrics.{n}": columns.metric_column(n).fill(row) for n in report.metrics}
        texts |= {
            "cost.nfe": columns.calls(row),
            "time.ms_per_image.median": numbers.number(_number(row, cost[1], math.nan)),
            "cost.train_flops": columns.scaled(row, "cost.train_flops"),
            "ledger.train": columns.seconds(row, "ledger.train"),
        }
        keys = [column["key"] for column in told]
        best = ranks.get(row["method"], "").split("-")[0]
        sort = {key: _number(row, key) for key in keys} | {"rank": float(best) if best else None}
        filled.append(
            {"texts": texts, "sort": sort, "method": row["method"],
             "is_anchor": row["method"] in anchors, "unfit": bool(row.get("time.unfit"))}
        )  # fmt: skip
    return {"columns": told, "rows": filled}


def _column(
    key: str, title: str, about: str, best: Sequence[str] = (), *, extra: bool = False
) -> dict[str, Any]:
    return {"key": key, "title": title, "about": about, "best": best, "extra": extra}


def protocol(report: StudyReport, metric: str) -> str:
    """Say how a metric was measured, for the heading of its column."""
    return (
        f"{sentence_case(metric_words(metric))}; {how_measured(report.provenance.get(metric, {}))}."
    )


def method(
    report: StudyReport, row: TableRow, looks: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Return a method's numbers for the scatter: costs, metrics with their errors, and look."""
    quality = {}
    for name in report.metrics:
        mean, bar = measured(row, f"metrics.{name}")
        if math.isfinite(mean):
            half = bar.half if math.isfinite(bar.half) else None
            quality[name] = {"value": mean, "half": half, "kind": BARS.get(bar.kind, "")}
    return {
        "name": row["method"],
        "color": looks[row["method"]]["color"],
        "marker": looks[row["method"]]["marker"],
        "costs": {key: _number(row, key) for key in COSTS},
        "metrics": quality,
        "seeds": int(row["seeds"]),
    }


def _number(row: TableRow, key: str, none: Any = None) -> Any:
    value = row.get(key)
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    return none


def levels(report: StudyReport, metric: str) -> dict[str, float]:
    """Return the values of anchors and foreign samples, which have no cost."""
    return {name: value for name, value in report.levels(metric).items() if math.isfinite(value)}


def timing(report: StudyReport) -> Iterator[list[str]]:
    """Yield method, ms/image and latency with their intervals, batch, how and how fit."""
    for row in report.method_rows:
        if row["seeds"]:
            parts = []
            for field in ("ms_per_image", "latency_ms"):
                found = [_number(row, f"time.{field}.{part}") for part in ("median", "low", "high")]
                known = all(value is not None for value in found)
                middle, low, high = (
                    (numbers.number(value) for value in found) if known else [""] * 3
                )
                parts.append(f"{middle} [{low}, {high}]" if known else numbers.NOTHING)
            cells = report.by_method[row["method"]]
            how = ", ".join(sorted({str(one) for one in cells["timed"]}))
            unfit = "; ".join(dict.fromkeys(filter(None, cells["unfit"])))
            yield [row["method"], *parts, how, unfit or "fit"]


def misses(metrics: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the families that were measured, in words, and what each does not see."""
    from bench.records import metric_family

    for family in dict.fromkeys(map(metric_family, metrics)):
        if family in MISSES:
            yield MISSES[family]


def failures(report: StudyReport) -> Iterator[dict[str, str]]:
    """Yield each cell without a result: status, reason, and the end of its log."""
    for cell, status, reason, log in unfinished(report):
        path = Path(log)
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        yield {
            "cell": cell, "status": status, "reason": placeless(reason, report.folder),
            "log": "\n".join(placeless(line, report.folder) for line in lines[-LOG_LINES:]),
        }  # fmt: skip


def commands(report: StudyReport) -> Iterator[str]:
    """Yield the commands that made the cells, each once, without the place of the results."""
    told = [str(row.environment.get("command") or "") for _, row in report.cells]
    usual = [re.sub(r" --results[ =]('[^']*'|\S+)", "", command) for command in told if command]
    yield from dict.fromkeys(placeless(command, report.folder) for command in usual)


def environment(report: StudyReport) -> Iterator[tuple[str, str]]:
    """Yield what the cells ran in: interpreter, platform and packages, of several all."""
    facts: dict[str, dict[str, None]] = {}
    for _, row in report.cells:
        told = row.environment
        packages = told.get("packages") or {}
        parts = {name: told.get(name) for name in ("python", "platform", "cpu_capability", "cuda")}
        for name, value in {**parts, **packages}.items():
            if value not in (None, "", {}):
                facts.setdefault(str(name), {})[str(value)] = None
    for name, values in facts.items():
        yield name, "; ".join(values)
