"""What is not taken on trust: where source comes from, what methods give, what cells tell."""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from bench import metrics, study
from bench.cli import main
from bench.commands.run import RunOptions, command
from bench.commands.run.request import resolve
from bench.config import UserError, digest
from bench.executors import End, Job, LocalExecutor, explain_end, follow
from bench.executors.job import packages
from bench.executors.local import GRACE_SECONDS
from bench.progress.display import Display, describe
from bench.records import Attempt, CellLock, Status, note_death, record
from bench.records.orphans import read_sign
from bench.records.plugins import LeavingError, contained
from bench.records.source_code import check_source, source_digest, source_files, source_hashes
from bench.report.study_report import StudyReport
from bench.report.table.formats import render_table
from bench.sampling.source import Source
from bench.study.runner import Stopping
from bench.tracking import NullTracker
from methods import registry

from .conftest import Bench, Build
from .fake_study import PREPARED, make_record, write_study
from .tiny import GREY

# -- one source --------------------------------------------------------------------------------

SHADOWS = ("random", "torch", "yaml", "cyclopts", "methods", "numpy")


def test_nothing_of_the_current_folder_is_run_by_python_m(run_bench: Bench, tmp_path: Path) -> None:
    for name in SHADOWS:
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('{name} of the current folder')")
    done = run_bench("methods")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_job_knows_where_our_packages_are() -> None:
    root = Path(__file__).parent.parent
    found = packages()
    assert found.keys() == {"bench", "methods"}
    assert all(Path(path).exists() for path in found.values())
    if (root / "bench").samefile(Path(found["bench"]).parent):
        assert (root / "methods").samefile(Path(found["methods"]).parent)


def test_a_process_of_another_source_ends_with_a_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from bench.executors import BAD_INPUT, serve

    there = packages() | {"methods": "/elsewhere/methods/__init__.py"}
    job = Job(task="t", folder=tmp_path, cache=tmp_path, packages=there)
    job.write()
    monkeypatch.setattr(sys, "argv", ["t", str(job.path)])
    monkeypatch.setattr(faulthandler, "enable", lambda: None)
    with pytest.raises(SystemExit) as ended:
        serve(lambda job: pytest.fail("it was run all the same"))
    assert ended.value.code == BAD_INPUT
    assert "and not" in capsys.readouterr().out.partition("/elsewhere/methods")[0]


def test_a_cell_s_process_holds_its_source_against_the_key() -> None:
    hashes = source_hashes("methods.sde")
    check_source("sde", f"x-{digest(hashes)[:20]}", hashes)
    before = hashes | {"methods.noise": "0" * 64}
    with pytest.raises(UserError, match=r"changed: methods/noise\.py; give the command again"):
        check_source("sde", f"x-{digest(before)[:20]}", before)


@pytest.mark.slow
def test_a_finished_cell_of_another_source_is_not_drawn_from(smoke_copy: Path) -> None:
    from bench.records import load, read_study, save
    from bench.worker import load_finished

    folder = smoke_copy / "sde-seed0"
    row = load(folder)
    assert row is not None
    save(row.model_copy(update={"key": f"{row.key[:20]}-{'0' * 20}"}), folder)
    sha256 = read_study(smoke_copy).prepared.data_sha256
    with pytest.raises(UserError, match="the source of 'sde' is not that"):
        load_finished(folder, smoke_copy.parent / "cache", sha256)


# -- plug-ins of several files -----------------------------------------------------------------

METHOD = """
from methods.sde import SDE

class Own(SDE):
    '''A baseline.'''
    name = "own"
"""
PACKAGE = {
    "myp/__init__.py": "from myp.method import Own\n",
    "myp/method.py": (
        "import json\nimport torch\nimport beside\nfrom myp.net import SCALE\n"
        "from . import losses\nfrom .deep import inner\n" + METHOD
    ),
    "myp/net.py": "SCALE = 1.0\n",
    "myp/losses.py": "try:\n    from ....above import x\nexcept ImportError:\n    pass\n",
    "myp/deep/__init__.py": "",
    "myp/deep/inner.py": "from .. import far\n",
    "myp/far.py": "",
    "myp/unused.py": "",
    "beside.py": "import further\n",
    "further.py": "",
    "stranger.py": "",
}
WANTED = {
    "myp", "myp.method", "myp.net", "myp.losses", "myp.deep", "myp.deep.inner", "myp.far",
    "beside", "further",
}  # fmt: skip
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write a plug-in's files into a folder that is on Python's path while the test runs."""
    before = set(sys.modules)

    def make(place: str, files: dict[str, str]) -> Path:
        folder = tmp_path / place
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        monkeypatch.syspath_prepend(folder)
        return folder

    yield make  # type: ignore[misc]
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def own(files: dict[str, Path]) -> set[str]:
    return {name for name in files if name.split(".")[0] != "methods"}


@pytest.mark.slow
def test_all_files_of_a_plug_in_count(write: Write) -> None:
    folder = write("project", PACKAGE)
    found = source_files("myp.method")
    assert own(found) == WANTED
    assert {"methods.sde", "methods.noise"} <= found.keys()
    for name in ("myp.net", "myp.far", "further"):
        before = source_digest("myp.method")
        path = found[name]
        path.write_text(f"{path.read_text()}\nchanged = True\n")
        assert source_digest("myp.method") != before, name
    before = source_digest("myp.method")
    for name in ("myp/unused.py", "stranger.py"):
        (folder / name).write_text("changed = True\n")
    assert source_digest("myp.method") == before


@pytest.mark.parametrize("recorded", [True, False])
def test_where_packages_are_installed_the_distribution_counts(write: Write, recorded: bool) -> None:
    folder = write("lib/site-packages", PACKAGE)
    info = folder / "myp-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: myp\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[{registry.GROUP}]\nown = myp:Own\n")
    if recorded:
        names = [name for name in PACKAGE if name not in {"stranger.py", "further.py"}]
        (info / "RECORD").write_text("".join(f"{name},,\n" for name in names))
    found = own(source_files(registry.load("own").__module__))
    assert found == WANTED - ({"further"} if recorded else {"beside", "further"})


def test_a_plug_in_of_one_file_has_the_key_that_it_had(write: Write) -> None:
    write("alone", {"single.py": METHOD})
    found = source_files("single")
    assert own(found) == {"single"}
    assert found.keys() - {"single"} == source_files("methods.sde").keys()


# -- what a method's sampler gives -------------------------------------------------------------

ASKED = "asked for (4, 1, 8, 8) float"
GIVEN: dict[str, tuple[Callable[[torch.Tensor], object], str]] = {
    "one too many": (lambda x: torch.cat([x, x[:1]]), f"(5, 1, 8, 8) float32; {ASKED}"),
    "too few": (lambda x: x[:3], f"(3, 1, 8, 8) float32; {ASKED}"),
    "bytes": (lambda x: x.mul(127).to(torch.uint8), f"(4, 1, 8, 8) uint8; {ASKED}"),
    "flat": (lambda x: x[:, 0], f"(4, 8, 8) float32; {ASKED}"),
    "channels last": (lambda x: x.permute(0, 2, 3, 1), f"(4, 8, 8, 1) float32; {ASKED}"),
    "no tensor": (lambda x: x.numpy(), f"a ndarray; {ASKED}"),
    "elsewhere": (lambda x: x.to("meta"), "samples on meta; asked for them on cpu"),
    "a graph": (lambda x: x.requires_grad_(), "samples with a graph; detach them"),
}
"""What may become of right samples, and what is said of it after `the method gave`."""


def source_of(build: Build, change: Callable[[torch.Tensor], object], **more: Any) -> Source:
    """A source of a method that gives right samples, changed."""
    method = build("sde", sampler={"name": "heun", "steps": 2})
    right = method.sample
    method.sample = lambda n, **given: change(right(n, **given).clone())  # type: ignore[method-assign]
    return Source(
        method, shape=(1, 8, 8), device=torch.device("cpu"), precision="fp32", seed=0,
        stream="samples", frequencies=None, **more,
    )  # fmt: skip


@pytest.mark.parametrize("fault", GIVEN)
def test_samples_that_are_not_what_was_asked_for_end_in_a_sentence(
    build: Build, fault: str
) -> None:
    change, told = GIVEN[fault]
    with pytest.raises(UserError) as refused:
        source_of(build, change).batch(4, 0)
    assert str(refused.value) == f"the method gave {told}"


@pytest.mark.parametrize(
    ("change", "note"),
    [
        (lambda x: x.sin(), ""),
        (lambda x: x.clamp(-1, 1), ""),
        (lambda x: x.sigmoid(), "should in [-1, 1]"),
        (lambda x: x.sigmoid() * 255, "should in [-1, 1]"),
        (lambda x: x * 100, "should in [-1, 1]"),
    ],
)
def test_a_range_that_cannot_be_right_is_noted(
    build: Build, change: Callable[[torch.Tensor], object], note: str
) -> None:
    source = source_of(build, change)
    for index in range(2):
        source.on_host(source.batch(4, index)[0])
    assert source.note is not None
    assert (note in source.note) if note else source.note == ""


def test_one_odd_batch_is_no_odd_method(build: Build) -> None:
    source = source_of(build, lambda x: x)
    for images in (torch.ones(1, 1, 8, 8), -torch.ones(1, 1, 8, 8), torch.ones(1, 1, 8, 8)):
        source.on_host(images)
    assert source.note == ""


def test_labels_stay_those_that_were_asked_for(build: Build) -> None:
    source = source_of(build, lambda x: x)
    source.frequencies = np.full(10, 0.1)
    asked = source.labels(4, 0)
    assert asked is not None

    def greedy(n: int, *, labels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return labels.zero_().reshape(n, 1, 1, 1) * torch.ones(n, 1, 8, 8)

    source.method.sample = greedy  # type: ignore[method-assign]
    _, told = source.batch(4, 0)
    assert told is not None
    assert torch.equal(told, asked)
    assert asked.any()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda x: x.mean((1, 2, 3), keepdim=True), "(4, 1, 1, 1) float32; asked for (4, 1, 8, 8)"),
        (lambda x: x[:, 0], "(4, 8, 8) float32; asked for (4, 1, 8, 8)"),
        (lambda x: x > 0, "(4, 1, 8, 8) bool; asked for (4, 1, 8, 8)"),
    ],
)
def test_a_denoiser_s_answer_is_held_against_what_was_asked_for(
    build: Build, change: Callable[[torch.Tensor], torch.Tensor], told: str
) -> None:
    """Another shape would be spread over all pixels, and give a number."""
    method = build("sde")
    data: Any = SimpleNamespace(variant="digits", sha256="0", truth=None)
    right = method.denoiser_for(None)
    assert right is not None
    method.denoiser_for = lambda labels: lambda x, sigma: change(right(x, sigma))  # type: ignore[method-assign]
    with pytest.raises(UserError, match=re.escape(f"the denoiser gave {told} float")):
        metrics.diagnose(
            method, data, GREY, n=4, labels=lambda: None,
            generator=torch.Generator(),
        )  # fmt: skip


def test_a_note_on_samples_stands_under_the_table(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "s", seeds=(0,))
    path, row = next(record.cells(folder))
    said = "its samples lie in [0, 255], and should in [-1, 1]"
    record.save(row.model_copy(update={"notes": [said]}), path)
    assert f"{row.cell}: {said}." in render_table(StudyReport.read(folder))


# -- what a cell tells -------------------------------------------------------------------------


@pytest.fixture
def work(tmp_path: Path) -> study.CellWork:
    asked = RunOptions(
        methods=("sde", "cdm"), preset="smoke", device="cpu", study="s", results=tmp_path
    )
    return study.CellWork(
        resolve(asked), {**PREPARED, "data_variant": "d"}, NullTracker(), Display()
    )


def ended(code: int = 0, *, asked: bool = False) -> End:
    status, reason = explain_end(code, "log.txt")
    return End(code, Status.INTERRUPTED if asked else status, reason, 7, 1.0, asked)


def swapped(text: str, **changes: Any) -> str:
    return json.dumps(json.loads(text) | changes)


BROKEN_RECORDS: dict[str, Callable[[str], str]] = {
    "gone": lambda text: "",
    "bytes": lambda text: "\0\1",
    "half": lambda text: text[: len(text) // 2],
    "a list": lambda text: "[1]",
    "another cell's": lambda text: swapped(text, cell="sde-seed0"),
    "another key": lambda text: swapped(text, key="x-y"),
    "a status of its own": lambda text: swapped(text, status="splendid"),
    "endless": lambda text: swapped(text, ledger={"train": float("inf")}),
    "before its time": lambda text: swapped(text, ledger={"train": -1.0}),
}


@pytest.mark.parametrize("fault", BROKEN_RECORDS)
def test_a_broken_record_costs_its_cell_alone(work: study.CellWork, fault: str) -> None:
    cell = next(c for c in study.plan(work.request, PREPARED) if c.config.method == "cdm")
    work.write(cell)
    path = cell.folder / "record.json"
    path.write_text(BROKEN_RECORDS[fault](path.read_text()) or "")
    if fault == "gone":
        path.unlink()
    work.display.start(cell.folder.name, "")
    work.close(cell, ended())
    row = record.load(cell.folder)
    assert row is not None
    assert (row.cell, row.key, row.status) == ("cdm-seed0", cell.key, Status.KILLED)
    assert row.reason.endswith("its record could not be read")
    kept = list((cell.folder / "replaced").glob("record-*.json"))
    assert len(kept) == (fault != "gone")
    # What was stopped goes on, as if it had told so.
    path.write_text("{")
    work.display.start(cell.folder.name, "")
    work.close(cell, ended(75, asked=True))
    assert study.decide(cell, frozenset())[0] == "resume"


@pytest.mark.parametrize("fault", ["taken up", "moved away"])
def test_a_cell_that_another_command_has_taken_up_is_that_one_s(
    work: study.CellWork, fault: str
) -> None:
    """As soon as a process is gone its cell is free, which is before this command has seen it."""
    cell = next(c for c in study.plan(work.request, PREPARED) if c.config.method == "cdm")
    work.write(cell)
    path = cell.folder / "record.json"
    row = record.load(cell.folder)
    assert row is not None
    if fault == "moved away":
        study.replace(cell.folder)
    else:
        record.save(row.model_copy(update={"status": Status.RUNNING}), cell.folder)
    other = CellLock(cell.folder)
    assert other.acquire()
    before = path.read_bytes() if path.exists() else None
    work.display.start(cell.folder.name, "")
    work.close(cell, ended(-9))
    assert (path.read_bytes() if path.exists() else None) == before
    other.close()


SIGNS = [
    b"not json", b"[1]", b"\xff\xfe", b"{}", b'{"phase": 3}', b'{"phase": "x", "images": "many"}',
    b'{"phase": "x", "rate": Infinity}', b'{"phase": "x", "loss": [1]}', b'{"phase": ["x"]}',
    b'{"phase": "x", "stage": {"a": 1}}', b'{"phase": "x", "fraction": 1e999}',
    b'{"phase": "' + b"x" * 300 + b'"}', b'{"phase": "x"' + b" " * 10**6 + b"}", b"[" * 10**5,
    b'{"phase": "x", "seconds": -1}', b'{"phase": "x", "images": ' + b"9" * 500 + b"}",
]  # fmt: skip


@pytest.mark.parametrize("sign", SIGNS, ids=range(len(SIGNS)))
def test_a_bad_word_is_not_heard(tmp_path: Path, sign: bytes) -> None:
    path = tmp_path / "alive"
    path.write_bytes(sign)
    found = read_sign(path)
    assert found is None or not found.phase
    row = make_record(tmp_path, "sde", 0).model_copy(
        update={"attempts": [Attempt(started="", pid=1, host="")]}
    )
    note_death(row, tmp_path)
    assert row.attempts[-1].seconds == 0.0


def test_a_pipe_is_no_sign_of_life(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "alive")
    assert read_sign(tmp_path / "alive") is None


def test_what_can_be_heard_can_be_shown(tmp_path: Path) -> None:
    path = tmp_path / "alive"
    path.write_text('{"phase": "training", "fraction": 2,"loss": NaN, "images": 1e99, "rate": -1}')
    sign = read_sign(path)
    assert sign is not None
    assert describe(sign.model_dump(exclude_unset=True)).startswith("training")


def test_lines_that_are_no_points_are_left_out_with_a_word(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = '{"images": 1, "step": 1, "seconds": 1.5, "values": {"loss/x": NaN}}'
    bad = ["not json", "[1]", '{"images": "many"}', '{"images": 1, "seconds": 1, "values": 3}', ""]
    (tmp_path / "metrics.jsonl").write_text("\n".join([bad[0], good, *bad[1:], good, "{half"]))
    points = record.read_curves(tmp_path)
    assert [point["images"] for point in points] == [1, 1]
    assert isinstance(points[0]["images"], int)
    assert f"note: {len(bad)} of 7 lines of" in capsys.readouterr().err


@pytest.mark.usefixtures("processes")
def test_a_cell_whose_source_changed_after_its_plan_is_not_run(work: study.CellWork) -> None:
    cell = next(c for c in study.plan(work.request, PREPARED) if c.config.method == "sde")
    cell.key = f"{cell.key[:20]}-{'0' * 20}"
    cell.identity = dict(cell.identity) | {
        "source": cell.identity["source"] | {"methods.noise": "0"}
    }
    end = follow(LocalExecutor().start(work.lay_out(cell)), lambda told: None)
    row = record.load(cell.folder)
    assert row is not None
    assert (end.code, row.status) == (1, Status.FAILED)
    assert row.reason.endswith("changed: methods/noise.py; give the command again")
    assert not (cell.folder / "checkpoint.pt").exists()


# -- who has a lock ----------------------------------------------------------------------------


@pytest.mark.usefixtures("processes")
def test_a_lock_names_who_has_it_when_its_command_is_gone(tmp_path: Path) -> None:
    lock = CellLock(tmp_path / "sde-seed0")
    assert lock.acquire()
    assert lock.descriptor is not None
    program = [sys.executable, "-c", "import time; time.sleep(60)"]
    process = subprocess.Popen(program, pass_fds=[lock.descriptor])
    lock.close()
    who = json.loads(lock.path.read_text())
    assert lock.holder == f"process {os.getpid()} on {who['host']}: {who['command']}"
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    lock.path.write_text(json.dumps(who | {"pid": gone.pid}))
    assert f"process {process.pid}, left behind by process {gone.pid} on" in lock.holder
    assert lock.holder.endswith(f"which has ended; to end it: kill {process.pid}")
    process.kill()
    process.wait()


# -- third-party code in the command's own process ---------------------------------------------

LEAVES = {
    "leaves": "raise SystemExit(0)",
    "exits": "import sys\nsys.exit()",
    "vanishes": "import os\nos._exit(0)",
    "interrupts": "raise KeyboardInterrupt",
    "aborts": "import os\nfrom os import _exit\n_exit(7)",
}
TOLD = {
    "leaves": "SystemExit(0)", "exits": "SystemExit()", "vanishes": "os._exit(0)",
    "interrupts": "KeyboardInterrupt()", "aborts": "os._exit(7)",
}  # fmt: skip


@pytest.fixture
def leaving(write: Write) -> None:
    """Plug-ins that would end the process which imports them, and one that would not."""
    folder = write("plugins", {f"{name}_.py": code for name, code in LEAVES.items()})
    (folder / "fine_.py").write_text(METHOD)
    info = folder / "leaving-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: leaving\nVersion: 1\n")
    points = [f"{name} = {name}_:Own" for name in [*LEAVES, "fine"]]
    (info / "entry_points.txt").write_text("\n".join([f"[{registry.GROUP}]", *points, ""]))


@pytest.mark.usefixtures("leaving")
def test_plug_ins_that_would_end_the_command_are_listed_as_broken(call_bench: Bench) -> None:
    done = call_bench("methods")
    assert done.returncode == 0
    for name, told in TOLD.items():
        (line,) = [line for line in done.stdout.splitlines() if line.startswith(name)]
        assert "BROKEN" in line
        assert told in line
    assert "fine     A baseline." in done.stdout
    assert "BROKEN" not in next(row for row in done.stdout.splitlines() if row.startswith("fine"))


@pytest.mark.usefixtures("leaving")
def test_the_other_methods_run_beside_one_that_would_end_the_command(tmp_path: Path) -> None:
    asked = RunOptions(
        methods=("sde", *LEAVES, "fine"), preset="smoke", device="cpu", results=tmp_path
    )
    request = resolve(asked)
    assert [*request.methods] == ["sde", "fine"]
    assert {name: told in request.broken[name] for name, told in TOLD.items()} == dict.fromkeys(
        LEAVES, True
    )
    assert os._exit.__module__ == "posix"


@pytest.mark.usefixtures("leaving")
@pytest.mark.parametrize("name", LEAVES)
def test_a_method_that_would_end_the_command_fails_its_check(call_bench: Bench, name: str) -> None:
    done = call_bench("check", name)
    assert done.returncode == 1
    assert TOLD[name] in done.stdout


def test_a_stop_that_was_asked_for_is_one() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever ran here before
    with pytest.raises(KeyboardInterrupt), contained():
        signal.raise_signal(signal.SIGINT)
    with pytest.raises(LeavingError), contained():
        raise KeyboardInterrupt
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_whatever_would_end_the_command_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def leave(*given: object, **more: object) -> None:
        raise SystemExit(0)

    monkeypatch.setattr(sys.modules["bench.cli.main"], "app", leave)
    assert main(["methods"]) == 1
    assert "SystemExit(0)" in capsys.readouterr().err


# -- ten seconds after a request to stop -------------------------------------------------------


@pytest.mark.parametrize("seconds", [-3.0, 0.2])
def test_tables_that_would_take_too_long_are_left_out_with_a_word(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    seconds: float,
) -> None:
    def read(folder: Path) -> None:
        while True:
            with contextlib.suppress(Exception):
                time.sleep(0.01)

    folder = write_study(tmp_path / "a study", seeds=(0,))
    monkeypatch.setattr(StudyReport, "read", read)
    began = time.monotonic()
    command.break_off(folder, seconds)
    assert time.monotonic() - began < 3.0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("tables   left out for want of time: bench table 'a study'")
    assert said[1].startswith("plots    bench plot 'a study'")
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_tables_for_which_there_is_time_are_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_study(tmp_path / "s", seeds=(0,))
    command.break_off(folder, 60.0)
    assert "left out" not in capsys.readouterr().out
    assert (folder / "table.md").exists()


def test_the_time_runs_from_the_first_request(monkeypatch: pytest.MonkeyPatch) -> None:
    stopping = Stopping()
    assert stopping.seconds == 0
    stopping.set()
    first = stopping.since
    stopping.set()
    assert stopping.is_set()
    assert stopping.since == first
    assert 0 <= stopping.seconds < 5
    assert GRACE_SECONDS <= command.LAST_TABLE < 10 - 3 * command.SHORT_PATIENCE
