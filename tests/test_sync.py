"""Tracking that stops nothing, and that several processes do at once or are killed in."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bench.records import record
from bench.records.files import write_text
from bench.records.record import Attempt, Record, Status
from bench.tracking import Background, NullTracker, Tracker, Warn, store_uri
from bench.tracking.store import ARTIFACTS, DATABASE, URI, alone

from .fake_study import curve, make_record, write_cell, write_curve, write_study
from .stores import copy_store, everything, expected, files_under, history, numbers, reopen, runs

AT_ONCE = 0.2
"""Seconds within which a caller has its own time back; a request below takes several."""


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(URI, raising=False)


def live_cell(results: Path, lines: int = 20) -> Path:
    """Write a running cell's folder."""
    folder = results / "s" / "sde-seed0"
    row = make_record(folder.parent, "sde", 0, status=Status.RUNNING, metrics={})
    write_cell(folder, row, curve("sde", 0)[:lines])
    return folder


def wait_until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait for another thread to come so far."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.02)


# A store in trouble ----------------------------------------------------------------------------


class Line:
    """What lies between a tracker and its store: every request goes through it, or fails there."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.calls: list[str] = []
        self.delay, self.is_down = 0.0, False

    def __getattr__(self, name: str) -> Any:
        real = getattr(self.client, name)

        def call(*given: Any, **more: Any) -> Any:
            self.calls.append(name)
            time.sleep(self.delay)
            if self.is_down:
                raise ConnectionError("the store is down")
            return real(*given, **more)

        return call


@pytest.fixture
def line(results: Path) -> Line:
    """The way to the results' store."""
    return Line(reopen(results).client)


def behind(line: Line, results: Path, said: list[str]) -> Background:
    """Track in the background, over a line that may fail."""
    return Background(lambda warn: Tracker(line, results, warn), said.append)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_slow_store_takes_none_of_the_callers_time(results: Path, line: Line) -> None:
    folder, said = live_cell(results), list[str]()
    line.delay = 3.0
    started = time.monotonic()
    tracker = behind(line, results, said)
    for _ in range(100):
        tracker.sync_cell(folder)
        tracker.sync_study(folder.parent)
    assert time.monotonic() - started < AT_ONCE
    started = time.monotonic()
    assert not tracker.close(patience=0.3)
    assert time.monotonic() - started < 1.0
    assert len(said) == 1
    assert "bench sync" in said[0]
    assert len(line.calls) < 3, "what waits for the same folder is asked for once"


def test_all_is_logged_and_waited_for_at_the_end(results: Path, line: Line) -> None:
    study = write_study(results / "quick", ("sde", "smm"), (0,), failed=None)
    line.delay = 0.005
    tracker, said = behind(line, results, []), list[str]()
    for folder in sorted(study.glob("*-seed*")):
        tracker.sync_cell(folder)
    tracker.sync_study(study)
    # Shorter than it takes in all, longer than any step: what gets on is waited for.
    assert tracker.close(patience=1.0)
    assert said == []
    assert tracker.trouble is None
    assert tracker.seconds > 0.1
    found = reopen(results)
    assert Counter(run.data.tags["kind"] for run in runs(found)) == {"cell": 2, "study": 1}
    (run,) = runs(found, cell="sde-seed0")
    lines = record.read_curves(study / "sde-seed0")
    assert history(found, run, "train/loss/score") == expected(lines, "loss/score")


def test_requests_for_one_folder_that_wait_are_one(results: Path) -> None:
    gate, done = threading.Event(), list[Path]()

    class Gated(NullTracker):
        def sync_cell(self, folder: Path, study: Path | str | None = None) -> bool:
            gate.wait(10)
            done.append(folder)
            return True

    def opened(warn: object) -> NullTracker:
        gate.wait(10)
        return Gated()

    tracker = Background(opened)
    for _ in range(10):
        for name in ("a", "b"):
            tracker.sync_cell(Path("study") / name)
    gate.set()
    wait_until(lambda: len(done) == 2)
    tracker.sync_cell(Path("study/a"))
    assert tracker.close()
    assert done == [Path("study/a"), Path("study/b"), Path("study/a")]


def test_a_store_that_comes_back_is_caught_up_with(
    results: Path, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("background", "tracker"):
        monkeypatch.setattr(f"bench.tracking.{module}.PAUSE", 0.3)
    folder, said = live_cell(results), list[str]()
    line.is_down = True
    tracker = behind(line, results, said)
    tracker.sync_cell(folder)
    wait_until(lambda: tracker.trouble is not None)
    assert "the store is down" in str(tracker.trouble)
    line.is_down = False
    # Nobody asks again: it comes to that by itself.
    found = reopen(results)
    wait_until(lambda: tracker.trouble is None and found.client.search_experiments() != [])
    (run,) = runs(found)
    assert history(found, run, "train/loss/score") == expected(curve("sde", 0)[:20], "loss/score")
    write_curve(folder, curve("sde", 0)[20:])
    tracker.sync_cell(folder)
    assert tracker.close()
    assert history(found, run, "train/loss/score") == expected(curve("sde", 0), "loss/score")
    assert len(said) == 2
    assert "bench sync" in said[0]
    assert "caught up" in said[1]


def test_a_store_that_cannot_be_opened_is_tried_again(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("background", "tracker"):
        monkeypatch.setattr(f"bench.tracking.{module}.PAUSE", 0.1)
    opened, said, folder = [0], list[str](), live_cell(results)

    def opener(warn: Warn) -> Tracker | NullTracker:
        opened[0] += 1
        if opened[0] < 4:
            warn("it is down")
            return NullTracker("it is down")
        return reopen(results)

    tracker = Background(opener, said.append)
    tracker.sync_cell(folder)
    wait_until(lambda: opened[0] == 4)
    assert tracker.close()
    assert said == ["it is down", "MLflow has caught up and lacks nothing"]
    assert len(runs(reopen(results))) == 1


def test_a_store_that_stays_down_is_not_waited_for(results: Path, line: Line) -> None:
    folder, said = live_cell(results), list[str]()
    line.is_down = True
    tracker = behind(line, results, said)
    tracker.sync_cell(folder)
    wait_until(lambda: tracker.trouble is not None)
    tracker.sync_study(folder.parent)
    started = time.monotonic()
    assert not tracker.close()
    assert time.monotonic() - started < 1.0
    assert len(said) == 2
    assert all("bench sync" in told and "\n" not in told for told in said)


def test_a_command_that_ends_in_an_error_hears_no_more_of_it(results: Path, line: Line) -> None:
    said: list[str] = []
    line.delay, line.is_down = 0.2, True
    tracker = behind(line, results, said)
    tracker.sync_study(live_cell(results).parent)
    wait_until(lambda: line.calls != [])
    tracker.drop()
    wait_until(lambda: tracker.trouble is not None)
    assert said == []


def test_what_raises_in_the_background_ends_nothing(results: Path) -> None:
    def opener(warn: object) -> NullTracker:
        raise OSError("no disk")

    said: list[str] = []
    tracker = Background(opener, said.append)
    tracker.sync_study(results / "s")
    assert not tracker.close()
    assert "no disk" in str(tracker.trouble)


@pytest.fixture
def deaf_server() -> Iterator[str]:
    """A server that takes every connection and answers none."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(50)
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.usefixtures("processes")
def test_a_command_ends_though_its_server_never_answers(
    results: Path, deaf_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a process of its own: a thread that hangs in a request must not hold up its end."""
    folder = live_cell(results)
    script = (
        "import time; from functools import partial; from pathlib import Path\n"
        "from bench.tracking import Background, Tracker\n"
        f"folder = Path({str(folder)!r})\n"
        "tracker = Background(partial(Tracker.open, folder.parents[1]))\n"
        "tracker.sync_cell(folder)\n"
        "while 'mlflow.tracking' not in __import__('sys').modules: time.sleep(0.01)\n"
        "time.sleep(1)\n"
        "begun = time.monotonic()\n"
        "tracker.sync_study(folder.parent); assert not tracker.close(1.0)\n"
        "assert time.monotonic() - begun < 2\n"
    )
    monkeypatch.setenv(URI, deaf_server)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert "bench sync" in done.stderr


# Several processes -------------------------------------------------------------------------------


def test_two_trackers_log_one_growing_cell_by_turns(results: Path) -> None:
    folder, lines = live_cell(results, 0), curve("sde", 0)
    both = [reopen(results), reopen(results)]
    for at in range(0, 60, 5):
        write_curve(folder, lines[at : at + 5])
        both[at // 5 % 2].sync_cell(folder)
        if at % 3 == 0:
            both[1 - at // 5 % 2].sync_cell(folder)
    row = record.load(folder)
    assert row is not None
    record.save(row.model_copy(update={"status": Status.FINISHED}), folder)
    for tracker in both:
        tracker.sync_cell(folder)
    (run,) = runs(both[0])
    for name in ("loss/score", "fd_digits_500"):
        assert history(both[0], run, f"train/{name}") == expected(lines, name)
    assert len(history(both[0], run, "cost/nfe")) == 1


def test_a_state_that_is_over_is_not_brought_back(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One tracker read 'running' and waited for its turn; the other logged the end meanwhile."""
    folder, late, early = live_cell(results), reopen(results), reopen(results)
    late.sync_cell(folder)
    write_curve(folder, curve("sde", 0)[20:])
    real = alone

    def overtaken(study: Path, name: str) -> Any:
        monkeypatch.setattr("bench.tracking.tracker.alone", real)
        record.save(make_record(folder.parent, "sde", 0), folder)
        early.sync_cell(folder)
        return real(study, name)

    monkeypatch.setattr("bench.tracking.tracker.alone", overtaken)
    late.sync_cell(folder)
    (run,) = runs(early)
    assert run.info.status == "FINISHED"


def test_a_run_that_another_process_holds_is_left_for_later(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, said = live_cell(results), list[str]()
    monkeypatch.setattr("bench.tracking.store.LOCK_SECONDS", 0.1)
    tracker = reopen(results, said)
    with alone(folder.parent, folder.name):
        assert not tracker.sync_cell(folder)
    assert "another command is logging it" in said[0]
    assert tracker.sync_cell(folder)


EIGHT = """
import os, sys, time
from pathlib import Path
import mlflow.entities, mlflow.store.db.utils, mlflow.store.tracking.sqlalchemy_store  # once
from bench.records import record
from bench.tracking import Tracker
study = Path(sys.argv[1])
def log():
    tracker = Tracker.open(study.parent)
    assert isinstance(tracker, Tracker), tracker.trouble
    cell = study / "sde-seed0"
    print("open", flush=True)
    while record.load(cell).status != record.Status.FINISHED:
        assert tracker.sync_cell(cell), tracker.trouble
        time.sleep(0.01)
    assert tracker.sync_study(study), tracker.trouble
children = []
for _ in range(8):
    child = os.fork()
    if child == 0:
        log()
        sys.exit()
    children.append(child)
sys.exit(any([os.waitpid(child, 0)[1] for child in children]))
"""


@pytest.mark.usefixtures("processes")
@pytest.mark.slow
def test_eight_processes_start_on_a_new_store_and_log_one_study(
    tmp_path: Path, empty_store: Path
) -> None:
    """None fails; no run and no point is there twice, and none is missing."""
    folder = live_cell(tmp_path, 0)
    (folder.parent / "study.yaml").write_text("methods: [sde]\n")
    write_cell(folder.parent / "smm-seed0", make_record(folder.parent, "smm", 0))
    eight = subprocess.Popen(
        [sys.executable, "-c", EIGHT, str(folder.parent)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert eight.stdout is not None
    lines = curve("sde", 0)
    for _ in range(2):
        eight.stdout.readline()
    for start in range(0, 60, 2):
        write_curve(folder, lines[start : start + 2])
        time.sleep(0.05)
    for _ in range(6):
        eight.stdout.readline()
    record.save(make_record(folder.parent, "sde", 0), folder)
    _, errors = eight.communicate(timeout=120)
    assert (eight.returncode, errors) == (0, "")
    several = [numbers(reopen(tmp_path), run) for run in runs(reopen(tmp_path))]
    assert len(several) == 3
    # As one process logs it that comes later; at another place, since this one knows the store.
    for file in tmp_path.glob(f"{DATABASE}*"):
        file.unlink()
    elsewhere = tmp_path.rename(tmp_path.with_name("elsewhere"))
    copy_store(empty_store, elsewhere / DATABASE)
    alone = reopen(elsewhere)
    assert alone.sync_study(elsewhere / "s")
    assert sorted(several, key=repr) == sorted((numbers(alone, r) for r in runs(alone)), key=repr)


@pytest.mark.slow
def test_a_process_ended_in_making_the_store_leaves_no_ruin(tmp_path: Path) -> None:
    ruin = tmp_path / ".mlflow-new-x1"
    ruin.mkdir()
    (ruin / "made.db").write_text("half")
    reopen(tmp_path)
    assert not list(tmp_path.glob(".mlflow-new-*"))
    assert (tmp_path / DATABASE).exists()


# Killed, repeated --------------------------------------------------------------------------------


class KilledError(BaseException):
    """Stands for SIGKILL: nothing in the tracker may catch it."""


WRITES = {"create_run", "log_batch", "log_artifact", "set_tag", "set_terminated", "update_run"}


class Fatal:
    """A client whose ``at``-th request that changes something arrives and is never answered.

    Between two of these a tracker only reads, so to end it there is to end it here.
    """

    def __init__(self, client: Any, at: int, error: type[BaseException]) -> None:
        self.client, self.at, self.error = client, at, error
        self.writes = 0

    def __getattr__(self, name: str) -> Any:
        real = getattr(self.client, name)

        def call(*given: Any, **more: Any) -> Any:
            result = real(*given, **more)
            self.writes += name in WRITES
            if name in WRITES and self.writes == self.at:
                raise self.error(name)
            return result

        return call


def story(study: Path) -> list[Record]:
    """Write a cell that was interrupted; return the records of what becomes of it."""
    attempts = [
        Attempt(started="2026-01-01T10:00:00+00:00", pid=1, host="a", ended=Status.INTERRUPTED),
        Attempt(started="2026-01-01T11:00:00+00:00", pid=2, host="b", ended=Status.FINISHED),
    ]
    first = make_record(
        study, "sde", 0, status=Status.INTERRUPTED, metrics={}, attempts=attempts[:1]
    )
    last = make_record(study, "sde", 0, attempts=attempts)
    write_cell(study / first.cell, first, curve("sde", 0)[:30])
    write_text(study / "table.md", "| method |\n")
    return [first, last]


def tell(study: Path, row: Record) -> None:
    """Let the cell go on from its checkpoint at line 25, an hour later, to its end."""
    folder = study / row.cell
    again = [line | {"seconds": line["seconds"] + 3600} for line in curve("sde", 0)[25:]]
    (folder / record.CURVES).write_text("")
    write_curve(folder, [*curve("sde", 0)[:25], *again])
    record.save(row, folder)


def shown(tracker: Tracker, study: Path) -> list[str]:
    """Return what a study's runs show, without what names the study."""
    found = [repr(numbers(tracker, run)) for run in runs(tracker, study=study.name)]
    plain = [text.replace(study.name, "STUDY") for text in found]
    return sorted(re.sub(r"('synced', ')\w+", r"\1MARK", text) for text in plain)


@pytest.mark.slow
@pytest.mark.parametrize("error", [KilledError, ConnectionError])
def test_a_sync_cut_off_at_any_request_is_completed_by_the_next(
    results: Path, error: type[BaseException]
) -> None:
    """Cut off at each in turn of a live sync and of the last: by a kill, or by a lost answer."""
    client = reopen(results).client
    _, last = story(whole := results / "whole")
    Tracker(client, results).sync_study(whole)
    tell(whole, last)
    Tracker(client, results).sync_study(whole)
    wanted = shown(Tracker(client, results), whole)
    for at in range(1, 100):
        _, last = story(study := results / f"cut{at:03}")
        fatal = Fatal(client, at, error)
        tracker = Tracker(fatal, results, list[str]().append)  # type: ignore[arg-type]
        for part in ("live", "last"):
            if part == "last":
                tell(study, last)
            try:
                tracker.sync_study(study)
            except KilledError:
                tracker = Tracker(client, results)
            tracker.sync_study(study)
        assert tracker.trouble is None
        assert shown(tracker, study) == wanted, f"cut off at request {at}"
        if fatal.writes < at:
            break
    assert 15 < at < 99


@pytest.mark.slow
def test_attempts_and_cells_made_anew_are_not_mixed(results: Path) -> None:
    """Interrupted, resumed, failed, made anew under the same key, by several processes."""
    study = results / "s"
    _, last = story(study)
    reopen(results).sync_study(study)
    tell(study, last)
    reopen(results).sync_study(study)
    (run,) = runs(reopen(results), kind="cell")
    assert history(reopen(results), run, "train/loss/score") == expected(
        curve("sde", 0), "loss/score"
    )
    # `--rerun all`: the same key, another making; the old folder is set aside.
    shutil.move(study / last.cell, study / "replaced" / f"{last.cell}-then")
    changed = [
        line | {"values": {name: 2 * value for name, value in line["values"].items()}}
        for line in curve("sde", 0)
    ]
    again = make_record(
        study, "sde", 0, started="2026-02-01T10:00:00+00:00", ended="2026-02-01T10:02:00+00:00"
    )
    write_cell(study / again.cell, again, changed)
    for _ in range(2):
        reopen(results).sync_study(study)
    found = reopen(results)
    old, new = runs(found, superseded="true"), runs(found, kind="cell", key=again.key)
    assert len(old) == 1
    assert len(new) == 2
    (now,) = [run for run in new if "superseded" not in run.data.tags]
    assert history(found, now, "train/loss/score") == expected(changed, "loss/score")
    rows, files = everything(results), files_under(results / ARTIFACTS)
    for _ in range(2):
        reopen(results).sync_study(study)
    assert everything(results) == rows
    assert files_under(results / ARTIFACTS) == files


def test_a_value_that_was_measured_again_is_the_one_that_shows(results: Path) -> None:
    folder = results / "s" / "sde-seed0"
    for latency in (20.0, 10.0, 15.0):
        row = make_record(folder.parent, "sde", 0)
        assert row.cost.latency_ms is not None
        row.cost.latency_ms = row.cost.latency_ms.model_copy(update={"median": latency})
        write_cell(folder, row, [])
        for _ in range(2):
            reopen(results).sync_cell(folder)
        (run,) = runs(reopen(results))
        assert run.data.metrics["timing/latency_ms"] == latency
    assert len(history(reopen(results), run, "timing/latency_ms")) == 3


def test_an_experiment_that_someone_else_made_first_is_taken(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = reopen(results)
    real = tracker.client.create_experiment

    def too_late(*given: Any) -> str:
        real(*given)
        return real(*given)

    monkeypatch.setattr(tracker.client, "create_experiment", too_late)
    assert tracker.sync_cell(live_cell(results))
    assert len(runs(tracker)) == 1


def test_the_tracker_of_a_command_is_opened_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(URI, "http://127.0.0.1:1")
    said: list[str] = []
    tracker = Background(partial(Tracker.open, tmp_path), said.append)
    assert store_uri(tmp_path) == os.environ[URI]
    wait_until(lambda: tracker.trouble is not None)
    assert len(said) == 1
    assert "bench sync" in said[0]
