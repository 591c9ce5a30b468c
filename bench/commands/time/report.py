"""Cells that were timed together, for people: their times, and how many times longer each takes."""

from collections.abc import Iterator

from bench.costs.intervals import Interval
from bench.records.interleaved import Bounds, Timing, reasons
from bench.report.frame import device
from bench.report.table.formats import markdown_table
from bench.report.table.numbers import MARK, NOTHING, number

PAGE = "timing.md"


def render_timing(timing: Timing) -> str:
    """Write a timing as Markdown: a row per cell, and a table of ratios for each of two times."""
    batch = f"ms/image (batch {timing.batch})"
    rows = [
        [
            cell.cell + (f" {MARK}" if reasons(timing, cell) else ""),
            *_times(cell.ms_per_image),
            *_times(cell.latency_ms),
            str(cell.ms_per_image.repeats),
        ]
        for cell in timing.cells
    ]
    head = ["cell", batch, "quartiles", "latency ms (batch 1)", "quartiles", "times"]
    parts = [markdown_table(head, rows)]
    if len(timing.cells) > 1:
        parts += [f"{batch}, row over column:\n", _matrix(timing, "ms_per_image")]
        parts += ["latency, row over column:\n", _matrix(timing, "latency_ms")]
    parts.append("\n".join(f"- {note}" for note in _notes(timing)) + "\n")
    return "\n".join(parts)


def _times(told: Interval) -> list[str]:
    return [_bounds(told), f"{number(told.q25)} to {number(told.q75)}"]


def _matrix(timing: Timing, name: str) -> str:
    """Write the ratio of every two cells; the other half of the table is the first's inverse."""
    found: dict[tuple[str, str], Bounds] = {}
    for pair in timing.ratios:
        bounds: Bounds = getattr(pair, name)
        found[pair.one, pair.other] = bounds
        found[pair.other, pair.one] = Bounds(
            median=1 / bounds.median, low=1 / bounds.high, high=1 / bounds.low
        )
    names = [cell.cell for cell in timing.cells]
    rows = [[one, *(_bounds(found.get((one, other))) for other in names)] for one in names]
    return markdown_table(["", *names], rows)


def _bounds(found: Bounds | Interval | None) -> str:
    if found is None:
        return NOTHING
    return f"{number(found.median)} [{number(found.low)}, {number(found.high)}]"


def _notes(timing: Timing) -> Iterator[str]:
    here = timing.environment
    yield f"Study: {timing.study}."
    dirty = ", with uncommitted changes" if here.get("dirty") else ""
    yield f"Device: {device(here) or 'not told'}."
    yield f"Made by: {here.get('command')}; commit {str(here.get('commit'))[:12]}{dirty}."
    yield (
        f"{timing.rounds} rounds, each there and back through the cells, of one batch and one "
        "single image each, after warm-up. Times: median [bootstrap 95 % interval]. Ratios: "
        "paired within each round, median [bootstrap 95 % interval over rounds]; one that "
        "holds 1 does not separate the two."
    )
    for reason in timing.unfit:
        yield f"{MARK} The machine was not fit: {reason}."
    for cell in timing.cells:
        for reason in cell.unfit:
            yield f"{MARK} {cell.cell}: {reason}."
    for cell_name, reason in timing.failed.items():
        yield f"Not timed: {cell_name}: {reason}."
