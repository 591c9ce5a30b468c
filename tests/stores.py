"""What the tests of tracking ask an MLflow store."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from bench.tracking import Tracker
from bench.tracking.store import DATABASE


def copy_store(source: Path, target: Path) -> None:
    """Copy a store with what its write-ahead log still holds."""
    with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(target)) as new:
        old.backup(new)


def reopen(results: Path, said: list[str] | None = None) -> Tracker:
    """Open a tracker as another process would: it remembers nothing."""
    opened = Tracker.open(results, warn=[].append if said is None else said.append)
    assert isinstance(opened, Tracker), opened.trouble
    return opened


def runs(tracker: Tracker, **tags: str) -> list[Any]:
    """Return the data set's runs that carry these tags."""
    experiment = tracker.client.get_experiment_by_name("digits")
    if experiment is None:
        return []
    found = tracker.client.search_runs([experiment.experiment_id], max_results=100)
    return [run for run in found if tags.items() <= run.data.tags.items()]


def history(tracker: Tracker, run: Any, name: str) -> list[tuple[int, float]]:
    """Return a metric's points as (step, value), in the order of steps."""
    points = tracker.client.get_metric_history(run.info.run_id, name)
    return sorted((point.step, point.value) for point in points)


def expected(lines: list[dict[str, Any]], name: str) -> list[tuple[int, float]]:
    """Return a curve's points as they stand in the file."""
    return [(line["images"], line["values"][name]) for line in lines if name in line["values"]]


def everything(results: Path) -> dict[str, list[Any]]:
    """Return the store's rows that a second sync could double."""
    with closing(sqlite3.connect(results / DATABASE)) as store:
        return {
            table: sorted(store.execute(f"SELECT * FROM {table}").fetchall(), key=repr)
            for table in ("metrics", "latest_metrics", "params", "tags", "runs", "experiments")
        }


def files_under(folder: Path) -> set[str]:
    """Return the relative names of all files in a folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def numbers(tracker: Tracker, run: Any) -> tuple[Any, ...]:
    """Return what a run shows, without its number."""
    points = {
        name: [
            (point.step, point.timestamp, point.value)
            for point in tracker.client.get_metric_history(run.info.run_id, name)
        ]
        for name in sorted(run.data.metrics)
    }
    tags = {name: tag for name, tag in run.data.tags.items() if not name.startswith("mlflow.")}
    times = (run.info.status, run.info.start_time, run.info.end_time)
    return (run.info.run_name, times, sorted(tags.items()), sorted(run.data.params.items()), points)
