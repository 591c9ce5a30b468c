"""Studies as a whole: listed, packed up, compared from an archive, removed."""

from __future__ import annotations

import io
import re
import shutil
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bench.commands.settings import resolve_settings
from bench.commands.studies.listing import describe, lay_out, spans
from bench.config import choose_preset
from bench.config.errors import UserError
from bench.records import CellLock, Prepared, StudyFile, in_use, opened_study, record
from bench.records.record import Status
from bench.records.study_file import write_study as write_study_file
from bench.tracking import Tracker
from bench.tracking.store import DATABASE, URI

from .conftest import Bench
from .fake_study import write_study
from .stores import copy_store, reopen, runs


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(URI, raising=False)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A study of four methods and three seeds, of which one cell failed."""
    folder = write_study(tmp_path / "results" / "digits-quick")
    write_study_file(study_file(), folder)
    return folder


def study_file() -> StudyFile:
    name, preset = choose_preset("digits", "quick", "cpu")
    settings = resolve_settings(
        "digits", name, preset, device="cpu", data=None, weights=(), reference=None
    )
    told: Any = {"settings": settings, "prepared": Prepared(data_sha256="aa")}
    return StudyFile(name="digits-quick", commanded="2026-05-04T03:02:01+00:00", **told)


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# Listed -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seeds", "text"), [([], ""), ([0, 1, 2], "0-2"), ([0, 2, 3, 7], "0,2-3,7"), ([4], "4")]
)
def test_seeds_are_written_as_they_are_typed(seeds: list[int], text: str) -> None:
    assert spans(seeds) == text


def test_a_study_is_a_line(study: Path) -> None:
    file = study_file()
    other = file.settings.model_copy(update={"threads": 7})
    told = {"settings": other, "overrides": ["sde.sampler.steps=9", "threads=7"]}
    write_study_file(file.model_copy(update=told), study)
    name, data, methods, seeds, unlike, state, _, date = describe(study)
    assert (name, data, methods) == ("digits-quick", "digits quick", "cdm, dlsm, sde, smm")
    assert (seeds, state, date) == ("0-2", "11 finished, 1 diverged", "2026-05-04")
    assert unlike == "threads=7, sde.sampler.steps=9"
    write_study_file(file, study)
    assert describe(study)[4] == "-"
    write_study_file(file.model_copy(update={"reproduces": "a/b"}), study)
    assert describe(study)[4] == "repeats a/b"


def test_what_no_process_works_on_is_not_running(study: Path) -> None:
    row = record.load(study / "sde-seed0")
    assert row is not None
    record.save(row.model_copy(update={"status": Status.RUNNING}), study / "sde-seed0")
    assert "1 interrupted" in describe(study)[5]
    lock = CellLock(study / "sde-seed0")
    assert lock.acquire()
    assert "1 running" in describe(study)[5]
    lock.close()


def test_a_study_that_cannot_be_read_is_listed(study: Path) -> None:
    (study / "study.yaml").write_text("name: [")
    (study / "cdm-seed1" / "record.json").write_text("{")
    line = describe(study)
    assert line[5] == "study.yaml cannot be read"
    assert line[2] == "cdm, dlsm, sde, smm"


@pytest.mark.parametrize("width", [80, 100, 200])
def test_the_list_fits_a_terminal(width: int) -> None:
    methods = "cdm:as_released, dlsm:balance_0+ve_levels, sde:conditional, smm:two_time_scales"
    line = ["a-long-name-of-a-study", "fashion-mnist quick", methods, "0-2,7", "16kimg, a.b.c=0.5",
            "10 finished, 2 diverged", "7.74 MiB", "2026-11-29"]  # fmt: skip
    screen = io.StringIO()
    Console(file=screen, width=width).print(lay_out([line, line]))
    lines = screen.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    for whole in ("0-2,7", "7.74 MiB", "2026-11-29"):
        assert screen.getvalue().count(whole) == 2
    # Broken into lines, and nothing cut off.
    joined = re.sub(r"\s", "", "".join(lines))
    assert all(part[:4] in joined for part in methods.split(", "))
    assert "…" not in screen.getvalue()


def test_studies_are_listed_in_a_line_each_through_a_pipe(study: Path, call_bench: Bench) -> None:
    write_study(study.parent / "b", ("sde",))
    done = call_bench("studies")
    assert done.returncode == 0
    head, *lines = done.stdout.splitlines()
    assert head.startswith("study ")
    assert [line.split()[0] for line in lines] == ["b", "digits-quick"]
    assert call_bench("studies", "--results", "nowhere").stdout.startswith("no study under")


# Packed up ----------------------------------------------------------------------------------------


def test_an_archive_has_what_may_be_shown_and_the_same_bytes(
    study: Path, tmp_path: Path, call_bench: Bench
) -> None:
    for name in ("checkpoint.pt", "features-digits.npz", "log.txt", "job.json", "config.yaml"):
        (study / "sde-seed0" / name).write_text("x")
    (study / "stages" / "a").mkdir(parents=True)
    (study / "stages" / "a" / "b.json").write_text("x")
    for name in ("one.zip", "two.zip"):
        done = call_bench("export", "digits-quick", name)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    names = {Path(name) for name in zipfile.ZipFile(tmp_path / "one.zip").namelist()}
    assert {name.parts[0] for name in names} == {"digits-quick"}
    in_cell = {name.name for name in names if name.parts[1] == "sde-seed0"}
    assert {"record.json", "config.yaml", "metrics.jsonl"} <= in_cell
    assert not in_cell & {"checkpoint.pt", "features-digits.npz", "log.txt", "job.json"}
    with zipfile.ZipFile(tmp_path / "one.zip") as archive:
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_DEFLATED}
    assert {"table.md", "table.csv", "study.yaml"} <= {name.name for name in names}
    assert not any("stages" in name.parts or name.suffix in {".pt", ".npz"} for name in names)


@pytest.mark.parametrize(
    ("file", "told"),
    [("x.tar", "does not end in .zip"), ("here.zip", "is there already"),
     ("no/such/\0.zip", "cannot be")],
)  # fmt: skip
def test_where_no_archive_can_be_written(
    study: Path, tmp_path: Path, call_bench: Bench, file: str, told: str
) -> None:
    (tmp_path / "here.zip").write_text("mine")
    if "\0" in file:
        (tmp_path / "no").write_text("a file")
        file = "no/x.zip"
    done = call_bench("export", "digits-quick", file)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert told in done.stderr or "Not a directory" in done.stderr
    assert (tmp_path / "here.zip").read_text() == "mine"


def test_links_are_not_followed_out_of_a_study(study: Path, call_bench: Bench) -> None:
    (study / "sde-seed0" / "more.txt").symlink_to("/etc/hostname")
    done = call_bench("export", "digits-quick", "x.zip")
    assert (done.returncode, "is a link" in done.stderr) == (2, True)
    (study.parent / "linked").symlink_to(study)
    done = call_bench("remove", "linked", "--yes")
    assert (done.returncode, "is a link to" in done.stderr) == (2, True)
    assert study.exists()


def test_an_archive_is_compared_as_its_study(study: Path, call_bench: Bench) -> None:
    assert call_bench("export", "digits-quick", "theirs.zip").returncode == 0
    shutil.copytree(study, study.parent / "again")
    packed = call_bench("compare", "theirs.zip", "digits-quick")
    beside = call_bench("compare", "again", "digits-quick")
    assert packed.returncode == beside.returncode == 0, packed.stderr
    assert packed.stdout.splitlines()[0] == "A: theirs.zip"
    assert packed.stdout.splitlines()[1:] == beside.stdout.splitlines()[1:]
    assert "Nothing else differs" in packed.stdout


def zipped(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, body in members.items():
            archive.writestr(name, body)
    return path


@pytest.mark.parametrize(
    ("members", "told"),
    [
        (None, "cannot be unpacked"),
        ({"a/table.md": b"x"}, "does not hold one study"),
        ({"a/study.yaml": b"x", "b/study.yaml": b"x"}, "does not hold one study"),
    ],
)
def test_what_is_no_study_s_archive(
    tmp_path: Path, members: dict[str, bytes] | None, told: str
) -> None:
    path = tmp_path / "x.zip"
    path.write_bytes(b"no archive") if members is None else zipped(path, members)
    with pytest.raises(UserError, match=told), opened_study(tmp_path, str(path)):
        pass
    with pytest.raises(UserError, match="cannot be read"), opened_study(tmp_path, "none.zip"):
        pass


def test_an_archive_writes_nowhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "tmp"
    place.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place))
    wild = zipped(
        tmp_path / "x.zip", {"../../out": b"x", "/etc/out": b"x", "a/study.yaml": b"name: a"}
    )
    before = {path for path in tmp_path.rglob("*")}
    with opened_study(tmp_path, str(wild)) as folder:
        assert folder.name == "a"
        assert all(place in path.parents for path in {*tmp_path.rglob("*")} - before)
    assert {path for path in tmp_path.rglob("*")} == before


def test_an_archive_that_would_fill_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.records.archive.LARGEST", 99)
    path = zipped(tmp_path / "x.zip", {"a/study.yaml": b"#" * 100})
    with pytest.raises(UserError, match="more than any study"), opened_study(tmp_path, str(path)):
        pass


def test_the_reference_study_holds_its_records(tmp_path: Path, call_bench: Bench) -> None:
    """Did mine come out like yours? It can be asked of what is in the repository."""
    place = Path(__file__).parents[1] / "results" / "reference" / "digits-quick"
    shutil.copytree(place, tmp_path / "again")
    done = call_bench("compare", str(place), str(tmp_path / "again"))
    assert done.returncode == 0, done.stderr
    assert "Equal to the bit" in done.stdout
    for method in ("cdm", "dlsm", "sde", "smm"):
        assert f"- {method}: fd_digits_500" in done.stdout


# Removed ------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_nothing_is_removed_without_a_word(
    study: Path, call_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = content(study)
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    done = call_bench("remove", "digits-quick")
    assert done.returncode == 2
    assert "bench remove digits-quick --yes" in done.stderr
    monkeypatch.setattr(sys, "stdin", Terminal("\n"))
    done = call_bench("remove", "digits-quick")
    assert (done.returncode, "nothing was removed" in done.stdout) == (1, True)
    assert call_bench("remove", "digits-quick", "nosuch", "--yes").returncode == 2
    assert {k: v for k, v in content(study).items() if not k.startswith(".")} == before


def test_studies_are_removed_whole(
    study: Path, call_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = write_study(study.parent / "b", ("sde",))
    kept = write_study(study.parent / "c", ("sde",))
    before = content(kept)
    monkeypatch.setattr(sys, "stdin", Terminal("y\n"))
    done = call_bench("remove", "digits-quick", "b")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in study.parent.iterdir()] == ["c"]
    assert not other.exists()
    assert content(kept) == before


def test_no_answer_is_none(study: Path, call_bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(""))
    assert call_bench("remove", "digits-quick").returncode == 1
    assert study.exists()


def test_a_study_whose_command_runs_stays(study: Path, call_bench: Bench) -> None:
    """Before its first cell has begun, and between two."""
    with in_use(study), in_use(study):
        done = call_bench("remove", "digits-quick", "--yes")
    assert (done.returncode, study.exists()) == (2, True)
    assert "in use by another command" in done.stderr
    with in_use(study, alone=True), pytest.raises(UserError, match="in use"), in_use(study):
        pass


def test_the_list_forgets_what_is_removed(study: Path, call_bench: Bench) -> None:
    page = study.parent / "index.html"
    assert call_bench("report", "digits-quick").returncode == 0
    assert "digits-quick/report.html" in page.read_text()
    assert call_bench("remove", "digits-quick", "--yes").returncode == 0
    assert "digits-quick" not in page.read_text()


def test_a_study_that_is_worked_on_stays(study: Path, call_bench: Bench) -> None:
    lock = CellLock(study / "sde-seed0")
    assert lock.acquire()
    done = call_bench("remove", "digits-quick", "--yes")
    lock.close()
    assert (done.returncode, study.exists()) == (2, True)
    assert "is being worked on" in done.stderr


def test_its_runs_are_marked_as_deleted_and_others_stay(
    study: Path, empty_store: Path, call_bench: Bench
) -> None:
    results = study.parent
    other = write_study(results / "b", ("sde",))
    copy_store(empty_store, results / DATABASE)
    tracker = reopen(results)
    assert tracker.sync_study(study)
    assert tracker.sync_study(other)
    count = len(runs(tracker, study="digits-quick"))
    assert count == 13
    done = call_bench("remove", "digits-quick", "--yes")
    assert done.returncode == 0, done.stderr
    assert f"{count} runs marked as deleted in MLflow" in done.stdout
    tracker = reopen(results)
    assert runs(tracker, study="digits-quick") == []
    assert len(runs(tracker, study="b")) == 4


@pytest.mark.parametrize("fault", ["not opened", "no answer"])
def test_a_store_that_does_not_answer_keeps_the_study(
    study: Path, empty_store: Path, call_bench: Bench, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    copy_store(empty_store, study.parent / DATABASE)
    if fault == "not opened":
        (study.parent / DATABASE).write_bytes(b"no database" * 99)
    else:

        def refuse(*_: Any) -> int:
            raise ConnectionError("the store is down")

        monkeypatch.setattr(Tracker, "delete_runs", refuse)
    before = content(study)
    done = call_bench("remove", "digits-quick", "--yes")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "nothing was removed" in done.stderr
    assert {k: v for k, v in content(study).items() if not k.startswith(".")} == before
