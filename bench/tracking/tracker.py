"""Brings the runs of a store up to date with the folders of cells and studies."""

from __future__ import annotations

import re
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.config import UserError, bench_command, one_line, without_secrets
from bench.records import CONFIG, GRID, RECORD, Record, Status, readable, record
from bench.records.colours import method_colours
from bench.tracking import content, store, tags
from bench.tracking.content import fingerprint, last_points, milliseconds, run_status
from bench.tracking.experiments import Experiments
from bench.tracking.store import PAUSE, alone, origin_of

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

LONGEST_ERROR = 1000
"""Letters of what MLflow says that are told: its advice has some 350."""
ENDED = ("FINISHED", "FAILED", "KILLED")
PATIENCE = 20.0
"""Seconds that a command waits at its end for a store that logs nothing meanwhile."""
Warn = Callable[[str], object]
Point = tuple[str, float, int, int]
"""A metric's name, value, moment in milliseconds since 1970, and step."""


def to_stderr(line: str) -> None:
    """Print a line beside the command's output."""
    print(line, file=sys.stderr)


def in_one_line(error: BaseException) -> str:
    """Name an error and what it says, MLflow's whole advice, without secrets and SQL."""
    said = one_line(without_secrets(re.split(r"\n\[SQL|\n\(Background", str(error))[0]))
    if isinstance(error, UserError):
        return said
    return f"{type(error).__name__}: {said[:LONGEST_ERROR]}" if said else type(error).__name__


def _parts(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [items[at : at + size] for at in range(0, len(items), size)]


class NullTracker:
    """Tracks nothing, with the interface of ``Tracker``: for ``--no-tracking`` and for trouble."""

    seconds = moved = 0.0

    def __init__(self, trouble: str | None = None) -> None:
        """Keep why nothing is tracked, or ``None`` where the user wanted it so."""
        self.trouble = trouble
        self.is_lost = trouble is not None

    def sync_study(self, study: Path) -> bool:
        """Do nothing; whether that was wanted."""
        return not self.is_lost

    sync_cell = sync_study

    def close(self, patience: float = PATIENCE) -> bool:
        """Do nothing; whether that was wanted."""
        return not self.is_lost

    def drop(self) -> None:
        """Do nothing."""


class Tracker:
    """Brings an MLflow store up to date with the folders of cells and studies."""

    is_lost = False

    def __init__(self, client: MlflowClient, results: Path, warn: Warn = to_stderr) -> None:
        """Use an open client; ``Tracker.open`` makes one."""
        self.client = client
        self.trouble: str | None = None
        """What went wrong last, in one line; ``None`` when the last call did all it should."""
        self.moved = 0.0
        """The ``monotonic`` moment at which something was last brought up to date."""
        self._results = results.resolve()
        self._origin = origin_of(results)
        self._warn, self._warned = warn, False
        self._quiet_until = 0.0
        self._experiments = Experiments(client, self._results)
        self._runs: dict[tuple[str, ...], str] = {}
        self._seen: dict[Path, tuple[str, str]] = {}
        self._colours: dict[Path, dict[str, str]] = {}

    @classmethod
    def open(cls, results: Path, warn: Warn = to_stderr) -> Tracker | NullTracker:
        """Open the store, created, migrated and relocated first if it is the results folder's.

        Without MLflow, or with a store that cannot be opened, ``warn`` gets one line and the
        tracker is a ``NullTracker`` whose ``trouble`` is that line.
        """
        again = bench_command("sync", results=results)
        try:
            return cls(store.open_store(results), results, warn)
        except ImportError:
            line = f"MLflow is not installed: nothing is tracked; install it, then run: {again}"
        except Exception as error:
            line = f"MLflow is left out ({in_one_line(error)}); once it works, run: {again}"
        warn(line)
        return NullTracker(line)

    def sync_cell(self, folder: Path) -> bool:
        """Bring one cell's run up to date with its folder, if there is a record; whether it is."""
        return self._try(folder.name, self._sync_cell, folder)

    def sync_study(self, study: Path) -> bool:
        """Bring a study's runs up to date, end orphans, keep table and plots; whether all is."""
        self._quiet_until = 0.0
        self._colours.pop(study, None)
        done = [
            *(self.sync_cell(path.parent) for path in sorted(study.glob(f"*/{record.RECORD}"))),
            self._try("orphans", self._end_orphans, study),
            self._try(study.name, self._sync_study_run, study),
        ]
        self.trouble = None if all(done) else self.trouble
        return all(done)

    def delete_runs(self, study: str) -> int:
        """Mark a study's runs as deleted, in all experiments, and return how many.

        They can be restored; `mlflow gc` removes them for good. Raises what MLflow does.
        """
        experiments = [each.experiment_id for each in self.client.search_experiments()]
        runs = self._find(experiments, study=study) if experiments else []
        for run in runs:
            self.client.delete_run(run.info.run_id)
        return len(runs)

    def _try(self, what: str, step: Callable[..., None], *arguments: object) -> bool:
        """Run a step; on trouble warn once, and pause if the store does not answer at all."""
        if time.monotonic() < self._quiet_until:
            return False
        try:
            step(*arguments)
        except Exception as error:
            self.trouble = f"MLflow could not log '{what}' ({in_one_line(error)})"
            if not self._warned:
                again = bench_command("sync", results=self._results)
                self._warn(f"{self.trouble}; the run goes on, complete it later: {again}")
            self._warned = True
            try:
                self.client.search_experiments(max_results=1)
            except Exception:
                self._quiet_until = time.monotonic() + PAUSE
            return False
        self.moved = time.monotonic()
        return True

    # A cell's run -------------------------------------------------------------------------------

    def _sync_cell(self, folder: Path) -> None:
        if self._news(folder) is None:
            return
        # What the folder says is read once more behind the lock: another process may have logged
        # a later state meanwhile, which must not be taken back.
        with alone(folder.parent, folder.name):
            if news := self._news(folder):
                row, mark = news
                self._log_cell(folder, row, folder.absolute().parent.name, mark)
                self._seen[folder] = (mark, run_status(row))

    def _news(self, folder: Path) -> tuple[Record, str] | None:
        """Return what is to be logged since the last time, if anything, and its fingerprint."""
        files = [folder / record.RECORD, folder / record.CURVES]
        before, row = fingerprint(files), record.load(folder)
        if row is None:
            return None
        mark = f"{before}-{self._colour(folder.parent, row.method)[1:]}"
        return None if self._seen.get(folder) == (mark, run_status(row)) else (row, mark)

    def _colour(self, study: Path, method: str) -> str:
        """Return a method's colour, which depends on what other methods the study has."""
        if method not in self._colours.get(study, {}):
            rows = [readable(path.parent) for path in study.glob(f"*/{RECORD}")]
            named = {method, *(row.method for row in rows if row)}
            self._colours[study] = method_colours(named)
        return self._colours[study][method]

    def _log_cell(self, folder: Path, row: Record, study: str, mark: str) -> None:
        run = self._cell_run(row, study, folder.parent)
        if run is None:
            return
        has, params = run.data.tags, run.data.params
        is_up = has.get("synced") == mark and has.get("superseded") != "true"
        if not is_up or run.info.status != run_status(row):
            # MLflow never changes a parameter that a run has.
            given = content.run_params(folder / CONFIG).items()
            points = self._new_points(run, folder)
            if row.status == Status.FINISHED:
                points += self._new_values(run, row.ended, content.final_metrics(row))
            self._log(
                run,
                params=[param for param in given if param[0] not in params],
                tags=self._new_tags(run, self._cell_tags(folder.parent, row, study)),
                metrics=points,
            )
            self._log_data(run, row)
            self._finish_cell(run, row, folder, mark)

    def _cell_tags(self, folder: Path, row: Record, study: str) -> dict[str, str]:
        found = tags.cell_tags(row, study, self._colour(folder, row.method))
        return found | {"origin": self._origin}

    def _cell_run(self, row: Record, study: str, folder: Path) -> Run | None:
        """Find or create the cell's run; a pending cell has none."""
        if row.status == Status.PENDING:
            return None
        place = (study, row.cell, row.key, str(row.started))
        if place not in self._runs:
            same = self._search(row.dataset, study=study, cell=row.cell)
            # One that could not start has its end alone.
            start = milliseconds(row.started or row.ended)
            mine = [run for run in same if run.data.tags.get("key") == row.key]
            # Of this very making of the cell, not of one that was replaced by it.
            mine = [run for run in mine if start in {None, run.info.start_time}]
            if not mine:
                named = self._cell_tags(folder, row, study) | {tags.USER: tags.user()}
                where, start = self._experiments.of(row.dataset), start or int(time.time() * 1000)
                mine = [self.client.create_run(where, start, named, row.cell)]
            chosen = mine[0].info.run_id
            self._supersede([run for run in same if run.info.run_id != chosen])
            self._runs[place] = chosen
        return self.client.get_run(self._runs[place])

    def _supersede(self, runs: Sequence[Run]) -> None:
        """Mark runs of what the cell was before, and end those that a dead process left open."""
        for run in runs:
            if run.data.tags.get("superseded") != "true":
                self.client.set_tag(run.info.run_id, "superseded", "true")
            if run.info.status not in ENDED:
                self.client.set_terminated(run.info.run_id, "KILLED")

    def _new_tags(self, run: Run, wanted: Mapping[str, str]) -> list[tuple[str, str]]:
        has = run.data.tags
        wanted = ({"superseded": "false"} if "superseded" in has else {}) | dict(wanted)
        if tags.USER not in has:
            wanted |= {tags.USER: tags.user()}
        return [tag for tag in wanted.items() if has.get(tag[0]) != tag[1]]

    def _new_points(self, run: Run, folder: Path) -> list[Point]:
        """Return the curves' points that lie beyond the last step the run has of that name."""
        last = last_points(run)
        return [
            (name, value, run.info.start_time + round(1000 * seconds), step)
            for (name, step), (value, seconds) in content.curve_points(folder).items()
            if name not in last or step > last[name].step
        ]

    def _new_values(self, run: Run, ended: str | None, values: Mapping[str, float]) -> list[Point]:
        """Return the final values that the run lacks, at step 0.

        There MLflow's charts draw bars to compare runs by instead of a line of one point.
        """
        last, stamp = last_points(run), milliseconds(ended) or run.info.start_time
        return [
            # Of two values at one step MLflow shows the later one: of what was measured again too.
            (name, value, max(stamp, last[name].timestamp + 1) if name in last else stamp, 0)
            for name, value in values.items()
            if not content.is_same(last.get(name), value)
        ]

    def _log_data(self, run: Run, row: Record) -> None:
        if data := tags.dataset_input(row, run):
            self.client.log_inputs(run.info.run_id, datasets=data)

    def _log(
        self,
        run: Run,
        params: Sequence[tuple[str, str]] = (),
        tags: Sequence[tuple[str, str]] = (),
        metrics: Sequence[Point] = (),
    ) -> None:
        """Log parameters, tags and metrics, as many at a time as a store takes."""
        from mlflow.entities import Metric, Param, RunTag

        for some in zip_longest(_parts(params, 100), _parts(tags, 100), _parts(metrics, 800)):
            given, marks, points = (each or () for each in some)
            self.client.log_batch(
                run.info.run_id,
                params=[Param(*each) for each in given],
                tags=[RunTag(*each) for each in marks],
                metrics=[Metric(*each) for each in points],
            )

    def _finish_cell(self, run: Run, row: Record, folder: Path, mark: str) -> None:
        """Log what a cell's end brings, status and ``synced`` mark last."""
        status = run_status(row)
        if status in ENDED:
            self._upload(run, content.cell_files(folder, row))
        if row.status == Status.FINISHED:
            with tempfile.TemporaryDirectory() as place:
                images = content.grid_images(folder / GRID, row, Path(place))
                self._upload(run, images, "images")
        self._set_status(run, status, milliseconds(row.ended))
        if status in ENDED:
            self.client.set_tag(run.info.run_id, "synced", mark)

    def _upload(self, run: Run, files: Sequence[Path], folder: str | None = None) -> None:
        for file in files:
            if file.exists():
                self.client.log_artifact(run.info.run_id, str(file), folder)

    def _set_status(self, run: Run, status: str, ended: int | None) -> None:
        is_new = run.info.status != status
        if status in ENDED and (is_new or ended not in {None, run.info.end_time}):
            self.client.set_terminated(run.info.run_id, status, ended)
        elif is_new:
            self.client.update_run(run.info.run_id, status=status)

    # A study's run ------------------------------------------------------------------------------

    def _sync_study_run(self, study: Path) -> None:
        rows = [row for _, row in record.cells(study)]
        if not rows:
            return
        with alone(study, "study"):
            run = self._study_run(study.name, rows)
            tables, plots = content.study_files(study)
            mark = fingerprint([*tables, *plots])
            ended = max((row.ended or "" for row in rows), key=lambda at: milliseconds(at) or 0)
            self._log(
                run,
                tags=self._new_tags(run, tags.study_tags(study, rows, run)),
                metrics=self._new_values(run, ended, content.study_means(study)),
            )
            self._log_data(run, rows[0])
            self._experiments.show(rows)
            if run.data.tags.get("synced") != mark:
                self._upload(run, tables)
                self._upload(run, plots, "plots")
                self.client.set_tag(run.info.run_id, "synced", mark)
            self._set_status(run, content.study_status(rows), milliseconds(ended))

    def _study_run(self, study: str, rows: Sequence[Record]) -> Run:
        found = self._search(rows[0].dataset, study=study, kind="study")
        if found:
            return self.client.get_run(found[0].info.run_id)
        starts = [at for row in rows if (at := milliseconds(row.started))]
        named = {"kind": "study", "study": study, "origin": self._origin, tags.USER: tags.user()}
        experiment, now = self._experiments.of(rows[0].dataset), int(time.time() * 1000)
        return self.client.create_run(experiment, min(starts, default=now), named, run_name=study)

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
        return self._find([self._experiments.of(dataset)], **tags)

    def _find(self, experiments: list[str], **tags: str) -> list[Run]:
        quoted = {k: f'"{v}"' if "'" in v else f"'{v}'" for k, v in tags.items()}
        clauses = [f"tags.{k} = {v}" for k, v in {**quoted, "origin": f"'{self._origin}'"}.items()]
        search = partial(self.client.search_runs, experiments, " and ".join(clauses))
        found: list[Run] = list(page := search())
        while page.token:
            found += (page := search(page_token=page.token))
        return found
