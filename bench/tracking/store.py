"""MLflow's store: where it is, opened, created, migrated and moved; one process at a time."""

from __future__ import annotations

import contextlib
import glob
import logging
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import urllib.parse
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import filelock

from bench.config import UserError
from bench.records import files, locks

if TYPE_CHECKING:
    from mlflow import MlflowClient

URI = "MLFLOW_TRACKING_URI"
DATABASE = "mlflow.db"
ARTIFACTS = "mlartifacts"
ORIGIN = ".origin"
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # A server that is down must not hold the study up for minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    # The links that MLflow prints at the end of a run hold the server's password.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
"""Set before MLflow is imported, unless the user has set them."""
PAUSE = 30.0
"""Seconds without another try after a store could not be reached."""
LOCK_SECONDS = 60.0
"""How long a run is waited for that another process is logging."""
STORE_LOCK = ".mlflow.lock"


def has_store(results: Path) -> bool:
    """Whether there is a store already: the results folder's own, or the one that is named."""
    return bool(os.environ.get(URI)) or (results / DATABASE).exists()


def store_uri(results: Path) -> str:
    """Return the tracking store: the environment's, else a SQLite file in the results folder."""
    return os.environ.get(URI) or _sqlite_uri((results / DATABASE).resolve())


def _sqlite_uri(database: Path) -> str:
    """Return a file's address as SQLAlchemy reads it, to which ? and % are signs of its own."""
    path = database.as_posix()
    if re.fullmatch(r"[\w/.+ -]+", path, re.ASCII):
        return f"sqlite:///{path}"
    from sqlalchemy import URL as Address
    from sqlalchemy import make_url

    # With the driver, since from what begins with sqlite:/// MLflow would make a folder of the
    # quoted name.
    uri = Address.create("sqlite+pysqlite", database=path).render_as_string()
    if make_url(uri).database != path:
        raise UserError(f"'{path}' has signs that this SQLAlchemy cannot read; rename the folder")
    return uri


@contextlib.contextmanager
def locked(path: Path, why: str) -> Iterator[None]:
    """Hold a lock file; TimeoutError says ``why`` it is not to be had."""
    try:
        held = filelock.FileLock(path).acquire(timeout=LOCK_SECONDS)
    except filelock.Timeout as error:
        raise TimeoutError(f"{why}, for {LOCK_SECONDS:.0f} s") from error
    with held:
        yield


@contextlib.contextmanager
def alone(study: Path, name: str) -> Iterator[None]:
    """Keep other processes from logging a run of a study, one that is being made included."""
    folder = study / locks.FOLDER
    folder.mkdir(exist_ok=True)
    with locked(folder / f"{name}.sync", "another command is logging it"):
        yield


def origin_of(results: Path) -> str:
    """Return the number that stays with a results folder wherever it is moved."""
    path = results / ORIGIN
    if not path.exists():
        files.write_text(path, uuid.uuid4().hex + "\n")
    origin = path.read_text(errors="replace").strip()
    if not re.fullmatch("[0-9a-f]{32}", origin):
        raise UserError(f"'{path}' does not hold the number that is written there; remove it")
    return origin


def is_server(uri: str) -> bool:
    """Whether a store is a server, not a file."""
    return urllib.parse.urlparse(uri).scheme in {"http", "https", "databricks", "uc"}


def open_store(results: Path) -> MlflowClient:
    """Open the store; the folder's own one is created and mended by one process at a time."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    import mlflow  # noqa: F401  # It takes seconds, in which nobody need wait.

    results.mkdir(parents=True, exist_ok=True)
    uri, database = store_uri(results), (results / DATABASE).resolve()
    lock = locked(results / STORE_LOCK, "another command is opening the store")
    if os.environ.get(URI):
        with lock:
            origin_of(results)
        with _no_chatter():
            if uri.startswith("sqlite"):
                from sqlalchemy import make_url

                if (file := Path(make_url(uri).database or ":memory:")).exists():
                    _refuse_foreign(file)
            return _connect(uri)
    with lock, _no_chatter():
        origin_of(results)
        if not database.exists():
            _create(database)
        _refuse_foreign(database)
        _migrate(uri, database)
        _relocate(database, results.resolve() / ARTIFACTS)
        with closing(sqlite3.connect(database, timeout=30)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
        return _connect(uri)


def _create(database: Path) -> None:
    """Make the store's tables, whole or not at all: whoever is ended meanwhile leaves no ruin."""
    for leftover in database.parent.glob(".mlflow-new-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=".mlflow-new-", dir=database.parent) as scratch:
        made, copy = Path(scratch) / "made.db", Path(scratch) / DATABASE
        _connect(_sqlite_uri(made))
        _copy(made, copy)
        os.replace(copy, database)


def _copy(database: Path, place: Path) -> None:
    with closing(sqlite3.connect(database)) as old, closing(sqlite3.connect(place)) as new:
        old.backup(new)


def _refuse_foreign(database: Path) -> None:
    """Raise UserError unless a file is MLflow's and not of a newer one; nothing is written."""
    advice = f"move it away, or point {URI} to a store"
    if database.is_dir():
        raise UserError(f"'{database}' is a folder, not MLflow's database; {advice}")
    # A file in no use is read as it is: else SQLite would put two more beside it.
    how = "mode=ro" if Path(f"{database}-wal").exists() else "immutable=1"
    try:
        with closing(sqlite3.connect(f"{database.as_uri()}?{how}", uri=True)) as connection:
            found = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            ours = {"experiments", "runs", "alembic_version"} <= {name for (name,) in found}
            if ours:
                found = connection.execute("SELECT version_num FROM alembic_version")
                versions = [str(version) for (version,) in found]
    except sqlite3.Error as error:
        raise UserError(f"'{database}' cannot be read as a database ({error}); {advice}") from error
    if not ours:
        raise UserError(f"'{database}' is not MLflow's, but another program's; {advice}")
    if not all(map(_is_known, versions)):
        raise UserError(
            f"'{database}' is of a newer MLflow (its tables are of version {', '.join(versions)}); "
            f"install that one (pip install --upgrade mlflow), or point {URI} to another store"
        )


def _is_known(version: str) -> bool:
    """Whether this MLflow has heard of a version of its tables."""
    import mlflow
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError

    folder = Path(mlflow.__file__).parent / "store" / "db_migrations"
    # Its files are named so; reading them all takes a second.
    if any((folder / "versions").glob(f"{glob.escape(version)}_*.py")):
        return True
    try:
        return ScriptDirectory(str(folder)).get_revision(version) is not None
    except CommandError:
        return False


def _connect(uri: str) -> MlflowClient:
    from mlflow import MlflowClient

    if not is_server(uri):
        from mlflow.store.db import utils

        # Ten, by which a database that is not there costs a hundred seconds.
        utils.MAX_RETRY_COUNT = 3
    client = MlflowClient(tracking_uri=uri)
    client.search_experiments(max_results=1)
    return client


@contextlib.contextmanager
def _no_chatter() -> Iterator[None]:
    """Keep MLflow's and alembic's lines about tables, migrations and retries off the terminal."""
    loggers = [logging.getLogger(name) for name in ("mlflow.store.db.utils", "alembic")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _migrate(uri: str, database: Path) -> None:
    """Bring a store that an older MLflow made up to this one's tables, keeping a copy."""
    from mlflow.exceptions import MlflowException

    try:
        _connect(uri)
    except MlflowException as error:
        if "out-of-date database schema" not in str(error):
            raise
        _copy(database, database.with_suffix(".db.bak"))
        command = [sys.executable, "-P", "-m", "mlflow", "db", "upgrade", uri]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
        if done.returncode:
            said = done.stderr.strip().rpartition("\n")[2]
            what = f"MLflow could not bring '{database}' up to its version ({said})"
            raise UserError(f"{what}; a copy is beside it") from error


def _relocate(database: Path, artifacts: Path) -> None:
    """Point the artifact links of a results folder that was moved to where it is now."""
    with closing(sqlite3.connect(database, timeout=30)) as connection, connection:
        rows = connection.execute("SELECT experiment_id, name, artifact_location FROM experiments")
        for experiment, name, old in rows.fetchall():
            new = (artifacts / name).as_uri()
            ours = old is not None and old.endswith(f"/{ARTIFACTS}/{urllib.parse.quote(name)}")
            if ours and old != new:
                connection.execute(
                    "UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?",
                    (new, experiment),
                )
                connection.execute(
                    "UPDATE runs SET artifact_uri = ? || substr(artifact_uri, ?) "
                    "WHERE experiment_id = ? AND substr(artifact_uri, 1, ?) = ?",
                    (new, len(old) + 1, experiment, len(old), old),
                )
