"""Stores that are not ours or of no use, paths with signs in them, and secrets in addresses."""

from __future__ import annotations

import logging
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import torch

from bench.cli.main import complain
from bench.config import UserError, without_secrets
from bench.records import given_command
from bench.records.environment import describe
from bench.tracking import NullTracker, Tracker, store, store_uri
from bench.tracking.store import ARTIFACTS, DATABASE, ORIGIN, URI
from bench.tracking.tracker import in_one_line
from bench.tracking.ui import serving, ui
from tests.conftest import Bench
from tests.fake_study import make_record, write_cell, write_study
from tests.stores import copy_store, files_under, reopen, runs

SIGNS = ["a?b", "a%20b", "50% [b]*", "a#b&c=d;e", "it's", "a@b:c", "é+ f"]
ADDRESS = "postgresql://anna:s3cr/et@phrase@db.example/store?sslpassword=hidden5"
HIDDEN = ("anna", "s3cr", "phrase", "hidden5")


def opening(results: Path, said: list[str]) -> float:
    """Try to open a store that cannot be had; return the seconds that it took to say so."""
    begun = time.monotonic()
    found = Tracker.open(results, said.append)
    assert isinstance(found, NullTracker)
    assert len(said) == 1
    assert "\n" not in said[0]
    return time.monotonic() - begun


# Paths ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SIGNS)
def test_a_store_lies_in_its_results_folder_whatever_that_is_called(
    name: str, empty_store: Path, tmp_path: Path
) -> None:
    results = tmp_path / name
    results.mkdir()
    shutil.copy(empty_store, results / DATABASE)
    before = {path.name for path in tmp_path.iterdir()}
    tracker = reopen(results)
    folder = results / "s" / "sde-seed0"
    write_cell(folder, make_record(folder.parent, "sde", 0))
    assert tracker.sync_cell(folder), tracker.trouble
    (run,) = runs(tracker, cell="sde-seed0")
    assert run.info.artifact_uri.startswith((results / ARTIFACTS).as_uri())
    with closing(sqlite3.connect(results / DATABASE)) as found:
        assert found.execute("SELECT count(*) FROM runs").fetchone() == (1,)
    assert {path.name for path in tmp_path.iterdir()} == before
    assert any(path.startswith(ARTIFACTS) for path in files_under(results))


@pytest.mark.slow
def test_a_new_store_is_made_where_its_path_says(tmp_path: Path) -> None:
    results = tmp_path / "50% of a?b"
    reopen(results)
    assert (results / DATABASE).stat().st_size > 100_000
    assert [path.name for path in tmp_path.iterdir()] == [results.name]


# Stores that are not ours -----------------------------------------------------------------------


def make_folder(database: Path) -> None:
    database.mkdir()


def make_text(database: Path) -> None:
    database.write_text("this is no database, " * 100)


def make_empty(database: Path) -> None:
    database.write_bytes(b"")


def make_foreign(database: Path) -> None:
    with closing(sqlite3.connect(database)) as made:
        made.execute("PRAGMA journal_mode=WAL")
        made.execute("CREATE TABLE runs (miles INTEGER)")
        made.execute("CREATE TABLE experiments (name TEXT)")
        made.commit()


def make_newer(database: Path) -> None:
    copy_store(database.with_name("base.db"), database)
    with closing(sqlite3.connect(database)) as made, made:
        made.execute("UPDATE alembic_version SET version_num = 'fedcba987654'")
        made.execute("DROP TABLE metrics")


@pytest.mark.parametrize("place", ["results/mlflow.db", "other.db"])
@pytest.mark.parametrize(
    ("make", "told"),
    [
        (make_folder, "is a folder, not MLflow's database"),
        (make_text, "cannot be read as a database (file is not a database)"),
        (make_empty, "is not MLflow's"),
        (make_foreign, "is not MLflow's, but another program's"),
        (make_newer, "newer MLflow (its tables are of version fedcba987654)"),
    ],
)
def test_a_store_that_is_not_ours_is_one_line_and_left_as_it_is(  # noqa: PLR0917
    make: Callable[[Path], None],
    told: str,
    place: str,
    tmp_path: Path,
    empty_store: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    results = tmp_path / "results"
    results.mkdir()
    database = tmp_path / place
    shutil.copy(empty_store, database.with_name("base.db"))
    make(database)
    if place == "other.db":
        monkeypatch.setenv(URI, f"sqlite:///{database}")
    content = b"" if database.is_dir() else database.read_bytes()
    beside = {path.name for path in database.parent.iterdir()}
    said: list[str] = []
    assert opening(results, said) < 10
    assert told in said[0]
    assert str(database) in said[0]
    assert "move it away" in said[0] or "install that one" in said[0]
    assert (b"" if database.is_dir() else database.read_bytes()) == content
    assert {path.name for path in database.parent.iterdir()} <= beside | {store.STORE_LOCK, ORIGIN}
    with pytest.raises(UserError, match=re.escape(str(database))):
        ui(results, 5999)
    assert not (results / "mlflow-ui.log").exists()


def test_syncing_with_a_store_that_is_not_ours_is_one_line(
    tmp_path: Path, call_bench: Bench
) -> None:
    write_study(tmp_path / "results" / "s", ("sde",), (0,))
    (tmp_path / "results" / DATABASE).mkdir()
    done = call_bench("sync")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "is a folder, not MLflow's database" in done.stderr


def test_a_database_that_is_nowhere_costs_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(URI, f"sqlite+pysqlite:///{tmp_path}/nowhere/x.db")
    said: list[str] = []
    assert opening(tmp_path, said) < 10
    assert "unable to open database file" in said[0]


def test_an_origin_that_is_none_is_told(results: Path) -> None:
    (results / ORIGIN).write_text("../../x\nsecond line")
    said: list[str] = []
    opening(results, said)
    assert "does not hold the number" in said[0]


def test_a_migration_that_fails_says_what_mlflow_said(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store whose version is known and whose tables are not as that version's."""
    with closing(sqlite3.connect(results / DATABASE)) as made, made:
        made.execute("UPDATE alembic_version SET version_num = '0c779009ac13'")
    done = subprocess.CompletedProcess([], 1, "", "first\nwhat MLflow said\n")
    monkeypatch.setattr(store.subprocess, "run", lambda command, **options: done)
    said: list[str] = []
    opening(results, said)
    assert "(what MLflow said); a copy is beside it" in said[0]
    assert (results / f"{DATABASE}.bak").exists()


def test_mlflows_own_advice_is_not_cut_off() -> None:
    advice = "Detected out-of-date database schema (found version a, but expected b). " + (
        "Take a backup of your database, then run 'mlflow db upgrade <database_uri>'. " * 4
    )
    assert in_one_line(RuntimeError(f"{advice}\nand more")).endswith("<database_uri>'. and more")
    sql = in_one_line(RuntimeError("(sqlite3.Error) it is locked\n[SQL: SELECT 1]\n(Background x)"))
    assert sql == "RuntimeError: (sqlite3.Error) it is locked"


# Secrets ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("http://host:5000/a?b=c", "http://host:5000/a?b=c"),
        ("write to a@b.example", "write to a@b.example"),
        ("https://user:pass@host/x", "https://***@host/x"),
        ("https://token@host/x", "https://***@host/x"),
        ("https://u:p@ss/w@host/x", "https://***@host/x"),
        ("'https://u:p@host/x' and https://a/b", "'https://***@host/x' and https://a/b"),
        ("http://h/?token=abc&x=1", "http://h/?token=***&x=1"),
        (ADDRESS, "postgresql://***@db.example/store?sslpassword=***"),
    ],
)
def test_secrets_are_taken_out_of_addresses(text: str, told: str) -> None:
    assert without_secrets(text) == told


def test_secrets_of_the_environment_are_told_nowhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "correct-horse")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    complain("the server says correct-horse, false\nof https://a:b@c/")
    assert capsys.readouterr().err == "bench: the server says ***, false of https://***@c/\n"
    monkeypatch.setattr(sys, "argv", ["bench", "run", "--data", "https://u:p@host/x y.zip"])
    assert given_command() == "bench run --data 'https://***@host/x y.zip'"
    here = describe(torch.device("cpu"), command="bench run --data https://u:p@host/x")
    assert here["command"] == "bench run --data https://***@host/x"


def test_a_password_of_the_store_is_told_nowhere(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(uri: str) -> None:
        logging.getLogger("mlflow.store.db.utils").warning("retry of %s", uri)
        raise RuntimeError(f"no route to {uri}\nfor {uri}")

    monkeypatch.setenv(URI, ADDRESS)
    monkeypatch.setattr(store, "_connect", refused)
    said: list[str] = []
    opening(results, said)
    with pytest.raises(UserError) as error:
        ui(results, 5999)
    for line in (said[0], str(error.value), caplog.text):
        assert not [word for word in HIDDEN if word in line], line
    assert "***@db.example" in said[0]
    assert "***@db.example" in str(error.value)


def test_links_to_a_server_hold_no_password(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    client = reopen(results).client
    experiment = client.create_experiment("digits")
    client.create_run(experiment)
    monkeypatch.setenv(URI, "https://anna:s3cr@host:8080/mlflow/")
    monkeypatch.setattr("bench.tracking.ui.open_store", lambda results: client)
    ui(results)
    printed = capsys.readouterr().out
    assert f"digits: https://host:8080/mlflow/#/experiments/{experiment}/runs" in printed
    assert not [word for word in HIDDEN if word in printed]


def test_the_server_is_given_the_store_where_no_other_user_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Started(Exception):
        """The server would be started now."""

    def start(command: list[str], *, env: dict[str, str], **_: object) -> None:
        assert not [word for word in HIDDEN if word in " ".join(command)]
        assert env["MLFLOW_BACKEND_STORE_URI"] == ADDRESS
        raise Started

    monkeypatch.setenv(URI, ADDRESS)
    monkeypatch.setattr("bench.tracking.ui.subprocess.Popen", start)
    with pytest.raises(Started), serving(tmp_path, 5999):
        pass
    assert os.environ.get("MLFLOW_BACKEND_STORE_URI") is None
    assert store_uri(tmp_path) == ADDRESS
