"""What several test modules share: markers, tiny methods, the command, and one finished study."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

from bench.cli import main
from bench.config.overrides import resolve_method
from bench.config.presets import choose_preset
from bench.config.schema import Preset
from bench.tracking import Tracker
from bench.tracking.store import DATABASE
from methods import registry
from methods.base import DataSpec, Method

from . import forking, plugins
from .stores import copy_store
from .tiny import GREY

Build = Callable[..., Method]
Bench = Callable[..., "subprocess.CompletedProcess[str]"]

# Autograd starts threads at the first backward pass, one for each device that there is by then.
# What torch.compile loads counts as one, and no fork of a process with such threads may train.
torch.ones((), requires_grad=True).backward()  # type: ignore[no-untyped-call]

# -- which tests start processes ---------------------------------------------------------------


class Guard:
    """Hears of every process that this one starts, and fails the test that may not start Python."""

    starts = frozenset({"subprocess.Popen", "os.posix_spawn", "os.fork", "os.forkpty"})
    is_open = True

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Take one of Python's audit events, as ``sys.addaudithook`` says."""
        if self.is_open or event not in self.starts:
            return
        if "fork" in event or Path(os.fsdecode(arguments[0])).name.startswith("python"):
            pytest.fail("it starts Python and is not marked so: let it use the fixture 'processes'")


guard = Guard()
sys.addaudithook(guard)  # for good: none can be taken away


@pytest.fixture(scope="session")
def processes() -> None:
    """Say that a test, or a fixture, starts Python: the test is marked ``process`` for it."""


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "processes" in getattr(item, "fixturenames", ()):
            item.add_marker("process")
    # What takes longest goes first, or one worker would wait for it at the end.
    items.sort(key=lambda item: item.path.name != "test_wheel.py")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[Any]:
    guard.is_open = item.get_closest_marker("process") is not None
    try:
        return (yield)
    finally:
        guard.is_open = True


# -- methods and commands ----------------------------------------------------------------------


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """Leave to the next test what signals do: commands and workers that run here set that."""
    with signals_kept():
        yield


@contextmanager
def signals_kept() -> Iterator[None]:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


@pytest.fixture(scope="session")
def build() -> Build:
    """Build a method at the size of digits' smoke preset, with settings of one's own."""

    def make(name: str, *, data: DataSpec = GREY, seed: int = 0, **settings: object) -> Method:
        _, preset = choose_preset("digits", "smoke", "cpu")
        own = preset.methods.get(name, {})
        preset = Preset.model_validate(
            {**preset.model_dump(), "methods": {name: {**own, **settings}}}
        )
        kind = registry.load(name)
        torch.manual_seed(seed)
        return kind(kind.Config.model_validate(resolve_method(kind.Config, preset, name)), data)

    return make


@pytest.fixture
def faulty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the faulty methods installed in this process, and in those it starts."""
    install_here(plugins.install(tmp_path / "plugin"), monkeypatch)


def install_here(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Have what is installed in a folder in this process, and in those it starts."""
    patch.syspath_prepend(folder)
    for name, value in python_path(folder).items():
        patch.setenv(name, value)


def python_path(folder: Path) -> dict[str, str]:
    """The environment that has a folder before all others on Python's path."""
    return {"PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}


def start_bench(
    place: Path, *arguments: str, env: Mapping[str, str] | None = None, timeout: float = 240
) -> subprocess.CompletedProcess[str]:
    """Run ``bench`` in a process of its own, in a folder; for what uses ``processes``."""
    return subprocess.run(
        [sys.executable, "-m", "bench", *arguments],
        cwd=place,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
        check=False,
    )


@pytest.fixture
def run_bench(tmp_path: Path, processes: None) -> Bench:
    """Run ``bench`` in a process of its own, in an empty folder."""

    def run(*arguments: str, **how: Any) -> subprocess.CompletedProcess[str]:
        return start_bench(tmp_path, *arguments, **how)

    return run


@pytest.fixture
def call_bench(tmp_path: Path) -> Iterator[Bench]:
    """Run ``bench`` in this process, in an empty folder: some 3 s less than ``run_bench``."""
    yield partial(bench_here, tmp_path)
    # Methods' files of the tests' own folders, which the next test must not find.
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path.parent)):
            del sys.modules[name]


def bench_here(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``bench`` in this process, in a folder."""
    said = io.StringIO(), io.StringIO()
    with (
        signals_kept(),
        pytest.MonkeyPatch.context() as patch,
        redirect_stdout(said[0]),
        redirect_stderr(said[1]),
    ):
        patch.chdir(place)
        patch.setattr(sys, "argv", ["bench", *arguments])
        code = main(list(arguments))
    return subprocess.CompletedProcess(arguments, code, said[0].getvalue(), said[1].getvalue())


@pytest.fixture
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw nothing after a command in this process: a study's plots and page take seconds."""
    monkeypatch.setattr("bench.report.plots.write.write_plots", lambda *_, **__: [])
    monkeypatch.setattr("bench.report.page.write.write_page", lambda report: report.folder)


@pytest.fixture
def short() -> Iterator[None]:
    """Have commands in this process warm up and score little: see ``forking.short``."""
    with forking.short():
        yield


@pytest.fixture
def forks(processes: None) -> Iterator[None]:
    """Have commands in this process fork it for their jobs: some 4 s less for each cell."""
    with forking.forked():
        yield


# -- what is slow to make, made once -----------------------------------------------------------


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """Return a folder that is made once for all workers of xdist; none may change it."""
    root = factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    folder, done = root / name, root / f"{name}.done"
    with FileLock(root / f"{name}.lock"):
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            done.touch()
    return folder


def make_smoke(empty_store: Path, place: Path) -> None:
    methods = ["--methods", ",".join(registry.BUILTIN), "--seeds", "0,1"]
    preset = ["--dataset", "digits", "--preset", "smoke"]
    with forking.forked():
        done = bench_here(place, "run", *methods, *preset, "--no-tracking")
    assert done.returncode == 0, done.stderr
    copy_store(empty_store, place / "results" / DATABASE)
    # Not while it runs: a thread that holds a lock at a fork would leave it taken for good.
    assert bench_here(place, "sync").returncode == 0
    (place / "printed.md").write_text(done.stdout)


@pytest.fixture(scope="session")
def smoke(tmp_path_factory: pytest.TempPathFactory, empty_store: Path, processes: None) -> Path:
    """The folder in which all methods have run: seeds 0 and 1, tracked; not to be changed.

    It holds ``results/digits-smoke`` and ``printed.md``, what the command has printed.
    """
    return once(tmp_path_factory, "smoke", partial(make_smoke, empty_store))


@pytest.fixture
def smoke_copy(smoke: Path, tmp_path: Path) -> Path:
    """A copy of the finished study, to be changed at will."""
    copy = shutil.copytree(smoke / "results", tmp_path / "results")
    return Path(copy) / "digits-smoke"


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with its tables: slow to make, so made once."""
    return once(tmp_path_factory, "store", make_store) / DATABASE


def make_store(results: Path) -> None:
    tracker = Tracker.open(results)
    assert isinstance(tracker, Tracker), tracker.trouble


@pytest.fixture
def results(tmp_path: Path, empty_store: Path) -> Path:
    """A results folder with an empty store."""
    folder = tmp_path / "results"
    folder.mkdir()
    copy_store(empty_store, folder / DATABASE)
    return folder
