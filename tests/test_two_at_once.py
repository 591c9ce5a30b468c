"""Several commands on one study: every cell is run once, and a dead command's cells go on."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bench import study
from bench.commands.run import RunOptions
from bench.commands.run.request import resolve
from bench.config.errors import UserError
from bench.config.text import to_yaml
from bench.progress.display import Display
from bench.records import files, record
from bench.records.locks import CellLock, hold
from bench.records.orphans import settle_study
from bench.records.record import Status
from bench.tracking import NullTracker

from . import forking
from .fake_study import PREPARED, make_record, write_cell

SMOKE = ("--dataset", "gmm2d", "--preset", "smoke", "--study", "s")


def start(place: Path, *arguments: str) -> subprocess.Popen[str]:
    return forking.command(place, "run", *SMOKE, "--no-tracking", *arguments)


@pytest.mark.usefixtures("processes")
def test_two_commands_share_the_cells(tmp_path: Path) -> None:
    """Both end with the whole table; each cell was worked on by one process alone."""
    two = [start(tmp_path, "--methods", "sde,smm", "--seeds", "0,1", "--jobs", "1") for _ in "ab"]
    told = [process.communicate(timeout=300) for process in two]
    assert [process.returncode for process in two] == [0, 0], told
    rows = dict(record.cells(tmp_path / "results" / "s"))
    assert len(rows) == 4
    for row in rows.values():
        assert row.status == Status.FINISHED
        assert len(row.attempts) == 1
    for output, errors in told:
        assert output.count("2/2") >= 2
        assert "finished in" in errors, "it had no part in the work"
    assert not (tmp_path / "results" / "s" / "replaced").exists()
    # Two that log it at once, on a store that neither finds there.
    command = [sys.executable, "-m", "bench", "sync"]
    logging = [subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL) for _ in "ab"]
    assert [process.wait(240) for process in logging] == [0, 0]
    assert_each_cell_has_one_run(tmp_path / "results", cells=4)


def assert_each_cell_has_one_run(results: Path, cells: int) -> None:
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{results}/mlflow.db")
    experiment = client.get_experiment_by_name("gmm2d")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    names = [run.data.tags["cell"] for run in runs if run.data.tags["kind"] == "cell"]
    assert len(names) == len(set(names)) == cells
    assert len(runs) == cells + 1
    assert {run.info.status for run in runs} == {"FINISHED"}


@pytest.mark.usefixtures("processes")
def test_a_new_command_waits_for_the_cell_of_a_dead_one(tmp_path: Path) -> None:
    """The parent is killed; its cell lives on for a moment, and is not run twice at a time."""
    arguments = ("--methods", "sde", "--budget", "200kimg")
    first = start(tmp_path, *arguments)
    assert first.stderr is not None
    for line in first.stderr:
        if "kimg" in line:
            break
    folder = tmp_path / "results" / "s" / "sde-seed0"
    row = record.load(folder)
    assert row is not None
    worker = row.attempts[-1].pid
    os.kill(worker, signal.SIGSTOP)  # It cannot heed the signal that its parent's death sends.
    first.kill()
    first.communicate()
    second = start(tmp_path, *arguments)
    assert second.stderr is not None
    for line in second.stderr:
        if "waiting for it" in line:
            break
    time.sleep(1.0)
    assert len(record.load(folder).attempts) == 1  # type: ignore[union-attr]
    os.kill(worker, signal.SIGCONT)
    _, errors = second.communicate(timeout=120)
    assert second.returncode == 0, errors
    row = record.load(folder)
    assert row is not None
    assert row.status == Status.FINISHED
    assert [attempt.ended for attempt in row.attempts] == [Status.INTERRUPTED, Status.FINISHED]


# -- what another command has done since the plan ---------------------------------------------


@pytest.fixture
def work(tmp_path: Path) -> study.CellWork:
    return study.CellWork(
        request(tmp_path), {**PREPARED, "data_variant": "d"}, NullTracker(), Display()
    )


def request(results: Path, *rerun: str) -> study.Request:
    options = RunOptions(
        methods=("sde",), preset="smoke", device="cpu", study="s", results=results,
        rerun=rerun or ("failed", "stale"),
    )  # fmt: skip
    return resolve(options)


def leave(cell: study.Planned, status: Status) -> None:
    """Leave a cell's folder as another command would."""
    row = make_record(cell.folder.parent, "sde", 0, status=status, key=cell.key)
    record.save(row, cell.folder)
    files.write_text(cell.folder / "config.yaml", to_yaml(cell.config))


def announce(work: study.CellWork, cell: study.Planned) -> None:
    """Say what is to become of a cell, and stop before it is run."""
    study.stopping.set()
    try:
        with pytest.raises(KeyboardInterrupt):
            study.Runner(work, 1, Display()).run([cell])
    finally:
        study.stopping.clear()
        study.stopping.since = None


@pytest.mark.parametrize("status", [Status.FINISHED, Status.FAILED])
def test_what_another_command_has_done_since_the_plan_stands(
    work: study.CellWork, status: Status
) -> None:
    (cell,) = study.plan(work.request, PREPARED)
    assert cell.action == "run"
    leave(cell, status)
    before = (cell.folder / "record.json").read_bytes()
    announce(work, cell)
    assert (cell.folder / "record.json").read_bytes() == before
    work.renew(cell, elsewhere=False)
    assert cell.action == ("reuse" if status == Status.FINISHED else "keep")


def test_results_are_replaced_only_when_their_cell_is_run(work: study.CellWork) -> None:
    (cell,) = study.plan(work.request, PREPARED)
    leave(cell, Status.FINISHED)
    (cell,) = study.plan(request(work.request.results, "all"), PREPARED)
    assert (cell.action, cell.why) == ("run", "done, asked for again")
    announce(work, cell)
    assert record.load(cell.folder).status == Status.FINISHED  # type: ignore[union-attr]
    work.renew(cell, elsewhere=False)
    assert cell.action == "run"
    work.lay_out(cell)
    assert record.load(cell.folder).status == Status.PENDING  # type: ignore[union-attr]
    (kept,) = (work.request.folder / "replaced").iterdir()
    assert record.load(kept).status == Status.FINISHED  # type: ignore[union-attr]


def test_an_unreadable_record_is_a_cell_to_run(work: study.CellWork) -> None:
    (cell,) = study.plan(work.request, PREPARED)
    cell.folder.mkdir(parents=True)
    (cell.folder / "record.json").write_text("{")
    settle_study(work.request.folder)
    (cell,) = study.plan(work.request, PREPARED)
    assert (cell.action, cell.why) == ("run", "its record cannot be read")


# -- locks ------------------------------------------------------------------------------------


def holder(cell: Path) -> subprocess.Popen[Any]:
    """Start a process that inherits a cell's lock, as a cell's own does."""
    lock = CellLock(cell)
    assert lock.acquire()
    assert lock.descriptor is not None
    process = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"], pass_fds=[lock.descriptor]
    )
    lock.close()
    return process


@pytest.mark.usefixtures("processes")
def test_a_lock_is_its_process_s_and_free_when_that_is_killed(tmp_path: Path) -> None:
    cell = tmp_path / "sde-seed0"
    process = holder(cell)
    lock = CellLock(cell)
    assert not lock.acquire()
    assert f"process {os.getpid()} on" in lock.holder
    with pytest.raises(UserError, match=r"sde-seed0.*by another command.*wait"), hold([cell]):
        pass
    process.kill()
    process.wait()
    assert lock.acquire()
    lock.close()
    with hold([cell]):
        assert not CellLock(cell).acquire()


@pytest.mark.usefixtures("processes")
@pytest.mark.parametrize("alive", [True, False])
def test_a_running_cell_is_interrupted_once_its_lock_is_free(tmp_path: Path, alive: bool) -> None:
    """Whatever process has its number now."""
    row = make_record(tmp_path, "sde", 0, status=Status.RUNNING)
    row.environment["pid"] = os.getpid()
    write_cell(tmp_path / row.cell, row)
    with contextlib.ExitStack() as stack:
        if alive:
            process = holder(tmp_path / row.cell)
            stack.callback(process.wait)
            stack.callback(process.kill)
        settle_study(tmp_path)
        found = record.load(tmp_path / row.cell)
    assert found is not None
    assert found.status == (Status.RUNNING if alive else Status.INTERRUPTED)
