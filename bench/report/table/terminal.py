"""The table on a terminal: what fits its width, and where the rest is."""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.config.text import plain
from bench.records import direction, headline
from bench.report.certainty import MIN_SEEDS
from bench.report.frame import is_altered
from bench.report.ranking import rank_text
from bench.report.study_report import StudyReport
from bench.report.summary import TableRow
from bench.report.table import columns, numbers
from bench.report.table.formats import markdown
from bench.report.table.notes import notes
from bench.report.table.rows import unfinished
from bench.report.titles import metric_title

BEST = "*"
"""Stands at the best, and at what no test tells from it: bold is not seen everywhere."""
GAP = 2
"""Signs between two columns."""
WIDE = 28
"""Signs after which a method's name is folded in the midst of a word."""
RULED = box.Box(str(box.HORIZONTALS).replace("─", "-"), ascii=True)
"""``HORIZONTALS`` where there are no other letters."""


@dataclass(frozen=True)
class TerminalColumn:
    """A column that may stand on a terminal: its heading, of up to two lines, and its texts."""

    title: str
    fill: Callable[[TableRow], str]


def print_table(report: StudyReport) -> None:
    """Print a study's table: what fits on a terminal, elsewhere Markdown."""
    if sys.stdout.isatty():
        show_table(report, Console(file=sys.stdout, highlight=False))
    else:
        print(markdown(report))


def show_table(report: StudyReport, console: Console) -> None:
    """Write a line of what it is, the table, what has no result, and what the marks mean."""
    write = plain if console.options.ascii_only else str
    rows = [*report.method_rows, *report.foreign_rows, *report.anchor_rows]
    filled = [
        [write(text) for text in (column.title, *map(column.fill, rows))]
        for column in ([] if report.finished.empty else _columns(report))
    ]
    shown = filled[: _fitting(filled, console.width)]
    console.print(Text(write(heading(report)), "bold"))
    if shown:
        ruled = RULED if console.options.ascii_only else box.HORIZONTALS
        console.print(_table(shown, ruled, anchors=len(report.anchor_rows)))
    else:
        console.print("No cell has finished yet.")
    for names, told in _without_result(report):
        console.print(Text.assemble((names, "red"), "  ", write(told)))
    marks = "; ".join(_marks(report, " ".join(text for column in shown for text in column)))
    more = f"{len(notes(report))} notes and all columns: {_short(report.folder / 'table.md')}"
    for line in filter(None, (marks, more)):
        console.print(Text(write(line), "dim"))


def heading(report: StudyReport) -> str:
    """Name study, data, preset, seeds and commit in one line."""
    cells = report.cell_frame
    parts = []
    told = cells[["dataset", "data_variant", "preset"]].drop_duplicates()
    for dataset, variant, preset in told.itertuples(index=False):
        altered = f" ({variant}: not comparable)" if is_altered(dataset, variant) else ""
        parts.append(f"{dataset}{altered}, preset {preset}")
    seeds = sorted({int(seed) for seed in cells["seed"]})
    parts.append(f"seed{'s' * (len(seeds) > 1)} {_span(seeds)}")
    made = report.finished[["commit", "dirty"]].dropna(subset="commit").drop_duplicates()
    commits = [f"{commit[:7]}{' (changed)' * bool(dirty)}" for commit, dirty in made.to_numpy()]
    parts += [f"commit {', '.join(commits)}"] if commits else []
    return f"study {report.folder.name}: {', '.join(parts)}"


def _span(seeds: Sequence[int]) -> str:
    is_run = len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[-1] + 1))
    return f"{seeds[0]}-{seeds[-1]}" if is_run else ", ".join(map(str, seeds))


def _short(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _columns(report: StudyReport) -> list[TerminalColumn]:
    """Build the columns, the most important first."""
    lead = columns.leading(report)
    ranks = {name: rank_text(rank) for name, rank in lead.ranks.items()} if lead else {}
    rank = TerminalColumn("rank", lambda row: ranks.get(row["method"], numbers.NOTHING))
    return [
        TerminalColumn("method", lambda row: str(row["method"])),
        *(_quality(report, name) for name in headline(report.metrics)[:2]),
        TerminalColumn("NFE", columns.calls),
        TerminalColumn("ms/\nimage", _milliseconds),
        TerminalColumn("train\nFLOP", lambda row: columns.scaled(row, "cost.train_flops")),
        TerminalColumn("train\ns", lambda row: columns.seconds(row, "ledger.train")),
        *([rank] if ranks else []),
    ]


def _quality(report: StudyReport, name: str) -> TerminalColumn:
    best, fill = report.best(name), columns.metric_column(name).fill
    words, _, by = metric_title(name).partition(" (")
    title = f"{words} {direction(name)}".rstrip() + (f"\n({by}" if by else "")
    return TerminalColumn(
        title, lambda row: f"{BEST} {fill(row)}" if row["method"] in best else fill(row)
    )


def _milliseconds(row: TableRow) -> str:
    """The median alone: its interval stands in the files."""
    mark = f" {numbers.MARK}" if row.get("time.unfit") else ""
    return f"{numbers.number(row.get('time.ms_per_image.median', float('nan')))}{mark}"


def _fitting(filled: Sequence[Sequence[str]], width: int) -> int:
    """Return how many columns fit a width; names are folded between words where that helps."""
    names = [word for text in filled[:1] for name in text for word in name.split()]
    needed = [_width(names, WIDE), *(_width(texts) for texts in filled[1:])]
    count = len(filled)
    while count > 2 and sum(needed[:count]) + GAP * (count - 1) > width:
        count -= 1
    return count


def _width(texts: Sequence[str], most: int = sys.maxsize) -> int:
    lines = [line for text in texts for line in text.split("\n")]
    return min(most, max(map(cell_len, lines), default=0))


def _table(filled: Sequence[Sequence[str]], ruled: box.Box, anchors: int) -> Table:
    """Lay the texts out: names to the left and folded, numbers to the right and never."""
    table = Table(
        box=ruled, show_edge=False, pad_edge=False, padding=(0, GAP - 1, 0, 0), header_style=""
    )
    table.add_column(filled[0][0], overflow="fold", max_width=WIDE)
    for title, *_ in filled[1:]:
        table.add_column(title, justify="right", no_wrap=True)
    rows = list(zip(*(texts[1:] for texts in filled), strict=True))
    for place, row in enumerate(rows, 1 - len(rows) + anchors):
        cells = [Text(text, "bold" * text.startswith(f"{BEST} ")) for text in row]
        table.add_row(*cells, style="dim" * (place > 0), end_section=place == 0)
    return table


def _without_result(report: StudyReport) -> Iterator[tuple[str, str]]:
    """Yield the cells that have no result, those of one reason together."""
    found: dict[str, list[str]] = {}
    for cell, status, reason, _ in unfinished(report):
        told = status if reason == numbers.NOTHING else f"{status}: {reason}"
        found.setdefault(told, []).append(cell)
    for told, cells in found.items():
        yield ", ".join(cells), told


def _marks(report: StudyReport, shown: str) -> Iterator[str]:
    """Say what the marks mean that are shown."""
    if f"{BEST} " in shown:
        few = f"best mean; fewer than {MIN_SEEDS} shared seeds claim no rank"
        lead = columns.leading(report)
        yield f"{BEST} {'best, or not told apart' if lead and lead.ranks else few}"
    if "±" in shown or "+-" in shown:
        yield "± 95 % over seeds"
    if "(se " in shown:
        yield "(se) within one seed"
    if any(row.get("time.unfit") for row in report.method_rows):
        yield f"{numbers.MARK} machine not fit"
    if any(row.get("ledger.unbalanced") for row in report.method_rows):
        yield f"{numbers.UNBALANCED} ledger misses the wall clock"
