"""What an executor is, the handle that it gives for a job, and how that job's process ended."""

import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import psutil

from bench.executors.job import Job
from bench.records import Status

Told = dict[str, Any]
"""A job's progress: ``phase``, ``fraction``, and what else there is to be shown."""
FOLLOW_SECONDS = 0.05
DONE = 0
FAILED = 1
"""Exit code: what it was to do failed; the files in its folder say why."""
BAD_INPUT = 2
"""Exit code: one line on standard error, the last, says what is wrong."""
NO_DATA = 3
"""Exit code: as ``BAD_INPUT``, for want of data."""
INTERRUPTED = 75
"""Exit code: it was asked to stop; started again it goes on."""
VARIABLE = "SCOREBENCH_JOB"
"""In the environment of a job's process, and so of all that it starts: the job's mark."""
HINTS = {
    signal.SIGKILL: ", perhaps for lack of memory",
    signal.SIGBUS: ", perhaps since a file that it had mapped was cut short or cannot be read",
}
"""What a signal may mean, of those that say little by their names."""


@dataclass(frozen=True)
class End:
    """How a job's process ended."""

    code: int
    """Its exit code; a signal's number, negative, if one ended it."""
    status: Status
    """What that is for a cell which could not say it itself."""
    reason: str
    pid: int
    """Number that its process had."""
    seconds: float
    """From its start on."""
    was_asked: bool
    """Whether we ended it: for a limit, or since the command was stopped."""


def explain_end(code: int, log: str, *, was_short: bool = False) -> tuple[Status, str]:
    """Say how a process ended that could not say it itself; ``was_short``: memory was."""
    if code >= 0:
        return Status.KILLED, f"its process ended with code {code}; see {log}"
    number = signal.Signals(-code)
    if number == signal.SIGKILL and was_short:
        return Status.MEMORY, "its process was ended by the kernel for lack of memory"
    return Status.KILLED, f"its process was ended by {number.name}{HINTS.get(number, '')}"


class Handle(Protocol):
    """A job that was started."""

    def progress(self) -> Told | None:
        """What the job tells of its progress, if that is new."""

    def poll(self) -> End | None:
        """How the job ended, all its processes with it; ``None`` while it runs."""

    def ask_to_stop(self, status: Status, reason: str) -> None:
        """Ask the job to stop, which it may take some seconds for; returns at once."""

    def kill(self) -> None:
        """End the job and whatever it started at once; nothing where it has ended."""


class Executor(Protocol):
    """Starts jobs."""

    def start(self, job: Job, *, held: Sequence[int] = ()) -> Handle:
        """Write a job's file and start it; a process of this machine gets the files ``held``."""


def follow(handle: Handle, tell: Callable[[Told], object]) -> End:
    """Wait for a job's end, telling its progress; whatever ends the waiting ends the job."""
    try:
        while (end := handle.poll()) is None:
            if (told := handle.progress()) is not None:
                tell(told)
            time.sleep(FOLLOW_SECONDS)
    except BaseException:
        handle.ask_to_stop(Status.INTERRUPTED, "stopped by the user")
        while handle.poll() is None:
            time.sleep(FOLLOW_SECONDS)
        raise
    return end


def end_strays(job: Job) -> None:
    """Kill what a job's process has started and left: it may hold the cell's lock, or the GPU.

    What was forked twice is in no group and nobody's child any more; its environment is the job's.
    """
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get(VARIABLE) == job.mark:
                process.kill()
