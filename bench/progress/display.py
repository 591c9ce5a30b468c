"""Shows how a study goes on: live bars on a terminal, plain lines elsewhere."""

import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.text import Text

from bench.progress.whole import Whole, clock, time_left
from bench.records import Record, Status, headline

PLAIN_SECONDS = 10.0
"""Seconds between plain lines of one cell."""


def describe(told: Mapping[str, Any], room: float = math.inf, left: str = "") -> str:
    """Say what a cell told of itself: phase, images so far, images a second, loss, time left.

    In so many signs; what says least gives way first, and nothing is cut.
    """
    parts = {"phase": str(told.get("stage", told["phase"]))}
    if "images" in told:
        parts["images"] = f"{told['images'] / 1000:.1f} kimg"
    if told.get("rate"):
        parts["rate"] = f"{told['rate']:.0f} img/s"
    loss = told.get("loss")
    if loss is not None and math.isfinite(loss):
        parts["loss"] = f"loss {loss:.4g}"
    if left:
        parts["left"] = left
    for least in ("loss", "rate", "images", "left"):
        if cell_len("  ".join(parts.values())) > room:
            parts.pop(least, None)
    return "  ".join(parts.values())


class Elapsed(ProgressColumn):
    """The time since a bar's start; rich's own stands still as soon as the bar was full once."""

    def render(self, task: Task) -> Text:
        """Write it; ``0:00`` before the start."""
        return Text(f"{clock(task.elapsed or 0.0):>7}", "progress.elapsed")


class Bars:
    """Bars with a title, percent, the time and what is told, in what room a terminal has."""

    FIXED = 5 + 7 + 4
    """Signs of percent, time and the gaps between."""
    TOLD = 44
    """Signs of what is told, which the bars give way to."""

    def __init__(self, console: Console) -> None:
        self.console, self.bar, self.titles = console, BarColumn(), TextColumn("{task.description}")
        self.progress = Progress(
            self.titles, self.bar, TextColumn("{task.percentage:>3.0f} %"), Elapsed(),
            TextColumn("{task.fields[told]}", markup=False), console=console, transient=True,
        )  # fmt: skip

    def add(self, title: str, told: str = "") -> TaskID:
        """Add a bar at 0."""
        task = self.progress.add_task(escape(title), total=1.0, told=told)
        self.room()
        return task

    def room(self) -> int:
        """Make the bars as wide as is left for them; return the signs that can be told."""
        titles = [cell_len(task.description) for task in self.progress.tasks]
        free = self.console.width - self.FIXED - max(titles, default=0)
        self.bar.bar_width = max(4, min(24, free - self.TOLD))
        return max(0, free - self.bar.bar_width)

    def show(self, task: TaskID, fraction: float, told: str) -> None:
        """Set a bar's fraction, 0 to 1, and what is told beside it."""
        self.progress.update(task, completed=fraction, told=told)


@contextmanager
def passing(title: str, console: Console | None = None) -> Iterator[Callable[[float], None]]:
    """Show how a long pass goes on; yields what takes the fraction done, 0 to 1.

    On a terminal a bar with rate and time left, gone at the end; elsewhere plain lines on standard
    error, at most one every ``PLAIN_SECONDS``. A pass that reports nothing shows nothing.
    """
    console = console or Console(file=sys.stderr, highlight=False)
    began = printed = time.monotonic()
    bars = Bars(console)
    task = bars.add(title)

    def show(fraction: float) -> None:
        nonlocal printed
        moment = time.monotonic()
        pace, elapsed = time_left(fraction, 0.0, moment - began), moment - began
        if pace and elapsed:
            pace = f"{6000 * fraction / elapsed:.3g} %/min  {pace}"
        if console.is_terminal:
            bars.progress.start()
            bars.show(task, fraction, pace)
        elif moment - printed >= PLAIN_SECONDS:
            printed, line = moment, f"{title}: {fraction:4.0%}  {pace}".rstrip()
            console.print(line, soft_wrap=True, markup=False)

    try:
        yield show
    finally:
        if console.is_terminal:
            bars.progress.stop()


class Display:
    """One line or bar a cell and one for all, and a line when a cell ends."""

    PREPARING, ALL = "preparing", "all cells"
    """Titles of the bars that are no cell's."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(file=sys.stderr, highlight=False)
        self.live = self.console.is_terminal
        self.bars, self.tasks = Bars(self.console), dict[str, TaskID]()
        self.phases: dict[str, tuple[str, float, float]] = {}
        """Each cell's phase, when it began, and at which fraction."""
        self.printed: dict[str, float] = {}
        self.whole = Whole()

    def __enter__(self) -> "Display":
        if self.live:
            self.bars.progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self.live:
            self.bars.progress.stop()

    def say(self, line: str) -> None:
        """Print one line, above the bars if there are any."""
        self.console.print(line, soft_wrap=True, markup=False)

    @contextmanager
    def preparation(self, what: str) -> Iterator[None]:
        """Show on a terminal that something is being prepared; elsewhere an error is one line."""
        if not self.live:
            yield
            return
        with self:
            self.tasks[self.PREPARING] = self.bars.add(self.PREPARING, what)
            try:
                yield
            finally:
                self.bars.progress.remove_task(self.tasks.pop(self.PREPARING))

    def preparing(self, told: Mapping[str, Any]) -> None:
        """The preparation told of a long pass; a short one is over before the first line."""
        moment = time.monotonic()
        if self.live and self.PREPARING in self.tasks:
            text = describe(told, self.bars.room())
            self.bars.show(self.tasks[self.PREPARING], told["fraction"], text)
        elif moment - self.printed.setdefault(self.PREPARING, moment) > PLAIN_SECONDS:
            self.printed[self.PREPARING] = moment
            self.say(f"{self.PREPARING}: {told['fraction']:4.0%}  {told['phase']}")

    def expect(self, cells: Sequence[str], done: int, jobs: int) -> None:
        """So many cells are done, and these are to be run, ``jobs`` at a time."""
        self.whole = Whole(cells, done, jobs)
        if self.live and self.whole.total > 1:
            self.tasks[self.ALL] = self.bars.add(self.ALL)
            self.show_whole()

    def show_whole(self) -> None:
        """Show how far all cells are."""
        if self.live and self.ALL in self.tasks:
            fraction = self.whole.done / self.whole.total
            self.bars.show(self.tasks[self.ALL], fraction, self.whole.text(time.monotonic()))

    def start(self, cell: str, why: str) -> None:
        """A cell's process was started."""
        moment = time.monotonic()
        self.phases[cell] = ("starting", moment, 0.0)
        self.whole.start(cell, moment)
        if self.live:
            self.tasks[cell] = self.bars.add(cell, "starting")
        else:
            self.say(f"{cell}: started")

    def update(self, cell: str, told: Mapping[str, Any]) -> None:
        """A cell told of its progress."""
        moment = time.monotonic()
        fraction = float(told.get("fraction", 0.0))
        changed = self.phases[cell][0] != told["phase"]
        if changed:
            self.phases[cell] = (told["phase"], moment, fraction)
        _, since, start = self.phases[cell]
        left = time_left(fraction, start, moment - since)
        if self.live:
            self.bars.show(self.tasks[cell], fraction, describe(told, self.bars.room(), left))
            self.show_whole()
        elif changed or moment - self.printed.get(cell, 0.0) > PLAIN_SECONDS:
            self.printed[cell] = moment
            self.say(f"{cell}: {fraction:4.0%}  {describe(told, left=left)}")

    def end(self, cell: str, record: Record) -> None:
        """A cell's process ended."""
        seconds = record.ledger.get("wall")
        took = f" in {clock(seconds)}" if seconds else ""
        if record.status == Status.FINISHED:
            names = headline(list(record.metrics))
            values = (f"{name} {record.metrics[name].value:.4g}" for name in names)
            self.close(cell, f"finished{took}: {', '.join(values)}")
        else:
            self.close(cell, f"{record.status}{took}: {record.reason}")
        for note in record.notes:
            self.say(f"note: {cell}: {note}")
        if not record.is_balanced:
            self.say(f"note: {cell}: its ledger misses its wall clock by {record.imbalance:.1%}")

    def close(self, cell: str, told: str) -> None:
        """Take a cell's bar away and say how it ended."""
        moment = time.monotonic()
        self.whole.end(cell, moment)
        if self.live:
            self.bars.progress.remove_task(self.tasks.pop(cell))
        self.say(f"{cell}: {told}")
        if self.live:
            self.show_whole()
        elif self.whole.done < self.whole.total:
            self.say(self.whole.text(moment))
