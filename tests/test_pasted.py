"""Lines that are meant to be pasted into a shell: quoted, complete, and about the right place."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench.cli.app import app
from bench.commands import finished_cells, lifecycle
from bench.commands.run import RunOptions
from bench.commands.run import command as run
from bench.commands.run.request import resolve
from bench.commands.sample import SampleOptions, curve
from bench.commands.time import interleave
from bench.config import UserError, bench_command
from bench.progress.display import Display
from bench.records import given_command
from bench.tracking import Tracker, store
from bench.tracking.ui import ui

from .conftest import Bench
from .fake_study import make_record, write_study

BENCH = Path(lifecycle.__file__).parents[1]
ODD = "a b;'c"
"""A folder's name that a shell takes apart unless it is quoted."""


@pytest.fixture
def odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A results folder that is not the usual one, with a study."""
    monkeypatch.chdir(tmp_path)
    return write_study(tmp_path / ODD / "s", ("sde",), (0,), failed=None).parent


def pasted(text: str, words: str) -> list[str]:
    """What a shell makes of the command that begins with these words; it must parse."""
    line = next(line for line in text.splitlines() if words in line)
    given = shlex.split(line[line.index(words) :])
    app.parse_args(given[1:], print_error=False, exit_on_error=False)
    return given


def test_the_usual_place_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert bench_command("plot", "s", results=Path("results")) == "bench plot s"
    assert bench_command("plot", "s", results=tmp_path / "results") == "bench plot s"
    assert bench_command("plot", "s", results=Path("x y")) == "bench plot s --results 'x y'"


def test_a_stopped_command_says_how_to_draw_its_plots(
    odd: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run.break_off(odd / "s", 60.0)
    assert pasted(capsys.readouterr().out, "bench plot") == [
        "bench", "plot", "s", "--results", str(odd),
    ]  # fmt: skip


def test_a_finished_command_says_how_to_see_its_pages(
    odd: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = RunOptions(methods=("sde",), device="cpu", study="s", results=odd)
    run.print_places(resolve(options), tracking=True)
    told = pasted(capsys.readouterr().out, "bench ui")
    assert told == ["bench", "ui", "--results", str(odd)]


def test_where_nothing_can_be_measured_the_table_is_named(
    odd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = write_study(odd / "t", ("sde",), (0,), failed="sde-seed0")
    request = resolve(RunOptions(methods=("sde",), device="cpu", study="t", results=odd))
    prepared = SimpleNamespace(data_sha256="d" * 64)
    monkeypatch.setattr(curve, "read_study", lambda folder: SimpleNamespace(prepared=prepared))
    with pytest.raises(UserError) as timing:
        interleave.choose(study, None, "d" * 64)
    with pytest.raises(UserError) as sampling:
        curve.draw_curves(request, SampleOptions(), Display())
    for caught in (timing, sampling):
        told = pasted(str(caught.value), "bench table")
        assert told == ["bench", "table", "t", "--results", str(odd)]


def test_what_mlflow_lacks_can_be_made_up_for(odd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told by what cannot be opened, by what fails later, at the end, and by the pages."""

    def fail(*given: object) -> None:
        raise RuntimeError("down")

    said: list[str] = []
    monkeypatch.setattr(store, "open_store", fail)
    Tracker.open(odd, said.append)
    tracker = Tracker(SimpleNamespace(search_experiments=fail), odd, said.append)  # type: ignore[arg-type]
    tracker.sync_study(odd / "s")
    late = lifecycle.background(odd)
    late._warn = said.append
    late.sync_study(odd / "s")
    late.close(0.0)
    with pytest.raises(UserError, match="no MLflow store") as caught:
        ui(odd, port=5999)
    lines = [line for line in [*said, str(caught.value)] if "bench sync" in line]
    assert len(lines) == 4
    for line in lines:
        assert pasted(line, "bench sync") == ["bench", "sync", "--results", str(odd)]


def test_a_cell_is_made_again_from_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its command was typed in a folder, which its places are seen from."""
    monkeypatch.chdir(tmp_path)
    record = make_record(tmp_path / "s", "sde", 0)
    record.environment |= {"command": "bench run --results r", "directory": str(tmp_path)}
    assert finished_cells.made_by(record) == "bench run --results r"
    record.environment["directory"] = "/some where"
    assert finished_cells.made_by(record) == "cd '/some where' && bench run --results r"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["/usr/bin/bench", "run", "--study", "a b"], "bench run --study 'a b'"),
        (["/x/bench/__main__.py", "table"], "bench table"),
        (["my script.py", "7"], "'my script.py' 7"),
    ],
)
def test_a_command_is_recorded_as_it_was_given(
    arguments: list[str], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", arguments)
    assert given_command() == told


def test_a_new_method_says_what_to_do_with_it(call_bench: Bench, tmp_path: Path) -> None:
    told = call_bench("new", "my_flow", "--into", ODD).stdout
    assert pasted(told, "bench check")[2] == f"{ODD}/my_flow/my_flow.py"
    assert pasted(told, "bench run")[3] == "my_flow,sde"
    (install,) = [line for line in told.splitlines() if "pip install" in line]
    assert shlex.split(install)[1:] == ["pip", "install", "-e", f"{ODD}/my_flow"]


def test_no_command_is_printed_without_its_place() -> None:
    """Commands that read results stand in messages by ``bench_command`` alone, or as their help."""
    words = r"\"[^\"]*bench (table|plot|sample|time|ui|sync|compare|evaluate)\b"
    found = [
        line.strip()
        for path in sorted(BENCH.rglob("*.py"))
        for line in path.read_text("utf-8").splitlines()
        if re.search(words, line) and not re.search(r"\"{3}|bench_command|again: str", line)
    ]
    # A mention of an option's command, and of the one that times were taken by.
    assert found == [
        "f\"it with --set 'evaluation.also=[{name}]', or --extractor for `bench evaluate`\"",
        'yield f"ms of {named}: interleaved, bench time; see timing.md for paired ratios."',
    ]
