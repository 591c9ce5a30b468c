"""The command as a user runs it: end to end, with bad input, and with cells that go wrong."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from bench.config.errors import UserError
from bench.config.presets import datasets, presets
from bench.costs.ledger import PARTS
from bench.records import record
from bench.records.record import Status
from methods import registry

from . import forking, plugins
from .conftest import Bench
from .stores import copy_store

ALL = ",".join(registry.names())
SMOKE = ("--dataset", "digits", "--preset", "smoke")
POINTS = ("--dataset", "gmm2d", "--preset", "smoke")


def records(study: Path) -> dict[str, record.Record]:
    return {folder.name: found for folder, found in record.cells(study)}


# -- end to end -----------------------------------------------------------------------------------


@pytest.fixture
def study(smoke: Path) -> Path:
    """All methods at the smoke preset, tracked in MLflow; not to be changed."""
    return smoke / "results" / "digits-smoke"


def test_every_cell_finishes_with_all_its_files(study: Path) -> None:
    files = {"config.yaml", "record.json", "metrics.jsonl", "features-digits.npz", "samples.npz"}
    files |= {"grid.png", "checkpoint.pt", "log.txt", "job.json"}
    for folder, row in record.cells(study):
        assert row.status == Status.FINISHED
        assert {path.name for path in folder.iterdir()} == files
    assert len(records(study)) == 2 * len(registry.names())


def test_metrics_carry_their_provenance(study: Path) -> None:
    for row in records(study).values():
        assert {"fd_digits_100", "is_digits_100"} <= row.metrics.keys()
        for name, value in row.metrics.items():
            assert np.isfinite(value.value)
            assert value.provenance["n"] == (8 if name == "violation" else 100)
            assert len(value.provenance["data_sha256"]) == 64
            if name not in {"violation", "cas_digits_100"}:  # These need no extractor.
                assert len(value.provenance["extractor_sha256"]) == 64
        assert ("violation" in row.metrics) == (row.method != "smm")
    labelled = {"accuracy_digits_100", "fdc_digits_100", "cas_digits_100"}
    assert labelled <= records(study)["dlsm-seed0"].metrics.keys()
    assert not labelled & records(study)["sde-seed0"].metrics.keys()


def test_costs_are_measured(study: Path) -> None:
    for row in records(study).values():
        cost = row.cost
        assert cost.images_seen == pytest.approx(1000, abs=64)
        assert cost.train_flops > 0
        assert cost.sample_flops_per_image is not None
        assert cost.ms_per_image is not None
        assert cost.ms_per_image.repeats >= 10
        assert cost.ms_per_image.low <= cost.ms_per_image.median <= cost.ms_per_image.high
        assert cost.latency_ms is not None
        assert cost.latency_ms.batch == 1
        assert cost.parameters == sum(cost.parameters_by_network.values()) > 0
        parts = sum(row.ledger[part] for part in PARTS)
        assert parts == pytest.approx(row.ledger["wall"], rel=0.01)
    nfe = {row.method: row.cost.nfe for row in records(study).values()}
    assert nfe == {"sde": 6, "cdm": 6, "dlsm": 12, "smm": 1}


def test_every_network_that_runs_is_charged(study: Path) -> None:
    charged = {
        row.method: set(row.cost.train_flops_by_objective) for row in records(study).values()
    }
    assert charged["smm"] == {"generator", "score"}
    assert charged["dlsm"] == {"denoiser", "classifier"}
    flops = {row.method: row.cost.train_flops for row in records(study).values()}
    assert flops["cdm"] / flops["sde"] == pytest.approx(3, rel=0.02)  # One step a branch.


def test_the_table_is_printed_and_written(smoke: Path, study: Path) -> None:
    output = (smoke / "printed.md").read_text()
    for name in registry.names():
        assert re.search(rf"^\| {name} +\| 2/2 ", output, re.MULTILINE)
    assert "real (held-out)" in output
    assert {p.name for p in study.iterdir()} >= {"table.md", "table.csv", "table.tex", "table.json"}
    assert (study / "table.md").read_text().strip() in output
    assert len(list((study / "plots").glob("*.png"))) >= 5


def test_mlflow_holds_what_the_folders_say(study: Path) -> None:
    import mlflow

    store = study.parent / "mlflow.db"
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{store}")
    experiment = client.get_experiment_by_name("digits")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    cells = {run.data.tags["cell"]: run for run in runs if run.data.tags["kind"] != "study"}
    assert cells.keys() == records(study).keys()
    assert {run.info.status for run in runs} == {"FINISHED"}
    for name, row in records(study).items():
        logged = cells[name].data.metrics
        for metric, value in row.metrics.items():
            assert logged[f"quality/{metric}"] == pytest.approx(value.value)
        assert logged["cost/train_flops"] == row.cost.train_flops
        assert row.cost.ms_per_image is not None
        assert logged["timing/ms_per_image"] == row.cost.ms_per_image.median
    (summary,) = (run for run in runs if run.data.tags["kind"] == "study")
    assert "| method" in summary.data.tags["mlflow.note.content"]


@pytest.mark.usefixtures("no_plots")
def test_the_same_command_again_reuses_every_cell(smoke_copy: Path, call_bench: Bench) -> None:
    before = {path: path.stat().st_mtime_ns for path in smoke_copy.glob("*/*")}
    done = call_bench("run", "--methods", ALL, *SMOKE, "--seeds", "0,1", "--no-tracking")
    assert done.returncode == 0
    assert done.stderr.count("reuse (done)") == 2 * len(registry.names())
    kept = {path: time for path, time in before.items() if "seed" in path.parent.name}
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


@pytest.mark.parametrize("format", ["md", "csv", "latex", "json"])
@pytest.mark.usefixtures("smoke_copy", "no_plots")
def test_tables_are_printed_in_each_format(call_bench: Bench, format: str) -> None:
    done = call_bench("table", "--format", format)
    assert done.returncode == 0
    assert "fd" in done.stdout
    assert "smm" in done.stdout
    if format == "json":
        assert json.loads(done.stdout)


@pytest.mark.usefixtures("forks", "no_plots")
def test_sync_adds_untracked_runs_once(
    tmp_path: Path, call_bench: Bench, empty_store: Path
) -> None:
    import mlflow

    done = call_bench("run", "--methods", "smm", *SMOKE, "--no-tracking")
    assert done.returncode == 0
    assert not (tmp_path / "results" / "mlflow.db").exists()
    copy_store(empty_store, tmp_path / "results" / "mlflow.db")
    for _ in range(2):
        done = call_bench("sync")
        assert done.returncode == 0, done.stderr
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/results/mlflow.db")
    experiment = client.get_experiment_by_name("digits")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert sorted(run.data.tags["kind"] for run in runs) == ["cell", "study"]


@pytest.mark.usefixtures("forks", "no_plots")
def test_untracked_runs_need_no_mlflow(call_bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where every import of it fails; that modules are whole without it, test_house holds."""
    for name in ["mlflow", *(name for name in sys.modules if name.startswith("mlflow."))]:
        monkeypatch.setitem(sys.modules, name, None)
    done = call_bench("run", "--methods", "smm", *POINTS, "--no-tracking")
    assert done.returncode == 0, done.stderr


# -- cells that go wrong -----------------------------------------------------------------------


@pytest.mark.usefixtures("forks", "no_plots", "faulty", "results")
def test_failed_cells_stay_apart(tmp_path: Path, call_bench: Bench) -> None:
    """Each fault is a row with its reason, the good method finishes, exit code 1, MLflow agrees."""
    import mlflow

    # What hangs comes first: its 20 s pass beside the others.
    names = sorted(plugins.NAMES, key=lambda name: name != "hangs")
    methods = ",".join([*names, "broken", "smm"])
    limits = ("--timeout", "20", "--memory", "2GiB")
    done = call_bench("run", "--methods", methods, *SMOKE, *limits, "--no-tracking")
    assert done.returncode == 1, done.stderr
    assert call_bench("sync").returncode == 0
    study = tmp_path / "results" / "digits-smoke"
    found = {row.method: (row.status, row.reason) for row in records(study).values()}
    assert found["smm"] == (Status.FINISHED, "")
    assert found["raises"] == (Status.FAILED, "RuntimeError: a planted fault of two lines")
    assert found["diverges"][0] == Status.DIVERGED
    assert "loss/denoiser is nan" in found["diverges"][1]
    assert found["killed"][0] == Status.KILLED
    assert "SIGKILL" in found["killed"][1]
    assert found["crashes"][0] == Status.KILLED
    assert "SIGSEGV" in found["crashes"][1]
    assert "Segmentation fault" in (study / "crashes-seed0" / "log.txt").read_text()
    assert found["hoards"][0] == Status.MEMORY
    assert "past the limit of 2048 MiB" in found["hoards"][1]
    assert found["broken"][0] == Status.FAILED
    assert "no_such_module" in found["broken"][1]
    assert found["exits"] == (Status.KILLED, "its process ended with code 3; see log.txt")
    assert found["unfit"] == (Status.DIVERGED, "a sample is not finite")
    assert found["hangs"] == (Status.TIMEOUT, "ran past the limit of 20 s")
    for name in (*plugins.NAMES, "broken"):
        assert re.search(rf"^\|.*{name}.*\|", done.stdout, re.MULTILINE), name
        assert f"{name}-seed0 did not finish" in done.stderr
    assert "planted fault" in (study / "raises-seed0" / "log.txt").read_text()

    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/results/mlflow.db")
    experiment = client.get_experiment_by_name("digits")
    assert experiment is not None
    for run in client.search_runs([experiment.experiment_id]):
        if run.data.tags["kind"] == "cell":
            good = run.data.tags["method"] == "smm"
            assert run.info.status == ("FINISHED" if good else "FAILED")


@pytest.mark.usefixtures("forks", "no_plots")
def test_a_stopped_command_continues_to_the_same_result(tmp_path: Path, call_bench: Bench) -> None:
    """Ctrl-C in training ends cleanly; the same command goes on; the samples are the same bits."""
    arguments = ["run", "--methods", "sde", *SMOKE, "--budget", "7kimg", "--no-tracking"]
    with forking.command(tmp_path, *arguments, "--results", "stopped") as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "kimg" in line and "score" in line:
                break
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(60) == 130, rest
    (study,) = (tmp_path / "stopped").glob("digits-smoke*")
    row = records(study)["sde-seed0"]
    assert row.status == Status.INTERRUPTED
    assert 0 < read_images(study / "sde-seed0") < 7_000

    resumed = call_bench(*arguments, "--results", "stopped")
    assert resumed.returncode == 0, resumed.stderr
    assert "resume (interrupted)" in resumed.stderr
    whole = call_bench(*arguments, "--results", "whole")
    assert whole.returncode == 0, whole.stderr
    samples = [
        np.load(tmp_path / name / study.name / "sde-seed0" / "samples.npz")["images"]
        for name in ("stopped", "whole")
    ]
    assert np.array_equal(*samples)
    assert len(np.unique(samples[0])) > 10


def read_images(folder: Path) -> int:
    import torch

    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    return int(state["trainer"]["images"])


@pytest.mark.usefixtures("processes")
def test_a_killed_command_leaves_no_orphan(tmp_path: Path) -> None:
    asked = ["--methods", "sde", *POINTS, "--budget", "50000kimg", "--no-tracking"]
    with forking.command(tmp_path, "run", *asked) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "kimg" in line and "score" in line:
                break
        process.kill()
    (study,) = (tmp_path / "results").glob("gmm2d-smoke*")
    pid = records(study)["sde-seed0"].environment["pid"]
    deadline = time.monotonic() + 30
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not Path(f"/proc/{pid}").exists()


def test_changed_settings_do_not_mix_in_a_study(study: Path, call_bench: Bench) -> None:
    done = call_bench(
        "run", "--methods", "smm", *SMOKE, "--study", study.name, "--budget", "2kimg",
        "--results", str(study.parent),
    )  # fmt: skip
    assert one_line_of_help(done) == 2
    assert "budget.amount = 1.0, not 2.0" in done.stderr


# -- bad input ---------------------------------------------------------------------------------


def one_line_of_help(done: subprocess.CompletedProcess[str]) -> int:
    """The exit code, after checking that there is one line of error and no traceback."""
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("bench: ")
    assert "Traceback" not in done.stderr
    return done.returncode


RUN = ["run", "--methods", "smm", *SMOKE]
BAD = {
    "method": (["run", "--methods", "smn", *SMOKE], "did you mean 'smm'"),
    "method twice": (["run", "--methods", "smm,smm", *SMOKE], "twice"),
    "no method": (["run", "--methods", ",", *SMOKE], "choose from: sde"),
    "data set": (["run", "--methods", "smm", "--dataset", "cifar"], "did you mean 'cifar10"),
    "preset": ([*RUN[:-1], "smok"], "did you mean 'smoke'"),
    "option": ([*RUN, "--bugdet", "1kimg"], "--bu"),
    "command": (["rum"], "run"),
    "key": ([*RUN, "--set", "smm.r1_gama=1"], "did you mean 'r1_gamma'"),
    "nested key": ([*RUN, "--set", "smm.generator.zz=1"], "unknown key 'generator.zz'"),
    "section": ([*RUN, "--set", "trainign.batch=1"], "did you mean 'training'"),
    "common key": ([*RUN, "--set", "common.networkk.channels=1"], "networkk"),
    "value's type": ([*RUN, "--set", "training.batch=many"], 'training.batch = "many"'),
    "value's range": ([*RUN, "--set", "smm.levels=0"], "levels = 0"),
    "key of another method": ([*RUN, "--set", "cdm.branch_steps=3"], "no method of this study"),
    "levels that rise": (
        ["run", "--methods", "sde", *SMOKE, "--set", "sde.sampler.sigma_min=90"],
        "not below sigma_max",
    ),
    "set without value": ([*RUN, "--set", "smm.levels"], "METHOD.KEY=VALUE"),
    "set without section": ([*RUN, "--set", "levels=3"], "METHOD.KEY=VALUE"),
    "budget": ([*RUN, "--budget", "50miles"], "50kimg, 600s or 1e15flop"),
    "negative budget": ([*RUN, "--budget=-5kimg"], "50kimg, 600s or 1e15flop"),
    "infinite budget": ([*RUN, "--budget", "inf s"], "50kimg, 600s or 1e15flop"),
    "seeds": ([*RUN, "--seeds", "one"], "0,1,2 or 0-2"),
    "seed twice": ([*RUN, "--seeds", "0,0-1"], "each once"),
    "empty seeds": ([*RUN, "--seeds", "3-1"], "at least one"),
    "timeout": ([*RUN, "--timeout", "0"], "positive"),
    "timeout's type": ([*RUN, "--timeout", "soon"], "soon"),
    "jobs": ([*RUN, "--jobs", "0"], "at least 1"),
    "study": ([*RUN, "--study", "../other"], "letters, digits"),
    "weights": ([*RUN, "--weights", "missing.pt"], "missing.pt"),
    "results": ([*RUN, "--results", "a-file"], "cannot be written"),
    "reserved study": ([*RUN, "--study", "cache"], "none of cache"),
    "table of nothing": (["table"], "no study"),
}  # fmt: skip


PREPARING = {
    "U-Net and size": (
        ["run", "--methods", "sde", *SMOKE, "--set", "sde.network.multipliers=[1,1,1,1,1]"],
        "divisible by 16, not 8",
    ),
    "device": ([*RUN, "--device", "cuda:7"], "cuda:7"),
    "no such device": ([*RUN, "--device", "abacus"], "abacus"),
    "data file": ([*RUN, "--data", "missing.zip"], "missing.zip"),
    "corrupt data": ([*RUN, "--data", "corrupt.zip"], "corrupt.zip"),
    "no labels": (
        ["run", "--methods", "smm,dlsm", "--dataset", "digits", "--preset", "smoke",
         "--data", "unlabelled.zip"],
        "'dlsm' needs class labels",
    ),
}  # fmt: skip
"""What only the process that prepares a study can see: it loads the data, and builds methods."""


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_line(tmp_path: Path, call_bench: Bench, case: str) -> None:
    refuse(tmp_path, call_bench, *BAD[case])


@pytest.mark.usefixtures("forks")
@pytest.mark.parametrize("case", PREPARING)
def test_what_cannot_be_prepared_gets_one_line(
    tmp_path: Path, call_bench: Bench, case: str
) -> None:
    refuse(tmp_path, call_bench, *PREPARING[case])


@pytest.mark.parametrize("case", ["method", "option"])
def test_a_process_given_bad_input_ends_alike(tmp_path: Path, run_bench: Bench, case: str) -> None:
    refuse(tmp_path, run_bench, *BAD[case])


def refuse(tmp_path: Path, bench: Bench, arguments: list[str], expected: str) -> None:
    (tmp_path / "corrupt.zip").write_bytes(b"PK\x03\x04 and then nothing of use")
    (tmp_path / "a-file").write_text("")
    if "unlabelled.zip" in arguments:
        write_unlabelled(tmp_path / "unlabelled.zip")
    done = bench(*arguments, "--no-tracking") if arguments[0] == "run" else bench(*arguments)
    assert one_line_of_help(done) == 2
    assert expected in done.stderr
    assert not list(tmp_path.glob("results/digits*/*/record.json"))


def write_unlabelled(path: Path) -> None:
    import io
    import zipfile

    from PIL import Image

    rng = np.random.default_rng(0)
    with zipfile.ZipFile(path, "w") as archive:
        for index in range(60):
            buffer = io.BytesIO()
            image = rng.integers(0, 256, (8, 8), dtype=np.uint8)
            Image.fromarray(image).save(buffer, "PNG")
            archive.writestr(f"{index:03}.png", buffer.getvalue())


@pytest.mark.parametrize(
    ("name", "reason"), [("broken", "no_such_module"), ("wrong", "CODE_IS_NOT_HERE")]
)
@pytest.mark.usefixtures("faulty")
def test_a_broken_plugin_is_reported_and_stops_nothing_else(
    call_bench: Bench, name: str, reason: str
) -> None:
    done = call_bench("run", "--methods", name, *SMOKE)
    assert one_line_of_help(done) == 2
    assert reason in done.stderr
    listed = call_bench("methods")
    assert listed.returncode == 0
    assert f"{name:<8} BROKEN" in listed.stdout
    assert "A generator" in listed.stdout or "one-step generator" in listed.stdout


# -- listings and plans ------------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["smoke", "quick", "gpu", "paper"])
@pytest.mark.parametrize("dataset", datasets())
def test_every_preset_resolves(dataset: str, preset: str) -> None:
    from bench.commands.run import RunOptions
    from bench.commands.run.request import resolve

    assert preset in presets(dataset)
    options = RunOptions(
        methods=tuple(ALL.split(",")), dataset=dataset, preset=preset, seeds=(0, 1, 2), device="cpu"
    )
    request = resolve(options)
    assert request.methods.keys() == set(registry.names())
    # What is printed reads back as the same settings.
    text = yaml.safe_dump(request.settings.model_dump(mode="json"))
    assert type(request.settings).model_validate(yaml.safe_load(text)) == request.settings


def test_weights_are_of_the_lead_or_of_whom_they_name(tmp_path: Path) -> None:
    from bench.commands.settings import parse_weights

    one, odd = tmp_path / "one.pt", tmp_path / "a=b.pt"
    for path in (one, odd):
        path.touch()
    lead = {"extractor": "efflite0", "also": ["dinov2"]}
    assert parse_weights([str(one)], lead) == {"efflite0": one}
    assert parse_weights([str(odd)], lead) == {"efflite0": odd}
    both = parse_weights([str(one), f"dinov2={odd}"], lead)
    assert both == {"efflite0": one, "dinov2": odd}
    with pytest.raises(UserError, match="'efflite0' twice"):
        parse_weights([str(one), f"efflite0={odd}"], lead)
    with pytest.raises(UserError, match="'vgg' is not in use, only efflite0, dinov2"):
        parse_weights([f"vgg={one}"], lead)


@pytest.mark.usefixtures("forks")
def test_a_dry_run_prints_the_plan_and_leaves_no_trace(tmp_path: Path, call_bench: Bench) -> None:
    done = call_bench("run", "--methods", ALL, *SMOKE, "--set", "smm.r1_gamma=1e-4", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []
    printed = yaml.safe_load(done.stdout)
    assert printed["methods"]["smm"]["r1_gamma"] == pytest.approx(1e-4)
    assert printed["settings"]["budget"] == {"amount": 1.0, "unit": "kimg"}
    for name in registry.names():
        assert f"# {name}-seed0: run (to do)" in done.stdout


@pytest.mark.parametrize("what", ["methods", "datasets"])
def test_listings(call_bench: Bench, what: str) -> None:
    done = call_bench(what)
    assert done.returncode == 0
    for name in registry.names() if what == "methods" else datasets():
        assert re.search(rf"^{name} ", done.stdout, re.MULTILINE)
