"""What is done with each cell of a study, and why: done, stale, interrupted, failed, to do."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench import study
from bench.commands.options import split
from bench.commands.run import RunOptions
from bench.commands.run.request import check_rerun, resolve
from bench.config.errors import UserError
from bench.config.text import digest, to_yaml
from bench.records import files, record
from bench.records.record import CHECKPOINT, Record, Status
from bench.records.source_code import source_files, source_hashes
from bench.study import Planned, cell_key, decide

from .fake_study import PREPARED

BOTH = frozenset({"failed", "stale"})


@pytest.fixture
def request_(tmp_path: Path) -> study.Request:
    return resolve(
        RunOptions(methods=("sde",), preset="smoke", device="cpu", study="s", results=tmp_path)
    )


def planned(request: study.Request, **prepared: Any) -> Planned:
    (cell,) = study.plan(request, PREPARED | prepared)
    return cell


def write(cell: Planned, status: Status = Status.FINISHED, *, checkpoint: bool = True) -> None:
    """Leave a cell's folder as a run would."""
    row = Record(
        study="s", cell="sde-seed0", method="sde", seed=0, dataset="digits", data_variant="digits",
        preset="smoke", key=cell.key, identity=dict(cell.identity), status=status,
    )  # fmt: skip
    record.save(row, cell.folder)
    files.write_text(cell.folder / "config.yaml", to_yaml(cell.config))
    if checkpoint:
        (cell.folder / CHECKPOINT).touch()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "checkpoint", "expected"),
    [
        (Status.PENDING, False, ("run", "to do")),
        (Status.FINISHED, True, ("reuse", "done")),
        (Status.INTERRUPTED, True, ("resume", "interrupted")),
        (Status.RUNNING, True, ("resume", "interrupted")),
        (Status.INTERRUPTED, False, ("resume", "interrupted")),
        (Status.KILLED, True, ("resume", "killed before")),
        (Status.TIMEOUT, True, ("resume", "timeout before")),
        (Status.FAILED, True, ("resume", "failed before")),
        (Status.MEMORY, True, ("resume", "memory before")),
        (Status.DIVERGED, True, ("run", "diverged before")),
    ],
)
def test_a_cell_goes_on_from_where_it_stands(
    request_: study.Request, status: Status, checkpoint: bool, expected: tuple[str, str]
) -> None:
    assert (planned(request_).action, planned(request_).why) == ("run", "to do")
    write(planned(request_), status, checkpoint=checkpoint)
    found = planned(request_)
    assert (found.action, found.why) == expected


def change_settings(cell: Planned, body: dict[str, Any]) -> None:
    training = cell.config.settings.training.model_copy(update={"batch": 7})
    settings = cell.config.settings.model_copy(update={"training": training})
    cell.config = cell.config.model_copy(update={"settings": settings})


def change_source(cell: Planned, body: dict[str, Any]) -> None:
    body["source"]["methods.noise"] = "0" * 64
    del body["source"]["methods.samplers"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (change_settings, "settings.training.batch"),
        (change_source, "methods/noise.py, methods/samplers.py"),
        (lambda cell, body: body.update(data_sha256="0" * 64), "the data"),
        (lambda cell, body: body.update(extractors={"digits": "0" * 64}), "an extractor"),
        (lambda cell, body: body.update(reference_sha256="0" * 64), "the reference"),
        (lambda cell, body: body.update(protocol="0"), "the protocol"),
    ],
)
def test_a_stale_cell_names_what_has_changed(
    request_: study.Request, change: Callable[[Planned, dict[str, Any]], None], named: str
) -> None:
    """The cell was made with something else, and is asked for as it is now."""
    old = planned(request_)
    body = copy.deepcopy(dict(old.identity))
    change(old, body)
    old.identity = body
    old.key = cell_key(old.config, body, digest(body["source"]))
    write(old)
    found = planned(request_)
    assert (found.action, found.why) == ("run", f"stale: {named} changed")


def test_a_record_of_an_older_version_is_stale_in_general(request_: study.Request) -> None:
    cell = planned(request_)
    cell.key, cell.identity = "0" * 41, {}
    write(cell)
    assert planned(request_).why == "stale: its settings, data, protocol or source changed"


def test_where_files_lie_does_not_matter(request_: study.Request) -> None:
    cell = planned(request_)
    moved = cell.config.settings.model_copy(update={"weights": {"digits": Path("/elsewhere")}})
    other = cell.config.model_copy(update={"settings": moved})
    source = digest(cell.identity["source"])
    assert cell_key(other, PREPARED, source) == cell_key(cell.config, PREPARED, source)


@pytest.mark.parametrize(
    ("rerun", "failed", "stale", "done"),
    [
        ("failed,stale", "run", "run", "reuse"),
        ("failed", "run", "keep", "reuse"),
        ("stale", "keep", "run", "reuse"),
        ("none", "keep", "keep", "reuse"),
        ("all", "run", "run", "run"),
    ],
)
def test_rerun_chooses(
    request_: study.Request, rerun: str, failed: str, stale: str, done: str
) -> None:
    chosen = check_rerun(split(rerun))

    def action() -> str:
        return decide(planned(request_), chosen)[0]

    write(planned(request_), Status.DIVERGED)
    assert action() == failed
    write(planned(request_))
    assert action() == done
    old = planned(request_)
    old.key = "0" * 41
    write(old)
    assert action() == stale
    write(planned(request_), Status.INTERRUPTED)
    assert action() == "resume"
    # What failed after a checkpoint goes on from it, unless it is not to be run.
    write(planned(request_), Status.KILLED)
    assert action() == {"run": "run" if rerun == "all" else "resume", "keep": "keep"}[failed]


@pytest.mark.parametrize("text", ["sometimes", "all,failed", "none,stale", ""])
def test_rerun_is_one_of_its_choices(text: str) -> None:
    with pytest.raises(UserError, match="rerun"):
        check_rerun(split(text))


def test_source_hashes_cover_what_is_imported() -> None:
    hashes = source_hashes("methods.cdm")
    assert hashes.keys() == source_files("methods.cdm").keys()
    assert {"methods.cdm", "methods.sde", "methods.noise", "methods.samplers"} <= hashes.keys()
    assert "methods.smm" not in hashes
