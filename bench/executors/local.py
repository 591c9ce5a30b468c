"""Jobs as processes of this machine, children of the command's."""

import contextlib
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from bench.costs.machine.readings import oom_kills
from bench.executors.executor import VARIABLE, End, Told, end_strays, explain_end
from bench.executors.job import Job
from bench.records import Status
from bench.records.orphans import read_sign

GRACE_SECONDS = 8.0
"""Time between asking a job to stop and ending it; all of a command ends within ten."""
ROOT = Path(__file__).resolve().parents[2]
"""Where this package's own source is imported from."""


@dataclass
class LocalHandle:
    """A process of this machine, in a group of its own; see :class:`bench.executors.Handle`."""

    job: Job
    process: subprocess.Popen[bytes]
    seen: tuple[int, int] | None
    """Which version of its sign of life was read last."""
    oom_kills: int = 0
    """Processes that the kernel had ended for lack of memory before this one began."""
    started: float = field(default_factory=time.monotonic)
    polled: float = field(default_factory=time.monotonic)
    waited: float = 0.0
    """Seconds in which it waited for a stage that another cell trains."""
    last: Told = field(default_factory=dict)
    asked: tuple[Status, str] | None = None
    """Why we end it, if we do."""
    deadline: float = math.inf
    """The ``monotonic`` moment when our patience with it is over."""
    end: End | None = None

    def progress(self) -> Told | None:
        """What the process tells of its progress, if that is new; what cannot be read is not."""
        version = version_of(self.job.sign)
        if version in {self.seen, None}:
            return None
        self.seen, sign = version, read_sign(self.job.sign)
        if sign is None or not sign.phase:
            return None
        self.last = sign.model_dump(exclude_unset=True)
        return self.last

    def poll(self) -> End | None:
        """How it ended; ends it where it goes past a limit, or does not stop when asked to."""
        if self.end is None:
            over = self.process.poll() is not None
            if not over and self.asked is None:
                self._check_limits()
            if over or time.monotonic() > self.deadline:
                self.kill()
        return self.end

    def _check_limits(self) -> None:
        limits, moment = self.job.limits, time.monotonic()
        if self.last.get("phase") == "waiting":
            self.waited += moment - self.polled
        self.polled = moment
        if limits.timeout is not None and moment - self.started - self.waited > limits.timeout:
            self.ask_to_stop(Status.TIMEOUT, f"ran past the limit of {limits.timeout:g} s")
        if limits.memory is not None and (used := memory_of(self.process)) > limits.memory:
            taken = f"{used / 2**20:.0f} MiB of memory"
            reason = f"took {taken}, past the limit of {limits.memory >> 20} MiB"
            # At once: what asks for so much may have the rest of the machine's soon.
            self.asked, self.deadline = (Status.MEMORY, reason), 0.0

    def ask_to_stop(self, status: Status, reason: str) -> None:
        """Send a SIGTERM, and have patience for ``GRACE_SECONDS``."""
        self.asked, self.deadline = (status, reason), time.monotonic() + GRACE_SECONDS
        self.process.terminate()

    def kill(self) -> None:
        """Kill the process and whatever it has started."""
        if self.end is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        code = self.process.wait()
        end_strays(self.job)
        seconds, was_short = time.monotonic() - self.started, oom_kills() > self.oom_kills
        found = explain_end(code, self.job.log.name, was_short=was_short)
        pid, was_asked = self.process.pid, self.asked is not None
        self.end = End(code, *(self.asked or found), pid, seconds, was_asked)


class LocalExecutor:
    """Starts jobs as child processes, which end when the command does."""

    def start(self, job: Job, *, held: Sequence[int] = ()) -> LocalHandle:
        """Write a job's file and start its process, in a group of its own, with ``held`` open."""
        job = job.model_copy(update={"started": time.time()})
        job.write()
        # -P: nothing of the folder that the command is given in is imported.
        command = [sys.executable, "-P", "-m", job.task, str(job.path), str(os.getpid())]
        kills, seen = oom_kills(), version_of(job.sign)
        with job.log_path.open("ab") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=environment_of(job), pass_fds=held, start_new_session=True,
            )  # fmt: skip
        return LocalHandle(job, process, seen, kills)


def environment_of(job: Job) -> dict[str, str]:
    """What a job's process finds: our own source first, and as many threads as it may have."""
    path = [place for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place]
    # Where packages are installed Python looks by itself, after its own library, as it must.
    if ROOT.name not in {"site-packages", "dist-packages"}:
        path.insert(0, str(ROOT))
    # Before numpy's and torch's libraries are loaded, or they take every core.
    threads = {} if job.threads is None else {"OMP_NUM_THREADS": str(job.threads)}
    # As -P, for whatever Python it starts.
    ours = {"PYTHONPATH": os.pathsep.join(path), "PYTHONSAFEPATH": "1", VARIABLE: job.mark}
    return os.environ | ours | threads


def version_of(path: Path) -> tuple[int, int] | None:
    """What tells one content of a file from the next; ``None`` where there is none."""
    with contextlib.suppress(OSError):
        found = path.stat()
        return found.st_ino, found.st_mtime_ns
    return None


def memory_of(process: subprocess.Popen[bytes]) -> int:
    """Bytes of memory that a process and all it started hold."""
    used = 0
    with contextlib.suppress(psutil.NoSuchProcess):
        worker = psutil.Process(process.pid)
        for each in [worker, *worker.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                used += each.memory_info().rss
    return used
