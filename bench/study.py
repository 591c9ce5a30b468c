"""A study: its plan of cells, and running them, each in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import psutil
from filelock import FileLock, Timeout

from bench.config import (
    WHEREABOUTS,
    CellConfig,
    Settings,
    digest,
    one_line,
    read_cell,
    to_yaml,
)
from bench.errors import MissingDataError, UserError
from bench.estimate import Forecast, Outlook, outlook
from bench.locks import CellLock
from bench.machine import oom_kills
from bench.progress import Display
from bench.record import (
    RECORD,
    RESERVE,
    Attempt,
    Record,
    Status,
    cell_name,
    keep_reserve,
    save_anyhow,
    write_text,
)
from bench.record import load as load_record
from bench.report.frame import flatten
from bench.source import source_hashes
from bench.study_file import Prepared, StudyFile, is_study, read_study, write_study
from bench.worker import BAD_INPUT, NO_DATA, note_death, now, stamp
from methods import registry

stopping, deaf = threading.Event(), threading.Event()
"""Set when a signal has asked this command to stop; and while that must wait for a moment."""
POLL_SECONDS = 0.1
SYNC_SECONDS = 10.0
GRACE_SECONDS = 10.0
"""Time between asking a cell to stop and ending it."""
IDENTITY = ("data_sha256", "extractors", "reference_sha256", "protocol")
"""What of a preparation identifies results, beside the configuration."""
NAMES = {
    "data_sha256": "the data",
    "extractors": "an extractor",
    "reference_sha256": "the reference",
    "protocol": "the protocol",
}
"""What these parts of an identity are called."""
BROKEN = "broken"
"""Key of a cell whose method cannot be loaded."""
RERUN = ("failed", "stale", "all", "none")
"""Which cells ``--rerun`` can choose."""
AFRESH = {Status.DIVERGED}
"""Unfinished states that start afresh; all others go on from their checkpoint."""
HINTS = {
    signal.SIGKILL: ", perhaps for lack of memory",
    signal.SIGBUS: ", perhaps since a file that it had mapped was cut short or cannot be read",
}
"""What a signal may mean, of those that say little by their names."""


@dataclass(frozen=True)
class Request:
    """What the user asked for, resolved and validated."""

    name: str
    results: Path
    settings: Settings
    methods: Mapping[str, dict[str, Any]]
    """Each method's resolved settings."""
    seeds: Sequence[int]
    broken: Mapping[str, str] = field(default_factory=dict)
    """Methods that were asked for and cannot be loaded, each with the reason."""
    jobs: int = 1
    timeout: float | None = None
    """Seconds that a cell's process may work; waiting for another cell's stage does not count."""
    memory: int | None = None
    """Bytes of memory that a cell's processes may hold, all in all."""
    rerun: frozenset[str] = frozenset({"failed", "stale"})
    """Which cells with a result or a failure are run again, of ``RERUN``."""

    @property
    def folder(self) -> Path:
        """The study's folder."""
        return self.results / self.name

    @property
    def cache(self) -> Path:
        """Decoded data, downloads and reference statistics, shared by all studies."""
        return self.results / "cache"


@dataclass
class Planned:
    """One cell and what is to be done with it."""

    config: CellConfig
    folder: Path
    key: str
    identity: Mapping[str, Any]
    """What the key is of, for the record; see ``Record.identity``."""
    action: str
    """``reuse``, ``resume``, ``run``, ``keep`` for what is not to be run again, or ``fail``."""
    why: str
    broken: str = ""
    """Why its method cannot be loaded at all."""
    seen: bytes = b""
    """The record's content when this was decided."""

    @property
    def is_idle(self) -> bool:
        """Whether nothing is done with the cell."""
        return self.action in {"reuse", "keep", "fail"}


# -- identity and plan ------------------------------------------------------------------------


def portable(config: CellConfig) -> dict[str, Any]:
    """Return a configuration without the places of files, of which the hashes matter instead."""
    body = config.model_dump(mode="json")
    body["settings"] = {key: v for key, v in body["settings"].items() if key not in WHEREABOUTS}
    return body


def cell_key(config: CellConfig, prepared: Mapping[str, Any], source: str) -> str:
    """Identify a result: configuration, data, extractor and protocol; and the method's source."""
    body = portable(config)
    identity = [prepared[name] for name in IDENTITY]
    return f"{digest([body, identity])[:20]}-{source[:20]}"


def check_study(request: Request) -> None:
    """Refuse to mix settings in one study; UserError names the first that differs."""
    if not is_study(request.folder):
        return
    other = "give another --study name (its results stay as they are)"
    try:
        settings = read_study(request.folder).settings
    except UserError as error:
        raise UserError(f"{error}; {other}") from error
    stored = flatten("", settings.model_dump(mode="json"))
    asked = flatten("", request.settings.model_dump(mode="json"))
    for key in sorted(stored.keys() | asked.keys()):
        if stored.get(key) != asked.get(key):
            raise UserError(
                f"study '{request.name}' was run with {key} = {stored.get(key)}, not "
                f"{asked.get(key)}; {other}"
            )


def plan(request: Request, prepared: Mapping[str, Any]) -> list[Planned]:
    """Decide for each cell whether its result is reused, resumed or made, and say why."""
    planned = []
    for seed in request.seeds:
        for method, method_config in request.methods.items():
            config = CellConfig(
                settings=request.settings, method=method, method_config=method_config, seed=seed
            )
            folder = cell_folder(request, method, seed)
            source = source_hashes(registry.load(method).__module__)
            key = cell_key(config, prepared, digest(source))
            identity = {name: prepared[name] for name in IDENTITY} | {"source": source}
            cell = Planned(config, folder, key, identity, action="run", why="to do")
            cell.seen = record_bytes(cell.folder)
            cell.action, cell.why = decide(cell, request.rerun)
            planned.append(cell)
        planned += [plan_broken(request, label, seed) for label in request.broken]
    return planned


def plan_broken(request: Request, label: str, seed: int) -> Planned:
    """Plan a cell whose method cannot be loaded: it fails, and what there is of it is kept."""
    config = CellConfig(settings=request.settings, method=label, method_config={}, seed=seed)
    why = request.broken[label]
    cell = Planned(config, cell_folder(request, label, seed), BROKEN, {}, "fail", why, why)
    cell.seen = record_bytes(cell.folder)
    record = readable(cell.folder)
    if record is not None and record.status != Status.PENDING and record.key != BROKEN:
        cell.action, cell.why = "keep", f"{record.status} before, and now {why}"
    return cell


def replace(path: Path) -> None:
    """Move a study's folder or file to ``replaced/``, under a name with the present moment."""
    moment = now().replace(":", "").replace("+0000", "Z")
    place = path.parent / "replaced" / f"{path.stem}-{moment}{path.suffix}"
    place.parent.mkdir(exist_ok=True)
    path.rename(place)


def record_bytes(folder: Path) -> bytes:
    """The content of a cell's record; nothing where there is none."""
    try:
        return (folder / RECORD).read_bytes()
    except OSError:
        return b""


def cell_folder(request: Request, label: str, seed: int) -> Path:
    """The folder of a method's cell."""
    return request.folder / cell_name(label, seed)


def decide(cell: Planned, rerun: Collection[str]) -> tuple[str, str]:
    """Return the action for a cell and the reason; ``rerun`` as in ``Request``."""
    try:
        record = load_record(cell.folder)
    except ValueError:
        return "run", "its record cannot be read"
    if record is None or record.status == Status.PENDING:
        return "run", "to do"
    state, why = judge(cell, record)
    if "all" in rerun and state != "interrupted":
        return "run", f"{why}, asked for again"
    if state == "done":
        return "reuse", why
    if state != "interrupted" and state not in rerun:
        return "keep", f"{why}, not run again"
    resumed = state != "stale" and record.status not in AFRESH
    return "resume" if resumed else "run", why


def judge(cell: Planned, record: Record) -> tuple[str, str]:
    """Say how a cell stands, ``done``, ``stale``, ``interrupted`` or ``failed``, and in words."""
    if record.key != cell.key:
        return "stale", f"stale: {', '.join(changes(cell, record))} changed"
    if record.status == Status.FINISHED:
        return "done", "done"
    if record.status in {Status.RUNNING, Status.INTERRUPTED}:
        return "interrupted", "interrupted"
    return "failed", f"{record.status} before"


def changes(cell: Planned, record: Record) -> list[str]:
    """Name what a result was made with that is not so any more, files of source by their path."""
    named = [name for part, name in NAMES.items() if part_differs(cell, record, part)]
    before, now = record.identity.get("source", {}), cell.identity["source"]
    modules = sorted(name for name in before | now if before.get(name) != now.get(name))
    files = [f"{name.replace('.', '/')}.py" for name in modules] if before else []
    return [*changed_settings(cell), *named, *files] or ["its settings, data, protocol or source"]


def part_differs(cell: Planned, record: Record, part: str) -> bool:
    """Whether a part of the identity differs; one that an older record does not tell does not."""
    return part in record.identity and record.identity[part] != cell.identity[part]


def changed_settings(cell: Planned) -> list[str]:
    """Name the settings that differ from those that a cell's folder was made with."""
    try:
        before = flatten("", portable(read_cell(cell.folder / "config.yaml")))
    except (OSError, ValueError):
        return []
    now = flatten("", portable(cell.config))
    return sorted(key for key in before | now if before.get(key) != now.get(key))


# -- preparing ----------------------------------------------------------------------------------


def start_prepare(request: Request, folder: Path, *, check_only: bool) -> Preparation:
    """Start loading and checking data, extractor and methods in a process of its own."""
    answer, asked = folder / "answer.json", folder / "request.json"
    body = {
        "settings": request.settings.model_dump(mode="json"),
        "methods": dict(request.methods),
        "seeds": list(request.seeds),
        "cache": str(request.cache) if not check_only else str(cache_for_check(request, folder)),
        "study": str(request.folder),
        "check_only": check_only,
        "answer": str(answer),
    }
    asked.write_text(json.dumps(body))
    errors = folder / "errors.txt"
    process, pipe = spawn(worker_command("prepare", asked), request, errors)
    return Preparation(process, answer, errors, pipe)


def spawn(
    command: Sequence[str], request: Request, log: Path, inherited: Sequence[int] = ()
) -> tuple[subprocess.Popen[bytes], int]:
    """Start a process in a group of its own; return it, and the pipe that it tells progress by.

    What it prints is added to ``log``; it gets the open files ``inherited``.
    """
    reading, writing = os.pipe()
    environment = worker_environment(request) | {
        "SCOREBENCH_PROGRESS": str(writing),
        "SCOREBENCH_SPAWNED": repr(time.perf_counter()),
    }
    with log.open("ab") as file:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env=environment,
            pass_fds=[writing, *inherited],
            start_new_session=True,
        )
    os.close(writing)
    return process, reading


def cache_for_check(request: Request, folder: Path) -> Path:
    """The shared cache where there is one already; a dry run makes no folder of its own."""
    return request.cache if request.cache.exists() else folder / "cache"


@dataclass
class Preparation:
    """A preparation under way."""

    process: subprocess.Popen[bytes]
    answer: Path
    errors: Path
    pipe: int

    def wait(self, display: Display | None = None) -> dict[str, Any]:
        """Return what was found; UserError with the one line that says what is wrong."""
        try:
            # Ends when the process does, which alone holds the other end.
            with os.fdopen(self.pipe) as told:
                for line in told:
                    if display is not None:
                        display.preparing(json.loads(line))
            self.process.wait()
        except BaseException:
            end(self.process)
            raise
        # All that is needed is there before an estimate is tried, which may end the process.
        if self.answer.exists():
            answer: dict[str, Any] = json.loads(self.answer.read_text())
            return answer
        errors = self.errors.read_text(errors="replace")
        if self.process.returncode in {BAD_INPUT, NO_DATA}:
            kind = MissingDataError if self.process.returncode == NO_DATA else UserError
            raise kind(one_line(errors.strip().splitlines()[-1]))
        print(errors, file=sys.stderr)
        raise UserError("preparing the study failed for the reason above")


def worker_command(task: str, path: Path) -> list[str]:
    """The command line of a worker."""
    return [sys.executable, "-m", "bench.worker", task, str(path)]


def worker_environment(request: Request) -> dict[str, str]:
    """Environment of a worker: where the cache is, what command it is part of."""
    environment = dict(os.environ)
    environment["SCOREBENCH_CACHE"] = str(request.cache)
    environment["SCOREBENCH_COMMAND"] = shlex.join(["bench", *sys.argv[1:]])
    environment["SCOREBENCH_PARENT"] = str(os.getpid())
    environment["SCOREBENCH_JOBS"] = str(request.jobs)
    if request.settings.threads is not None:
        # Before numpy's and torch's libraries are loaded, or they take every core.
        environment["OMP_NUM_THREADS"] = str(request.settings.threads)
    return environment


# -- running ------------------------------------------------------------------------------------


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Let no signal in between the start of a process and our knowing it."""
    deaf.set()
    try:
        yield
    finally:
        deaf.clear()


@dataclass
class Running:
    """A cell's process, and the last that it told of its progress."""

    planned: Planned
    process: subprocess.Popen[bytes]
    pipe: int
    started: float
    oom_kills: int = 0
    """Processes that the kernel had ended for lack of memory when this one began."""
    ending: Ending | None = None
    polled: float = field(default_factory=time.monotonic)
    waited: float = 0.0
    """Seconds in which it waited for a stage that another cell trains."""
    buffer: bytes = b""
    last: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The cell's name."""
        return self.planned.folder.name

    @property
    def is_past_training(self) -> bool:
        """Whether the cell has trained all its stages."""
        return self.last.get("phase") in {"sampling", "evaluating"}

    def read_progress(self) -> bool:
        """Read what the cell told since; whether there was anything."""
        with contextlib.suppress(BlockingIOError):
            self.buffer += os.read(self.pipe, 1 << 16)
        *lines, self.buffer = self.buffer.split(b"\n")
        if lines:
            self.last = json.loads(lines[-1])
        return bool(lines)


@dataclass(frozen=True)
class Ending:
    """Why we end a cell's process, and when our patience with it is over."""

    status: Status
    reason: str
    deadline: float


def end(process: subprocess.Popen[Any]) -> None:
    """End a worker and whatever it started: ask, wait, then kill its process group."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_SECONDS)
    kill_group(process)


def kill_group(process: subprocess.Popen[Any]) -> None:
    """Kill a worker's process group and wait for the worker."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class Runner:
    """Runs planned cells, some at a time, and keeps their records true whatever becomes of them.

    Several may run on one study: a cell that another one works on is waited for.
    """

    log: ClassVar[str] = "log.txt"

    def __init__(
        self, request: Request, prepared: Mapping[str, Any], tracker: Any, display: Display
    ) -> None:
        self.request, self.prepared = request, prepared
        self.tracker, self.display = tracker, display
        self.running: list[Running] = []
        self.elsewhere: set[str] = set()
        """Names of the cells that were found with another command."""
        self.synced = time.monotonic()

    def run(self, planned: Sequence[Planned]) -> None:
        """Run all cells that have no result yet; KeyboardInterrupt ends them cleanly first."""
        waiting = [cell for cell in planned if not cell.is_idle]
        try:
            for cell in planned:
                self.announce(cell)
            while waiting or self.running:
                if stopping.is_set():
                    raise KeyboardInterrupt
                self.fill(waiting)
                self.poll()
                time.sleep(POLL_SECONDS)
        except BaseException:
            self.stop_all()
            raise

    def announce(self, cell: Planned) -> None:
        """Give a cell that was never run its row in the table, and one that cannot be run."""
        if cell.action == "fail" or (cell.action == "run" and not cell.seen):
            with self.claim(cell) as lock:
                if lock is not None and record_bytes(cell.folder) == cell.seen:
                    self.lay_out(cell)

    @contextlib.contextmanager
    def claim(self, cell: Planned) -> Iterator[CellLock | None]:
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

    def fill(self, waiting: list[Planned]) -> None:
        """Start waiting cells while there is room for them."""
        for cell in self.in_order(waiting):
            if len(self.running) >= self.request.jobs:
                return
            with self.claim(cell) as lock:
                if lock is None:
                    continue
                waiting.remove(cell)
                self.renew(cell)
                if cell.is_idle:
                    self.display.say(f"{cell.folder.name}: {cell.action} ({cell.why})")
                else:
                    self.lay_out(cell)
                    with uninterrupted():
                        self.running.append(self.start(cell, lock))

    def renew(self, cell: Planned) -> None:
        """Decide anew what is to be done with a cell, which another command may have touched."""
        if record_bytes(cell.folder) != cell.seen or cell.folder.name in self.elsewhere:
            # What has just failed elsewhere is not tried again here.
            cell.action, cell.why = decide(cell, frozenset())

    def in_order(self, waiting: Sequence[Planned]) -> list[Planned]:
        """Put cells that need not wait for a running one's shared stage before the others."""
        busy = {
            self.first_stage(cell.planned) for cell in self.running if not cell.is_past_training
        } - {None}
        return sorted(waiting, key=lambda cell: self.first_stage(cell) in busy)

    def first_stage(self, cell: Planned) -> tuple[str, int] | None:
        """What identifies a cell's first stage, if others may have it too."""
        key = self.prepared["stages"].get(cell.config.method)
        return None if key is None else (key, cell.config.seed)

    def lay_out(self, cell: Planned) -> None:
        """Write a cell's configuration and pending record; an older result is set aside."""
        if cell.action == "fail":
            record = self.pending(cell)
            record.status, record.reason, record.ended = Status.FAILED, cell.broken, now()
            save_anyhow(record, cell.folder)
            write_text(cell.folder / self.log, f"{cell.broken}\n")
            self.display.say(f"{cell.folder.name}: {record.status}: {record.reason}")
            self.sync(cell.folder)
        if cell.action == "run":
            self.set_aside(cell)
            write_text(cell.folder / "config.yaml", to_yaml(cell.config))
            save_anyhow(self.pending(cell), cell.folder)
            cell.why, cell.seen = "to do", record_bytes(cell.folder)

    def pending(self, cell: Planned) -> Record:
        """The record of a cell before anything is done."""
        return Record(
            study=self.request.name,
            cell=cell.folder.name,
            method=cell.config.method,
            seed=cell.config.seed,
            dataset=self.request.settings.dataset,
            data_variant=self.prepared["data_variant"],
            preset=self.request.settings.preset,
            key=cell.key,
            identity=dict(cell.identity),
        )

    def set_aside(self, cell: Planned) -> None:
        """Move a stale or failed cell's folder out of the way; nothing is deleted."""
        if (cell.folder / RECORD).exists() and cell.why != "to do":
            replace(cell.folder)

    def command(self, cell: Planned) -> list[str]:
        """The command line of a cell's process."""
        return worker_command("cell", cell.folder)

    def start(self, cell: Planned, lock: CellLock) -> Running:
        """Start a cell's process, which inherits the cell's lock; its output goes to its log."""
        assert lock.descriptor is not None
        kills, log = oom_kills(), cell.folder / self.log
        process, pipe = spawn(self.command(cell), self.request, log, [lock.descriptor])
        os.set_blocking(pipe, False)
        self.display.start(cell.folder.name, cell.why)
        return Running(cell, process, pipe, time.monotonic(), kills)

    def poll(self) -> None:
        """Look at every running cell once."""
        for cell in list(self.running):
            if cell.read_progress():
                self.display.update(cell.name, cell.last)
            if cell.process.poll() is not None:
                self.close(cell)
            elif cell.ending is None:
                self.check_limits(cell)
            elif time.monotonic() > cell.ending.deadline:
                self.close(cell)
        if time.monotonic() - self.synced > SYNC_SECONDS:
            for cell in self.running:
                self.sync(cell.planned.folder)
            self.synced = time.monotonic()

    def check_limits(self, cell: Running) -> None:
        """Ask a cell to stop that runs too long, and end one that takes too much memory."""
        limit = self.request.timeout
        moment = time.monotonic()
        if cell.last.get("phase") == "waiting":
            cell.waited += moment - cell.polled
        cell.polled = moment
        if limit is not None and moment - cell.started - cell.waited > limit:
            reason = f"ran past the limit of {limit:g} s"
            cell.ending = Ending(Status.TIMEOUT, reason, time.monotonic() + GRACE_SECONDS)
            cell.process.terminate()
        most = self.request.memory
        if most is not None and (used := memory_of(cell.process)) > most:
            reason = f"took {used / 2**20:.0f} MiB of memory, past the limit of {most >> 20} MiB"
            # At once: what asks for so much may have the rest of the machine's soon.
            cell.ending = Ending(Status.MEMORY, reason, 0.0)

    def sync(self, folder: Path) -> None:
        """Have a cell's folder shown in MLflow; nothing waits for that."""
        self.tracker.sync_cell(folder)

    def close(self, cell: Running) -> None:
        """Make the record say how the cell ended, or that we ended it, and show it."""
        kill_group(cell.process)
        os.close(cell.pipe)
        self.running.remove(cell)
        record = self.settle(cell)
        self.display.end(cell.name, record)
        self.sync(cell.planned.folder)

    def settle(self, cell: Running) -> Record:
        """Correct the record of a cell whose process could not do it itself, or that we ended."""
        folder = cell.planned.folder
        record = load_record(folder)
        assert record is not None
        before = record.model_copy(deep=True)
        if record.status in {Status.RUNNING, Status.PENDING}:
            record.status, record.reason = explain_end(
                cell.process.returncode, self.log, was_short=oom_kills() > cell.oom_kills
            )
            record.ended = now()
        ending = cell.ending
        if ending is not None and record.status not in {Status.FINISHED, ending.status}:
            record.status, record.reason = ending.status, ending.reason
        note_end(record, cell.process.pid, time.monotonic() - cell.started)
        if record != before:
            save_anyhow(record, folder)
        return record

    def stop_all(self) -> None:
        """Ask every running cell to stop, give it time for a checkpoint, then end it."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # A second signal must not leave cells behind; this takes a few seconds at most.
            signal.signal(number, signal.SIG_IGN)
        deadline = time.monotonic() + GRACE_SECONDS
        for cell in self.running:
            cell.ending = Ending(Status.INTERRUPTED, "stopped by the user", deadline)
            cell.process.terminate()
        for cell in list(self.running):
            with contextlib.suppress(subprocess.TimeoutExpired):
                cell.process.wait(max(0.0, deadline - time.monotonic()))
            self.close(cell)


def note_end(record: Record, pid: int, seconds: float) -> None:
    """Note how long a process worked on a cell that could not tell it itself."""
    if not record.attempts or record.attempts[-1].pid != pid:
        began = stamp(time.time() - seconds)
        record.attempts.append(Attempt(started=began, pid=pid, host=socket.gethostname()))
    attempt = record.attempts[-1]
    if attempt.seconds is None:
        attempt.seconds, attempt.ended = seconds, record.status


def memory_of(process: subprocess.Popen[Any]) -> int:
    """Bytes of memory that a worker and all it started hold."""
    used = 0
    with contextlib.suppress(psutil.NoSuchProcess):
        worker = psutil.Process(process.pid)
        for each in [worker, *worker.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                used += each.memory_info().rss
    return used


def explain_end(code: int, log: str, *, was_short: bool = False) -> tuple[Status, str]:
    """Say how a process ended that could not say it itself; ``was_short``: memory was."""
    if code >= 0:
        return Status.KILLED, f"its process ended with code {code}; see {log}"
    number = signal.Signals(-code)
    if number == signal.SIGKILL and was_short:
        return Status.MEMORY, "its process was ended by the kernel for lack of memory"
    return Status.KILLED, f"its process was ended by {number.name}{HINTS.get(number, '')}"


def settle_study(folder: Path) -> None:
    """Mark as interrupted the cells that no process works on any more."""
    for path in folder.glob(f"*-seed*/{RECORD}"):
        record = readable(path.parent)
        if record is not None and record.status == Status.RUNNING:
            settle_orphan(path.parent)


def readable(folder: Path) -> Record | None:
    """Read a cell's record; ``None`` where there is none that can be read."""
    try:
        return load_record(folder)
    except ValueError:
        return None


def settle_orphan(folder: Path) -> None:
    """Mark a running cell as interrupted if its lock is free; the next run goes on with it."""
    lock = CellLock(folder)
    if not lock.acquire():
        return
    with contextlib.closing(lock):
        record = load_record(folder)
        if record is not None and record.status == Status.RUNNING:
            note_death(record, folder)
            record.status, record.reason = Status.INTERRUPTED, "its command was ended"
            save_anyhow(record, folder)


@contextlib.contextmanager
def only_command(folder: Path, wait: Callable[[], object] | None = None) -> Iterator[None]:
    """Hold a study as a whole against other commands, while it is prepared or measured.

    Where one holds it already, call ``wait`` and wait for it; without ``wait``, UserError.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"'{folder}' cannot be made: {error.strerror}") from error
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        if wait is None:
            raise UserError(
                f"study '{folder.name}' is in use by another command; wait for it to end, "
                "or give another --study name"
            ) from error
        wait()
        lock.acquire()
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            if [path.name for path in folder.iterdir()] == [".lock"]:
                (folder / ".lock").unlink()
                folder.rmdir()
        raise
    finally:
        lock.release()


def execute(request: Request, tracker_factory: Any, display: Display) -> list[Planned]:
    """Prepare, plan and run a study; returns its cells. Raises UserError before any training.

    Other commands may run the same study at the same time; each cell is run by one of them.
    """

    def wait() -> None:
        display.say(f"another command is preparing study '{request.name}'; waiting for it")

    with only_command(request.folder, wait):
        prepared, tracker = make_ready(request, tracker_factory, display)
    settle_study(request.folder)
    keep_reserve(request.folder)
    planned = plan(request, prepared)
    display.plan(planned, prepared)
    runner = Runner(request, prepared, tracker, display)
    with display:
        runner.run(planned)
    drop_reserve(request.folder)
    say_tracking(runner, planned, display)
    return planned


def drop_reserve(folder: Path) -> None:
    """Give back the room that was kept for records, unless another command has cells running."""
    rows = [readable(path.parent) for path in folder.glob(f"*-seed*/{RECORD}")]
    if not any(row is not None and row.status == Status.RUNNING for row in rows):
        (folder / RESERVE).unlink(missing_ok=True)


def make_ready(
    request: Request, tracker_factory: Any, display: Display
) -> tuple[dict[str, Any], Any]:
    """Prepare a study and write down what it is; return what was found, and the tracker."""
    check_study(request)
    with tempfile.TemporaryDirectory() as scratch:
        preparation = start_prepare(request, Path(scratch), check_only=False)
        # MLflow's store takes seconds to create; the data load meanwhile.
        tracker = tracker_factory()
        prepared = preparation.wait(display)
    found = Prepared.model_validate(prepared)
    study = StudyFile(name=request.name, settings=request.settings, prepared=found)
    write_study(study, request.folder)
    return prepared, tracker


def say_tracking(runner: Runner, planned: Sequence[Planned], display: Display) -> None:
    """Say what MLflow cost beside the training of the cells that ran."""
    ran = [readable(cell.folder) for cell in planned if not cell.is_idle]
    training = sum(record.ledger.get("train", 0.0) for record in ran if record is not None)
    seconds = runner.tracker.seconds
    if training and seconds > 0.01 and runner.tracker.trouble is None:
        display.say(
            f"MLflow: {seconds:.1f} s of logging beside {training:.0f} s of "
            f"training ({seconds / training:.2%})"
        )


def dry_run(request: Request) -> Outlook:
    """Check everything, plan and estimate, but leave no trace under the results folder."""
    check_study(request)
    with tempfile.TemporaryDirectory() as scratch:
        prepared = start_prepare(request, Path(scratch), check_only=True).wait()
    found = Forecast.model_validate(prepared["forecast"])
    return outlook(plan(request, prepared), prepared["stages"], found, request.jobs)
