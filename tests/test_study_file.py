"""``study.yaml`` is typed: what is written reads back, older files too, and others are refused."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml

from bench import data, metrics
from bench.commands.run import RunOptions
from bench.commands.run.request import resolve
from bench.config.errors import UserError
from bench.config.schema import CellConfig
from bench.config.text import to_yaml
from bench.progress.display import Display
from bench.records.files import write_text
from bench.records.record import CONFIG, now
from bench.records.study_file import (
    CONTENT,
    REPRODUCED,
    STUDY,
    Prepared,
    StudyFile,
    check_content,
    find_study,
    is_study,
    placed_config,
    read_study,
    write_study,
)
from bench.report.frame import difference
from bench.report.plots import write as plots
from bench.study import Request, check_study, preparation

from . import fake_study
from .conftest import Bench
from .pictures import png, write_zip

REFERENCE = Path(__file__).parent.parent / "results" / "reference"
PREPARED = Prepared(data_sha256="d" * 64, extractors={"digits": "e" * 64}, notes=["a note"])


@pytest.fixture
def request_(tmp_path: Path) -> Request:
    return resolve(
        RunOptions(methods=("sde",), preset="smoke", device="cpu", study="s", results=tmp_path)
    )


@pytest.fixture
def written(request_: Request) -> StudyFile:
    study = StudyFile(name="s", settings=request_.settings, prepared=PREPARED)
    write_study(study, request_.folder)
    return study


def change(folder: Path, **changes: Any) -> None:
    body = yaml.safe_load((folder / STUDY).read_text())
    (folder / STUDY).write_text(yaml.safe_dump(body | changes))


def test_what_is_written_reads_back(written: StudyFile, request_: Request) -> None:
    assert is_study(request_.folder)
    assert not is_study(request_.folder.parent)
    assert read_study(request_.folder) == written
    check_study(request_)


@pytest.mark.parametrize("folder", sorted(REFERENCE.glob(f"*/{STUDY}")), ids=str)
def test_files_of_older_versions_read(folder: Path) -> None:
    """They name one extractor by its hash alone, and lack later settings."""
    study = read_study(folder.parent)
    assert len(study.prepared.data_sha256) == 64
    assert study.settings.size is None
    assert study.prepared.reference_sha256 is None


def test_another_setting_is_refused_by_name(written: StudyFile, request_: Request) -> None:
    settings = written.settings.model_dump(mode="json")
    change(request_.folder, settings=settings | {"threads": 7})
    with pytest.raises(UserError, match=r"threads = 7, not .*give another --study"):
        check_study(request_)


def test_a_setting_of_another_version_is_refused(written: StudyFile, request_: Request) -> None:
    settings = written.settings.model_dump(mode="json")
    change(request_.folder, settings=settings | {"of_old": 7})
    with pytest.raises(UserError, match=r"key 'settings.of_old'.*give another --study"):
        check_study(request_)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[", "cannot be read"),
        ("- 1\n", "study.yaml: "),
        ("name: s\n", "settings"),
    ],
)
def test_an_unreadable_file_is_told_in_a_line(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / STUDY).write_text(text)
    with pytest.raises(UserError, match=said) as error:
        read_study(tmp_path)
    assert "\n" not in str(error.value)


# -- the latest ---------------------------------------------------------------------------------


def small(results: Path, name: str, day: int, **facts: str) -> Path:
    """A study whose cell was started on a day of January; ``facts`` stand in its file."""
    started = f"2026-01-{day:02}T10:00:00+00:00"
    folder = fake_study.write_study(results / name, ("sde",), (0,), None, started=started)
    change(folder, **facts)
    return folder


def test_the_latest_follows_what_studies_tell_not_files_times(tmp_path: Path) -> None:
    """A copy has the time of the copying, and whatever was touched last is no later for it."""
    old, new = small(tmp_path, "z", 1), small(tmp_path, "a", 2)
    os.utime(old / STUDY)
    assert find_study(tmp_path, None) == new
    again = small(tmp_path, "m", 1, commanded="2026-01-03T10:00:00.000+00:00")
    assert find_study(tmp_path, None) == again
    (again / STUDY).write_text("[")
    assert find_study(tmp_path, None) == new


def test_of_two_that_say_the_same_the_last_by_name_is_the_latest(tmp_path: Path) -> None:
    small(tmp_path, "b", 1)
    small(tmp_path, "a", 1)
    assert find_study(tmp_path, None).name == "b"


def test_a_reproduction_is_never_the_latest(tmp_path: Path) -> None:
    """Neither by its file nor, of an older version, by its page; by name it is found."""
    first = small(tmp_path, "digits", 1)
    told = small(tmp_path, "digits-rerun", 2, reproduces="digits/sde-seed0")
    older = small(tmp_path, "digits-rerun2", 3)
    (older / REPRODUCED).write_text("a page")
    assert find_study(tmp_path, None) == first
    assert find_study(tmp_path, "digits-rerun") == told
    shutil.rmtree(first)
    with pytest.raises(UserError, match="never the latest: name digits-rerun, digits-rerun2"):
        find_study(tmp_path, None)


def test_a_study_says_when_it_was_run_and_what_it_repeats(
    request_: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = PREPARED.model_dump()
    monkeypatch.setattr(
        preparation, "LocalExecutor", lambda: SimpleNamespace(start=lambda job: job)
    )
    monkeypatch.setattr(preparation, "follow", lambda handle, tell: None)
    monkeypatch.setattr(preparation, "answer_of", lambda job, end: found)
    request_.folder.mkdir()
    preparation.make_ready(replace(request_, reproduces="a/sde-seed0"), lambda: None, Display())
    study = read_study(request_.folder)
    assert study.reproduces == "a/sde-seed0"
    assert study.commanded[:10] == now()[:10]


@pytest.mark.parametrize("command", ["table", "plot"])
def test_a_command_that_chose_a_study_names_it(
    command: str, call_bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plots, "write_plots", lambda report, say: [])
    small(tmp_path / "results", "digits", 1)
    chosen, named = call_bench(command), call_bench(command, "digits")
    assert "study 'digits', the latest" in chosen.stderr
    assert "latest" not in named.stderr
    assert named.stdout == chosen.stdout


@pytest.mark.parametrize("command", ["sample", "time", "evaluate"])
def test_those_that_measure_again_name_it_too(
    command: str, call_bench: Bench, tmp_path: Path
) -> None:
    """This study's file is none that they can go on with; they say which it is before that."""
    small(tmp_path / "results", "digits", 1)
    (tmp_path / "images").mkdir()
    more = ["images", "--as", "theirs", "--device", "cpu"] if command == "evaluate" else []
    done = call_bench(command, *more)
    assert done.returncode == 2
    assert "study 'digits', the latest" in done.stderr


@pytest.mark.parametrize(
    ("format", "name"),
    [("md", "Study: digits."), ("latex", "tab:digits"), ("json", "Study: digits.")],
)
def test_every_table_names_its_study(format: str, name: str, tmp_path: Path) -> None:
    assert name in fake_study.table(small(tmp_path, "digits", 1), format)


# The same files elsewhere


def asked(results: Path, **options: Any) -> Request:
    defaults = {"methods": ("sde",), "preset": "smoke", "device": "cpu", "dataset": "images64"}
    return resolve(RunOptions(**{**defaults, "results": results, **options}))


def made(request: Request, asked: str = "") -> Path:
    """Write what a finished preparation leaves; older versions left no ``asked``."""
    settings = request.settings
    found = data.load(settings.dataset, path=settings.data, cache=request.cache, size=settings.size)
    known = metrics.identity(settings) | {"data_sha256": found.sha256}
    prepared = Prepared.model_validate(known)
    study = StudyFile(name=request.name, settings=settings, prepared=prepared, asked=asked)
    write_study(study, request.folder)
    return request.folder


@pytest.fixture
def places(tmp_path: Path) -> dict[str, Path]:
    """Three data sets, the second a copy of the first; statistics; each in two places."""
    for name, seed in (("one", 0), ("two", 0), ("other", 9)):
        write_zip(tmp_path / f"{name}.zip", {f"{k}.png": png(seed + k, 64) for k in range(3)}, None)
    np.savez(tmp_path / "ref.npz", mu=np.zeros(2), sigma=np.eye(2))
    shutil.copy(tmp_path / "ref.npz", tmp_path / "ref2.npz")
    np.savez(tmp_path / "ref3.npz", mu=np.ones(2), sigma=np.eye(2))
    return {path.stem: path for path in tmp_path.iterdir()}


@pytest.mark.parametrize("is_old", [True, False])
@pytest.mark.parametrize("more", [{}, {"overrides": ("training.batch=16",)}, {"budget": "1kimg"}])
def test_a_study_is_found_by_the_content_of_its_data(
    tmp_path: Path, places: dict[str, Path], more: dict[str, Any], is_old: bool
) -> None:
    results = tmp_path / "results"
    request = asked(results, data=places["one"], **more)
    folder = made(request, "" if is_old else request.asked)
    assert asked(results, data=places["one"], **more).folder == folder
    assert asked(results, data=places["two"], **more).folder == folder
    places["one"].rename(tmp_path / "gone.zip")
    assert asked(results, data=places["two"], **more).folder == folder
    assert asked(results, data=places["other"], **more).folder != folder
    assert asked(results, data=places["two"], budget="2kimg").folder != folder
    # It went on there, and its files are moved once more.
    again = asked(results, data=places["two"], **more)
    made(again, again.asked)
    places["two"].rename(tmp_path / "three.zip")
    assert asked(results, data=tmp_path / "three.zip", **more).folder == folder
    assert asked(results, data=places["other"], **more).folder != folder


def test_a_study_is_found_by_the_content_of_its_statistics(
    tmp_path: Path, places: dict[str, Path]
) -> None:
    results = tmp_path / "results"
    folder = made(asked(results, data=places["one"], reference=places["ref"]))
    for name in ("ref", "ref2"):
        assert asked(results, data=places["two"], reference=places[name]).folder == folder
    assert asked(results, data=places["two"], reference=places["ref3"]).folder != folder
    assert asked(results, data=places["two"]).folder != folder


def test_a_study_is_found_by_the_content_of_its_weights(
    tmp_path: Path, places: dict[str, Path]
) -> None:
    results, also = tmp_path / "results", ("evaluation.also=[mine]",)
    named = {name: f"mine={places[name]}" for name in places}
    folder = made(asked(results, data=places["one"], weights=(named["ref"],), overrides=also))
    again = {"data": places["two"], "overrides": also}
    assert asked(results, weights=(named["ref2"],), **again).folder == folder
    assert asked(results, weights=(named["ref3"],), **again).folder != folder


def test_files_elsewhere_that_differ_are_refused(tmp_path: Path, places: dict[str, Path]) -> None:
    request = asked(tmp_path / "results", study="s", data=places["one"], reference=places["ref"])
    made(request)
    for changes in ({"data": places["two"]}, {"reference": places["ref2"]}):
        moved = request.settings.model_copy(update=changes)
        check_study(replace(request, settings=moved))
        check_content(request.folder, moved, read_study(request.folder).prepared.model_dump())
    for place, part in CONTENT.items():
        moved = request.settings.model_copy(update={place: {"x": places["other"]}})
        found = read_study(request.folder).prepared.model_dump() | {part: "other"}
        with pytest.raises(UserError, match=f"was run with {place} = .* is not the same"):
            check_content(request.folder, moved, found)
        # In its own place a file that has changed makes cells stale, as it always has.
        check_content(request.folder, request.settings, found)


def test_values_compare_by_the_content_of_files_and_not_by_their_names() -> None:
    one = {"data": "own-zip", "data_sha256": "a", "reference_file": "x", "reference_sha256": "b"}
    assert not difference(one, one | {"data": "own-folder", "reference_file": "y"})
    assert "data_sha256" in difference(one, one | {"data_sha256": "c"})
    assert "reference_sha256" in difference(one, one | {"reference_sha256": "c"})
    assert "data is" in difference({"data": "cifar10"}, {"data": "cifar10-jpeg"})


def test_a_cell_has_its_files_where_its_study_had_them_last(
    tmp_path: Path, places: dict[str, Path]
) -> None:
    request = asked(tmp_path / "results", study="s", data=places["one"])
    cell = made(request) / "sde-seed0"
    config = CellConfig(settings=request.settings, method="sde", method_config={}, seed=0)
    write_text(cell / CONFIG, to_yaml(config))
    assert placed_config(cell) == config
    moved = request.settings.model_copy(update={"data": places["two"]})
    write_study(StudyFile(name="s", settings=moved, prepared=PREPARED), request.folder)
    assert placed_config(cell).settings == moved
    (request.folder / STUDY).unlink()
    assert placed_config(cell) == config
