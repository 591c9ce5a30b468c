"""Cells that are killed at any moment end with the bits of those that never were."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench import study
from bench.commands.run import RunOptions
from bench.commands.run.request import resolve
from bench.config.errors import UserError
from bench.costs.ledger import PARTS, Ledger
from bench.data.sources import image_file
from bench.executors import Job
from bench.progress.display import Display
from bench.records import record, source_code
from bench.records.record import Attempt, Record, Status
from bench.sampling.source import draw_batch, draw_batches
from bench.tracking import NullTracker
from bench.training import InterruptedTrainingError, checkpoint
from bench.training.checkpoint import Pace
from bench.worker import read_checkpoint
from bench.worker.partial_samples import Parts, last_part
from bench.worker.progress_and_stop import Progress, Stop, excused
from methods import registry

from . import forking
from .fake_study import PREPARED, make_record

SMOKE = ("--dataset", "gmm2d", "--preset", "smoke", "--no-tracking")
KILLS = 20
"""In all, over the four methods."""

PHASES = {"starting": 0.0, "waiting": 0.0, "training": 0.1, "sampling": 0.55, "evaluating": 0.85}
"""Where in a cell's course, 0 to 1, each phase begins."""
LENGTHS = {"starting": 0.0, "waiting": 0.0, "training": 0.45, "sampling": 0.3, "evaluating": 0.15}
"""Its share of that course."""


def moment_of(told: dict[str, Any]) -> float:
    phase, fraction = told["phase"], told.get("fraction", 0.0)
    if phase == "evaluating":  # told once, if the features are there
        fraction = 1.0
    return PHASES[phase] + LENGTHS[phase] * fraction


@pytest.fixture
def told_at_every_step(processes: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have cells tell of every step and batch, to be killed there, and keep checkpoints of most."""
    monkeypatch.setattr("bench.worker.progress_and_stop.PROGRESS_SECONDS", 0.0)
    # So small a cell would hardly have any.
    monkeypatch.setattr("bench.training.checkpoint.CHECKPOINT_SHARE", 1.0)
    with forking.forked():
        yield


def attempt(job: Job, moment: float = math.inf, jitter: float = 0.0) -> tuple[int, set[str]]:
    """Work on a cell in a fork until a moment of its course; how it ended, and its phases."""
    reading, writing = os.pipe()
    tell = Progress.__call__

    def tell_both(self: Progress, phase: str, **values: Any) -> None:
        tell(self, phase, **values)
        os.write(writing, json.dumps({"phase": phase, **values}).encode() + b"\n")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Progress, "__call__", tell_both)
        process = forking.start(None, job).process
    os.close(writing)
    phases = set()
    with os.fdopen(reading) as lines:
        for line in lines:
            phases.add(json.loads(line)["phase"])
            if moment_of(json.loads(line)) >= moment:
                time.sleep(jitter)
                os.kill(process.pid, signal.SIGKILL)
                break
    return process.wait(), phases


def lay_out(method: str, place: Path) -> Path:
    """Write a cell that is to be run, without any preparation; return its folder."""
    options = RunOptions(
        methods=(method,), preset="smoke", overrides=("training.checkpoint_seconds=0.02",),
        device="cpu", study="s", results=place,
    )  # fmt: skip
    request = resolve(options)
    prepared = {**PREPARED, "data_variant": "digits"}
    (cell,) = study.plan(request, prepared)
    study.CellWork(request, prepared, NullTracker(), Display()).lay_out(cell)
    return cell.folder


def moments_for(method: str) -> list[float]:
    """Seeded moments of a cell's course, 0 to 1, in which it is killed."""
    share = KILLS // len(registry.BUILTIN)
    rng = np.random.default_rng([4, list(registry.BUILTIN).index(method)])
    return sorted(rng.uniform(0.0, 0.97, share).tolist())


def weights(folder: Path) -> dict[str, torch.Tensor]:
    trainer = torch.load(folder / "checkpoint.pt", weights_only=True)["trainer"]
    return {
        f"{name}.{key}": value
        for name, network in trainer["networks"].items()
        for key, value in network.items()
    }


def assert_same_result(one: Path, other: Path) -> None:
    """Weights, samples, metrics, curves and FLOPs are equal, to the bit."""
    assert weights(one).keys() == weights(other).keys()
    for name, value in weights(one).items():
        assert torch.equal(value, weights(other)[name]), name
    samples = [np.load(folder / "samples.npz") for folder in (one, other)]
    assert set(samples[0]) == set(samples[1])
    for name in samples[0]:
        assert np.array_equal(samples[0][name], samples[1][name]), name
    rows = [record.load(folder) for folder in (one, other)]
    first, second = (row for row in rows if row is not None)
    assert {k: v.value for k, v in first.metrics.items()} == {
        k: v.value for k, v in second.metrics.items()
    }
    for field in ("steps", "images_seen", "train_flops", "train_flops_by_objective", "nfe",
                  "nfe_by_network", "sample_flops_per_image", "parameters"):  # fmt: skip
        assert getattr(first.cost, field) == getattr(second.cost, field), field
    curves = [
        [(p["images"], p["step"], p["values"]) for p in record.read_curves(folder)]
        for folder in (one, other)
    ]
    assert curves[0] == curves[1]


@pytest.mark.usefixtures("told_at_every_step")
@pytest.mark.slow
@pytest.mark.parametrize("method", registry.BUILTIN)
def test_a_cell_killed_at_random_moments_ends_the_same(tmp_path: Path, method: str) -> None:
    """Twenty kills in all, in training, sampling and evaluation, each at a seeded moment."""
    whole, cell = lay_out(method, tmp_path / "whole"), lay_out(method, tmp_path / "killed")
    moments, cache = moments_for(method), tmp_path / "cache"
    jitter = random.Random(str(moments))
    assert attempt(Job(task="bench.worker", folder=whole, cache=cache))[0] == 0
    job = Job(task="bench.worker", folder=cell, cache=cache)
    attempts = [attempt(job, moment, jitter.uniform(0, 0.05)) for moment in [*moments, math.inf]]
    ends = [end for end, _ in attempts]
    assert ends == [-signal.SIGKILL] * len(moments) + [0], (cell / "log.txt").read_text()

    assert_same_result(whole, cell)
    row, undisturbed = record.load(cell), record.load(whole)
    assert row is not None
    assert undisturbed is not None
    assert row.status == Status.FINISHED
    assert [attempt.ended for attempt in row.attempts] == ["killed"] * len(moments) + ["finished"]
    assert_balances(row)
    assert_balances(undisturbed)
    # What was lost is told, and in the wall clock.
    lost = sum(attempt.lost or 0.0 for attempt in row.attempts)
    assert lost == pytest.approx(row.ledger["lost"], abs=0.01)
    assert lost > 0
    assert not [path.name for path in cell.iterdir() if path.name.startswith(".")]
    assert {path.name for path in cell.iterdir()} == {path.name for path in whole.iterdir()}
    # What was done before a kill is not done again.
    for moment, (_, phases) in zip(moments, attempts[1:], strict=True):
        assert moment < 0.56 or "training" not in phases
        assert moment < 0.86 or "sampling" not in phases


def assert_balances(row: Record) -> None:
    parts = sum(row.ledger[part] for part in PARTS)
    assert parts == pytest.approx(row.spent + row.ledger["charged"], rel=0.01)
    assert row.ledger["wall"] == pytest.approx(parts, rel=0.01)
    assert row.is_balanced


def test_the_moments_reach_every_phase() -> None:
    found = [moment for method in registry.BUILTIN for moment in moments_for(method)]
    assert len(found) == KILLS
    assert min(found) < 0.1
    for low, high in ((0.1, 0.55), (0.55, 0.85), (0.85, 1.0)):
        assert any(low < moment < high for moment in found)


def test_a_ledger_that_misses_time_is_told() -> None:
    """More than one part in a hundred: the clock of the processes knows of a second more."""
    row = make_record(Path("s"), "sde", 0)
    wall = row.ledger["wall"]
    times = {"started": row.started, "pid": 1, "host": "h"}
    row.attempts = [Attempt(**times, seconds=wall / 2), Attempt(**times, seconds=wall / 2)]
    assert row.is_balanced
    row.attempts[1].seconds = 0.52 * wall
    assert not row.is_balanced
    row.ledger["charged"] = 10.0
    row.ledger["train"] += 10.0 + 0.02 * wall
    assert row.is_balanced


# -- parts of samples ---------------------------------------------------------------------------


class FakeSource:
    """Draws batches of one number each, and notes which."""

    def __init__(self) -> None:
        self.device = torch.device("cpu")
        self.drawn: list[int] = []

    def batch(self, n: int, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        self.drawn.append(index)
        return torch.full((n, 1), index), torch.full((n,), index)

    def on_host(self, images: torch.Tensor) -> Any:
        return images.numpy()


@pytest.mark.parametrize("stopped_after", [1, 3, 5])
def test_batches_that_are_kept_are_not_drawn_again(tmp_path: Path, stopped_after: int) -> None:
    ledger = Ledger(torch.device("cpu"))

    def parts(key: str = "k") -> Parts:
        return Parts(tmp_path, key, lambda: ledger, seconds=0.0)

    def draw(source: FakeSource, kept: Any, n: int = 6) -> Any:
        return draw_batches(source, n, 2, at_least=5, kept=kept)  # type: ignore[arg-type]

    whole = draw(FakeSource(), None)
    first = parts()
    first.note(
        [draw_batch(FakeSource(), 2, index, is_wanted=index < 3) for index in range(stopped_after)],  # type: ignore[arg-type]
        is_last=True,
    )
    source, again = FakeSource(), parts()
    images, labels, times = draw(source, again)
    assert source.drawn == list(range(stopped_after, 5))
    assert np.array_equal(images, whole[0])
    assert np.array_equal(labels, whole[1])
    assert len(times) == 5
    assert last_part(tmp_path, "k") is not None
    # Those of another training are none of ours.
    other = FakeSource()
    draw(other, parts("other"))
    assert other.drawn == [0, 1, 2, 3, 4]
    again.clear()
    assert not list(tmp_path.iterdir())


def test_slow_checkpoints_come_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever one takes, together they take under two per cent of the time."""
    clock = [0.0]
    monkeypatch.setattr("bench.training.checkpoint.time.perf_counter", lambda: clock[0])
    for takes in (0.01, 1.0, 30.0):
        pace, saving = Pace(60.0), 0.0
        start = clock[0]
        for _ in range(20_000):
            clock[0] += 1.0
            if pace.is_due:
                with pace.saving():
                    clock[0] += takes
                    saving += takes
        assert 0 < saving / (clock[0] - start) < 0.02
        assert saving / takes > 2


# -- requests to stop ---------------------------------------------------------------------------


@pytest.fixture
def started(tmp_path: Path, processes: None) -> Iterator[Any]:
    """Start ``bench`` and wait for a line of its progress; what is left is ended."""
    begun: list[subprocess.Popen[str]] = []

    def start(*arguments: str, until: str) -> Any:
        process = forking.command(tmp_path, *arguments)
        begun.append(process)
        assert process.stderr is not None
        for line in process.stderr:
            if until in line:
                return process
        raise AssertionError(f"'{until}' never came; it ended with {process.wait()}")

    yield start
    for process in begun:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_sigterm_ends_all_cells_with_checkpoints(tmp_path: Path, started: Any) -> None:
    """As a scheduler sends it; what is kept is told, in place of a table of nothing."""
    process = started(
        "run", "--methods", "sde,smm", *SMOKE, "--budget", "90000kimg", "--jobs", "2",
        "--study", "s", until="kimg",
    )  # fmt: skip
    time.sleep(1.0)
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopped; the same command continues" in errors
    assert "study    s: no cell has finished" in output
    assert "kept     checkpoints of 2 of 2 cells" in output
    for name in ("sde-seed0", "smm-seed0"):
        row = record.load(tmp_path / "results" / "s" / name)
        assert row is not None
        assert row.status == Status.INTERRUPTED
        assert row.attempts[-1].ended == Status.INTERRUPTED
        assert row.is_balanced


@pytest.mark.usefixtures("faulty")
def test_a_step_that_heeds_no_signal_is_cut_short(tmp_path: Path, started: Any) -> None:
    """The main thread sleeps in its step; the checkpoint before it stands."""
    process = started(
        "run", "--methods", "sleeps", *SMOKE, "--set", "training.checkpoint_seconds=0.001",
        "--study", "s", until="kimg",
    )  # fmt: skip
    log, deadline = row_folder(tmp_path) / "log.txt", time.monotonic() + 120
    while "asleep" not in log.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    row = record.load(tmp_path / "results" / "s" / "sleeps-seed0")
    assert row is not None
    assert row.status == Status.INTERRUPTED
    assert row.reason == "stopped within a step; goes on from the last checkpoint"
    state = torch.load(row_folder(tmp_path) / "checkpoint.pt", weights_only=True)
    assert state["trainer"]["steps"] > 0


@pytest.fixture
def stopping() -> Iterator[None]:
    """Heed requests to stop as a cell's process does, sampling."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    Stop(give_up=lambda: None)
    yield
    os.close(signal.set_wakeup_fd(-1))
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("stopping")
@pytest.mark.parametrize(
    ("place", "work"),
    [
        ("torch.load", lambda folder: checkpoint.read_state(folder / "weights.pt", {})),
        ("PIL.Image.open", lambda _: image_file.decode(b"-", Path("a"), "b.png", resized=False)),
        ("bench.records.source_code.find_spec", lambda _: source_code._file("a")),
    ],
)
def test_a_stop_is_no_fault_of_what_it_breaks_into(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: str, work: Callable[[Path], object]
) -> None:
    """It comes in the midst of what may raise anything; no file is called damaged for it."""
    monkeypatch.setattr(place, lambda *_, **__: signal.raise_signal(signal.SIGTERM))
    reasons: list[str] = []
    with pytest.raises(InterruptedTrainingError, match="SIGTERM"), excused(reasons.append):
        work(tmp_path)
    assert not reasons


def row_folder(place: Path) -> Path:
    return place / "results" / "s" / "sleeps-seed0"


def test_an_unreadable_checkpoint_is_named(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(b"no checkpoint")
    with pytest.raises(UserError, match=r"checkpoint\.pt' cannot be read .*; remove it"):
        read_checkpoint(tmp_path, "key", torch.device("cpu"))
