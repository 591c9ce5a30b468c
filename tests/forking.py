"""Commands and jobs as forks of the test's process, which spares each some 4 s of imports."""

from __future__ import annotations

import atexit
import os
import runpy
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from bench.cli import script
from bench.costs.machine.readings import oom_kills
from bench.executors import Job
from bench.executors.local import LocalHandle, environment_of, version_of
from bench.metrics import classification_score
from bench.records.locks import FOLDER as LOCKS
from bench.report.study_report import StudyReport


class Fork:
    """A child that does a job; what an executor asks of a ``subprocess.Popen``."""

    def __init__(self, job: Job, held: Sequence[int]) -> None:
        self.code: int | None = None
        parent = os.getpid()
        with warnings.catch_warnings():
            # Python 3.12 and later, of threads: those of MLflow and xdist hold nothing we need.
            warnings.simplefilter("ignore", DeprecationWarning)
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


def be_new() -> None:
    """Forget what a process that was started anew would not know; its files 0 to 2 are open."""
    atexit._clear()  # What is to be done at the end of the tests is not for this process to do.
    warnings.resetwarnings()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    # Whose end closes nothing: a fork of a fork replaces them again.
    sys.stdout, sys.stderr = (os.fdopen(n, "w", buffering=1, closefd=False) for n in (1, 2))
    sys.__stdout__, sys.__stderr__ = sys.stdout, sys.stderr


def do(job: Job, held: Sequence[int], parent: int) -> int:
    """Be a process of its own, as far as a job can tell, and do it."""
    os.setsid()
    with Path(os.devnull).open() as nothing, job.log_path.open("ab") as log:
        os.dup2(nothing.fileno(), 0)
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    be_new()
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


def load_what_jobs_load() -> None:
    """Load what torch's first optimizer and the metrics would load in each fork."""
    import scipy.linalg  # noqa: F401
    import torch._dynamo  # noqa: F401


def empty_page(report: StudyReport) -> Path:
    """Write a page that says nothing."""
    path = report.folder / "report.html"
    path.write_text("")
    return path


@contextmanager
def short() -> Iterator[None]:
    """Be short where time is no matter.

    Batches are timed after little warm-up, and classification accuracy scores, 10 s for each study,
    come from a classifier of a few steps. A study's page, 2 s, is empty.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bench.report.page.write.write_page", empty_page)
        patch.setattr("bench.sampling.timing.WARM_UP_SECONDS", 0.3)
        for name in ("RESNET", "MLP"):
            recipe = getattr(classification_score, name)
            patch.setattr(classification_score, name, replace(recipe, steps=5, epochs=0))
        yield


@contextmanager
def forked() -> Iterator[None]:
    """Have commands in this process fork it for their jobs, which are short.

    For what is not tracked: a thread that holds a lock at a fork leaves it taken for good.
    """
    load_what_jobs_load()
    with short(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("bench.executors.LocalExecutor.start", start)
        yield


def command(
    place: Path, *arguments: str, begin: Callable[[], None] = lambda: None
) -> subprocess.Popen[str]:
    """Start ``bench`` in a folder: a process of its own, whose jobs are forks in their turn.

    It calls ``begin`` before anything else.
    For what is not tracked: it has no threads when it forks. It draws no plots at its end, which
    take seconds.
    """
    load_what_jobs_load()
    before = set(os.listdir("/dev/fd"))

    def run() -> None:
        # Whoever starts us waits for the end of a pipe that an exec would close.
        for descriptor in set(os.listdir("/dev/fd")) - before - {"0", "1", "2"}:
            with suppress(OSError):
                os.close(int(descriptor))
        be_new()
        begin()
        sys.argv = ["bench", *arguments]
        code: object = 1
        try:
            with forked(), pytest.MonkeyPatch.context() as patch:
                patch.setattr("bench.report.plots.write.write_plots", lambda *_, **__: [])
                script()
        except SystemExit as end:
            code = end.code
        except BaseException:
            traceback.print_exc()
        with suppress(OSError):
            sys.stdout.flush()
        os._exit(code if isinstance(code, int) else int(code is not None))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # As above.
        return subprocess.Popen(
            [sys.executable], cwd=place, preexec_fn=run, stdin=subprocess.DEVNULL,  # noqa: PLW1509
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip


def start(executor: object, job: Job, *, held: Sequence[int] = ()) -> LocalHandle:
    """As :meth:`bench.executors.LocalExecutor.start`, by a fork."""
    job = job.model_copy(update={"started": time.time()})
    job.write()
    kills, seen = oom_kills(), version_of(job.sign)
    return LocalHandle(job, Fork(job, held), seen, kills)  # type: ignore[arg-type]
