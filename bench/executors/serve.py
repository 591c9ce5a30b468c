"""The other side of an executor: what a job's process does before and after its task."""

import ctypes
import faulthandler
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from bench.executors.executor import BAD_INPUT, INTERRUPTED, end_strays
from bench.executors.job import Job, packages

OOM_SCORE = 500
"""Of 1000: how readily the kernel ends this process when memory runs short."""


def serve(task: Callable[[Job], int]) -> NoReturn:
    """Do a task as a process of its own: ``python -m TASK JOB.json [PARENT]``.

    ``task`` returns the exit code. With the number of a parent process it ends when that does.
    """
    path, *parent = sys.argv[1:]
    if parent:
        die_with(int(parent[0]))
        offer_to_the_kernel()
    faulthandler.enable()
    job = Job.read(Path(path))
    if job.packages != packages():
        found, wanted = (", ".join(paths.values()) for paths in (packages(), job.packages))
        print(f"its process would run {found}, and not {wanted} as the command does")
        sys.exit(BAD_INPUT)
    for descriptor in os.listdir("/dev/fd"):
        # The cell's lock is this process's alone, not that of a program which it starts.
        if int(descriptor) > 2:
            with suppress(OSError):
                os.set_inheritable(int(descriptor), False)
    code = task(job)
    if parent and os.getppid() != int(parent[0]):
        end_strays(job)  # Else the parent does so, whatever becomes of this process.
    if code == INTERRUPTED:
        # All is on disk, and whoever asked this process to stop will not wait for long.
        with suppress(OSError):
            sys.stdout.flush()
        os._exit(code)
    sys.exit(code)


def die_with(parent: int) -> None:
    """Ask Linux for a SIGTERM when the parent process ends, so that no cell is orphaned."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
    # The parent may have ended before this process could ask.
    if os.getppid() != parent:
        sys.exit(INTERRUPTED)


def offer_to_the_kernel() -> None:
    """Have Linux end this process before the command that waits for it, if memory runs short."""
    place = Path("/proc/self/oom_score_adj")
    with suppress(OSError, ValueError):
        place.write_text(str(max(int(place.read_text()), OOM_SCORE)))
