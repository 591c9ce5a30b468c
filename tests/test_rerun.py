"""Repeating a cell: bit-equal or within its interval, what differs is named, bad input told."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from bench import study
from bench.cli import main
from bench.commands.finished_cells import find_cell, read_record
from bench.commands.reproduce import repeat
from bench.commands.reproduce.verdict import compare
from bench.config.overrides import resolve_method
from bench.config.presets import choose_preset
from bench.config.schema import CellConfig, Settings
from bench.config.text import to_yaml
from bench.progress.display import Display
from bench.records import record
from bench.records.record import Record, Status, Value
from bench.tracking import NullTracker
from methods import registry

from .fake_study import make_record, provenance, write_cell

HERE = {"device": "cpu: x", "device_type": "cpu", "threads": 1, "packages": {"torch": "2.15.0"}}


def settings(**changes: Any) -> Settings:
    """Settings of digits' smoke preset."""
    name, preset = choose_preset("digits", "smoke", "cpu")
    values = {
        "dataset": "digits", "preset": name, "device": "cpu", "threads": 1,
        "budget": preset.budget, "training": preset.training, "sampling": preset.sampling,
        "evaluation": preset.evaluation,
    }  # fmt: skip
    return Settings.model_validate(values | changes)


def configuration(method: str, seed: int, **changes: Any) -> CellConfig:
    _, preset = choose_preset("digits", "smoke", "cpu")
    resolved = resolve_method(registry.load(method).Config, preset, method)
    return CellConfig(
        settings=settings(**changes), method=method, method_config=resolved, seed=seed
    )


def finished(
    results: Path, seed: int = 0, name: str = "s", budget: str = "1kimg", **changes: Any
) -> Path:
    """Write a finished cell with a checkpoint, as a worker leaves it."""
    identity = {"data_sha256": "ab" * 32, "source": {"methods.sde": "12" * 32}}
    fields = {"environment": HERE, "identity": identity} | changes
    row = make_record(results / name, "sde", seed, **fields)
    folder = results / name / row.cell
    write_cell(folder, row)
    (folder / "config.yaml").write_text(to_yaml(configuration("sde", seed, budget=budget)))
    networks = {"denoiser": {"w": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2)}}
    trainer = {"networks": networks, "generator": torch.arange(8, dtype=torch.uint8)}
    torch.save({"trainer": trainer, "ledger": {"wall": 1.0}}, folder / "checkpoint.pt")
    (folder.parent / "study.yaml").write_text("name: s\n")
    return folder


@pytest.fixture
def before(tmp_path: Path) -> Path:
    """A finished cell."""
    return finished(tmp_path / "results")


@pytest.fixture
def now(before: Path) -> Path:
    """Its repetition, with times of its own."""
    folder = before.parents[1] / "s-rerun" / before.name
    shutil.copytree(before.parent, folder.parent)
    row = read_record(folder)
    row.ledger = {part: 2 * seconds for part, seconds in row.ledger.items()}
    record.save(row, folder)
    lines = record.read_curves(folder)
    later = [line | {"seconds": line["seconds"] + 9} for line in lines]
    (folder / record.CURVES).write_text("".join(json.dumps(line) + "\n" for line in later))
    return folder


def change(folder: Path, **changes: Any) -> None:
    """Change a record's fields; ``environment`` is added to."""
    row = read_record(folder)
    if "environment" in changes:
        changes["environment"] = row.environment | changes["environment"]
    record.save(row.model_copy(update=changes), folder)


def verdicts(before: Path, now: Path) -> Mapping[str, str]:
    verdict, _ = repeat.judge(before, now)
    return {row.what: row.verdict for row in verdict.rows}


# Bits -------------------------------------------------------------------------------------------


def test_the_same_bits_are_told_whatever_time_they_took(before: Path, now: Path) -> None:
    page, holds = repeat.report(before, now)
    assert holds
    assert "s/sde-seed0: bit-equal" in page
    assert verdicts(before, now)["seconds of training"] == "not judged"
    assert (now.parent / repeat.REPRODUCED).read_text() == page


def tamper_weights(folder: Path) -> None:
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    w = state["trainer"]["networks"]["denoiser"]["w"]
    w.view(torch.int32)[1, 1] ^= 1  # The last bit of one weight.
    torch.save(state, folder / "checkpoint.pt")


def tamper_generator(folder: Path) -> None:
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    state["trainer"]["generator"][0] += 1
    torch.save(state, folder / "checkpoint.pt")


def tamper_sample(folder: Path) -> None:
    images = np.load(folder / "samples.npz")["images"]
    images[7, 0, 3, 3] ^= 1
    np.savez(folder / "samples.npz", images=images)


def add_labels(folder: Path) -> None:
    images = np.load(folder / "samples.npz")["images"]
    np.savez(folder / "samples.npz", images=images, labels=np.zeros(len(images), np.int64))


def tamper_curve(folder: Path) -> None:
    lines = record.read_curves(folder)
    lines[20]["values"]["loss/score"] = np.nextafter(lines[20]["values"]["loss/score"], 9)
    (folder / record.CURVES).write_text("".join(json.dumps(line) + "\n" for line in lines))


def shorten_curve(folder: Path) -> None:
    lines = record.read_curves(folder)[:-1]
    (folder / record.CURVES).write_text("".join(json.dumps(line) + "\n" for line in lines))


def tamper_metric(folder: Path) -> None:
    row = read_record(folder)
    value = row.metrics["is_digits_500"]
    near = value.model_copy(update={"value": float(np.nextafter(value.value, 99))})
    change(folder, metrics=row.metrics | {"is_digits_500": near})


def drop_metric(folder: Path) -> None:
    row = read_record(folder)
    del row.metrics["is_digits_500"]
    change(folder, metrics=row.metrics)


def tamper_cost(name: str) -> Callable[[Path], None]:
    def tamper(folder: Path) -> None:
        cost = read_record(folder).cost
        change(folder, cost=cost.model_copy(update={name: getattr(cost, name) + 1}))

    return tamper


def spoil(name: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / name).write_bytes(b"no such file")

    return write


FAULTS = {
    "a weight": (tamper_weights, "weights of denoiser", "differs in 1 of 2"),
    "a generator": (tamper_generator, "random generators", "differs in 1 of 1"),
    "a sample": (tamper_sample, "samples (images)", "differs in 1 of 80"),
    "labels": (add_labels, "samples (labels)", "differs"),
    "a loss": (tamper_curve, "curve loss/score", "differs from 179200 images on"),
    "a point": (shorten_curve, "curve loss/score", "differs"),
    "a metric": (tamper_metric, "is_digits_500", "differs, no interval to judge by"),
    "no metric": (drop_metric, "is_digits_500", "differs"),
    "FLOPs": (tamper_cost("train_flops"), "train_flops", "differs"),
    "FLOPs an image": (tamper_cost("sample_flops_per_image"), "sample_flops_per_image", "differs"),
    "NFE": (tamper_cost("nfe"), "nfe", "differs"),
    "steps": (tamper_cost("steps"), "steps", "differs"),
    "a broken checkpoint": (spoil("checkpoint.pt"), "weights", "cannot be read"),
    "broken samples": (spoil("samples.npz"), "samples", "cannot be read"),
}


@pytest.mark.parametrize("side", ["before", "now"])
@pytest.mark.parametrize("fault", FAULTS)
def test_the_least_difference_is_told(before: Path, now: Path, fault: str, side: str) -> None:
    plant, what, verdict = FAULTS[fault]
    plant(before if side == "before" else now)
    page, holds = repeat.report(before, now)
    assert not holds
    assert verdicts(before, now)[what] == verdict
    assert what in page.split("s/sde-seed0: differs: ")[1].splitlines()[0]


def test_what_is_gone_is_not_called_equal(before: Path, now: Path) -> None:
    (before / "checkpoint.pt").unlink()
    page, holds = repeat.report(before, now)
    assert holds
    assert "bit-equal; not compared: weights" in page


# Intervals --------------------------------------------------------------------------------------

LOOSE = {
    "it ran on cuda": {"device_type": "cuda"},
    "the device changed": {"device": "cpu: another"},
    "the number of threads changed": {"threads": 2},
    "torch changed": {"packages": {"torch": "2.16.0"}},
}


@pytest.mark.parametrize("why", LOOSE)
def test_bits_are_not_asked_for_where_they_cannot_be_had(before: Path, now: Path, why: str) -> None:
    for fault in (tamper_weights, tamper_sample, tamper_curve, tamper_cost("train_flops")):
        fault(now)
    move_metrics(before, now, error=0.1, by=0.01)
    change(now, environment=LOOSE[why])
    page, holds = repeat.report(before, now)
    assert holds
    assert "within its interval" in page
    assert why in page
    assert verdicts(before, now)["samples (images)"] == "differs, not judged"
    move_metrics(before, now, error=0.1, by=0.6)
    page, holds = repeat.report(before, now)
    assert not holds
    assert "outside its interval: fd_digits_500, is_digits_500" in page


def move_metrics(before: Path, now: Path, *, error: float | None, by: float) -> None:
    """Give the metrics of both an error, and move the second ones."""
    row = read_record(before)
    old = {name: Value(value=v.value, error=error) for name, v in row.metrics.items()}
    change(before, metrics=old)
    change(now, metrics={n: Value(value=v.value + by, error=error) for n, v in old.items()})


def test_a_budget_of_seconds_promises_no_bits(tmp_path: Path) -> None:
    before = finished(tmp_path, budget="60s")
    now = finished(tmp_path, name="s-rerun", budget="60s")
    tamper_cost("steps")(now)
    move_metrics(before, now, error=0.1, by=0.01)
    page, holds = repeat.report(before, now)
    assert holds
    assert "limited by seconds" in page


def test_without_errors_the_other_seeds_are_the_measure(tmp_path: Path) -> None:
    before = finished(tmp_path)
    now = finished(tmp_path, name="s-rerun", environment=HERE | {"device_type": "cuda"})
    move_metrics(before, now, error=None, by=0.01)
    page, holds = repeat.report(before, now)
    assert not holds
    assert "not to be judged" in page
    for seed, value in ((1, 6.2), (2, 6.0)):
        metrics = {"fd_digits_500": Value(value=value, provenance=provenance())}
        finished(tmp_path, seed, metrics=metrics)
    assert verdicts(before, now)["fd_digits_500"].endswith("(3 seeds)")
    assert verdicts(before, now)["is_digits_500"] == "no interval to judge by"
    assert repeat.report(before, now)[1]
    move_metrics(before, now, error=None, by=5.0)
    assert not repeat.report(before, now)[1]


def test_bits_that_are_the_same_on_a_gpu_are_called_so(before: Path, now: Path) -> None:
    for folder in (before, now):
        change(folder, environment={"device_type": "cuda"})
    page, holds = repeat.report(before, now)
    assert holds
    assert "bit-equal, although it ran on cuda" in page


@pytest.mark.slow
@pytest.mark.parametrize("measure", ["jackknife", "seeds"])
def test_equal_runs_are_within_their_intervals_at_the_nominal_rate(
    tmp_path: Path, measure: str
) -> None:
    """Independent metrics: the rate is nominal, within three standard errors of 1000 tries."""
    rng, names, tries = np.random.default_rng(0), "abcde", 1000
    study = tmp_path / "s"
    for seed in range(3 if measure == "seeds" else 1):
        record.save(make_record(study, "sde", seed, environment=HERE), study / f"sde-seed{seed}")
    new = make_record(study, "sde", 0, environment=HERE | {"device_type": "cuda"})
    old = [make_record(study, "sde", seed, environment=HERE) for seed in range(3)]
    error = 0.3 if measure == "jackknife" else None
    held = 0
    for _ in range(tries):
        draws = rng.normal(2.0, 0.3, (4, len(names)))
        for row, values in zip([*old, new], draws, strict=True):
            row.metrics = {
                n: Value(value=v, error=error) for n, v in zip(names, values, strict=True)
            }
        held += holds(old, new)
    assert held / tries == pytest.approx(0.95, abs=3 * np.sqrt(0.95 * 0.05 / tries))


def holds(old: list[Record], new: Record) -> bool:
    from bench.commands.reproduce import verdict

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verdict, "cells", lambda folder: [(folder, row) for row in old])
        nowhere = Path("nowhere/s")
        return compare(nowhere, nowhere, (old[0], new), by_the_clock=False).holds


# What it was made with --------------------------------------------------------------------------


def test_what_was_made_otherwise_is_named_first(before: Path, now: Path) -> None:
    tamper_sample(now)
    change(
        before,
        environment={
            "commit": "a" * 40, "diff": None, "packages": {"torch": "2.15.0", "numpy": "2.3.0"},
            "earlier": [{"commit": "c" * 40}],
        },
    )  # fmt: skip
    change(
        now,
        environment={
            "commit": "b" * 40, "diff": "d" * 64, "packages": {"torch": "2.15.0", "numpy": "2.4.0"},
            "cpu_capability": "AVX2",
        },
        identity={"data_sha256": "cd" * 32, "source": {"methods.sde": "34" * 32, "methods.x": "1"}},
    )  # fmt: skip
    body = yaml.safe_load((now / "config.yaml").read_text())
    body["method_config"]["optimizer"]["lr"] = 0.5
    body["settings"]["data"] = "/elsewhere"
    (now / "config.yaml").write_text(yaml.safe_dump(body))
    page, held = repeat.report(before, now)
    assert not held
    table = [line.split("|")[1].strip() for line in page.splitlines() if line.startswith("|")]
    assert table[2:11] == [
        "method_config.optimizer.lr", "the data", "methods/sde.py", "methods/x.py", "commit",
        "diff", "packages.numpy", "an earlier process", "weights of denoiser",
    ]  # fmt: skip
    assert "It was not made alike: method_config.optimizer.lr, the data, methods/sde.py" in page


# The command ------------------------------------------------------------------------------------


def fingerprints(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture
def requests(before: Path, monkeypatch: pytest.MonkeyPatch) -> list[study.Request]:
    """What was asked of a study that gives the same results without training."""
    asked: list[study.Request] = []

    def execute(request: study.Request, tracker: Any, display: Any) -> list[Any]:
        asked.append(request)
        (method,) = request.methods
        folder = request.folder / record.cell_name(method, request.seeds[0])
        shutil.copytree(before, folder)
        config = CellConfig(
            settings=request.settings, method=method, method_config=request.methods[method],
            seed=request.seeds[0],
        )  # fmt: skip
        (folder / "config.yaml").write_text(to_yaml(config))
        (request.folder / "study.yaml").write_text("name: again\n")
        return [study.Planned(config, folder, "k", {}, "run", "to do")]

    monkeypatch.setattr(study, "execute", execute)
    monkeypatch.setattr("bench.commands.lifecycle.heed_signals", lambda: None)
    return asked


@pytest.mark.parametrize("given", ["s/sde-seed0", "folder", "record"])
def test_a_cell_is_found_by_name_folder_or_record(
    before: Path,
    requests: list[study.Request],
    given: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    kept = fingerprints(before.parent)
    places = {"folder": str(before), "record": str(before / "record.json")}
    results = before.parents[1]
    assert main(["rerun", places.get(given, given), "--results", str(results)]) == 0
    assert "s/sde-seed0: bit-equal" in capsys.readouterr().out
    assert fingerprints(before.parent) == kept
    (request,) = requests
    assert (request.name, request.seeds, request.jobs) == ("s-rerun", [0], 1)
    assert request.settings == settings()
    assert request.methods == {"sde": configuration("sde", 0).method_config}


def test_a_difference_is_exit_code_1(
    before: Path, requests: list[study.Request], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["rerun", "s/sde-seed0", "--results", str(before.parents[1])]
    assert main(arguments) == 0
    tamper_weights(before)
    again = before.parents[1] / "s-rerun" / before.name
    assert not repeat.report(before, again)[1]
    # A finished repetition is not taken for another: each is a study of its own.
    assert main(arguments) == 0
    assert [request.name for request in requests] == ["s-rerun", "s-rerun2"]


def test_a_repetition_that_fails_is_exit_code_1_and_gone_on_with(
    before: Path, requests: list[study.Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["rerun", "s/sde-seed0", "--results", str(before.parents[1])]
    real = study.execute

    def fails(request: study.Request, *rest: Any) -> list[Any]:
        cells = real(request, *rest)
        change(cells[0].folder, status=Status.INTERRUPTED)
        return cells

    with monkeypatch.context() as patch:
        patch.setattr(study, "execute", fails)
        assert main(arguments) == 1
    shutil.copytree(before.parents[1] / "s-rerun", before.parents[1] / "kept")
    config = configuration("sde", 0)
    row = read_record(before)
    assert repeat.claim(before.parents[1], row, config) == "s-rerun"
    other = config.model_copy(update={"settings": settings(data="/elsewhere")})
    assert repeat.claim(before.parents[1], row, other) == "s-rerun2"


def test_the_cell_gets_its_threads_and_the_data_their_new_place(
    tmp_path: Path, requests: list[study.Request], monkeypatch: pytest.MonkeyPatch, before: Path
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    body = yaml.safe_load((before / "config.yaml").read_text())
    body["settings"] |= {"threads": None, "data": "/gone"}
    (before / "config.yaml").write_text(yaml.safe_dump(body))
    main(["rerun", str(before), "--data", str(tmp_path), "--results", str(tmp_path / "other")])
    (request,) = requests
    assert request.results == tmp_path / "other"
    assert (request.settings.threads, request.settings.data) == (None, tmp_path)
    assert os.environ["OMP_NUM_THREADS"] == "1"


def edit_config(folder: Path, **changes: Any) -> None:
    body = yaml.safe_load((folder / "config.yaml").read_text())
    body["settings"] |= changes.pop("settings", {})
    (folder / "config.yaml").write_text(yaml.safe_dump(body | changes))


PLUGIN = {"method": {"class": "a:B", "distribution": "my-flow", "version": "0.3"}}
BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "no record": (lambda f: (f / "record.json").unlink(), "has no record.json"),
    "an unreadable record": (spoil("record.json"), "record.json' cannot be read"),
    "not finished": (
        lambda f: change(f, status=Status.INTERRUPTED, environment={"command": "bench run x"}),
        "it is interrupted; finish it first: bench run x",
    ),
    "from elsewhere": (lambda f: change(f, origin="foreign"), "only cells can be taken up again"),
    "no configuration": (lambda f: (f / "config.yaml").unlink(), "cannot be read (No such file"),
    "a broken configuration": (spoil("config.yaml"), "config.yaml' cannot be read"),
    "settings of another time": (
        lambda f: edit_config(f, settings={"colour": 1}),
        "config.yaml' cannot be read",
    ),
    "data gone": (
        lambda f: edit_config(f, settings={"data": "/gone"}),
        "'/gone' are gone; give their place with --data",
    ),
    "weights gone": (
        lambda f: edit_config(f, settings={"weights": {"inception": "/gone"}}),
        "the file for inception, '/gone', is gone",
    ),
    "method unknown": (lambda f: edit_config(f, method="sdf"), "did you mean 'sde'"),
    "plug-in gone": (
        lambda f: (edit_config(f, method="my_flow"), change(f, environment=PLUGIN)),
        "it came with my-flow 0.3: install that",
    ),
    "method's settings": (
        lambda f: edit_config(f, method_config={"colour": 1}),
        "settings of sde: unknown key 'colour'",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(
    before: Path, requests: list[study.Request], case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    plant, told = BAD[case]
    plant(before)
    kept = fingerprints(before.parents[1])
    assert main(["rerun", "s/sde-seed0", "--results", str(before.parents[1])]) == 2
    errors = capsys.readouterr().err
    assert told in errors
    assert errors.count("\n") == 1
    assert requests == []
    assert fingerprints(before.parents[1]) == kept


class Impatient(Display):
    """A user who presses Ctrl-C once training has begun."""

    def update(self, cell: str, told: Mapping[str, Any]) -> None:
        if told["phase"] == "training" and told.get("images", 0) > 100:
            raise KeyboardInterrupt


@pytest.mark.usefixtures("forks")
@pytest.mark.slow
def test_a_cell_that_was_stopped_and_resumed_is_repeated_to_the_bit(tmp_path: Path) -> None:
    """End to end; and a source that changed since is named."""
    config = configuration("smm", 0)
    results = tmp_path / "results"
    request = study.Request(
        name="s",
        results=results,
        settings=config.settings,
        methods={"smm": config.method_config},
        seeds=[0],
    )
    with pytest.raises(KeyboardInterrupt):
        study.execute(request, NullTracker, Impatient())
    (cell,) = study.execute(request, NullTracker, Display())
    row = read_record(cell.folder)
    assert (row.status, len(row.attempts)) == (Status.FINISHED, 2)
    again = repeat.execute(find_cell("s/smm-seed0", results), results, None, Display())
    page, held = repeat.report(cell.folder, again)
    assert held, page
    assert "s/smm-seed0: bit-equal\n" in page
    assert "changed" not in page
