"""Shows how a study goes on: live bars on a terminal, plain lines elsewhere."""

import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from bench.records import Record, Status, headline

PLAIN_SECONDS = 10.0
"""Seconds between plain lines of one cell."""


def describe(told: Mapping[str, Any]) -> str:
    """Say what a cell told of itself: phase, loss, images a second, images so far."""
    parts = [str(told.get("stage", told["phase"]))]
    if "images" in told:
        parts.append(f"{told['images'] / 1000:.1f} kimg")
    if told.get("rate"):
        parts.append(f"{told['rate']:.0f} img/s")
    loss = told.get("loss")
    if loss is not None and math.isfinite(loss):
        parts.append(f"loss {loss:.4g}")
    return "  ".join(parts)


def clock(seconds: float) -> str:
    """Write seconds as ``m:ss`` or ``h:mm:ss``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def time_left(fraction: float, start: float, elapsed: float) -> str:
    """Estimate the time left of a phase that began at fraction ``start``; empty if too early."""
    if not 0.01 < fraction - start < 1 or fraction >= 1:
        return ""
    return f"{clock(elapsed * (1 - fraction) / (fraction - start))} left"


def _bars(title: str, console: Console) -> Progress:
    """Bars with a title, the time and what is told, gone at the end."""
    return Progress(
        TextColumn(title), BarColumn(bar_width=24), TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(), TextColumn("{task.fields[told]}"), console=console, transient=True,
    )  # fmt: skip


@contextmanager
def passing(title: str, console: Console | None = None) -> Iterator[Callable[[float], None]]:
    """Show how a long pass goes on; yields what takes the fraction done, 0 to 1.

    On a terminal a bar with rate and time left, gone at the end; elsewhere plain lines on standard
    error, at most one every ``PLAIN_SECONDS``. A pass that reports nothing shows nothing.
    """
    console = console or Console(file=sys.stderr, highlight=False)
    began = printed = time.monotonic()
    bar = _bars("{task.description}", console)
    task = bar.add_task(escape(title), total=1.0, told="")

    def show(fraction: float) -> None:
        nonlocal printed
        moment = time.monotonic()
        pace, elapsed = time_left(fraction, 0.0, moment - began), moment - began
        if pace and elapsed:
            pace = f"{6000 * fraction / elapsed:.3g} %/min  {pace}"
        if console.is_terminal:
            bar.start()
            bar.update(task, completed=fraction, told=pace)
        elif moment - printed >= PLAIN_SECONDS:
            printed, line = moment, f"{title}: {fraction:4.0%}  {pace}".rstrip()
            console.print(line, soft_wrap=True, markup=False)

    try:
        yield show
    finally:
        if console.is_terminal:
            bar.stop()


class Display:
    """One line or bar a cell, and a line when a cell ends."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(file=sys.stderr, highlight=False)
        self.live = self.console.is_terminal
        self.bars: dict[str, TaskID] = {}
        self.phases: dict[str, tuple[str, float, float]] = {}
        """Each cell's phase, when it began, and at which fraction."""
        self.printed: dict[str, float] = {}
        self.progress = _bars("{task.fields[cell]:<14}", self.console)

    def __enter__(self) -> "Display":
        if self.live:
            self.progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self.live:
            self.progress.stop()

    def say(self, line: str) -> None:
        """Print one line, above the bars if there are any."""
        self.console.print(line, soft_wrap=True, markup=False)

    def preparing(self, told: Mapping[str, Any]) -> None:
        """The preparation told of a long pass; a short one is over before the first line."""
        moment = time.monotonic()
        if moment - self.printed.setdefault("preparing", moment) > PLAIN_SECONDS:
            self.printed["preparing"] = moment
            self.say(f"preparing: {told['fraction']:4.0%}  {told['phase']}")

    def start(self, cell: str, why: str) -> None:
        """A cell's process was started."""
        self.phases[cell] = ("starting", time.monotonic(), 0.0)
        if self.live:
            self.bars[cell] = self.progress.add_task("", total=1.0, cell=cell, told="starting")
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
        text = f"{describe(told)}  {time_left(fraction, start, moment - since)}".rstrip()
        if self.live:
            self.progress.update(self.bars[cell], completed=fraction, told=text)
        elif changed or moment - self.printed.get(cell, 0.0) > PLAIN_SECONDS:
            self.printed[cell] = moment
            self.say(f"{cell}: {fraction:4.0%}  {text}")

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
        if self.live:
            self.progress.remove_task(self.bars.pop(cell))
        self.say(f"{cell}: {told}")
