"""MLflow as a view of the cells' folders, read back through its client."""

from __future__ import annotations

import builtins
import json
import math
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import bench
from bench.config.errors import UserError
from bench.records import record
from bench.records.files import write_text
from bench.records.record import Status, Value
from bench.report.plots.drawing import PlottedStudy
from bench.report.study_report import StudyReport
from bench.report.table.formats import write_tables
from bench.tracking import NullTracker, Tracker, store_uri
from bench.tracking.content import final_metrics
from bench.tracking.experiments import charts_link
from bench.tracking.store import ARTIFACTS, DATABASE, URI
from bench.tracking.tags import user
from bench.tracking.ui import _show_links, own_names, ui

from .fake_study import curve, make_record, write_cell, write_curve, write_study
from .stores import everything, expected, files_under, history, numbers, reopen, runs


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(URI, raising=False)


@pytest.fixture
def said() -> list[str]:
    """The warnings of the tracker that ``tracker`` opens."""
    return []


@pytest.fixture
def tracker(results: Path, said: list[str]) -> Tracker:
    """A tracker on the empty store."""
    return reopen(results, said)


# A cell -----------------------------------------------------------------------------------------


def test_a_finished_cell_is_a_whole_run(tracker: Tracker, results: Path) -> None:
    study = results / "quick"
    row = make_record(study, "dlsm", 1)
    write_cell(study / row.cell, row)
    tracker.sync_cell(study / row.cell)
    (run,) = runs(tracker)
    assert run.info.run_name == "dlsm-seed1"
    assert run.info.status == "FINISHED"
    assert run.info.end_time - run.info.start_time == 120_000
    wanted = {
        "kind": "cell", "study": "quick", "method": "dlsm", "dataset": "digits", "seed": "1",
        "preset": "quick", "commit": "0123456789abcdef", "device": "cpu: fake processor",
        "data_variant": "digits", "status": "finished", "key": "key-dlsm-1", "host": "box",
        "pid": "4242", "cell": "dlsm-seed1",
    }  # fmt: skip
    assert wanted.items() <= run.data.tags.items()
    assert run.data.params == {
        "dataset": "digits", "method.name": "dlsm", "method.batch": "128", "method.ema": "null",
        "method.betas": "[0.9, 0.999]", "budget.images": "512000",
    }  # fmt: skip
    assert final_metrics(row).items() <= run.data.metrics.items()
    assert run.data.metrics["cost/seconds_train"] == row.ledger["train"]
    assert run.data.metrics["quality/is_digits_500_spread"] == 0.11
    uploaded = {file.path for file in tracker.client.list_artifacts(run.info.run_id)}
    assert uploaded == {"config.yaml", "record.json", "grid.png"}


def test_final_metrics_are_grouped_by_what_they_tell(tmp_path: Path) -> None:
    names = {
        "quality/fd_digits_500", "quality/is_digits_500", "quality/accuracy_digits_500",
        "timing/ms_per_image", "timing/latency_ms_high", "cost/nfe", "cost/train_flops",
        "cost/sample_flops_per_image", "cost/peak_memory_bytes", "cost/parameters",
        "cost/seconds_wall",
    }  # fmt: skip
    assert names <= final_metrics(make_record(tmp_path, "dlsm", 0)).keys()


def test_curves_are_logged_over_images_seen(tracker: Tracker, results: Path) -> None:
    folder = results / "s" / "sde-seed0"
    write_cell(folder, make_record(folder.parent, "sde", 0, status=Status.RUNNING))
    tracker.sync_cell(folder)
    (run,) = runs(tracker)
    lines = record.read_curves(folder)
    for name in ("loss/score", "fd_digits_500"):
        assert history(tracker, run, f"train/{name}") == expected(lines, name)
    points = tracker.client.get_metric_history(run.info.run_id, "train/loss/score")
    seconds = [(point.timestamp - run.info.start_time) / 1000 for point in points]
    assert sorted(seconds) == pytest.approx([line["seconds"] for line in lines], abs=1e-3)


def test_a_live_cell_grows_without_repeating(tracker: Tracker, results: Path) -> None:
    folder = results / "s" / "sde-seed0"
    lines = curve("sde", 0)
    row = make_record(folder.parent, "sde", 0, status=Status.RUNNING, metrics={})
    write_cell(folder, row, [])
    for start in range(0, 60, 20):
        write_curve(folder, lines[start : start + 20])
        tracker.sync_cell(folder)
        tracker.sync_cell(folder)
        (run,) = runs(tracker)
        assert run.info.status == "RUNNING"
        assert history(tracker, run, "train/loss/score") == expected(
            lines[: start + 20], "loss/score"
        )
    assert "timing/ms_per_image" not in run.data.metrics
    record.save(row.model_copy(update={"status": Status.FINISHED}), folder)
    tracker.sync_cell(folder)
    (run,) = runs(tracker)
    assert run.info.status == "FINISHED"
    assert history(tracker, run, "train/loss/score") == expected(lines, "loss/score")


def test_a_line_half_written_waits_for_its_end(tracker: Tracker, results: Path) -> None:
    folder = results / "s" / "sde-seed0"
    lines = curve("sde", 0)
    write_cell(folder, make_record(folder.parent, "sde", 0, status=Status.RUNNING), lines[:5])
    with (folder / record.CURVES).open("a") as file:
        file.write('{"images": 99999, "st')
    tracker.sync_cell(folder)
    (run,) = runs(tracker)
    assert history(tracker, run, "train/loss/score") == expected(lines[:5], "loss/score")


@pytest.mark.parametrize("live", [True, False])
def test_a_resumed_cell_logs_no_step_twice(tracker: Tracker, results: Path, live: bool) -> None:
    folder = results / "s" / "sde-seed0"
    lines = curve("sde", 0)
    row = make_record(folder.parent, "sde", 0, status=Status.INTERRUPTED, metrics={})
    write_cell(folder, row, lines[:40])
    if live:
        tracker.sync_cell(folder)
        (run,) = runs(tracker)
        assert run.info.status == "KILLED"
    # Resumed from a checkpoint at line 30, an hour later and slower.
    again = [line | {"seconds": line["seconds"] + 3600} for line in lines[30:]]
    write_curve(folder, again)
    record.save(row.model_copy(update={"status": Status.RUNNING}), folder)
    reopen(results).sync_cell(folder)
    (run,) = runs(tracker)
    assert run.info.status == "RUNNING"
    assert history(tracker, run, "train/loss/score") == expected(lines, "loss/score")


def test_final_values_become_bars(tracker: Tracker, results: Path) -> None:
    folder = results / "s" / "sde-seed0"
    row = make_record(folder.parent, "sde", 0)
    write_cell(folder, row)
    tracker.sync_cell(folder)
    (run,) = runs(tracker)
    # MLflow draws bars for what only has a step 0, and lines for the rest.
    for name, value in final_metrics(row).items():
        assert history(tracker, run, name) == [(0, value)]
    names = {name.partition("/")[0] for name in run.data.metrics}
    assert names == {"quality", "cost", "timing", "train"}


def test_errors_and_corrected_values_are_metrics(tracker: Tracker, results: Path) -> None:
    folder = results / "s" / "sde-seed0"
    row = make_record(folder.parent, "sde", 0)
    name = "fd_digits_500"
    value = row.metrics[name].model_copy(update={"error": 0.25, "corrected": 5.5})
    write_cell(folder, row.model_copy(update={"metrics": {name: value}}))
    tracker.sync_cell(folder)
    (run,) = runs(tracker)
    told = {key: found for key, found in run.data.metrics.items() if key.startswith("quality/")}
    assert told == {
        f"quality/{name}": value.value, f"quality/{name}_error": 0.25,
        f"quality/{name}_corrected": 5.5,
    }  # fmt: skip


def test_a_cell_tells_its_data_source_user_commit_and_machine(
    tracker: Tracker, results: Path
) -> None:
    folder = results / "s" / "sde-seed0"
    row = make_record(folder.parent, "sde", 0, data={"sha256": "ab" * 32, "train": 1297})
    row.cost.unfit = ["other processes used 1.0 of 2 cores"]
    row.environment["command"] = "bench run --methods sde"
    write_cell(folder, row)
    for _ in range(2):
        reopen(results).sync_study(folder.parent)
    wanted = {
        "mlflow.user": user(), "mlflow.source.name": "bench run", "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": "0123456789abcdef",
    }  # fmt: skip
    for run in runs(tracker):
        assert wanted.items() <= run.data.tags.items()
        (given,) = run.inputs.dataset_inputs
        assert (given.dataset.name, given.dataset.digest) == ("digits", "ab" * 6)
        assert [(tag.key, tag.value) for tag in given.tags] == [("mlflow.data.context", "training")]
    (run,) = runs(tracker, kind="cell")
    assert (run.data.tags["timing_fit"], run.data.tags["unfit"]) == ("no", row.cost.unfit[0])
    note = run.data.tags["mlflow.note.content"]
    for said in (
        "**sde**, seed 0", "fd_digits_500 ↓ 5.917", "36 network calls", "2.1 ms an image †",
        "1.2e+13 FLOP", "other processes used 1.0", "bench run --methods sde",
    ):  # fmt: skip
        assert said in note


def test_a_grid_is_an_image_of_the_charts_once(tracker: Tracker, results: Path) -> None:
    folder = results / "s" / "sde-seed0"
    row = make_record(folder.parent, "sde", 0)
    write_cell(folder, row)
    Image.new("L", (600, 300), 200).save(folder / "grid.png")
    for _ in range(2):
        tracker.sync_cell(folder)
        # What is told anew is logged anew.
        record.save(row.model_copy(update={"reason": "x"}), folder)
    (run,) = runs(tracker)
    assert run.data.tags["mlflow.loggedImages"] == "True"
    paths = sorted(each.path for each in tracker.client.list_artifacts(run.info.run_id, "images"))
    stem = f"images/quality~samples+step+512000+timestamp+{run.info.end_time}+key-sde-"
    assert paths == [f"{stem}+compressed.webp", f"{stem}.png"]
    for path, size in zip(paths, [(256, 128), (600, 300)], strict=True):
        with Image.open(tracker.client.download_artifacts(run.info.run_id, path)) as found:
            assert found.size == size


def test_methods_have_their_colour_in_the_pictures(tracker: Tracker, results: Path) -> None:
    study = write_study(results / "quick", ("sde", "smm"), (0,), failed=None)
    tracker.sync_study(study)
    # A method that comes first by name moves the others on.
    row = make_record(study, "cdm", 0)
    write_cell(study / row.cell, row)
    for again in (tracker, reopen(results)):
        again.sync_study(study)
        looks = PlottedStudy.of(StudyReport.read(study)).looks
        for run in runs(tracker, kind="cell"):
            tags = run.data.tags
            assert tags["mlflow.runColor"] == looks[tags["method"]]["color"].lower()


def test_a_run_of_an_older_version_is_brought_up_to_date(tracker: Tracker, results: Path) -> None:
    """It keeps what it has, and has the same beside it as a new one."""
    study = write_study(results / "quick", ("sde",), (0,), failed=None)
    tracker.sync_study(study)
    (new,) = runs(tracker, kind="cell")
    with closing(sqlite3.connect(results / DATABASE)) as store, store:
        for table in ("metrics", "latest_metrics"):
            store.execute(f"DELETE FROM {table} WHERE key LIKE 'quality/fd%'")
            store.execute(f"UPDATE {table} SET key = substr(key, instr(key, '/') + 1)")
        store.execute("DELETE FROM tags WHERE key LIKE 'mlflow.%' AND key != 'mlflow.runName'")
        store.execute("UPDATE tags SET value = 'as it was' WHERE key = 'synced'")
    (old,) = runs(tracker, kind="cell")
    assert "fd_digits_500" in old.data.metrics
    for _ in range(2):
        reopen(results).sync_study(study)
    (now,) = runs(tracker, kind="cell")
    assert now.data.tags == new.data.tags
    assert now.data.metrics == old.data.metrics | new.data.metrics
    lines = record.read_curves(study / "sde-seed0")
    for name in ("loss/score", "train/loss/score"):
        assert history(tracker, now, name) == expected(lines, "loss/score")


def test_nan_and_infinity_do_not_repeat(tracker: Tracker, results: Path) -> None:
    folder = results / "s" / "sde-seed0"
    odd = {
        "images": 1,
        "step": 1,
        "seconds": 1.0,
        "values": {"loss/a b": math.nan, "x@y": math.inf},
    }
    row = make_record(folder.parent, "sde", 0)
    write_cell(folder, row, [odd])
    for _ in range(2):
        reopen(results).sync_cell(folder)
    (run,) = runs(tracker)
    assert math.isnan(run.data.metrics["train/loss/a b"])
    assert len(history(tracker, run, "train/loss/a b")) == 1
    assert len(history(tracker, run, "train/x_y")) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "shown"),
    [
        (Status.FINISHED, "FINISHED"),
        (Status.RUNNING, "RUNNING"),
        (Status.INTERRUPTED, "KILLED"),
        (Status.FAILED, "FAILED"),
        (Status.DIVERGED, "FAILED"),
        (Status.TIMEOUT, "FAILED"),
        (Status.KILLED, "FAILED"),
    ],
)
def test_status_is_mapped(tracker: Tracker, results: Path, status: Status, shown: str) -> None:
    folder = results / "s" / "sde-seed0"
    write_cell(folder, make_record(folder.parent, "sde", 0, status=status, reason="why"), [])
    tracker.sync_cell(folder)
    (run,) = runs(tracker)
    assert run.info.status == shown
    assert (run.data.tags["status"], run.data.tags["reason"]) == (str(status), "why")


def test_a_pending_cell_gets_no_run(tracker: Tracker, results: Path) -> None:
    folder = results / "s" / "sde-seed0"
    write_cell(folder, make_record(folder.parent, "sde", 0, status=Status.PENDING), [])
    tracker.sync_cell(folder)
    assert runs(tracker) == []
    tracker.sync_cell(results / "s" / "nothing-here")
    assert tracker.trouble is None


@pytest.mark.usefixtures("processes")
def test_a_cell_whose_process_has_gone_is_not_running(tracker: Tracker, results: Path) -> None:
    folder = results / "s" / "sde-seed0"
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for pid, shown in ((os.getpid(), "RUNNING"), (dead.pid, "KILLED")):
        environment = {"host": socket.gethostname(), "pid": pid}
        row = make_record(folder.parent, "sde", 0, status=Status.RUNNING, environment=environment)
        write_cell(folder, row, [])
        tracker.sync_cell(folder)
        (run,) = runs(tracker)
        assert run.info.status == shown


def test_a_stale_cell_run_again_supersedes_its_old_run(tracker: Tracker, results: Path) -> None:
    folder = results / "s" / "sde-seed0"
    write_cell(folder, make_record(folder.parent, "sde", 0, status=Status.RUNNING, key="old"), [])
    tracker.sync_cell(folder)
    write_cell(folder, make_record(folder.parent, "sde", 0, key="new"), [])
    tracker.sync_cell(folder)
    old, new = (runs(tracker, key=key)[0] for key in ("old", "new"))
    assert len(runs(tracker)) == 2
    assert (old.data.tags["superseded"], old.info.status) == ("true", "KILLED")
    assert "superseded" not in new.data.tags
    # And back again: the old configuration's run is the valid one once more.
    write_cell(folder, make_record(folder.parent, "sde", 0, key="old"), [])
    reopen(results).sync_cell(folder)
    assert len(runs(tracker)) == 2
    assert [runs(tracker, key=key)[0].data.tags["superseded"] for key in ("old", "new")] == [
        "false",
        "true",
    ]


def test_long_and_many_parameters_fit(tracker: Tracker, results: Path) -> None:
    folder = results / "s" / "sde-seed0"
    write_cell(folder, make_record(folder.parent, "sde", 0), [])
    many = "\n".join(f"p{number}: {number}" for number in range(250))
    (folder / "config.yaml").write_text(f"{many}\nlong: {'x' * 9000}\n'odd name, (1)': 1\n")
    tracker.sync_cell(folder)
    (run,) = runs(tracker)
    assert tracker.trouble is None
    assert len(run.data.params) == 252
    assert len(run.data.params["long"]) == 6000
    assert run.data.params["odd name_ _1_"] == "1"


def test_every_point_is_sent_once_in_batches(
    tracker: Tracker, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = count_points(tracker, monkeypatch)
    folder = results / "s" / "cdm-seed0"
    lines = curve("cdm", 0, points=1100)
    row = make_record(folder.parent, "cdm", 0, status=Status.RUNNING)
    write_cell(folder, row, lines[:700])
    tracker.sync_cell(folder)
    write_curve(folder, lines[700:])
    tracker.sync_cell(folder)
    (run,) = runs(tracker)
    assert history(tracker, run, "train/loss/score") == expected(lines, "loss/score")
    assert sum(sent) == sum(len(line["values"]) for line in lines)
    assert max(sent) == 800
    record.save(row.model_copy(update={"status": Status.FINISHED}), folder)
    tracker.sync_cell(folder)
    before = sum(sent)
    # Told anew, with the same numbers: nothing is left to send.
    record.save(row.model_copy(update={"status": Status.FINISHED, "reason": "x"}), folder)
    tracker.sync_cell(folder)
    assert sum(sent) == before


def count_points(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows by the size of each batch of points the tracker sends."""
    sent: list[int] = []
    real = tracker.client.log_batch

    def counted(run_id: str, **what: Any) -> None:
        if what.get("metrics"):
            sent.append(len(what["metrics"]))
        real(run_id, **what)

    monkeypatch.setattr(tracker.client, "log_batch", counted)
    return sent


def test_a_parameter_that_changed_under_the_same_key_is_no_trouble(
    tracker: Tracker, results: Path
) -> None:
    folder = results / "s" / "sde-seed0"
    row = make_record(folder.parent, "sde", 0, status=Status.RUNNING)
    write_cell(folder, row, [])
    tracker.sync_cell(folder)
    (folder / "config.yaml").write_text("dataset: digits\nmethod: {batch: 64}\n")
    record.save(row.model_copy(update={"status": Status.FINISHED}), folder)
    tracker.sync_cell(folder)
    assert tracker.trouble is None
    assert runs(tracker)[0].info.status == "FINISHED"


# A study ----------------------------------------------------------------------------------------


@pytest.fixture
def study(results: Path) -> Path:
    """A small study with a failed cell, its table and a plot."""
    folder = write_study(results / "quick", ("sde", "smm"), (0, 1), failed="smm-seed1")
    write_text(folder / "table.md", "| method |\n|---|\n| sde |\n")
    write_text(folder / "table.csv", "method\nsde\n")
    write_text(folder / "plots" / "ledger.png", "picture")
    return folder


def test_a_study_has_its_cells_and_a_run_of_its_own(tracker: Tracker, study: Path) -> None:
    tracker.sync_study(study)
    assert Counter(run.data.tags["kind"] for run in runs(tracker)) == {"cell": 4, "study": 1}
    (run,) = runs(tracker, kind="study")
    assert run.info.status == "FAILED"
    assert run.data.tags["mlflow.note.content"] == (study / "table.md").read_text()
    assert run.data.tags["methods"] == "sde,smm"
    listed = {file.path for file in tracker.client.list_artifacts(run.info.run_id)}
    assert {"table.md", "table.csv", "plots"} <= listed
    plots = tracker.client.list_artifacts(run.info.run_id, "plots")
    assert [file.path for file in plots] == ["plots/ledger.png"]
    # Flat: MLflow's charts leave out nested runs.
    assert all("mlflow.parentRunId" not in run.data.tags for run in runs(tracker))
    (failed,) = runs(tracker, cell="smm-seed1")
    assert failed.info.status == "FAILED"
    assert "nan at step 1333" in failed.data.tags["reason"]
    names = {file.path for file in tracker.client.list_artifacts(failed.info.run_id)}
    assert names == {"config.yaml", "record.json", "log.txt"}


def test_a_studys_run_has_the_means_of_its_table(
    tracker: Tracker, results: Path, tmp_path: Path
) -> None:
    study = write_study(results / "quick", ("cdm", "sde"), (0, 1), failed=None)
    report = StudyReport.read(study)
    write_tables(report)
    write_text(study / "report.html", "<html>")
    tracker.sync_study(study)
    (run,) = runs(tracker, kind="study")
    means = report.summary.set_index("method")
    for column, name in (("metrics.fd_digits_500", "fd_digits_500"), ("cost.nfe", "nfe")):
        for method in means.index:
            shown = f"means/{name} {method}"
            assert history(tracker, run, shown) == [(0, means[column][method])]
            half = means[f"{column}:half"][method]
            assert history(tracker, run, f"{shown} half") == [(0, half)]
    assert not [name for name in run.data.metrics if "spread" in name]
    link = f"runs/{run.info.run_id}/artifacts/report.html"
    assert link in run.data.tags["mlflow.note.content"].splitlines()[0]
    page = tracker.client.download_artifacts(run.info.run_id, "report.html", str(tmp_path))
    assert Path(page).read_text() == "<html>"


def test_syncing_again_changes_nothing(tracker: Tracker, study: Path, results: Path) -> None:
    tracker.sync_study(study)
    rows, files = everything(results), files_under(results / ARTIFACTS)
    assert len(rows["metrics"]) > 200
    tracker.sync_study(study)
    reopen(results).sync_study(study)
    assert everything(results) == rows
    assert files_under(results / ARTIFACTS) == files


def test_syncing_after_a_change_brings_the_change_alone(tracker: Tracker, study: Path) -> None:
    tracker.sync_study(study)
    write_text(study / "table.md", "another table")
    row = make_record(study, "smm", 1)
    record.save(row, study / row.cell)
    reopen(study.parent).sync_study(study)
    assert len(runs(tracker)) == 5
    (run,) = runs(tracker, kind="study")
    assert run.data.tags["mlflow.note.content"] == "another table"
    assert run.info.status == "FINISHED"
    (mended,) = runs(tracker, cell="smm-seed1")
    assert mended.info.status == "FINISHED"
    assert mended.data.tags["reason"] == ""


@pytest.mark.slow
def test_live_and_later_give_the_same_store(study: Path, results: Path, tmp_path: Path) -> None:
    live = reopen(results)
    for folder in sorted(study.glob("*-seed*")):
        final = record.load(folder)
        lines = record.read_curves(folder)
        assert final is not None
        record.save(final.model_copy(update={"status": Status.RUNNING, "metrics": {}}), folder)
        (folder / record.CURVES).write_text("")
        for start in range(0, len(lines), 7):
            write_curve(folder, lines[start : start + 7])
            live.sync_cell(folder)
        record.save(final, folder)
    live.sync_study(study)
    seen = [numbers(live, run) for run in runs(live)]
    copy_of_results = tmp_path / "other"
    copy_of_results.mkdir()
    with closing(sqlite3.connect(results / DATABASE)) as store:
        store.execute("DELETE FROM metrics")
        store.execute("DELETE FROM latest_metrics")
        store.execute("DELETE FROM params")
        store.execute("DELETE FROM tags")
        store.execute("DELETE FROM runs")
        store.commit()
    later = reopen(results)
    later.sync_study(study)
    assert sorted(seen, key=repr) == sorted((numbers(later, run) for run in runs(later)), key=repr)


@pytest.mark.slow
def test_a_run_left_open_ends_when_its_folder_has_gone(
    tracker: Tracker, study: Path, results: Path
) -> None:
    row = make_record(study, "cdm", 0, status=Status.RUNNING, environment={})
    write_cell(study / row.cell, row, [])
    tracker.sync_study(study)
    assert runs(tracker, kind="study")[0].info.status == "RUNNING"
    for file in (study / row.cell).iterdir():
        file.unlink()
    reopen(results).sync_study(study)
    assert not [run for run in runs(tracker) if run.info.status == "RUNNING"]


def test_a_deleted_experiment_comes_back(tracker: Tracker, study: Path, results: Path) -> None:
    tracker.sync_study(study)
    experiment = tracker.client.get_experiment_by_name("digits")
    assert experiment is not None
    tracker.client.delete_experiment(experiment.experiment_id)
    again = reopen(results)
    again.sync_study(study)
    assert again.trouble is None


@pytest.mark.slow
def test_two_peoples_runs_on_one_store_stay_apart(
    results: Path, study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = store_uri(results)
    mine = reopen(results)
    mine.sync_study(study)
    monkeypatch.setenv(URI, shared)
    other = write_study(tmp_path / "theirs" / "quick", ("sde",), (0,), failed=None)
    theirs = reopen(other.parent)
    theirs.sync_study(other)
    assert len(runs(mine, cell="sde-seed0", study="quick")) == 2


# The store --------------------------------------------------------------------------------------


def test_the_store_is_in_the_results_folder_or_where_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert store_uri(Path("results")) == f"sqlite:///{tmp_path}/results/mlflow.db"
    monkeypatch.setenv(URI, "http://127.0.0.1:1")
    assert store_uri(Path("results")) == "http://127.0.0.1:1"


def test_the_store_writes_ahead_and_sends_no_telemetry(tracker: Tracker, results: Path) -> None:
    with closing(sqlite3.connect(results / DATABASE)) as store:
        assert store.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_moved_results_find_their_artifacts(tracker: Tracker, study: Path, tmp_path: Path) -> None:
    tracker.sync_study(study)
    moved = tmp_path / "elsewhere" / "moved results"
    moved.parent.mkdir()
    study.parent.rename(moved)
    again = reopen(moved)
    again.sync_study(moved / "quick")
    assert len(runs(again)) == 5
    (run,) = runs(again, kind="study")
    assert run.info.artifact_uri.startswith((moved / ARTIFACTS).as_uri())
    table = again.client.download_artifacts(run.info.run_id, "table.csv")
    assert Path(table).read_text() == "method\nsde\n"
    assert not study.parent.exists()


def test_charts_show_all_runs_of_the_experiment(tracker: Tracker, study: Path) -> None:
    tracker.sync_study(study)
    experiment = tracker.client.get_experiment_by_name("digits")
    assert experiment is not None
    link = charts_link("http://x", experiment.experiment_id)
    assert link.endswith("viewStateShareKey=scorebench&compareRunsMode=CHART")
    note = experiment.tags["mlflow.note.content"]
    assert f"]({link.removeprefix('http://x/')})" in note
    # What a user writes there instead stays.
    tracker.client.set_experiment_tag(experiment.experiment_id, "mlflow.note.content", "mine")
    reopen(study.parent).sync_study(study)
    experiment = tracker.client.get_experiment_by_name("digits")
    assert experiment is not None
    assert experiment.tags["mlflow.note.content"] == "mine"


def view(tracker: Tracker, dataset: str = "digits") -> dict[str, Any]:
    """Return the view that an experiment's pages open with."""
    experiment = tracker.client.get_experiment_by_name(dataset)
    assert experiment is not None
    tag = experiment.tags["mlflow.sharedViewState.scorebench"]
    assert len(tag) < 5000
    return dict(json.loads(tag))


@pytest.mark.parametrize(
    ("metrics", "leading", "is_rising"),
    [
        ("is_digits_500 kd_digits_500 fd_digits_500", "fd_digits_500 is_digits_500", False),
        ("modes sw2", "sw2", False),
        ("is_x_50k", "is_x_50k", True),
    ],
)
def test_pages_open_on_the_leading_metric(
    tracker: Tracker, results: Path, metrics: str, leading: str, is_rising: bool
) -> None:
    study = results / "quick"
    row = make_record(study, "sde", 0, status=Status.RUNNING, metrics={})
    write_cell(study / row.cell, row)
    tracker.sync_study(study)
    assert view(tracker) == {"runsHiddenMode": "SHOW_ALL"}
    values = {name: Value(value=1.0) for name in metrics.split()}
    done = make_record(study, "sde", 0, metrics=values)
    record.save(done, study / row.cell)
    tracker.sync_study(study)
    (run,) = runs(tracker, kind="cell")
    found = view(tracker)
    shown, *others = (f"quality/{name}" for name in leading.split())
    assert (found["orderByKey"], found["orderByAsc"]) == (f"metrics.`{shown}`", not is_rising)
    axes = [
        (card["xaxis"]["key"], card["yaxis"]["key"])
        for card in found["compareRunCharts"]
        if card["type"] == "SCATTER"
    ]
    assert axes == [("cost/train_flops", shown), ("timing/ms_per_image", shown)]
    assert found["compareRunCharts"][2]["metricKey"] == shown
    assert {key for pair in axes for key in pair} <= run.data.metrics.keys()
    told = [column.split("`")[1] for column in found["selectedColumns"]]
    costs = ["cost/nfe", "timing/ms_per_image", "cost/train_flops"]
    assert told[:2] == ["method", "seed"]
    assert told[2:-4] == [shown, f"{shown}_error", *others, *costs]
    # Sections that are there: MLflow puts the charts of all other metrics into them.
    groups = {name.rpartition("/")[0] for name in run.data.metrics}
    assert groups <= {section["name"] for section in found["compareRunSections"]}


def test_of_two_studies_the_later_one_leads(tracker: Tracker, results: Path) -> None:
    for name, metric, day in (("b", "fd_new", "02"), ("a", "fd_late", "03"), ("c", "fd_old", "01")):
        row = make_record(
            results / name, "sde", 0, started=f"2026-02-{day}T10:00:00+00:00",
            metrics={metric: Value(value=1.0)},
        )  # fmt: skip
        write_cell(results / name / row.cell, row, [])
        tracker.sync_study(results / name)
    for again in (tracker, reopen(results)):
        assert view(tracker)["orderByKey"] == "metrics.`quality/fd_late`"
        for name in "abc":
            again.sync_study(results / name)


@pytest.mark.parametrize("code", ["PERMISSION_DENIED", "INTERNAL_ERROR"])
def test_whoever_may_not_change_the_experiment_logs_runs_all_the_same(
    tracker: Tracker, study: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.protos import databricks_pb2

    def refuse(*_: str) -> None:
        raise MlflowException("no", getattr(databricks_pb2, code))

    monkeypatch.setattr(tracker.client, "set_experiment_tag", refuse)
    assert tracker.sync_study(study) == (code == "PERMISSION_DENIED")


# Trouble ----------------------------------------------------------------------------------------


def test_without_mlflow_one_line_is_said(
    results: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.partition(".")[0] == "mlflow":
            raise ModuleNotFoundError("No module named 'mlflow'", name="mlflow")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    opened = Tracker.open(results, said.append)
    assert isinstance(opened, NullTracker)
    assert len(said) == 1
    assert "not installed" in said[0]
    opened.sync_cell(results / "s" / "sde-seed0")
    opened.sync_study(results / "s")


def test_a_broken_store_is_left_out(tmp_path: Path, said: list[str]) -> None:
    (tmp_path / DATABASE).write_text("this is no database, " * 100)
    opened = Tracker.open(tmp_path, said.append)
    assert isinstance(opened, NullTracker)
    assert len(said) == 1
    assert "bench sync" in said[0]
    assert "\n" not in said[0]


def test_a_server_that_is_down_is_left_out_soon(
    tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv(URI, f"http://127.0.0.1:{free.getsockname()[1]}")
    start = time.monotonic()
    assert isinstance(Tracker.open(tmp_path, said.append), NullTracker)
    assert time.monotonic() - start < 20
    assert len(said) == 1


def test_a_store_that_fails_midway_stops_nothing_and_is_completed_later(
    tracker: Tracker, study: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def locked(*_: Any, **__: Any) -> None:
        raise sqlite3.OperationalError("database is locked\nmore")

    with monkeypatch.context() as broken:
        broken.setattr(tracker.client, "log_batch", locked)
        broken.setattr(tracker.client, "search_experiments", locked)
        for folder in sorted(study.glob("*-seed*")):
            tracker.sync_cell(folder)
        tracker.sync_study(study)
    assert len(said) == 1
    assert "database is locked" in said[0]
    assert "\n" not in said[0]
    assert tracker.trouble is not None
    tracker.sync_study(study)
    assert tracker.trouble is None
    assert Counter(run.data.tags["kind"] for run in runs(tracker)) == {"cell": 4, "study": 1}
    (run,) = runs(tracker, cell="sde-seed0")
    lines = record.read_curves(study / "sde-seed0")
    assert history(tracker, run, "train/loss/score") == expected(lines, "loss/score")


def test_a_batch_that_arrived_but_was_not_answered_is_not_sent_twice(
    tracker: Tracker, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = results / "s" / "sde-seed0"
    write_cell(folder, make_record(folder.parent, "sde", 0, status=Status.RUNNING))
    real = tracker.client.log_batch

    def lost(run_id: str, **what: Any) -> None:
        real(run_id, **what)
        if what.get("metrics"):
            raise TimeoutError("no answer")

    with monkeypatch.context() as broken:
        broken.setattr(tracker.client, "log_batch", lost)
        tracker.sync_cell(folder)
    sent = count_points(tracker, monkeypatch)
    tracker.sync_cell(folder)
    (run,) = runs(tracker)
    lines = record.read_curves(folder)
    assert history(tracker, run, "train/loss/score") == expected(lines, "loss/score")
    assert sent == []


def test_one_unreadable_record_does_not_hold_up_the_others(
    tracker: Tracker, study: Path, said: list[str]
) -> None:
    (study / "sde-seed0" / record.RECORD).write_text("{")
    tracker.sync_study(study)
    assert tracker.trouble is not None
    assert len(said) == 1
    assert len(runs(tracker, kind="cell")) == 3


def test_a_null_tracker_that_was_wanted_has_no_trouble() -> None:
    assert NullTracker().trouble is None


# The UI -----------------------------------------------------------------------------------------


def test_the_ui_answers_to_the_machine_s_addresses() -> None:
    assert {socket.gethostname(), "127.0.0.1"} <= {*own_names()}


def test_the_ui_serves_no_ipv6(results: Path) -> None:
    with pytest.raises(UserError, match="IPv6 is not served"):
        ui(results, 5999, "::1")


def test_the_ui_needs_a_store_and_a_free_port(results: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no MLflow store in"):
        ui(tmp_path / "nothing")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} "):
            ui(results, port)


@pytest.mark.parametrize(
    ("host", "names"),
    [
        ("127.0.0.1", None),
        ("localhost", None),
        ("0.0.0.0", [socket.gethostname()]),
        ("lab.example.org", ["lab.example.org"]),
    ],
)
def test_what_others_reach_is_warned_of_and_answers_to_its_name(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    host: str, names: list[str] | None,
) -> None:  # fmt: skip
    class Started(Exception):
        """The server would be started now."""

    def start(command: list[str], **_: object) -> None:
        assert command[command.index("--host") + 1] == host
        assert ("--allowed-hosts" in command) == (names is not None)
        if names:
            allowed = command[command.index("--allowed-hosts") + 1].split(",")
            assert {*(f"{name}:5999" for name in names), "localhost:*"} <= set(allowed)
            origins = command[command.index("--cors-allowed-origins") + 1].split(",")
            assert origins == [f"http://{each}" for each in allowed]
        raise Started

    monkeypatch.setattr("bench.tracking.ui._refuse_taken", lambda *_: None)
    monkeypatch.setattr("bench.tracking.ui.subprocess.Popen", start)
    with pytest.raises(Started):
        ui(results, 5999, host)
    assert ("without a password" in capsys.readouterr().err) == (names is not None)


@pytest.mark.parametrize("has_browser", [True, False])
def test_the_ui_opens_a_browser_if_asked(
    tracker: Tracker, study: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], has_browser: bool,
) -> None:  # fmt: skip
    tracker.sync_study(study)
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda link: opened.append(link) or has_browser)
    show = partial(_show_links, tracker.client, "http://x")
    show(is_opened=False)
    assert opened == []
    show(is_opened=True)
    said = capsys.readouterr()
    assert f"digits: {opened[0]}" in said.out
    assert ("no browser" in said.err) == (not has_browser)


@pytest.mark.usefixtures("processes")
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_the_ui_starts_its_server_prints_links_and_ends_it(
    tracker: Tracker, study: Path, results: Path, stop: signal.Signals, tmp_path: Path
) -> None:
    tracker.sync_study(study)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # A stand-in for MLflow's server, which takes 10 s to start: same command line, same /health.
    package = tmp_path / "stand-in"
    (package / "mlflow").mkdir(parents=True)
    code = (
        "import sys, os\n"
        "from http.server import BaseHTTPRequestHandler, HTTPServer\n"
        "class Handler(BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        self.send_response(200 if self.path == '/health' else 404)\n"
        "        self.end_headers()\n"
        "given = sys.argv\n"
        "assert given[1] == 'server' and given[given.index('--workers') + 1] == '1', given\n"
        "assert os.environ['MLFLOW_SERVER_ENABLE_JOB_EXECUTION'] == 'false'\n"
        "port = int(given[given.index('--port') + 1])\n"
        "HTTPServer(('127.0.0.1', port), Handler).serve_forever()\n"
    )
    (package / "mlflow" / "__init__.py").write_text("")
    (package / "mlflow" / "__main__.py").write_text(code)
    script = (
        "import sys, os; from pathlib import Path; from bench.tracking.ui import ui\n"
        "import mlflow\n"
        f"os.environ['PYTHONPATH'] = {str(package)!r}\n"
        f"ui(Path({str(results)!r}), {port})\n"
    )
    root = str(Path(bench.__file__).parents[1])
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": root},
    )
    assert process.stdout is not None
    link = process.stdout.readline()
    try:
        assert f"http://127.0.0.1:{port}/#/experiments/" in link, process.communicate(timeout=20)
        urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
    finally:
        process.send_signal(stop)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)


@pytest.fixture
def silent_server() -> Iterator[str]:
    """A server that answers every request with an error."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(400)

        do_POST = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_ui_of_a_server_that_errs_is_told(
    tmp_path: Path, silent_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(URI, silent_server)
    with pytest.raises(UserError, match="cannot be opened"):
        ui(tmp_path)
