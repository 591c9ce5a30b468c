"""Names become folders, columns and words of a command line: one rule, held where they enter."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.commands import method_labels
from bench.commands.finished_cells import read_record
from bench.commands.reproduce import repeat
from bench.commands.run import RunOptions
from bench.commands.run.request import resolve
from bench.config import UserError, check_name
from bench.config.names import LONGEST
from bench.records import cell_name
from bench.study import check_study
from methods import registry

from . import plugins
from .conftest import Bench
from .fake_study import write_study

CODE = """
from methods.sde import SDE


class Bare(SDE):
    variants = {"a/b": {}, "two words": {}, "plain_1": {}}
"""
BAD = [
    ".", "..", ".hidden", "-x", "_x", "a/b", "../../esc", "a b", "a:b", "a+b", "a,b", "a=b",
    "a\nb", "a\tb", "a*", "e\u0301te", "x" * (LONGEST + 1), "é" * LONGEST, "\udcc3",
]  # fmt: skip
"""No names of anything."""
GOOD = ["a", "7", "my_flow", "digits-quick-1.5", "Été", "字", "x" * LONGEST]


@pytest.mark.parametrize("name", GOOD)
def test_plain_names_are_taken(name: str) -> None:
    check_name("a name", name)


@pytest.mark.parametrize("name", BAD, ids=ascii)
def test_no_study_or_foreign_row_has_another(name: str, call_bench: Bench, tmp_path: Path) -> None:
    """Nothing is written under such a name, beside or outside the results."""
    write_study(tmp_path / "results" / "s", ("sde",), (0,), failed=None)
    (tmp_path / "images").mkdir()
    before = sorted(tmp_path.rglob("*"))
    run = ("run", f"--study={name}", "--preset", "smoke", "--device", "cpu")
    for arguments in (run, ("evaluate", "images", f"--as={name}", "--study", "s")):
        done = call_bench(*arguments)
        assert done.returncode == 2, done
        assert done.stderr.count("\n") == 1
        assert ("cannot be read" if "\udcc3" in name else "use letters, digits") in done.stderr
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["cache", "mlflow.db", "mlartifacts", ".mlflow.lock", ".origin"])
def test_a_study_has_no_place_that_is_taken(name: str, call_bench: Bench) -> None:
    done = call_bench("run", "--study", name, "--preset", "smoke", "--device", "cpu")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert f"--study '{name}'" in done.stderr


def test_a_study_is_not_put_among_other_files(tmp_path: Path) -> None:
    asked = resolve(RunOptions(methods=("sde",), device="cpu", study="s", results=tmp_path))
    (tmp_path / "s").mkdir()
    for name in (".lock", "anchors.json", "real.npz"):  # of a preparation that was broken off
        (tmp_path / "s" / name).touch()
    check_study(asked)
    (tmp_path / "s" / "thesis.tex").touch()
    with pytest.raises(UserError, match=r"holds files; give another --study"):
        check_study(asked)
    write_study(tmp_path / "s", ("sde",), (0,), failed=None)
    (tmp_path / "s" / "study.yaml").unlink()
    check_study(asked)


# -- methods ------------------------------------------------------------------------------------


@pytest.fixture
def named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Install a method under many names; return those by which it cannot be had."""
    bad = ["../../esc", "a/b", "a:b", "a.b", "x+y", "all", "common", "training", "cdm-semi", "sde"]
    points = [f"{name} = bare:Bare" for name in [*bad, "fine", "Fine_2", "other-one", "twice"]]
    site = plugins.install_as(tmp_path / "site", "bare", CODE, points)
    plugins.install_as(tmp_path / "more", "again", CODE, ["twice = again:Bare"])
    for folder in (site, tmp_path / "more"):
        monkeypatch.syspath_prepend(str(folder))
    return [*bad, "twice"]


def test_plug_ins_with_impossible_names_are_told_and_never_run(
    named: list[str], call_bench: Bench, tmp_path: Path
) -> None:
    assert {*method_labels.plugin_faults()} == {*named}
    listed = call_bench("methods")
    assert listed.returncode == 0
    assert listed.stdout.count("BROKEN: plug-in") == len(named)
    before = sorted(tmp_path.parent.rglob("*"))
    for name in [*named, "fine:a/b", "fine:two words"]:
        if name == "sde":
            continue
        done = call_bench("run", f"--methods={name}", "--preset", "smoke", "--device", "cpu")
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert sorted(tmp_path.parent.rglob("*")) == before


def test_good_names_of_plug_ins_are_had(
    named: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """One that takes a built-in's name is told where the built-in is run."""
    wanted = ("fine", "Fine_2:plain_1", "other-one")
    assert method_labels.check_labels(wanted) == [*wanted]
    assert capsys.readouterr().err == ""
    assert method_labels.check_labels(("sde",)) == ["sde"]
    assert (
        "note: plug-in 'sde' (bare:Bare): its name is that of a built-in" in capsys.readouterr().err
    )


def test_a_method_without_a_docstring_is_listed(named: list[str], call_bench: Bench) -> None:
    done = call_bench("methods")
    assert "fine     Bare  [bare:Bare (bare)]" in done.stdout


@pytest.mark.usefixtures("processes")
def test_without_any_docstrings_methods_are_listed() -> None:
    command = [sys.executable, "-OO", "-m", "bench", "methods"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert [line.split()[0] for line in done.stdout.splitlines()[::2]] == [*registry.BUILTIN]


def test_no_two_labels_share_a_folder(named: list[str]) -> None:
    """A method's name has no dash after another's: the first dash begins the variant."""
    faults = method_labels.plugin_faults()
    names = [name for name in registry.names() if name not in faults] + ["sde"]
    labels = [*names, *(f"{n}:{v}" for n in names for v in registry.load(n).variants)]
    assert len({cell_name(label, 0) for label in labels}) == len(labels)


def test_a_file_to_check_hides_no_module(call_bench: Bench, tmp_path: Path) -> None:
    json_before = json
    (tmp_path / "json.py").write_text("raise SystemExit(3)\n")
    done = call_bench("check", "json.py")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "there is a module 'json' already" in done.stderr
    assert sys.modules["json"] is json_before


# -- names that are read from files -------------------------------------------------------------


def test_a_record_from_elsewhere_chooses_no_place(tmp_path: Path) -> None:
    study = write_study(tmp_path / "results" / "s", ("sde",), (0,), failed=None)
    record = read_record(study / "sde-seed0").model_copy(update={"study": "../../esc"})
    with pytest.raises(UserError, match=r"study '../../esc': use letters"):
        repeat.claim(tmp_path / "results", record, None)  # type: ignore[arg-type]
    assert not list(tmp_path.glob("esc*"))


def test_a_page_of_damages_is_not_put_into_a_study(call_bench: Bench, tmp_path: Path) -> None:
    write_study(tmp_path / "results" / "digits-sensitivity", ("sde",), (0,), failed=None)
    done = call_bench("sensitivity", "--dataset", "digits", "--device", "cpu")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "is a study's folder; give another one with --into" in done.stderr
