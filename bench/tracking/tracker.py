"""MLflow: a live view of the records, which can be rebuilt from them at any time.

The parent process does all the logging, from the cells' folders: while a study runs, in a thread
of its own (``Background``), and again in ``bench sync``. It is one code path, and it may be
repeated at will, cut off anywhere, and done by several processes at once: a lock lets one at a
time log a run, and each asks the store what it has before it adds to it. MLflow in trouble costs
a line of warning and never a run.

A cell is one flat run (MLflow's charts leave out nested ones), found again by the tags
``origin`` (a number that the results folder keeps, so that two people's runs on one server stay
apart), ``study``, ``cell`` and ``key``, and by the moment it was started: a cell that was made
anew has a run of its own, and the one it replaces is marked. A study has a run of its own,
``kind=study``, with the table and the plots.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import math
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from bench import locks, record
from bench.errors import UserError
from bench.record import Record, Status
from bench.study_file import STUDY

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

Item = TypeVar("Item")

URI = "MLFLOW_TRACKING_URI"
DATABASE = "mlflow.db"
ARTIFACTS = "mlartifacts"
ORIGIN = ".origin"
UI_LOG = "mlflow-ui.log"
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # A server that is down must not hold the study up for minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
"""Set before MLflow is imported, unless the user has set them."""
METRICS_PER_BATCH = 1000
PARAMS_PER_BATCH = 100
LONGEST_NAME = 250
LONGEST_PARAM = 6000
LONGEST_TAG = 8000
LARGEST_LOG = 1_000_000
"""Bytes of ``log.txt`` up to which a failed cell's run carries it."""
PAUSE = 30.0
"""Seconds without another try after a store could not be reached."""
PATIENCE = 20.0
"""Seconds that a command waits at its end for a store that logs nothing meanwhile."""
LOCK_SECONDS = 60.0
"""How long a run is waited for that another process is logging."""
STORE_LOCK = ".mlflow.lock"
VIEW = "scorebench"
"""Key of the shared view of an experiment's charts which shows all runs, not ten."""

STATUS = {
    Status.PENDING: "SCHEDULED",
    Status.RUNNING: "RUNNING",
    Status.FINISHED: "FINISHED",
    Status.INTERRUPTED: "KILLED",
}
"""MLflow's word for a cell's status; all others are ``FAILED``."""
ENDED = ("FINISHED", "FAILED", "KILLED")

Warn = Callable[[str], object]


def has_store(results: Path) -> bool:
    """Whether there is a store already: the results folder's own, or the one that is named."""
    return bool(os.environ.get(URI)) or (results / DATABASE).exists()


def store_uri(results: Path) -> str:
    """Return the tracking store: the environment's, else a SQLite file in the results folder."""
    return os.environ.get(URI) or f"sqlite:///{(results / DATABASE).resolve().as_posix()}"


def _stderr(line: str) -> None:
    print(line, file=sys.stderr)


class NullTracker:
    """Tracks nothing, with the interface of ``Tracker``: for ``--no-tracking`` and for trouble."""

    seconds = moved = 0.0

    def __init__(self, trouble: str | None = None) -> None:
        """Keep why nothing is tracked, or ``None`` where the user wanted it so."""
        self.trouble = trouble

    @property
    def is_lost(self) -> bool:
        """Whether it stands for a store that could not be opened."""
        return self.trouble is not None

    def sync_cell(self, folder: Path, study: Path | str | None = None) -> bool:
        """Do nothing; whether that was wanted."""
        return self.trouble is None

    def sync_study(self, study: Path) -> bool:
        """Do nothing; whether that was wanted."""
        return self.trouble is None

    def close(self, patience: float = PATIENCE) -> bool:
        """Do nothing; whether that was wanted."""
        return self.trouble is None

    def drop(self) -> None:
        """Do nothing."""


class Tracker:
    """Brings an MLflow store up to date with the folders of cells and studies."""

    is_lost = False

    def __init__(self, client: MlflowClient, results: Path, warn: Warn = _stderr) -> None:
        """Use an open client; ``Tracker.open`` makes one."""
        self.client = client
        self.trouble: str | None = None
        """What went wrong last, in one line; ``None`` when the last call did all it should."""
        self.moved = 0.0
        """The ``monotonic`` moment at which something was last brought up to date."""
        self._results = results.resolve()
        self._origin = _origin(results)
        self._warn = warn
        self._warned = False
        self._quiet_until = 0.0
        self._experiments: dict[str, str] = {}
        self._runs: dict[tuple[str, ...], str] = {}
        self._seen: dict[Path, tuple[str, str]] = {}

    @classmethod
    def open(cls, results: Path, warn: Warn = _stderr) -> Tracker | NullTracker:
        """Open the store, created, migrated and relocated first if it is the results folder's.

        Without MLflow, or with a store that cannot be opened, ``warn`` gets one line and the
        tracker is a ``NullTracker`` whose ``trouble`` is that line.
        """
        for name, value in QUIET.items():
            os.environ.setdefault(name, value)
        try:
            return cls(_open_store(results), results, warn)
        except ImportError:
            line = "MLflow is not installed: nothing is tracked; install it, then run: bench sync"
        except Exception as error:
            line = f"MLflow is left out ({_first_line(error)}); once it works, run: bench sync"
        warn(line)
        return NullTracker(line)

    def sync_cell(self, folder: Path, study: Path | str | None = None) -> bool:
        """Bring one cell's run up to date with its folder; cheap where nothing has changed.

        Args:
            folder: the cell's folder; without a record in it, nothing is done.
            study: the study's folder or name; by default the folder above.

        Returns:
            Whether the run says what the folder does.
        """
        name = Path(study).name if study else folder.resolve().parent.name
        return self._try(folder.name, lambda: self._sync_cell(folder, name))

    def sync_study(self, study: Path) -> bool:
        """Bring all of a study's runs up to date, end orphans, and keep table and plots.

        Returns:
            Whether the store says all that the folders do.
        """
        self._quiet_until = 0.0
        steps: list[tuple[str, Callable[[], object]]] = [
            (path.parent.name, _bind(self._sync_cell, path.parent, study.name))
            for path in sorted(study.glob(f"*/{record.RECORD}"))
        ]
        steps += [
            ("orphans", lambda: self._end_orphans(study)),
            (study.name, lambda: self._sync_study_run(study)),
        ]
        failed = [name for name, step in steps if not self._try(name, step)]
        if not failed:
            self.trouble = None
        return not failed

    def _try(self, what: str, step: Callable[[], object]) -> bool:
        """Run a step; on trouble warn once, and pause if the store does not answer at all."""
        if time.monotonic() < self._quiet_until:
            return False
        try:
            step()
        except Exception as error:
            self.trouble = f"MLflow could not log '{what}' ({_first_line(error)})"
            if not self._warned:
                self._warn(f"{self.trouble}; the run goes on, complete it later: bench sync")
            self._warned = True
            if not self._answers():
                self._quiet_until = time.monotonic() + PAUSE
            return False
        self.moved = time.monotonic()
        return True

    def _answers(self) -> bool:
        try:
            self.client.search_experiments(max_results=1)
        except Exception:
            return False
        return True

    # A cell's run -------------------------------------------------------------------------------

    def _sync_cell(self, folder: Path, study: str) -> None:
        if self._is_seen(folder):
            return
        # What the folder says is read once more behind the lock: another process may have logged
        # a later state meanwhile, which must not be taken back.
        with _alone(folder.parent, folder.name):
            mark = _fingerprint([folder / record.RECORD, folder / record.CURVES])
            row = record.load(folder)
            if row is not None:
                self._log_cell(folder, row, study, mark)
                self._seen[folder] = (mark, _status(row))

    def _is_seen(self, folder: Path) -> bool:
        """Whether there is nothing to log since the last time, or no record at all."""
        mark = _fingerprint([folder / record.RECORD, folder / record.CURVES])
        row = record.load(folder)
        return row is None or self._seen.get(folder) == (mark, _status(row))

    def _log_cell(self, folder: Path, row: Record, study: str, mark: str) -> None:
        run = self._cell_run(row, study)
        if run is None:
            return
        tags = run.data.tags
        is_up = tags.get("synced") == mark and tags.get("superseded") != "true"
        if not is_up or run.info.status != _status(row):
            self._log_params(run, folder)
            self._log_tags(run, _cell_tags(row, study) | {"origin": self._origin})
            self._log_curves(run, folder)
            self._finish_cell(run, row, folder, mark)

    def _cell_run(self, row: Record, study: str) -> Run | None:
        """Find or create the cell's run; a pending cell has none."""
        if row.status == Status.PENDING:
            return None
        place = (study, row.cell, row.key, str(row.started))
        if place not in self._runs:
            same = self._search(row.dataset, study=study, cell=row.cell)
            mine = [run for run in same if _is_of(run, row)]
            chosen = mine[0] if mine else self._create(row, study)
            self._supersede([run for run in same if run.info.run_id != chosen.info.run_id])
            self._runs[place] = chosen.info.run_id
        return self.client.get_run(self._runs[place])

    def _create(self, row: Record, study: str) -> Run:
        tags = _cell_tags(row, study) | {"origin": self._origin}
        started = _started(row) or int(time.time() * 1000)
        experiment = self._experiment(row.dataset)
        return self.client.create_run(experiment, started, tags, run_name=row.cell)

    def _supersede(self, runs: Sequence[Run]) -> None:
        """Mark runs of what the cell was before, and end those that a dead process left open."""
        for run in runs:
            if run.data.tags.get("superseded") != "true":
                self.client.set_tag(run.info.run_id, "superseded", "true")
            if run.info.status not in ENDED:
                self.client.set_terminated(run.info.run_id, "KILLED")

    def _log_params(self, run: Run, folder: Path) -> None:
        """Log the configuration's values that the run has not; MLflow never changes one."""
        from mlflow.entities import Param

        new = [
            Param(name, value)
            for name, value in _params(folder / "config.yaml").items()
            if name not in run.data.params
        ]
        for batch in _batches(new, PARAMS_PER_BATCH):
            self.client.log_batch(run.info.run_id, params=batch)

    def _log_tags(self, run: Run, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        wanted = {"superseded": "false"} if "superseded" in run.data.tags else {}
        changed = [
            RunTag(name, value)
            for name, value in (wanted | dict(tags)).items()
            if run.data.tags.get(name) != value
        ]
        if changed:
            self.client.log_batch(run.info.run_id, tags=changed)

    def _log_curves(self, run: Run, folder: Path) -> None:
        """Log the curves' points that lie beyond the last step the run has of that name."""
        from mlflow.entities import Metric

        last = _latest(run)
        new = [
            Metric(name, value, run.info.start_time + round(1000 * seconds), step)
            for (name, step), (value, seconds) in _points(folder).items()
            if name not in last or step > last[name].step
        ]
        for batch in _batches(new, METRICS_PER_BATCH):
            self.client.log_batch(run.info.run_id, metrics=batch)

    def _finish_cell(self, run: Run, row: Record, folder: Path, mark: str) -> None:
        """Log what a cell's end brings, status and ``synced`` mark last."""
        status = _status(row)
        if row.status == Status.FINISHED:
            self._log_final(run, row, folder)
        if status in ENDED:
            names = ["config.yaml", record.RECORD, "grid.png"]
            self._upload(run, [folder / name for name in names] + _failure_log(folder, row))
        self._set_status(run, status, _milliseconds(row.ended))
        if status in ENDED:
            self.client.set_tag(run.info.run_id, "synced", mark)

    def _log_final(self, run: Run, row: Record, folder: Path) -> None:
        """Log the final values, later than any point of a curve.

        A value with a curve goes to the last step; all others to step 0, where MLflow's charts
        draw bars to compare runs by instead of a line of one point.
        """
        from mlflow.entities import Metric

        points = _points(folder)
        curves = {name for name, _ in points}
        seconds = max((at for _, at in points.values()), default=0.0)
        after_curves = run.info.start_time + math.ceil(1000 * seconds) + 1
        stamp = max(_milliseconds(row.ended) or 0, after_curves)
        last = _latest(self.client.get_run(run.info.run_id))
        new = [
            # Of two values at one step MLflow shows the later one: of what was measured again too.
            Metric(name, value, max(stamp, last[name].timestamp + 1) if name in last else stamp,
                   row.cost.images_seen if name in curves else 0)
            for name, value in final_metrics(row).items()
            if not _same(last.get(name), value)
        ]  # fmt: skip
        for batch in _batches(new, METRICS_PER_BATCH):
            self.client.log_batch(run.info.run_id, metrics=batch)

    def _upload(self, run: Run, files: Sequence[Path], folder: str | None = None) -> None:
        for file in files:
            if file.exists():
                self.client.log_artifact(run.info.run_id, str(file), folder)

    def _set_status(self, run: Run, status: str, ended: int | None) -> None:
        if status in ENDED:
            late = ended is not None and run.info.end_time != ended
            if run.info.status != status or late:
                self.client.set_terminated(run.info.run_id, status, ended)
        elif run.info.status != status:
            self.client.update_run(run.info.run_id, status=status)

    # A study's run ------------------------------------------------------------------------------

    def _sync_study_run(self, study: Path) -> None:
        rows = [row for _, row in record.cells(study)]
        if rows:
            with _alone(study, "study"):
                self._log_study(study, rows)

    def _log_study(self, study: Path, rows: Sequence[Record]) -> None:
        run = self._study_run(study.name, rows)
        tables, plots = _study_files(study)
        mark = _fingerprint([*tables, *plots])
        self._log_tags(run, _study_tags(study, rows))
        if run.data.tags.get("synced") != mark:
            self._upload(run, tables)
            self._upload(run, plots, "plots")
            self.client.set_tag(run.info.run_id, "synced", mark)
        ended = max((_milliseconds(row.ended) or 0 for row in rows), default=0)
        self._set_status(run, _study_status(rows), ended or None)

    def _study_run(self, study: str, rows: Sequence[Record]) -> Run:
        found = self._search(rows[0].dataset, study=study, kind="study")
        if found:
            return self.client.get_run(found[0].info.run_id)
        starts = [at for row in rows if (at := _milliseconds(row.started))]
        tags = {"kind": "study", "study": study, "origin": self._origin}
        return self.client.create_run(
            self._experiment(rows[0].dataset),
            min(starts, default=int(time.time() * 1000)),
            tags,
            run_name=study,
        )

    def _end_orphans(self, study: Path) -> None:
        """End runs left open whose cell's folder has gone."""
        for dataset in {row.dataset for _, row in record.cells(study)}:
            for run in self._search(dataset, study=study.name, kind="cell"):
                # Asked after the search: another command may be adding cells.
                gone = not (study / run.data.tags.get("cell", "") / record.RECORD).exists()
                if gone and run.info.status not in ENDED:
                    self.client.set_terminated(run.info.run_id, "KILLED")

    # The store ----------------------------------------------------------------------------------

    def _search(self, dataset: str, **tags: str) -> list[Run]:
        """Find this results folder's runs with such tags, newest first."""
        wanted = tags | {"origin": self._origin}
        clauses = [f"tags.{name} = {_quoted(value)}" for name, value in wanted.items()]
        found: list[Run] = []
        token = None
        while True:
            page = self.client.search_runs(
                [self._experiment(dataset)], " and ".join(clauses), page_token=token
            )
            found += page
            token = page.token
            if not token:
                return found

    def _experiment(self, dataset: str) -> str:
        """Return the id of the data set's experiment, created or restored where needed."""
        if dataset not in self._experiments:
            with _locked(self._results / STORE_LOCK, "another command is opening the store"):
                identity = self._find_experiment(dataset)
            self.client.set_experiment_tag(identity, f"mlflow.sharedViewState.{VIEW}", _view())
            self._experiments[dataset] = identity
        return self._experiments[dataset]

    def _find_experiment(self, dataset: str) -> str:
        known = self.client.get_experiment_by_name(dataset)
        if known is None:
            place = None if _is_server(store_uri(self._results)) else self._artifacts(dataset)
            try:
                return str(self.client.create_experiment(dataset, place))
            except Exception:
                # On a server, someone else's results folder may have been first.
                known = self.client.get_experiment_by_name(dataset)
                if known is None:
                    raise
        if known.lifecycle_stage == "deleted":
            self.client.restore_experiment(known.experiment_id)
        return str(known.experiment_id)

    def _artifacts(self, dataset: str) -> str:
        return (self._results / ARTIFACTS / dataset).as_uri()


class Background:
    """Does what a ``Tracker`` does in a thread of its own, so that no caller ever waits.

    What is asked for waits in line, once for each folder. What fails, the opening of the store
    too, is tried again every ``PAUSE`` seconds: a store that comes back is caught up with.
    """

    def __init__(self, opener: Callable[[Warn], Tracker | NullTracker], warn: Warn = _stderr):
        """Start the thread, which opens the store first: ``partial(Tracker.open, results)``."""
        self.trouble: str | None = None
        """What went wrong last, in one line; ``None`` when the last step did all it should."""
        self.seconds = 0.0
        """Time spent beside the caller."""
        self._opener, self._warn = opener, warn
        self._warned = self._closing = self._ended = False
        self._tracker: Tracker | NullTracker | None = None
        self._reopen = 0.0
        """The ``monotonic`` moment from which on the store may be opened again."""
        self._waiting: dict[tuple[str, Path], float] = {}
        """What is to be logged, and the ``monotonic`` moment from which on it may be tried."""
        self._failed: set[tuple[str, Path]] = set()
        self._state = threading.Condition()
        threading.Thread(target=self._work, name="tracking", daemon=True).start()

    def sync_cell(self, folder: Path) -> None:
        """Have a cell's run brought up to date with its folder, and return at once."""
        self._ask(("cell", folder))

    def sync_study(self, study: Path) -> None:
        """Have all of a study's runs brought up to date, and return at once."""
        with self._state:
            for job in [job for job in self._waiting if job[1].parent == study]:
                del self._waiting[job]
            self._ask(("study", study))

    def close(self, patience: float = PATIENCE) -> bool:
        """Wait for what is left, as long as something gets done; whether all of it was.

        Gives up where nothing was logged for ``patience`` seconds, and after three times as long
        in any case; then a line says how to complete it.
        """
        begun = time.monotonic()
        with self._state:
            self._closing = True
            self._waiting = dict.fromkeys(self._waiting, 0.0)
            self._state.notify_all()
            while not self._ended and time.monotonic() < self._deadline(begun, patience):
                self._state.wait(0.05)
            done = self._ended and not self._failed
        if not done:
            why = f" ({self.trouble})" if self.trouble and not self._warned else ""
            self._warn(f"MLflow lacks some of what the folders say{why}; complete it: bench sync")
        elif self._warned:
            self._warn("MLflow has caught up and lacks nothing")
        self.drop()
        return done

    def drop(self) -> None:
        """Leave undone what is not done, without another word: the command ends."""
        with self._state:
            self._warn = _say_nothing
            self._closing = True
            self._waiting.clear()
            self._state.notify_all()

    def _deadline(self, begun: float, patience: float) -> float:
        moved = 0.0 if self._tracker is None else self._tracker.moved
        return min(max(begun, moved) + patience, begun + 3 * patience)

    def _ask(self, job: tuple[str, Path]) -> None:
        with self._state:
            self._waiting.setdefault(job, time.monotonic())
            self._state.notify_all()

    def _work(self) -> None:
        try:
            self._charge(self._open)
            while (job := self._next()) is not None:
                done = self._charge(_bind(self._do, *job))
                self._note(job, done)
        finally:
            with self._state:
                self._ended = True
                self._state.notify_all()

    def _charge(self, step: Callable[[], bool]) -> bool:
        started = time.perf_counter()
        try:
            return step()
        except Exception as error:
            self.trouble = f"MLflow could not be logged to ({_first_line(error)})"
            return False
        finally:
            self.seconds += time.perf_counter() - started

    def _next(self) -> tuple[str, Path] | None:
        """Wait for the next thing to do; ``None`` when all is done and no more will come."""
        with self._state:
            while True:
                job = min(self._waiting, key=self._waiting.__getitem__, default=None)
                if job is None and self._closing:
                    return None
                left = None if job is None else self._waiting[job] - time.monotonic()
                if job is not None and left is not None and left <= 0:
                    del self._waiting[job]
                    return job
                self._state.wait(left)

    def _do(self, what: str, folder: Path) -> bool:
        if self._tracker is None or self._tracker.is_lost:
            # One try for all that waits, and one more at the end.
            if time.monotonic() < self._reopen and not self._closing:
                return False
            self._open()
        assert self._tracker is not None
        sync = self._tracker.sync_study if what == "study" else self._tracker.sync_cell
        done = sync(folder)
        self.trouble = None if done else self._tracker.trouble
        return done

    def _open(self) -> bool:
        try:
            self._tracker = self._opener(self._say_once)
        finally:
            self._reopen = time.monotonic() + PAUSE
        self.trouble = self._tracker.trouble
        return self.trouble is None

    def _note(self, job: tuple[str, Path], done: bool) -> None:
        """Keep what failed for another try; at the end there is none."""
        with self._state:
            if done:
                # A study's cells are done with it.
                self._failed -= {left for left in self._failed if left[1].parent == job[1]} | {job}
                return
            self._failed.add(job)
            if not self._closing:
                self._waiting.setdefault(job, time.monotonic() + PAUSE)

    def _say_once(self, line: str) -> None:
        if not self._warned:
            self._warned = True
            self._warn(line)


def _say_nothing(line: str) -> None:
    pass


def _bind(call: Callable[..., Item], *arguments: object) -> Callable[[], Item]:
    return lambda: call(*arguments)


# What is logged ---------------------------------------------------------------------------------


def final_metrics(row: Record) -> dict[str, float]:
    """Return a finished cell's numbers under the names MLflow shows them by.

    Metrics by their own name (and ``<name>_spread``), costs in the record's units, the ledger's
    seconds as ``seconds/<part>``.
    """
    cost = row.cost
    numbers: dict[str, float | None] = {name: found.value for name, found in row.metrics.items()}
    numbers |= {f"{name}_spread": found.spread for name, found in row.metrics.items()}
    numbers |= {
        name: getattr(cost, name)
        for name in (
            "nfe", "train_flops", "sample_flops_per_image", "parameters", "peak_memory_bytes",
            "images_seen", "steps",
        )
    }  # fmt: skip
    for name in ("ms_per_image", "latency_ms"):
        if (timing := getattr(cost, name)) is not None:
            numbers |= {name: timing.median, f"{name}_low": timing.low, f"{name}_high": timing.high}
    numbers |= {f"seconds/{part}": seconds for part, seconds in row.ledger.items()}
    return {_name(key): float(value) for key, value in numbers.items() if value is not None}


def _points(folder: Path) -> dict[tuple[str, int], tuple[float, float]]:
    """Return ``(name, images seen) -> (value, seconds)`` in order of images.

    A step that stands twice, since the cell was resumed from before it, counts as written last.
    """
    found = {
        (_name(name), int(line["images"])): (float(value), float(line["seconds"]))
        for line in record.read_curves(folder)
        for name, value in line["values"].items()
    }
    return dict(sorted(found.items(), key=lambda item: item[0][1]))


def _params(path: Path) -> dict[str, str]:
    import yaml

    tree = yaml.safe_load(path.read_text()) if path.exists() else None
    flat = _flatten("", tree if isinstance(tree, dict) else {})
    return {_name(key): _text(value)[:LONGEST_PARAM] for key, value in flat}


def _flatten(prefix: str, tree: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        if isinstance(value, Mapping) and value:
            yield from _flatten(name, value)
        else:
            yield name, value


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _name(text: str) -> str:
    """Replace what MLflow does not allow in the name of a metric or parameter."""
    return re.sub(r"[^\w\-. :/]", "_", text, flags=re.ASCII)[:LONGEST_NAME]


def _cell_tags(row: Record, study: str) -> dict[str, str]:
    environment = {
        name: str(row.environment[name])
        for name in ("commit", "device", "host", "pid")
        if row.environment.get(name) is not None
    }
    return environment | {
        "kind": "cell",
        "study": study,
        "cell": row.cell,
        "method": row.method,
        "dataset": row.dataset,
        "data_variant": row.data_variant,
        "preset": row.preset,
        "seed": str(row.seed),
        "key": row.key,
        "status": str(row.status),
        "reason": row.reason[:LONGEST_TAG],
    }


def _study_tags(study: Path, rows: Sequence[Record]) -> dict[str, str]:
    table = study / "table.md"
    note = table.read_text() if table.exists() else ""
    if len(note) > LONGEST_TAG:
        note = note[:LONGEST_TAG].rsplit("\n", 1)[0]
    return {
        "dataset": rows[0].dataset,
        "preset": rows[0].preset,
        "methods": ",".join(sorted({row.method for row in rows})),
        "seeds": ",".join(str(seed) for seed in sorted({row.seed for row in rows})),
        "mlflow.note.content": note,
    }


def _study_files(study: Path) -> tuple[list[Path], list[Path]]:
    names = [f"table.{ending}" for ending in ("md", "csv", "tex", "json")]
    tables = [
        study / name
        for name in [*names, "nfe-curve.md", "nfe-curve.csv", "timing.md", "timing.json"]
    ]
    plots = sorted((study / "plots").glob("*.png"))
    return [path for path in [*tables, study / STUDY] if path.exists()], plots


def _failure_log(folder: Path, row: Record) -> list[Path]:
    log = folder / "log.txt"
    small = log.exists() and log.stat().st_size <= LARGEST_LOG
    return [log] if row.status.is_failure and small else []


def _status(row: Record) -> str:
    if row.status == Status.RUNNING and _is_dead(row.environment):
        return "KILLED"
    return STATUS.get(row.status, "FAILED")


def _is_dead(environment: Mapping[str, Any]) -> bool:
    """Whether the cell's process is known to have gone: same host, no such process."""
    pid = environment.get("pid")
    if environment.get("host") != socket.gethostname() or not isinstance(pid, int):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _study_status(rows: Sequence[Record]) -> str:
    found = {_status(row) for row in rows}
    for status in ("RUNNING", "FAILED", "KILLED"):
        if status in found:
            return status
    return "FINISHED" if found == {"FINISHED"} else "KILLED"


def _same(last: Any, value: float) -> bool:
    """Whether a metric's last point, if it has one, has this value."""
    if last is None:
        return False
    stored = last.value
    # MLflow keeps infinity as the largest float.
    largest = sys.float_info.max
    clipped = value if math.isnan(value) else min(max(value, -largest), largest)
    return stored == clipped or (math.isnan(stored) and math.isnan(value))


def _fingerprint(files: Sequence[Path]) -> str:
    found = hashlib.sha256()
    for file in files:
        if file.exists():
            found.update(file.name.encode() + b"\0" + file.read_bytes())
    return found.hexdigest()[:32]


def _is_of(run: Run, row: Record) -> bool:
    """Whether a run is of this very making of a cell, not of one that was replaced by it."""
    started = _started(row)
    return run.data.tags.get("key") == row.key and started in {None, run.info.start_time}


def _started(row: Record) -> int | None:
    """When a cell was started, in milliseconds; one that could not start has its end alone."""
    return _milliseconds(row.started or row.ended)


def _latest(run: Run) -> dict[str, Any]:
    """Return each metric's last point, with ``step``, ``timestamp`` and ``value``."""
    return {point.key: point for point in run.data.to_proto().metrics}


def _milliseconds(stamp: str | None) -> int | None:
    return None if not stamp else round(datetime.fromisoformat(stamp).timestamp() * 1000)


def _batches(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _quoted(value: str) -> str:
    return f'"{value}"' if "'" in value else f"'{value}'"


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


# The store --------------------------------------------------------------------------------------


@contextlib.contextmanager
def _locked(path: Path, why: str) -> Iterator[None]:
    """Hold a lock file; TimeoutError says ``why`` it is not to be had."""
    import filelock

    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=LOCK_SECONDS)
    except filelock.Timeout as error:
        raise TimeoutError(f"{why}, for {LOCK_SECONDS:.0f} s") from error
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _alone(study: Path, name: str) -> Iterator[None]:
    """Keep other processes from logging a run of a study, one that is being made included."""
    folder = study / locks.FOLDER
    folder.mkdir(exist_ok=True)
    with _locked(folder / f"{name}.sync", "another command is logging it"):
        yield


def _origin(results: Path) -> str:
    """Return the number that stays with a results folder wherever it is moved."""
    path = results / ORIGIN
    if not path.exists():
        record.write_text(path, uuid.uuid4().hex + "\n")
    return path.read_text().strip()


def _is_server(uri: str) -> bool:
    return urllib.parse.urlparse(uri).scheme in {"http", "https", "databricks", "uc"}


def _open_store(results: Path) -> MlflowClient:
    """Open the store; the folder's own one is created and mended by one process at a time."""
    import mlflow  # noqa: F401  # It takes seconds, in which nobody need wait.

    results.mkdir(parents=True, exist_ok=True)
    uri, database = store_uri(results), (results / DATABASE).resolve()
    lock = _locked(results / STORE_LOCK, "another command is opening the store")
    if os.environ.get(URI):
        with lock:
            _origin(results)
        return _connect(uri)
    with lock, _no_chatter():
        _origin(results)
        if not database.exists():
            _create(database)
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
        _connect(f"sqlite:///{made.as_posix()}")
        with closing(sqlite3.connect(made)) as old, closing(sqlite3.connect(copy)) as new:
            old.backup(new)
        os.replace(copy, database)


def _connect(uri: str) -> MlflowClient:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    client.search_experiments(max_results=1)
    return client


@contextlib.contextmanager
def _no_chatter() -> Iterator[None]:
    """Keep MLflow's and alembic's lines about tables and migrations off the terminal."""
    import logging

    loggers = [logging.getLogger(name) for name in ("mlflow.store.db.utils", "alembic")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
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
        with (
            closing(sqlite3.connect(database)) as old,
            closing(sqlite3.connect(database.with_suffix(".db.bak"))) as copy,
        ):
            old.backup(copy)
        command = [sys.executable, "-m", "mlflow", "db", "upgrade", uri]
        subprocess.run(command, check=True, capture_output=True, timeout=300)


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


# The UI -----------------------------------------------------------------------------------------


def _view() -> str:
    """Return the state of the charts page that shows every run, as the UI shares it."""
    return json.dumps({"runsHiddenMode": "SHOW_ALL"})


def charts_link(base: str, experiment: str) -> str:
    """Return the address of an experiment's charts, with all its runs shown."""
    query = f"workflowType=machine_learning&compareRunsMode=CHART&viewStateShareKey={VIEW}"
    return f"{base}/#/experiments/{experiment}/runs?{query}"


def ui(results: Path, port: int = 5000, host: str = "127.0.0.1") -> None:
    """Serve MLflow's UI on the results' store until Ctrl-C, and print the links to its charts.

    With a server in the environment, only its links are printed.

    Raises:
        UserError: no store there, MLflow not installed, the port taken, or no answer.
    """
    if importlib.util.find_spec("mlflow") is None:
        raise UserError("MLflow is not installed; install it to see its UI")
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    if _is_server(store_uri(results)):
        _print_links(results, store_uri(results).rstrip("/"))
        return
    if not os.environ.get(URI) and not (results / DATABASE).exists():
        raise UserError(
            f"no MLflow store in '{results}'; run a study first, or 'bench sync' to make one, "
            f"or point {URI} to a store"
        )
    _refuse_taken(host, port)
    with _until_stopped() as stopped, serving(results, port, host) as (base, server):
        _print_links(results, base)
        print("Ctrl-C ends it.", flush=True)
        while server.poll() is None:
            if stopped.is_set():
                raise KeyboardInterrupt
            time.sleep(0.5)
        raise UserError(f"MLflow's server ended; its last words are in '{results / UI_LOG}'")


@contextlib.contextmanager
def _until_stopped() -> Iterator[threading.Event]:
    """Take SIGTERM as Ctrl-C, so that the server ends in either case, and end in peace.

    The event is set, too: an interrupt that falls into a finaliser is lost.
    """
    stopped = threading.Event()

    def stop(number: int, frame: object) -> None:
        stopped.set()
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    except KeyboardInterrupt:
        print("MLflow's UI has ended.", flush=True)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def serving(results: Path, port: int, host: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run MLflow's server with one worker; yield address and process once healthy, then end it."""
    command = [
        sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store_uri(results),
        "--artifacts-destination", (results / ARTIFACTS).resolve().as_uri(),
        "--host", host, "--port", str(port), "--workers", "1",
    ]  # fmt: skip
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    log = results / UI_LOG
    # A session of its own: Ctrl-C reaches this process alone, which then ends the server whole.
    with log.open("wb") as output:
        server = subprocess.Popen(
            command, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        shown = "127.0.0.1" if host in {"0.0.0.0", "::"} else host
        base = f"http://{shown}:{port}"
        _wait_until_healthy(base, server, log)
        yield base, server
    finally:
        _end(server)


def _refuse_taken(host: str, port: int) -> None:
    with closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            raise UserError(
                f"port {port} on {host} cannot be used ({error}); choose another with --port"
            ) from error


def _wait_until_healthy(
    base: str, server: subprocess.Popen[bytes], log: Path, seconds: float = 120.0
) -> None:
    end = time.monotonic() + seconds
    # No proxy: the server is on this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while time.monotonic() < end and server.poll() is None:
        with contextlib.suppress(urllib.error.URLError, OSError):
            opener.open(f"{base}/health", timeout=2).close()
            return
        time.sleep(0.2)
    raise UserError(f"MLflow's server did not start; its last words are in '{log}'")


def _end(server: subprocess.Popen[bytes]) -> None:
    """End the server and its worker: they are the process group that was started for them."""
    for number, patience in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 10.0)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(patience)
            return


def _print_links(results: Path, base: str) -> None:
    try:
        client = _open_store(results)
    except Exception as error:
        raise UserError(
            f"the MLflow store '{store_uri(results)}' cannot be opened ({_first_line(error)}); "
            f"start its server, or unset {URI} for the store in '{results}'"
        ) from error
    for experiment in client.search_experiments():
        if client.search_runs([experiment.experiment_id], max_results=1):
            print(f"{experiment.name}: {charts_link(base, experiment.experiment_id)}", flush=True)
