"""Jobs as forks of the test's process, which has torch already: some 4 s less for each."""

from __future__ import annotations

import atexit
import os
import runpy
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch._dynamo  # noqa: F401  # which torch's first optimizer would load in each of them

from bench.costs.machine.readings import oom_kills
from bench.executors import Job
from bench.executors.local import LocalHandle, environment_of, version_of
from bench.metrics import classification_score
from bench.records.locks import FOLDER as LOCKS


class Fork:
    """A child that does a job; what an executor asks of a ``subprocess.Popen``."""

    def __init__(self, job: Job, held: Sequence[int]) -> None:
        self.code: int | None = None
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                code = do(job, held, parent)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)

    def poll(self) -> int | None:
        return self.code if self.code is not None else self._ask(os.WNOHANG)

    def wait(self) -> int | None:
        return self.code if self.code is not None else self._ask(0)

    def terminate(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGTERM)

    def _ask(self, how: int) -> int | None:
        pid, status = os.waitpid(self.pid, how)
        if pid:
            self.code = os.waitstatus_to_exitcode(status)
        return self.code


def do(job: Job, held: Sequence[int], parent: int) -> int:
    """Be a process of its own, as far as a job can tell, and do it."""
    os.setsid()
    atexit._clear()  # What is to be done at the end of the tests is not for this process to do.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    with Path(os.devnull).open() as nothing, job.log_path.open("ab") as log:
        os.dup2(nothing.fileno(), 0)
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
    # Locks of other cells are the parent's alone.
    for descriptor in set(map(int, os.listdir("/dev/fd"))) - {0, 1, 2, *held}:
        if LOCKS in os.path.realpath(f"/dev/fd/{descriptor}"):
            os.close(descriptor)
    os.environ.clear()
    os.environ.update(environment_of(job))
    sys.argv = [job.task, str(job.path), str(parent)]
    main = f"{job.task}.__main__" if job.task == "bench.worker" else job.task
    sys.modules.pop(main, None)
    try:
        runpy.run_module(main, run_name="__main__")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        atexit._run_exitfuncs()
    return 0


@contextmanager
def forked() -> Iterator[None]:
    """Have commands in this process fork it for their jobs, and be short where time is no matter.

    Batches are timed after little warm-up, and classification accuracy scores, 10 s for each study,
    come from a classifier of a few steps.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bench.executors.LocalExecutor.start", start)
        patch.setattr("bench.sampling.timing.WARM_UP_SECONDS", 0.3)
        for name in ("RESNET", "MLP"):
            recipe = getattr(classification_score, name)
            patch.setattr(classification_score, name, replace(recipe, steps=5, epochs=0))
        yield


def start(executor: object, job: Job, *, held: Sequence[int] = ()) -> LocalHandle:
    """As :meth:`bench.executors.LocalExecutor.start`, by a fork."""
    job = job.model_copy(update={"started": time.time()})
    job.write()
    kills, seen = oom_kills(), version_of(job.sign)
    return LocalHandle(job, Fork(job, held), seen, kills)  # type: ignore[arg-type]
