"""Tables for a paper, with booktabs and siunitx: results, costs, and what else was measured."""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from bench.config import one_line
from bench.records import direction, headline
from bench.report.frame import is_altered
from bench.report.study_report import StudyReport
from bench.report.summary import TableRow
from bench.report.table.columns import corrected, error_within, leading, pair
from bench.report.table.notes import notes
from bench.report.table.numbers import MARK, UNBALANCED, is_plain, number
from bench.report.table.rows import published_rows, unfinished
from bench.report.titles import metric_title, metric_words

MOST = 7
"""Columns of a table, the names' among them."""
WIDEST = 90
"""Signs of a row about which a column of text has room for."""
SIGNS = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "±": r"$\pm$", "↓": r"$\downarrow$", "↑": r"$\uparrow$", "≈": r"$\approx$",
    ">": r"$>$", "<": r"$<$", "|": r"\textbar{}", "—": "--", "…": r"\ldots{}",
    "‡": r"$\ddagger$", "†": r"$\dagger$", "é": r"\'e",
}  # fmt: skip
PREFIXES = ((18, "E"), (15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k"), (0, ""))
NONE = "{--}"


@dataclass(frozen=True)
class PaperColumn:
    """A column of numbers: two lines of heading, and numbers as siunitx reads them."""

    title: str
    unit: str
    texts: Sequence[str]
    best: frozenset[int] = frozenset()
    """Rows that are bold."""


def latex(report: StudyReport) -> str:
    """Write the tables of a paper: of results, of costs, of further metrics, and of published ones.

    None has more than ``MOST`` columns; how it was measured is in ``latex_notes``.
    """
    name = re.sub(r"[^\w.:-]", "-", report.folder.name)
    tables = [
        _table(report, _results(report), f"tab:{name}", _caption(report)),
        _table(report, _costs(report), f"tab:{name}-costs", COSTS, anchors=False),
    ]
    for place, chosen in enumerate(_parts(report, _further(report)), 1):
        label = f"tab:{name}-further-{place}"
        tables.append(_table(report, chosen, label, "Further metrics of the same samples."))
    if rows := published_rows(report):
        tables.append(_published(rows, f"tab:{name}-published"))
    return "\n".join(tables)


def latex_notes(report: StudyReport) -> str:
    """Write what the numbers are and what may be claimed, a paragraph a note."""
    named = [f"{metric_title(name)}: {metric_words(name)}." for name in report.metrics]
    words = r"(?<![\w-])(?:" + "|".join(map(re.escape, report.metrics)) + r")(?![\w-])"
    told = [re.sub(words, lambda found: metric_title(found[0]), note) for note in notes(report)]
    # Sloppy: a name of many letters would stand out of a narrow column.
    lines = [r"\begingroup\sloppy", *map(escape_latex, [*named, *told]), r"\endgroup"]
    return "\n\n".join(lines) + "\n"


def escape_latex(text: str) -> str:
    """Escape what LaTeX would read as a command, and write our signs as its own."""
    signs = (SIGNS.get(sign, sign) for sign in one_line(text))
    return "".join(signs).encode("ascii", "replace").decode()


COSTS = (
    "Costs of the same cells, means over seeds: parameters of the networks that draw samples and "
    "of all, images an iteration, iterations, images seen, and hours of training on one device."
)


def _caption(report: StudyReport) -> str:
    """Say in one sentence what is measured, what stands in parentheses and what is bold."""
    cells = report.cell_frame
    told = cells[["dataset", "data_variant", "preset"]].drop_duplicates().to_numpy()
    data = ", ".join(
        f"{name}{f', variant {variant}' if is_altered(name, variant) else ''} (preset {preset})"
        for name, variant, preset in told
    )
    seeds = sorted({row["seeds"] for row in report.method_rows})
    span = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    error = "the standard error within the seed"
    if seeds[-1] > 1:
        error = "the half-width of the 95 % interval over seeds (of one sample its standard error)"
    lead = leading(report)
    bold = "the best and what is not told apart from it" if lead and lead.ranks else "the best mean"
    marked = f", and in bold {bold}" if any(map(report.best, headline(report.metrics)[:2])) else ""
    word = "seed" if seeds == [1] else "seeds"
    return escape_latex(f"Results on {data} over {span} {word}, in parentheses {error}{marked}.")


def _rows(report: StudyReport) -> list[TableRow]:
    return [*report.method_rows, *report.foreign_rows, *report.anchor_rows]


def _results(report: StudyReport) -> list[PaperColumn]:
    return [
        *(_metric(report, name) for name in headline(report.metrics)[:2]),
        PaperColumn("NFE", "", [_counted(*pair(row, "cost.nfe")) for row in _rows(report)]),
        PaperColumn("Time", "ms/image", [_milliseconds(row) for row in _rows(report)]),
        _scaled(report, "Training", "FLOP", lambda row: pair(row, "cost.train_flops")),
        _scaled(report, "Parameters", "sampling", _of_sampling),
    ]


def _costs(report: StudyReport) -> list[PaperColumn]:
    return [
        _scaled(report, "Parameters", "sampling", _of_sampling),
        _scaled(report, "Parameters", "all", lambda row: pair(row, "cost.parameters")),
        PaperColumn("Batch", "", [_batch(row) for row in _rows(report)]),
        _scaled(report, "Iterations", "", lambda row: pair(row, "cost.steps")),
        PaperColumn(
            "Images", "Mimg", [entry(*_by(row, "cost.images_seen", 1e6)) for row in _rows(report)]
        ),
        PaperColumn("Training", "device-h", [_hours(row) for row in _rows(report)]),
    ]


def _further(report: StudyReport) -> list[PaperColumn]:
    shown = headline(report.metrics)[:2]
    more = [_metric(report, name) for name in report.metrics if name not in shown]
    return more + [_metric(report, name, ".corrected") for name in corrected(report)]


def _parts(report: StudyReport, columns: Sequence[PaperColumn]) -> Iterator[Sequence[PaperColumn]]:
    """Yield the columns in tables of no more than ``MOST`` columns, and ``WIDEST`` signs."""
    names = max(len(str(row["method"])) for row in _rows(report))
    chosen: list[PaperColumn] = []
    for column in columns:
        if chosen and (
            len(chosen) == MOST - 1 or names + sum(_signs(x) for x in [*chosen, column]) > WIDEST
        ):
            yield chosen
            chosen = []
        chosen.append(column)
    if chosen:
        yield chosen


def _signs(column: PaperColumn) -> int:
    return 2 + max(map(len, [column.title, f"({column.unit})", *column.texts]))


def _metric(report: StudyReport, name: str, part: str = "") -> PaperColumn:
    best = frozenset[str]() if part else report.best(name)
    texts = []
    for row in _rows(report):
        mean, half = pair(row, f"metrics.{name}{part}")
        texts.append(entry(mean, error_within(row, name) if math.isnan(half) else half, digits=4))
    words, _, by = metric_title(name).partition(" (")
    title = escape_latex(f"{part[1:]} {words} {direction(name)}".strip())
    bold = (place for place, row in enumerate(_rows(report)) if row["method"] in best)
    return PaperColumn(title, escape_latex(by.rstrip(")")), texts, frozenset(bold))


def _counted(mean: float, half: float = math.nan) -> str:
    return f"{mean:.0f}" if mean.is_integer() and is_plain(mean) else entry(mean, half)


def _milliseconds(row: TableRow) -> str:
    mark = f" {{{escape_latex(MARK)}}}" if row.get("time.unfit") else ""
    return entry(row.get("time.ms_per_image.median", math.nan)) + mark


def _hours(row: TableRow) -> str:
    mark = f" {{{escape_latex(UNBALANCED)}}}" if row.get("ledger.unbalanced") else ""
    return entry(*_by(row, "ledger.train", 3600)) + mark


def _by(row: TableRow, name: str, unit: float) -> tuple[float, float]:
    mean, half = pair(row, name)
    return mean / unit, half / unit


def _batch(row: TableRow) -> str:
    """Images an iteration, on average over stages that may differ."""
    images, steps = pair(row, "cost.images_seen")[0], pair(row, "cost.steps")[0]
    return _counted(images / steps if steps else math.nan)


def _of_sampling(row: TableRow) -> tuple[float, float]:
    """Parameters of the networks that are called when an image is drawn."""
    start = "cost.nfe_by_network."
    used = [str(name).removeprefix(start) for name, calls in row.items()
            if str(name).startswith(start) and ":" not in str(name) and calls > 0]  # fmt: skip
    found = [pair(row, f"cost.parameters_by_network.{name}")[0] for name in used]
    return (sum(found) if found else math.nan), math.nan


def _scaled(
    report: StudyReport, title: str, unit: str, of: Callable[[TableRow], tuple[float, float]]
) -> PaperColumn:
    """Write large numbers with one prefix for all, which stands in the heading."""
    pairs = [of(row) for row in _rows(report)]
    largest = max((abs(mean) for mean, _ in pairs if math.isfinite(mean)), default=0.0)
    power, prefix = next(
        ((power, prefix) for power, prefix in PREFIXES if largest >= 0.9995 * 10**power), (0, "")
    )
    texts = [entry(mean / 10**power, half / 10**power) for mean, half in pairs]
    # FLOP takes a prefix, what has no unit a multiplier of its own.
    told = f"{prefix}{unit}" if unit == "FLOP" else ", ".join(filter(None, (unit, prefix)))
    return PaperColumn(title, told, texts)


def entry(value: float, half: float = math.nan, digits: int = 3) -> str:
    """Write a number as siunitx reads it, ``0.704(89)`` with its error; ``{--}`` where none is."""
    if math.isnan(value):
        return NONE
    if math.isinf(value) or not is_plain(value, half):
        return f"{{{escape_latex(number(value))}}}"
    if math.isnan(half) or half <= abs(value) * 5e-4 or math.isinf(half):
        return number(value, digits)
    decimals = min(6, max(0, 1 - math.floor(math.log10(half))))
    return f"{value:.{decimals}f}({half * 10**decimals:.0f})"


def _format(texts: Sequence[str]) -> str:
    """Say how many digits a column's numbers have at most."""
    found = [re.match(r"(-?)(\d+)(?:\.(\d+))?(?:\((\d+)\))?", text) for text in texts]
    parts = [one.groups(default="") for one in found if one]
    if not parts:
        return "c"
    sign = "-" if any(one[0] for one in parts) else ""
    whole, decimals, error = (max(len(one[place]) for one in parts) for place in (1, 2, 3))
    after = f".{decimals}" if decimals else ""
    room = next((text.partition(" ")[2] for text in texts if " {" in text), "")
    told = f"table-format={sign}{whole}{after}{f'({error})' if error else ''}"
    return f"S[{told}{f', table-space-text-post={room}' if room else ''}]"


def _table(
    report: StudyReport, columns: Sequence[PaperColumn], label: str, caption: str, *,
    anchors: bool = True,
) -> str:  # fmt: skip
    """Write a table of the methods and, below a rule, of the anchors."""
    names = [escape_latex(str(row["method"])) for row in _rows(report)]
    rows = [_row([name, *(_cell(column, place) for column in columns)])
            for place, name in enumerate(names)]  # fmt: skip
    first = len(rows) - len(report.anchor_rows)
    below = [r"\midrule", *rows[first:]] if anchors and rows[first:] else []
    rest = ", ".join(f"{cell} ({status})" for cell, status, *_ in unfinished(report))
    failed = rf"\par\smallskip\footnotesize Without a result: {escape_latex(rest)}."
    heads = [
        _row(["", *(f"{{{column.title}}}" for column in columns)]),
        _row(["Method", *(f"{{({column.unit})}}" if column.unit else "" for column in columns)]),
    ]
    kinds = " ".join(_format(column.texts) for column in columns)
    inside = [*heads, r"\midrule", *rows[:first], *below]
    return _float(f"l {kinds}", inside, label, caption, [failed] if rest else [])


def _cell(column: PaperColumn, place: int) -> str:
    text = column.texts[place]
    return rf"\bfseries {text}" if place in column.best and text != NONE else text


def _published(rows: Sequence[Sequence[str]], label: str) -> str:
    """Write published values beside ours; their sources are among the notes."""
    heads = ["Row", "Metric", "Ours", "Published", "Band", "Ours is"]
    told = [[row, metric_title(metric), *rest[:4]] for row, metric, *rest in rows]
    inside = [
        _row(heads),
        r"\midrule",
        *(_row([escape_latex(text) for text in row]) for row in told),
    ]
    return _float("llrrll", inside, label, "Published values beside ours.", [])


def _row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _float(
    kinds: str, inside: Sequence[str], label: str, caption: str, below: Sequence[str]
) -> str:
    lines = [
        r"% needs \usepackage{booktabs,graphicx,siunitx}, siunitx 3",
        r"\begin{table*}",
        r"\centering\footnotesize\setlength{\tabcolsep}{3pt}",
        r"\sisetup{text-series-to-math, propagate-math-font}",
        rf"\caption{{{caption}}}",
        rf"\label{{{label}}}\medskip",
        # Smaller only where it would not fit.
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{{kinds}}}",
        r"\toprule",
        *inside,
        r"\bottomrule",
        r"\end{tabular}}",
        *below,
        r"\end{table*}",
    ]
    return "\n".join(lines) + "\n"
