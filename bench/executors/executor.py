"""What an executor is, and the handle that it gives for a job."""

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from bench.executors.endings import End
from bench.executors.job import Job
from bench.records import Status

Told = dict[str, Any]
"""A job's progress: ``phase``, ``fraction``, and what else there is to be shown."""
FOLLOW_SECONDS = 0.05


class Handle(Protocol):
    """A job that was started."""

    @property
    def token(self) -> str:
        """What the job's process is known by where it runs."""

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
            told = handle.progress()
            if told is not None:
                tell(told)
            time.sleep(FOLLOW_SECONDS)
    except BaseException:
        handle.ask_to_stop(Status.INTERRUPTED, "stopped by the user")
        while handle.poll() is None:
            time.sleep(FOLLOW_SECONDS)
        raise
    return end
