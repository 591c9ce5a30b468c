"""The experiment of each data set, and what its pages show at first."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.config import bench_command
from bench.records import Record
from bench.tracking import store
from bench.tracking.tags import NOTE
from bench.tracking.view import is_newer, view_of

if TYPE_CHECKING:
    from mlflow import MlflowClient

VIEW = "scorebench"
"""Key of the shared view of an experiment's pages, which all links to them name."""
STATE = f"mlflow.sharedViewState.{VIEW}"
"""Tag of an experiment in which MLflow's UI looks for that view."""


def runs_link(base: str, experiment: str) -> str:
    """Return the address of an experiment's table of runs."""
    query = f"workflowType=machine_learning&viewStateShareKey={VIEW}"
    return f"{base}/#/experiments/{experiment}/runs?{query}"


def charts_link(base: str, experiment: str) -> str:
    """Return the address of an experiment's charts, with all its runs shown."""
    return f"{runs_link(base, experiment)}&compareRunsMode=CHART"


class Experiments:
    """A store's experiments, one for each data set."""

    def __init__(self, client: MlflowClient, results: Path) -> None:
        """Use an open client of a results folder's store."""
        self.client, self._results = client, results
        self._known: dict[str, str] = {}
        self._views: dict[str, str] = {}

    def of(self, dataset: str) -> str:
        """Return the id of the data set's experiment, created or restored where needed."""
        if dataset not in self._known:
            with store.locked(
                self._results / store.STORE_LOCK, "another command is opening the store"
            ):
                identity, has = self._find(dataset)
            wanted = {STATE: json.dumps(view_of([])), NOTE: describe(dataset, identity)}
            for name in wanted.keys() - has.keys():
                self._set(identity, name, wanted[name])
            self._known[dataset], self._views[dataset] = identity, has.get(STATE, wanted[STATE])
        return self._known[dataset]

    def show(self, rows: Sequence[Record]) -> None:
        """Have the pages of a study's data set open on its leading metric, if it is the latest."""
        dataset, view = rows[0].dataset, view_of(rows)
        identity = self.of(dataset)
        if is_newer(view, self._views[dataset]):
            self._views[dataset] = json.dumps(view)
            self._set(identity, STATE, self._views[dataset])

    def _find(self, dataset: str) -> tuple[str, dict[str, str]]:
        """Return the experiment's id and the tags that it has."""
        known = self.client.get_experiment_by_name(dataset)
        if known is None:
            uri = store.store_uri(self._results)
            ours = (self._results / store.ARTIFACTS / dataset).as_uri()
            try:
                place = None if store.is_server(uri) else ours
                return str(self.client.create_experiment(dataset, place)), {}
            except Exception:
                # On a server, someone else's results folder may have been first.
                known = self.client.get_experiment_by_name(dataset)
                if known is None:
                    raise
        if known.lifecycle_stage == "deleted":
            self.client.restore_experiment(known.experiment_id)
        return str(known.experiment_id), dict(known.tags)

    def _set(self, identity: str, name: str, value: str) -> None:
        """Set a tag; whom the server does not let, goes on without."""
        from mlflow.exceptions import MlflowException

        try:
            self.client.set_experiment_tag(identity, name, value)
        except MlflowException as error:
            if error.error_code != "PERMISSION_DENIED":
                raise


def describe(dataset: str, identity: str) -> str:
    """Describe an experiment in Markdown, with the links that open its pages as they should be."""
    charts, runs = charts_link("", identity)[1:], runs_link("", identity)[1:]
    return (
        f"Generative models of **{dataset}**, measured by scorebench: "
        f"[quality against cost]({charts}) · [table of runs]({runs}). "
        "A run of `kind` study has the means over seeds and the table, one of `kind` cell is a "
        "method with one seed. The folders of results are the truth; "
        f"`{bench_command('sync')}` brings these pages up to them."
    )
