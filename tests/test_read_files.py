"""Files are looked at before they are believed, and what is written is whole."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from bench.config import UserError, read_cell
from bench.metrics import features, references
from bench.records import nfe_curve, record, write_archive
from bench.records.files import to_json
from bench.records.grid import read_samples
from bench.report.plots.write import write_plots
from bench.report.study_report import StudyReport
from bench.report.table.numbers import number, plus_minus, scaled, size, with_error
from bench.training.checkpoint import read_state
from bench.worker import read_checkpoint
from bench.worker.partial_samples import FOLDER, last_part
from tests.conftest import Bench
from tests.fake_study import make_record, table, write_study

Change = Callable[[Any], Any]
BROKEN = [b"", b"no such thing", b"[1]", b"null", b"\xff\xfe", b'{"a": 1}']


def put(path: Path, change: Change) -> None:
    """Change what a JSON file holds."""
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def setting(keys: str, value: object) -> Change:
    """Return what sets a value deep within a tree."""

    def change(tree: Any) -> Any:
        *way, last = keys.split("/")
        place = tree
        for key in way:
            place = place[int(key) if key.isdigit() else key]
        place[last] = value
        return tree

    return change


def refused(call_bench: Bench, *given: str) -> str:
    """Run a command that ends in the one line of an error; return the line."""
    done = call_bench(*given)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    return str(done.stderr)


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    return write_study(tmp_path / "results" / "s", ("sde", "smm"), (0, 1))


# Records ----------------------------------------------------------------------------------------

UNBELIEVABLE = [
    ("format", 99, "another scorebench wrote format 99, this one reads 1"),
    ("format", "1", "format"),
    ("seed", "0", "seed"),
    ("seed", 0.5, "seed"),
    ("seed", True, "seed"),
    ("metrics/fd_digits_500/value", "24.3", "value"),
    ("metrics/fd_digits_500/value", None, "value"),
    ("ledger/train", -5.0, "greater than or equal to 0"),
    ("ledger/train", "5", "ledger.train"),
    ("cost/ms_per_image/median", -1, "greater than or equal to 0"),
    ("cost/train_flops", -1, "greater than or equal to 0"),
    ("cost/nfe", "60", "nfe"),
    ("status", "well", "status"),
    ("new_in_some_version", 1, "new_in_some_version"),
]


@pytest.mark.parametrize(("keys", "value", "told"), UNBELIEVABLE)
def test_a_record_that_cannot_be_believed_is_one_line(
    keys: str, value: object, told: str, fake: Path, call_bench: Bench
) -> None:
    path = fake / "sde-seed1" / record.RECORD
    put(path, setting(keys, value))
    errors = refused(call_bench, "table", "s", "--results", str(fake.parent))
    assert str(path) in errors
    assert told in errors
    assert "remove it and run the study again" in errors


@pytest.mark.parametrize("content", BROKEN)
@pytest.mark.parametrize("name", ["sde-seed0/record.json", "anchors.json", "timing.json"])
def test_a_file_of_something_else_is_one_line(
    name: str, content: bytes, fake: Path, call_bench: Bench
) -> None:
    (fake / name).write_bytes(content)
    errors = refused(call_bench, "table", "s", "--results", str(fake.parent))
    assert str(fake / name) in errors


@pytest.mark.parametrize("content", [*BROKEN, b'{"format": 99, "key": "k"}', b'{"key": 1}'])
def test_a_curve_of_something_else_is_one_line(
    content: bytes, fake: Path, call_bench: Bench
) -> None:
    path = fake / "sde-seed0" / nfe_curve.FILE
    path.write_bytes(content)
    errors = refused(call_bench, "table", "s", "--results", str(fake.parent))
    assert f"'{path}' cannot be read" in errors


@pytest.mark.parametrize(
    "line",
    [
        "{", "[1]", "null", '{"images": 1, "step": 1, "seconds": 1.0}',
        '{"images": "1", "step": 1, "seconds": 1.0, "values": {}}',
        '{"images": 1, "step": 1, "seconds": -1.0, "values": {}}',
        '{"images": 1, "step": 1, "seconds": 1.0, "values": {"loss/x": "low"}}',
    ],
)  # fmt: skip
def test_a_line_of_a_curve_that_is_none_is_left_out_with_a_word(
    line: str, fake: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = fake / "sde-seed0" / record.CURVES
    right, lines = record.read_curves(path.parent), path.read_text().splitlines()
    path.write_text("\n".join([*lines[:3], line, *lines[3:]]) + "\n")
    assert record.read_curves(path.parent) == right
    assert f"1 of {len(lines) + 1} lines of '{path}' are no points" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "a: [", "- 1", "text", "settings: {}", "method: 1"])
def test_a_configuration_of_something_else_is_one_line(content: str, fake: Path) -> None:
    path = fake / "sde-seed0" / record.CONFIG
    path.write_text(content)
    with pytest.raises(UserError, match=r"config\.yaml' cannot be read") as error:
        read_cell(path)
    assert "\n" not in str(error.value)


def test_a_table_names_the_configuration_that_it_cannot_read(fake: Path, call_bench: Bench) -> None:
    write_study(fake.parent / "t", ("sde",), (0,))
    path, where = fake / "sde-seed0" / record.CONFIG, ["--results", str(fake.parent)]
    for content in ("a: [", "- 1"):
        path.write_text(content)
        assert f"'{path}' cannot be read" in refused(call_bench, "compare", "s", "t", *where)


def test_what_could_not_be_read_again_is_not_written(tmp_path: Path) -> None:
    row = make_record(tmp_path, "sde", 0)
    record.save(row, tmp_path)
    before = (tmp_path / record.RECORD).read_bytes()
    costly = record.Cost().model_copy(update={"nfe": -1})
    for cost, ledger in ((record.Cost(), {"train": -1.0}), (costly, {})):
        with pytest.raises(ValueError, match="greater than or equal to 0"):
            record.save(row.model_copy(update={"cost": cost, "ledger": ledger}), tmp_path)
    assert (tmp_path / record.RECORD).read_bytes() == before
    assert record.load(tmp_path) == row
    extreme = row.metrics["fd_digits_500"].model_copy(update={"value": math.inf, "error": math.nan})
    assert "Infinity" in to_json(row.model_copy(update={"metrics": {"fd": extreme}}))


# What torch and numpy have saved ----------------------------------------------------------------


def test_what_was_not_written_whole_does_not_take_its_place(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    write_archive(path, lambda file: torch.save({"a": 1}, file))
    before = path.read_bytes()
    for content in (b"", before[:-100], b"text"):
        with pytest.raises(OSError, match="it was not written whole"):
            write_archive(path, lambda file, content=content: file.write(content))  # type: ignore[misc]
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pt"]


def saved(path: Path, content: object) -> None:
    """Write what is no checkpoint; bytes as they are."""
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)


NO_STATES = [
    b"", b"text", pickle.dumps({"a": 1}), [1, 2], None, torch.zeros(2), {}, {"key": "k"},
    {"key": "k", "trainer": [], "curve_bytes": 0, "ledger": {}},
    {"key": "k", "trainer": {}, "curve_bytes": "0", "ledger": {}},
    # An object of any class, whose making may run anything.
    {"key": "k", "trainer": {"a": SimpleNamespace()}, "curve_bytes": 0, "ledger": {}},
]  # fmt: skip


@pytest.mark.parametrize("content", NO_STATES, ids=lambda content: repr(content)[:30])
def test_a_checkpoint_of_something_else_says_what_to_do(content: object, tmp_path: Path) -> None:
    saved(tmp_path / record.CHECKPOINT, content)
    with pytest.raises(UserError, match="remove it to have it made anew") as error:
        read_checkpoint(tmp_path, "k", torch.device("cpu"))
    assert str(tmp_path / record.CHECKPOINT) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_checkpoint_is_read_as_it_was(tmp_path: Path) -> None:
    state = {"key": "k", "trainer": {"step": 3}, "curve_bytes": 0, "ledger": {"wall": 1.0}}
    saved(tmp_path / record.CHECKPOINT, state)
    assert read_checkpoint(tmp_path, "k", torch.device("cpu")) == state
    assert read_checkpoint(tmp_path, "other", torch.device("cpu")) is None
    assert read_state(tmp_path / record.CHECKPOINT, {"key": str}, mmap=True)["key"] == "k"


def test_a_part_of_something_else_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / FOLDER / "part-00000000.pt"
    path.parent.mkdir()
    for content in (b"", [1], {"key": "k", "first": 0, "batches": {}, "ledger": {}}):
        saved(path, content)
        with pytest.raises(UserError, match="remove it to have it made anew"):
            last_part(tmp_path, "k")


@pytest.mark.parametrize(
    "content",
    [
        b"", b"text", {"other": np.zeros(3)}, {"images": np.zeros((3, 8, 8), np.uint8)},
        {"images": np.zeros((3, 1, 8, 8))}, {"images": np.array(["a"] * 3)},
        {"images": np.zeros((3, 1, 8, 8), np.uint8), "labels": np.zeros(2, int)},
        {"images": np.array([{}, {}], object)},
    ],
    ids=range(8),
)  # fmt: skip
def test_samples_of_something_else_are_told(content: Any, tmp_path: Path) -> None:
    path = tmp_path / record.SAMPLES
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.savez(path, **content)
    with pytest.raises(UserError, match="run the cell again"):
        read_samples(path)


def test_plots_that_need_no_samples_are_drawn_without(
    fake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, said = fake / "sde-seed0" / record.SAMPLES, list[str]()
    path.write_bytes(b"text")
    # Drawn, but not put into files, which takes seconds.
    monkeypatch.setattr("bench.report.plots.write.save", lambda figure, path: [path])
    drawn = {file.name for file in write_plots(StudyReport.read(fake), said.append)}
    assert "samples" not in drawn
    assert "ledger" in drawn
    assert [line for line in said if f"plot 'samples' left out: '{path}'" in line]


def test_a_reference_of_another_shape_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "r.npz"
    kept = np.zeros((4, 3), np.float32)
    right: dict[str, Any] = {
        "mu": np.zeros(3), "sigma": np.eye(3), "labels": np.zeros(4, int),
        "kernel_mean": np.array(0.0), "kept": np.array(4),
    }  # fmt: skip
    np.save(references._features_path(path), kept)
    np.savez(path, **right)
    assert references._read(path) is not None
    for wrong in ({"sigma": np.eye(2)}, {"kept": np.zeros(3)}, {"mu": np.zeros((3, 3))}):
        np.savez(path, **(right | wrong))
        assert references._read(path) is None
    assert features.features_file(tmp_path, "x") == tmp_path / "features-x.npz"


# Numbers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [1e308, -1e308, 1e-308, 1e15, math.inf, -math.inf, math.nan])
def test_no_number_is_wider_than_a_column(value: float) -> None:
    texts = [
        number(value), plus_minus(value, abs(value)), plus_minus(1.0, abs(value)),
        with_error(value, 1.0), with_error(1.0, abs(value)), scaled(value, "FLOP"),
        scaled(1.0, "FLOP", abs(value)), size(value), plus_minus(value, 1e-3),
    ]  # fmt: skip
    assert max(map(len, texts)) < 28, texts


def test_numbers_between_are_written_in_digits() -> None:
    assert number(123456789012345.0) == "123456789012345"
    assert number(0.0000012345) == "0.00000123"
    assert number(1e308) == "1.00e+308"
    assert plus_minus(1e308, 1e307) == "1.000e+308 ± 1.0e+307"
    assert plus_minus(2.0, math.inf) == "2.000"


@pytest.mark.parametrize("value", [1e308, -1e308, math.inf, 5e-324])
def test_a_table_of_extreme_values_is_as_wide_as_others(value: float, fake: Path) -> None:
    for cell in ("sde-seed0", "sde-seed1"):
        put(fake / cell / record.RECORD, setting("metrics/fd_digits_500/value", value))
        put(fake / cell / record.RECORD, setting("cost/nfe", abs(value)))
    text = table(fake)
    (line,) = [line for line in text.splitlines() if line.startswith("| sde")][:1]
    assert max(map(len, line.split("|"))) < 45
    parsed = json.loads(table(fake, "json"), parse_constant=pytest.fail)
    assert parsed["methods"][0]["seeds"] == 2


def test_what_is_no_number_passes_through_json(fake: Path) -> None:
    path = fake / "sde-seed0" / record.RECORD
    put(path, setting("metrics/fd_digits_500/provenance/by_level", [math.nan, math.inf, 1.0]))
    text = table(fake, "json")
    parsed = json.loads(text, parse_constant=pytest.fail)
    assert parsed["provenance"]["fd_digits_500"]["by_level"] == [None, "inf", 1.0]
