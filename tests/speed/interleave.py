"""Measures two trees in one job: two processes a side, all of whose rounds are interleaved.

Each process is a pytest session with pytest-benchmark (``turns.py``), told before each round that
it may go. Whatever else the machine does meanwhile slows neighbouring rounds alike; and what two
processes of the *same* code differ by is the noise that no number of rounds shows.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PROCESSES = 2
"""Of each side."""
ROUND = 0.1
"""Seconds that a round takes, by as many calls as that needs."""
FEWEST, MOST = 4, 40
"""Rounds of a benchmark in one process."""
LIMIT = 600
"""Seconds without an answer after which a process is given up."""
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(2**25), "MALLOC_TRIM_THRESHOLD_": str(2**34)}
"""glibc keeps freed memory: how often it gives it back and faults it in again differs by chance
from one process to the next, by up to a fifth of the CPU time of feature extraction."""
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

Times = dict[str, list[list[float]]]
"""Seconds a call: by side, then by process and round."""
Counts = dict[str, float]
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Code:
    """One side: the tree whose code is measured, and the file of benchmarks that measures it."""

    tree: Path
    definitions: Path


@dataclass
class Measured:
    """What came of a job; names are those of the tests."""

    collected: dict[str, list[str]] = field(default_factory=dict)
    """Benchmarks that each side has."""
    uncollected: dict[str, str] = field(default_factory=dict)
    """Why a side has none, or not all."""
    times: dict[str, Times] = field(default_factory=dict)
    counts: dict[str, dict[str, Counts]] = field(default_factory=dict)
    """Numbers without a clock, by benchmark and side."""
    errors: dict[str, dict[str, str]] = field(default_factory=dict)
    """Why a benchmark could not run, by benchmark and side."""

    @property
    def settled(self) -> set[str]:
        """Benchmarks that have been dealt with."""
        return {*self.times, *self.errors}


class LostError(Exception):
    """A process has died or hangs; the message says which and how."""

    def __init__(self, side: str, reason: str) -> None:
        super().__init__(reason)
        self.side = side


class Process:
    """One process of a side, and the line to it."""

    def __init__(self, side: str, code: Code, folder: Path) -> None:
        self.side, self.folder = side, folder
        folder.mkdir(parents=True)
        self.socket, theirs = socket.socketpair()
        self.socket.settimeout(LIMIT)
        self.file = self.socket.makefile("rw")
        script = Path(__file__).with_name("turns.py")
        given = [str(theirs.fileno()), str(code.tree), str(code.definitions), str(folder)]
        with theirs, (folder / "log.txt").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", str(script), *given],
                cwd=folder,
                env=environment(code.tree),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def send(self, **message: Any) -> None:
        try:
            self.file.write(json.dumps(message) + "\n")
            self.file.flush()
        except OSError:
            raise LostError(self.side, self._end()) from None

    def receive(self) -> dict[str, Any]:
        try:
            line = self.file.readline()
        except TimeoutError:
            raise LostError(self.side, f"no answer for {LIMIT} s") from None
        except OSError:
            line = ""
        if not line:
            raise LostError(self.side, self._end())
        return dict(json.loads(line))

    def _end(self) -> str:
        code = self.process.wait(LIMIT)
        lines = (self.folder / "log.txt").read_text(errors="replace").split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "")
        return f"its process ended with exit code {code}: {last.strip()[:200]}"

    def leave(self) -> None:
        """Let the process write its results; kill it if it does not end by itself."""
        self.file.close()
        self.socket.close()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self.process.kill()
            self.process.wait()


def environment(tree: Path) -> dict[str, str]:
    """Return an environment in which the tree's code is found first and one thread is used."""
    # Bytecode that may not be written would be compiled anew at every start.
    # What a pytest around this one has set would switch the benchmarks off, or add options to them.
    kept = {
        name: value
        for name, value in os.environ.items()
        if name != "PYTHONDONTWRITEBYTECODE" and not name.startswith("PYTEST_")
    }
    own = {"PYTHONPATH": str(tree), "CUDA_VISIBLE_DEVICES": "", "MLFLOW_DISABLE_TELEMETRY": "true"}
    return kept | own | ALLOCATOR | dict.fromkeys(THREADS, "1")


def plan(seconds: Sequence[float], wanted: float) -> dict[str, int]:
    """Choose calls a round and rounds so that each process works for about ``wanted`` seconds."""
    call = max(min(seconds), 1e-6)
    calls = math.ceil(min(ROUND, wanted / FEWEST) / call)
    return {"calls": calls, "rounds": min(max(round(wanted / (call * calls)), FEWEST), MOST)}


def order(processes: Sequence[Process], index: int) -> list[Process]:
    """Order the turns of a round: forwards, backwards, then both from the middle on."""
    half = len(processes) // 2 if index % 4 > 1 else 0
    turned = [*processes[half:], *processes[:half]]
    return turned[::-1] if index % 2 else turned


def measure(
    sides: Mapping[str, Code],
    select: Callable[[str], bool],
    *,
    seconds: float,
    folder: Path,
    tell: Tell = lambda line: None,
) -> Measured:
    """Measure all benchmarks that ``select`` takes on every side that has them.

    ``seconds`` is the CPU time of each process for each benchmark. A process that dies takes but
    the benchmark with it that it was at: the others go on in new processes.
    """
    result = Measured()
    for attempt in range(1000):
        at: list[str] = []
        try:
            with ExitStack() as stack:
                processes = [
                    Process(side, code, folder / f"{attempt}-{side}-{number}")
                    for number in range(PROCESSES)
                    for side, code in sides.items()
                ]
                for process in processes:
                    stack.callback(process.leave)
                _session(processes, select, seconds=seconds, result=result, at=at, tell=tell)
        except LostError as lost:
            if not at:
                result.uncollected[lost.side] = str(lost)
                return result
            result.errors.setdefault(at[-1], {})[lost.side] = str(lost)
            tell(f"{at[-1]}: {lost.side}: {lost}")
            if result.settled >= set(result.collected["current"]):
                break
        else:
            break
    return result


def collect(code: Code, folder: Path) -> list[str]:
    """Return the names of the benchmarks that one side has; none where they cannot be loaded."""
    process = Process("own", code, folder)
    try:
        names = process.receive()["collected"]
        process.send(run=[])
    except LostError:
        return []
    finally:
        process.leave()
    return list(names)


def _session(
    processes: Sequence[Process],
    select: Callable[[str], bool],
    *,
    seconds: float,
    result: Measured,
    at: list[str],
    tell: Tell,
) -> None:
    """Run what is not settled yet; ``at`` names each benchmark as it begins."""
    for process in processes:
        message = process.receive()
        result.collected[process.side] = [n for n in message["collected"] if select(n)]
        if message["errors"]:
            result.uncollected[process.side] = message["errors"][0]
    # What one side alone has is timed only where it is new.
    names = [n for n in result.collected["current"] if n not in result.settled]
    for process in processes:
        process.send(run=[n for n in names if n in result.collected[process.side]])
    for number, name in enumerate(names, 1):
        at.append(name)
        having = [p for p in processes if name in result.collected[p.side]]
        _benchmark(name, having, seconds, result)
        tell(f"[{number}/{len(names)}] {name}")


def _benchmark(name: str, processes: Sequence[Process], seconds: float, result: Measured) -> None:
    """Give turns to one benchmark until every process has finished it."""
    messages = {process: process.receive() for process in processes}
    ready = all("ready" in message for message in messages.values())
    chosen = plan([m["seconds"] for m in messages.values()], seconds) if ready else {"rounds": 0}
    messages = {p: _answer(p, m, chosen) for p, m in messages.items()}
    for index in range(chosen["rounds"]):
        for process in order(list(messages), index):
            messages[process] = _answer(process, messages[process], {"go": _all_well(messages)})
    times: Times = {}
    for process, message in messages.items():
        if message["error"] is not None:
            result.errors.setdefault(name, {})[process.side] = message["error"]
        elif message["times"] is not None:
            times.setdefault(process.side, []).append(message["times"])
            result.counts.setdefault(name, {})[process.side] = message["counts"]
    if sum(map(len, times.values())) == len(processes):
        result.times[name] = times
    elif name not in result.errors:
        result.errors[name] = {process.side: "it skipped itself" for process in processes}


def _answer(process: Process, message: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    """Answer a process that waits and return what it says next; one that has finished stays so."""
    if "finished" in message:
        return message
    process.send(**answer)
    return process.receive()


def _all_well(messages: Mapping[Process, dict[str, Any]]) -> bool:
    return not any(message.get("error") for message in messages.values())


def keep_raw(folder: Path, to: Path) -> None:
    """Keep pytest-benchmark's own JSON of every process."""
    for path in sorted(folder.glob("*/benchmarks.json")):
        if path.stat().st_size:
            shutil.copy(path, to / f"{path.parent.name}.json")
