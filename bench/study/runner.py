"""Runs work on cells, some at a time, each in a process of its own."""

import contextlib
import signal
import threading
import time
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from bench.executors import End, Executor, Handle, Job, LocalExecutor
from bench.progress.display import Display
from bench.records import CellLock, Status
from bench.study.plan import Planned


class Stopping(threading.Event):
    """Whether, and since when, this command is to stop."""

    since: float | None = None

    def set(self) -> None:
        """Ask it to stop."""
        self.since = self.since or time.monotonic()
        super().set()

    @property
    def seconds(self) -> float:
        """Since it was asked to stop; 0 where it was not."""
        return time.monotonic() - self.since if self.since else 0.0


stopping, deaf = Stopping(), threading.Event()
"""Set when a signal has asked this command to stop; and while that must wait for a moment."""
Item = TypeVar("Item", bound=Planned)
Item_contra = TypeVar("Item_contra", bound=Planned, contravariant=True)
POLL_SECONDS = 0.1
SYNC_SECONDS = 10.0


class Work(Protocol[Item_contra]):
    """What is to be done with cells: what a :class:`Runner` runs. A cell's lock is held."""

    def is_new(self, cell: Item_contra) -> bool:
        """Whether a cell is to be announced before any is run."""
        return False

    def announce(self, cell: Item_contra) -> None:
        """Say what is to become of a new cell."""
        return

    def renew(self, cell: Item_contra, *, elsewhere: bool) -> None:
        """Decide anew what is to be done; ``elsewhere``: another command has worked on it."""

    def lay_out(self, cell: Item_contra) -> Job:
        """Write what a cell's process needs; return its job."""

    def close(self, cell: Item_contra, end: End) -> None:
        """Make of a process's end what is to be told of it."""

    def sync(self, cell: Item_contra) -> None:
        """Show how far a cell is, elsewhere than here."""
        return

    def stage(self, cell: Item_contra) -> Hashable | None:
        """What identifies a stage that others wait for while a cell trains it."""
        return None


@dataclass
class Running(Generic[Item]):
    """A cell's process."""

    planned: Item
    handle: Handle
    phase: str = ""
    """What it told last."""


class Runner(Generic[Item]):
    """Runs planned cells, ``jobs`` at a time; one that another command works on is waited for."""

    def __init__(
        self, work: Work[Item], jobs: int, display: Display, executor: Executor | None = None
    ) -> None:
        self.work, self.jobs, self.display = work, jobs, display
        self.executor = executor or LocalExecutor()
        self.running: list[Running[Item]] = []
        self.elsewhere: set[str] = set()
        """Names of the cells that were found with another command."""
        self.synced = time.monotonic()

    def run(self, planned: Sequence[Item]) -> None:
        """Run all cells that have no result yet; KeyboardInterrupt ends them cleanly first."""
        waiting = [cell for cell in planned if not cell.is_idle]
        names = [cell.folder.name for cell in waiting]
        self.display.expect(names, len(planned) - len(names), self.jobs)
        try:
            for cell in filter(self.work.is_new, planned):
                with self.claim(cell) as lock:
                    if lock is not None:
                        self.work.announce(cell)
            while waiting or self.running:
                if stopping.is_set():
                    raise KeyboardInterrupt
                self.fill(waiting)
                self.poll()
                time.sleep(POLL_SECONDS)
        except BaseException:
            self.stop_all()
            raise

    @contextlib.contextmanager
    def claim(self, cell: Item) -> Iterator[CellLock | None]:
        """Take a cell's lock, or ``None`` where another command has it; let go of it at the end."""
        lock = CellLock(cell.folder)
        if lock.acquire():
            with contextlib.closing(lock):
                yield lock
        else:
            if cell.folder.name not in self.elsewhere:
                self.display.say(f"{cell.folder.name}: with {lock.holder}; waiting for it")
            self.elsewhere.add(cell.folder.name)
            yield None

    def fill(self, waiting: list[Item]) -> None:
        """Start waiting cells while there is room for them."""
        for cell in self.in_order(waiting):
            if len(self.running) >= self.jobs:
                return
            with self.claim(cell) as lock:
                if lock is None:
                    continue
                waiting.remove(cell)
                self.work.renew(cell, elsewhere=cell.folder.name in self.elsewhere)
                if cell.is_idle:
                    self.display.say(f"{cell.folder.name}: {cell.action} ({cell.why})")
                else:
                    self.start(cell, lock)

    def start(self, cell: Item, lock: CellLock) -> None:
        """Start a cell's process, which inherits the cell's lock."""
        assert lock.descriptor is not None
        job = self.work.lay_out(cell)
        # No signal is let in between the start of a process and our knowing it.
        deaf.set()
        try:
            handle = self.executor.start(job, held=[lock.descriptor])
            self.display.start(cell.folder.name, cell.why)
            self.running.append(Running(cell, handle))
        finally:
            deaf.clear()

    def in_order(self, waiting: Sequence[Item]) -> list[Item]:
        """Put cells that need not wait for a running one's shared stage before the others."""
        training = [cell for cell in self.running if cell.phase not in {"sampling", "evaluating"}]
        busy = {self.work.stage(cell.planned) for cell in training} - {None}
        return sorted(waiting, key=lambda cell: self.work.stage(cell) in busy)

    def poll(self) -> None:
        """Look at every running cell once."""
        for cell in self.running:
            if (told := cell.handle.progress()) is not None:
                cell.phase = told["phase"]
                self.display.update(cell.planned.folder.name, told)
        self.close_ended()
        if time.monotonic() - self.synced > SYNC_SECONDS:
            for cell in self.running:
                self.work.sync(cell.planned)
            self.synced = time.monotonic()

    def close_ended(self) -> None:
        """Close the cells whose process has ended."""
        for cell in list(self.running):
            if (end := cell.handle.poll()) is not None:
                self.running.remove(cell)
                self.work.close(cell.planned, end)

    def stop_all(self) -> None:
        """Ask every running cell to stop, give it time for a checkpoint, then end it."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # A second signal must not leave cells behind; this takes a few seconds at most.
            signal.signal(number, signal.SIG_IGN)
        for cell in self.running:
            cell.handle.ask_to_stop(Status.INTERRUPTED, "stopped by the user")
        while self.running:
            self.close_ended()
            time.sleep(POLL_SECONDS / 10)
