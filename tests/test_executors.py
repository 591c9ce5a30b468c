"""Jobs and the local executor: what is handed over, told, limited and ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from pydantic import ValidationError

from bench.executors import (
    BAD_INPUT,
    DONE,
    FAILED,
    INTERRUPTED,
    End,
    Job,
    Limits,
    LocalExecutor,
    explain_end,
    follow,
    local,
)
from bench.executors.local import LocalHandle
from bench.records import CellLock
from bench.records.orphans import note_death
from bench.records.record import SIGN, Attempt, Status

from .fake_study import make_record

TASK = '''
"""Does what the job's request says."""
import json, os, signal, subprocess, sys, time
from bench.executors import BAD_INPUT, DONE, FAILED, INTERRUPTED, serve

def task(job):
    names = globals() | {"job": job, "code": DONE}
    exec(job.request["code"], names)
    return names["code"]

serve(task)
'''
TELL = "job.sign.write_text({!r})\n"
SLEEP = "time.sleep(60)\n"
SECONDS = 60.0
"""Longest wait for anything, on a busy machine."""

Start = Callable[..., LocalHandle]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: None) -> Any:
    """Start a job that runs some code; what is left of it at the end is killed."""
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "fake_task.py").write_text(TASK)
    paths = [str(tmp_path / "path"), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    handles: list[LocalHandle] = []

    def begin(code: str, held: Sequence[int] = (), **more: Any) -> LocalHandle:
        folder = tmp_path / "job"
        folder.mkdir(exist_ok=True)
        job = Job(
            task="fake_task", folder=folder, cache=tmp_path / "c", request={"code": code}, **more
        )
        handles.append(LocalExecutor().start(job, held=held))
        return handles[-1]

    yield begin
    for handle in handles:
        handle.kill()


def wait_for(what: Callable[[], object]) -> Any:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        if (found := what()) is not None and found is not False:
            return found
        time.sleep(0.02)
    raise AssertionError("it never came")


def end_of(handle: LocalHandle) -> End:
    end: End = wait_for(handle.poll)
    return end


# -- what is handed over ------------------------------------------------------------------------


def test_a_job_s_process_finds_all_in_the_job_s_file(start: Start, tmp_path: Path) -> None:
    before = time.time()
    handle = start(
        "print('heard')\n"
        "told = [str(job.cache), job.command, job.jobs, job.threads, job.started, os.getpid()]\n"
        "told += [os.environ['OMP_NUM_THREADS'], time.perf_counter() - job.begun()]\n"
        "job.answer.write_text(json.dumps(told))\n",
        command="bench run --it", jobs=3, threads=2,
    )  # fmt: skip
    end = end_of(handle)
    assert (end.code, end.was_asked) == (DONE, False), handle.job.log_path.read_text()
    cache, command, jobs, threads, started, pid, own, ago = json.loads(
        handle.job.answer.read_text()
    )
    assert (cache, command, jobs, threads) == (str(tmp_path / "c"), "bench run --it", 3, 2)
    assert own == "2"
    assert pid == handle.process.pid
    assert before <= started <= before + SECONDS
    assert 0 < ago < SECONDS
    assert ago <= end.seconds
    assert handle.job.log_path.read_text() == "heard\n"
    assert Job.read(handle.job.path) == handle.job
    assert not [name for name in os.environ if name.startswith("SCOREBENCH_JOB")]


def test_a_job_s_file_with_what_it_does_not_know_is_refused(tmp_path: Path) -> None:
    job = Job(task="t", folder=tmp_path, cache=tmp_path)
    job.write()
    body = json.loads(job.path.read_text())
    job.path.write_text(json.dumps(body | {"unheard": 1}))
    with pytest.raises(ValidationError, match="unheard"):
        Job.read(job.path)
    with pytest.raises(ValidationError, match="frozen"):
        job.jobs = 2  # type: ignore[misc]


def test_a_clock_that_was_set_back_makes_no_negative_time(tmp_path: Path) -> None:
    job = Job(task="t", folder=tmp_path, cache=tmp_path, started=time.time() + 3600)
    assert job.begun() <= time.perf_counter()
    late = Job(task="t", folder=tmp_path, cache=tmp_path, started=time.time() - 5)
    assert time.perf_counter() - late.begun() == pytest.approx(5.0, abs=0.5)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("code = FAILED", FAILED),
        ("code = BAD_INPUT", BAD_INPUT),
        ("code = INTERRUPTED", INTERRUPTED),
        ("os._exit(9)", 9),
        ("os.kill(os.getpid(), signal.SIGSEGV)", -signal.SIGSEGV),
        ("raise ValueError('planted')", 1),
    ],
)
def test_how_a_process_ended_is_told(start: Start, code: str, expected: int) -> None:
    handle = start(code)
    end = end_of(handle)
    status, reason = explain_end(expected, "log.txt")
    assert (end.code, end.status, end.reason) == (expected, status, reason)
    assert end.pid == handle.process.pid
    assert handle.poll() is end
    if "planted" in code:
        assert "ValueError: planted" in handle.job.log_path.read_text()


SHADOWS = ("random", "bench", "methods", "pydantic", "torch", "sitecustomize")


def test_nothing_of_the_current_folder_is_run(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may hold anything; a plain ``python -m`` would take its first module there."""
    here = tmp_path / "here"
    here.mkdir()
    for name in SHADOWS:
        (here / f"{name}.py").write_text(f"open({str(here / 'touched')!r}, 'a').write('{name} ')")
    monkeypatch.chdir(here)
    # An empty entry would be the current folder too.
    monkeypatch.setenv("PYTHONPATH", os.environ["PYTHONPATH"] + os.pathsep)
    handle = start("import random, bench, methods\njob.answer.write_text(bench.__file__)")
    assert end_of(handle).code == DONE, handle.job.log_path.read_text()
    assert not (here / "touched").exists()
    assert Path(handle.job.answer.read_text()).parent == Path(local.__file__).parents[1]


@pytest.mark.parametrize("place", ["checkout", "site-packages", "dist-packages"])
def test_the_child_s_source_is_its_parent_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """An installed package is found by itself, after Python's library; a checkout goes first."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["/first", "", "/second"]))
    monkeypatch.setattr(local, "ROOT", Path("/there") / place)
    found = local.environment_of(Job(task="t", folder=tmp_path, cache=tmp_path))["PYTHONPATH"]
    own = [f"/there/{place}"] if place == "checkout" else []
    assert found.split(os.pathsep) == [*own, "/first", "/second"]


# -- progress -----------------------------------------------------------------------------------


def test_progress_is_told_once_and_garbage_costs_only_itself(start: Start) -> None:
    handle = start(SLEEP)
    sign = handle.job.sign
    assert handle.progress() is None

    def tell(text: str) -> None:
        new = sign.with_name("new")
        new.write_text(text)
        new.replace(sign)

    tell('{"phase": "training", "fraction": 0.5, "loss": NaN}')
    told = handle.progress()
    assert told is not None
    assert (told["phase"], told["fraction"]) == ("training", 0.5)
    assert handle.progress() is None
    for garbage in (
        "", "{", "12.5", "[]", "null", '"word"', '{"phase": 3}', '{"fraction": 0.1}', "\0" * 9,
        '{"phase": "x", "fraction": "y"}', '{"phase": "x", "fraction": NaN}', "[" * 10**5,
    ):  # fmt: skip
        tell(garbage)
        assert handle.progress() is None, garbage
    sign.write_bytes(b"\xff\xfe")
    assert handle.progress() is None
    assert handle.last == told
    assert handle.poll() is None
    tell('{"phase": "sampling"}')
    assert handle.progress() == {"phase": "sampling"}


def test_what_an_earlier_process_told_is_not_taken_for_this_one_s(
    start: Start, tmp_path: Path
) -> None:
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / SIGN).write_text('{"phase": "evaluating"}')
    handle = start(SLEEP)
    assert handle.progress() is None


def test_following_a_job_tells_its_progress(start: Start) -> None:
    told: list[Any] = []
    handle = start(TELL.format('{"phase": "loading"}') + "time.sleep(1)\ncode = FAILED")
    end = follow(handle, told.append)
    assert (end.code, told) == (FAILED, [{"phase": "loading"}])


def test_who_stops_following_ends_the_job(start: Start) -> None:
    def interrupt(told: object) -> None:
        raise KeyboardInterrupt

    handle = start(TELL.format('{"phase": "loading"}') + SLEEP)
    with pytest.raises(KeyboardInterrupt):
        follow(handle, interrupt)
    assert handle.end is not None
    assert (handle.end.status, handle.end.was_asked) == (Status.INTERRUPTED, True)


# -- ends and limits ----------------------------------------------------------------------------

HEEDS = "signal.signal(signal.SIGTERM, lambda *_: os._exit(INTERRUPTED))\n"
DEAF = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
READY = TELL.format('{"phase": "ready"}')


@pytest.mark.parametrize(("how", "code"), [(HEEDS, INTERRUPTED), (DEAF, -signal.SIGKILL)])
def test_a_job_is_asked_to_stop_and_ended_if_it_does_not(
    start: Start, monkeypatch: pytest.MonkeyPatch, how: str, code: int
) -> None:
    handle = start(how + READY + SLEEP)
    wait_for(handle.progress)
    monkeypatch.setattr(local, "GRACE_SECONDS", SECONDS if how == HEEDS else 0.2)
    handle.ask_to_stop(Status.INTERRUPTED, "stopped by the user")
    end = end_of(handle)
    assert (end.code, end.status, end.reason) == (code, Status.INTERRUPTED, "stopped by the user")
    assert end.was_asked


def test_a_job_ends_with_all_that_it_started(start: Start) -> None:
    handle = start(
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "job.answer.write_text(str(child.pid))\n" + READY + SLEEP
    )
    wait_for(handle.progress)
    child = psutil.Process(int(handle.job.answer.read_text()))
    handle.kill()
    wait_for(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


@pytest.mark.parametrize("phase", ["training", "waiting"])
def test_time_spent_waiting_for_another_cell_does_not_count(start: Start, phase: str) -> None:
    handle = start(TELL.format(json.dumps({"phase": phase})) + SLEEP, limits=Limits(timeout=10))
    wait_for(handle.progress)
    handle.poll()
    # As if it had been so for long.
    for clock in ("started", "polled"):
        setattr(handle, clock, getattr(handle, clock) - 1000)
    end = handle.poll()
    if phase == "waiting":
        assert end is None
        assert handle.asked is None
        assert handle.waited > 900
    else:
        end = end_of(handle)
        assert (end.status, end.reason) == (Status.TIMEOUT, "ran past the limit of 10 s")
        assert end.was_asked


def test_a_job_that_takes_too_much_memory_is_ended_at_once(start: Start) -> None:
    """What its own processes hold counts too."""
    hoard = "import time; hoard = b'x' * (300 << 20); time.sleep(60)"
    handle = start(
        f"subprocess.Popen([sys.executable, '-c', {hoard!r}])\n" + DEAF + SLEEP,
        limits=Limits(memory=250 << 20),
    )
    end = end_of(handle)
    assert (end.status, end.code) == (Status.MEMORY, -signal.SIGKILL)
    assert "past the limit of 250 MiB" in end.reason


PARENT = """
import sys, time
from pathlib import Path
from bench.executors import Job, LocalExecutor

folder = Path(sys.argv[1])
job = Job(task="fake_task", folder=folder, cache=folder, request={"code": sys.argv[2]})
print(LocalExecutor().start(job).process.pid, flush=True)
time.sleep(60)
"""


def test_a_job_does_not_outlive_its_command(start: Start, tmp_path: Path) -> None:
    folder = tmp_path / "orphan"
    folder.mkdir()
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(folder), READY + SLEEP], stdout=subprocess.PIPE
    )
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    wait_for((folder / SIGN).exists)
    parent.kill()
    parent.communicate()
    wait_for(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


# -- signs of life ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sign", "seconds"),
    [
        ('{"phase": "training", "pid": 7, "seconds": 12.5}', 12.5),
        ("12.5", 12.5),  # An older version's.
        ('{"phase": "training", "pid": 8, "seconds": 12.5}', 0.0),  # Of the attempt before.
        ('{"phase": "training"}', 0.0),
        ("{", 0.0),
        ("[]", 0.0),
        (None, 0.0),
    ],
)
def test_an_attempt_whose_end_nobody_saw_has_the_time_of_its_last_sign(
    tmp_path: Path, sign: str | None, seconds: float
) -> None:
    row = make_record(tmp_path, "sde", 0, status=Status.RUNNING)
    row.attempts = [Attempt(started="2026-01-01T00:00:00", pid=7, host="h")]
    if sign is not None:
        (tmp_path / SIGN).write_text(sign)
    note_death(row, tmp_path)
    assert (row.attempts[-1].seconds, row.attempts[-1].ended) == (seconds, Status.KILLED)


# -- what outlives its job ----------------------------------------------------------------------

FORKS = """
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        job.answer.write_text(str(os.getpid()))
        time.sleep(600)
    os._exit(0)
program = ["sh", "-c", "sleep 601 > /dev/null 2>&1 & echo $!"]
other = subprocess.run(program, stdout=-1, start_new_session=True, text=True)
while not job.answer.exists() or not job.answer.read_text():
    time.sleep(0.01)
job.answer.write_text(job.answer.read_text() + " " + other.stdout)
"""


def test_what_was_forked_twice_ends_with_its_cell(start: Start, tmp_path: Path) -> None:
    """It keeps the lock that it has inherited, in no group and as nobody's child."""
    lock = CellLock(tmp_path / "sde-seed0")
    assert lock.acquire()
    assert lock.descriptor is not None
    handle = start(FORKS, held=[lock.descriptor])
    lock.close()
    assert end_of(handle).code == DONE, handle.job.log_path.read_text()
    pids = [int(pid) for pid in handle.job.answer.read_text().split()]
    assert len(pids) == 2
    wait_for(lambda: not any(map(is_alive, pids)))
    assert CellLock(tmp_path / "sde-seed0").acquire()


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_another_process_of_the_same_job_is_left_alone(start: Start) -> None:
    """Another command may have gone on with a cell by the time that this one sees its end."""
    first = start(SLEEP)
    second = start(SLEEP)
    assert first.job.path == second.job.path
    wait_for(
        lambda: Path(f"/proc/{second.process.pid}/environ").read_bytes().find(b"SCOREBENCH") > 0
    )
    first.kill()
    assert end_of(first).code == -9
    assert second.poll() is None
