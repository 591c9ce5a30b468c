"""One process of a comparison: runs the benchmarks of one tree, each round when it is told to.

Started by ``tests.speed.interleave`` as a script, with the tree first on the module path. It is a
pytest session with pytest-benchmark; all that differs from an ordinary one is that, before each
round, the process waits for its turn. CPU time does not pass while it waits. Nothing of the
repository is imported here, so that no other revision's code comes in.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

CALIBRATED = 0.2
"""Seconds of a first call from which it needs no second to tell how long one takes."""


class Line:
    """Messages to and from the process that gives the turns: one JSON object a line."""

    def __init__(self, descriptor: int) -> None:
        self.file = socket.socket(fileno=descriptor).makefile("rw")

    def send(self, **message: Any) -> None:
        self.file.write(json.dumps(message) + "\n")
        self.file.flush()

    def receive(self) -> dict[str, Any]:
        line = self.file.readline()
        if not line:
            pytest.exit("nobody gives turns any more", returncode=3)
        return dict(json.loads(line))

    def ask(self, **message: Any) -> dict[str, Any]:
        self.send(**message)
        return self.receive()


class InTurns(BenchmarkFixture):
    """pytest-benchmark's fixture, each of whose rounds waits for its turn."""

    line: Line

    def __call__(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        return self.pedantic(function, args, kwargs)

    def pedantic(
        self, target: Any, args: Any = (), kwargs: Any = None, *, rounds: int = 1, **how: Any
    ) -> Any:
        """Measure ``target`` as often as all processes agree to; ``rounds`` is for other runs."""
        if how.keys() - {"warmup_rounds"}:
            raise TypeError(f"a compared benchmark takes no {', '.join(how)}")
        kwargs = kwargs or {}
        plan = self.line.ask(ready=self.name, seconds=self._seconds(target, args, kwargs))
        if not plan["rounds"]:
            pytest.skip("the others cannot run it")
        calls = range(plan["calls"])

        def repeated() -> Any:
            for _ in calls:
                result = target(*args, **kwargs)
            return result

        result = super().pedantic(repeated, setup=self._wait, rounds=plan["rounds"])
        self.extra_info["calls"] = plan["calls"]
        return result

    def _seconds(self, target: Any, args: Any, kwargs: Any) -> float:
        """How long a call takes, about, once warm."""
        seconds = math.inf
        for _ in range(3):
            started = self._timer()
            target(*args, **kwargs)
            seconds = min(seconds, self._timer() - started)
            if seconds > CALIBRATED:
                break
        return seconds

    def _wait(self) -> None:
        if not self.line.ask(turn=self.name)["go"]:
            pytest.skip("another process could not go on")


class Fixtures:
    """Registered after pytest-benchmark's own, whose fixture this one extends."""

    def __init__(self, line: Line) -> None:
        self.line = line

    @pytest.fixture
    def benchmark(self, benchmark: Any) -> Any:
        benchmark.__class__ = InTurns
        benchmark.line = self.line
        return benchmark


class Turns:
    """Tells what there is, runs what is asked for, and tells what came of it."""

    def __init__(self, line: Line, tree: Path) -> None:
        self.line, self.tree = line, tree
        self.errors: list[str] = []
        self.told: dict[str, Any] = {}

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        session.config.pluginmanager.register(Fixtures(self.line))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.errors.append(one_line(report.longreprtext))

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        known = {item.name: item for item in items}
        asked = self.line.ask(collected=list(known), errors=self.errors)
        items[:] = [known[name] for name in asked["run"]]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self.told = {"times": None, "counts": {}, "error": None}
        result = yield
        self.line.send(finished=item.name, **self.told)
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: Any) -> Iterator[None]:
        report = yield
        if report.failed and self.told["error"] is None:
            self.told["error"] = one_line(report.longreprtext)
        benchmark = getattr(item, "funcargs", {}).get("benchmark")
        if call.when == "call" and report.passed and benchmark.stats is not None:
            calls = benchmark.extra_info["calls"]
            self.told["times"] = [seconds / calls for seconds in benchmark.stats.stats.data]
            self.told["counts"] = benchmark.extra_info.get("counts", {})
        return report


def one_line(traceback: str) -> str:
    """Return the error's own line of a report."""
    lines = [line.strip() for line in traceback.splitlines()]
    errors = [line[2:].strip() for line in lines if line.startswith("E ")]
    return (errors or lines or ["no reason given"])[0][:300]


def check_origin(tree: Path) -> str | None:
    """Say what is wrong if the code that would be measured is not the tree's."""
    for name in ("bench", "methods"):
        try:
            found = importlib.import_module(name).__file__
        except ImportError as error:
            return f"the tree has no package '{name}': {error}"
        if found is None or not Path(found).resolve().is_relative_to(tree.resolve()):
            return f"the tree has no package '{name}'; the one of {found} is not measured for it"
    return None


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("descriptor", type=int)
    parser.add_argument("tree", type=Path)
    parser.add_argument("definitions", type=Path, help="The file of benchmarks.")
    parser.add_argument("folder", type=Path, help="Where what the session leaves goes.")
    given = parser.parse_args()
    line = Line(given.descriptor)
    wrong = check_origin(given.tree)
    if wrong is not None:
        line.ask(collected=[], errors=[wrong])
        return 1
    (given.folder / "pytest.ini").write_text("[pytest]\n")
    options = ["-c", given.folder / "pytest.ini", "--rootdir", given.definitions.parent]
    options += ["--basetemp", given.folder / "tmp", "--import-mode=importlib", "--noconftest"]
    options += ["-p", "no:xdist", "-p", "no:cacheprovider", "--benchmark-only", "--tb=short"]
    options += ["--benchmark-json", given.folder / "benchmarks.json", given.definitions]
    return int(pytest.main([str(option) for option in options], plugins=[Turns(line, given.tree)]))


if __name__ == "__main__":
    sys.exit(main())
