"""What any process that works on cells does beside its work: heed requests to stop, and tell."""

import errno
import json
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch

from bench.config import UserError, one_line
from bench.executors import INTERRUPTED, Job
from bench.training import InterruptedTrainingError

PROGRESS_SECONDS = 0.3
"""Seconds between two signs of life of a cell's process, unless its phase changes."""
PATIENCE = 6.0
"""Seconds that a step, a batch or a file may go on after a request to stop, before it is cut."""


def leave() -> None:
    """End this process at once, as one that was stopped."""
    os._exit(INTERRUPTED)


class Stop:
    """A request to stop, by signal: training heeds it after a step, everything else at once.

    ``give_up`` is called from another thread where a backward pass keeps Python from seeing it.
    """

    def __init__(self, give_up: Callable[[], None] = leave) -> None:
        self.requested = False
        self.training = False
        self.give_up = give_up
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(reading,), daemon=True).start()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    def _watch(self, reading: int) -> None:
        os.read(reading, 1)
        time.sleep(PATIENCE)
        self.give_up()

    def _handle(self, number: int, frame: object) -> None:
        # A second signal must not break into what the first one set off.
        first, self.requested = not self.requested, True
        if first and not self.training:
            raise InterruptedTrainingError(f"stopped by {signal.Signals(number).name}")


class Progress:
    """Tells whoever looks how far the job is, a few times a second at most."""

    def __init__(self, job: Job) -> None:
        self.sign, self.begun = job.sign, job.begun()
        self.last, self.phase = 0.0, ""

    def __call__(self, phase: str, **values: Any) -> None:
        """Write the job's sign of life; that this cannot be done is no reason to stop."""
        moment = time.monotonic()
        if phase == self.phase and moment - self.last < PROGRESS_SECONDS:
            return
        self.last, self.phase = moment, phase
        seconds = time.perf_counter() - self.begun
        told = {"phase": phase, **values, "pid": os.getpid(), "seconds": seconds}
        new = self.sign.with_name(f".{self.sign.name}.new")
        with suppress(OSError):
            new.write_text(json.dumps(told))
            new.replace(self.sign)

    def of(self, phase: str) -> Callable[[float], None]:
        """Return what tells the fraction done of a long pass."""
        return lambda fraction: self(phase, fraction=fraction)


def is_for_memory(error: Exception) -> bool:
    """Whether an error says that there is not enough memory, on the device or off it."""
    known = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    by_system = isinstance(error, OSError) and error.errno == errno.ENOMEM
    return known or by_system or "DefaultCPUAllocator" in str(error)


def explain(error: Exception, length: int = 500) -> str:
    """Say in one line what an error was."""
    told = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    return one_line(told)[:length]


@contextmanager
def excused(keep: Callable[[str], object]) -> Iterator[None]:
    """Give ``keep`` in a line what goes wrong inside, which ends nothing else; a stop does."""
    try:
        yield
    except Exception as error:
        traceback.print_exception(error)
        keep(explain(error, 300))


def stoppable(task: Callable[[Job], int]) -> Callable[[Job], int]:
    """Make a task heed requests to stop; what it has kept by then stays."""

    def run(job: Job) -> int:
        Stop()
        try:
            return task(job)
        except InterruptedTrainingError:
            return INTERRUPTED

    return run
