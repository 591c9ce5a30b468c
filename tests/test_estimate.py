"""What a dry run tells of costs, held against real runs, and what becomes of it in trouble."""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import study, worker
from bench.commands.options import parse_seeds, split
from bench.commands.run import RunOptions
from bench.commands.run.request import resolve
from bench.config.schema import Settings, parse_budget
from bench.config.text import to_yaml
from bench.costs.ledger import Ledger
from bench.data import Dataset, load
from bench.estimate import (
    Forecast,
    Left,
    Subject,
    Whole,
    draws,
    forecast,
    lines,
    outlook,
    recorded,
    steps,
)
from bench.estimate.attempts import Attempts
from bench.estimate.measured import Known, Measurement, measure
from bench.records import files, record
from bench.records.environment import device_name
from bench.records.record import CHECKPOINT, SAMPLES, Record, SharedBy, Status
from bench.records.source_code import source_hashes
from bench.sampling import count_sampling, draw_and_time, settle
from bench.study import Planned
from bench.training import Feed, Trainer
from methods import registry
from methods.base import Stage

from . import plugins
from .conftest import Bench
from .fake_study import make_record

CPU = torch.device("cpu")
METHODS = registry.names()
VARIANTS = ("cdm:semi", "dlsm:on_sde", "sde:heun", "sde:ve", "smm:no_mismatch")
Make = Callable[..., Subject]


def request_for(methods: str, place: Path, *overrides: str, seeds: str = "0") -> study.Request:
    options = RunOptions(
        methods=split(methods), preset="smoke", seeds=parse_seeds(seeds), overrides=overrides,
        device="cpu", jobs=2, study="s", results=place,
    )  # fmt: skip
    return resolve(options)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return load("digits", cache=tmp_path_factory.mktemp("cache"))


@pytest.fixture
def make(digits: Dataset, tmp_path: Path) -> Make:
    """Make a method of digits' smoke preset, with a budget and settings of one's own."""

    def subject(label: str, budget: str = "0.4kimg", *overrides: str) -> Subject:
        request = request_for(label, tmp_path, *overrides)
        changed = request.settings.model_dump() | {"budget": parse_budget(budget)}
        return subject_of(request, label, Settings.model_validate(changed), digits)

    return subject


def subject_of(request: study.Request, label: str, settings: Settings, data: Dataset) -> Subject:
    return Subject(
        label,
        request.methods[label],
        settings,
        data,
        CPU,
        worker.build_method,
        worker.data_spec(data),
        worker.class_frequencies(data),
    )


# -- FLOPs of training ----------------------------------------------------------------------------


def trained_flops(subject: Subject) -> float:
    """What the trainer counts in a whole training."""
    train = subject.dataset.train
    feed = Feed(
        train.images, train.labels, batch=subject.training.batch, flip=False, seed=0, device=CPU
    )
    trainer = Trainer(
        subject.on_device(),
        feed,
        settings=subject.training,
        budget=subject.settings.budget,
        seed=0,
        ledger=Ledger(CPU),
        hooks=replace(steps.IDLE, log=lambda point: None),
    )
    trainer.run()
    return sum(trainer.train_flops.values())


def estimated_flops(subject: Subject) -> float:
    """What is told without a device."""
    found = Measurement(subject, Known())
    found.count()
    found.note_training(None, Attempts(1.0, found.whole.troubles))
    assert found.whole.troubles == []
    assert found.whole.train_flops is not None
    return found.whole.train_flops


@pytest.mark.parametrize("budget", ["0.25kimg", "2e9flop"])
@pytest.mark.parametrize("name", METHODS)
def test_training_flops_are_those_of_a_real_run(make: Make, name: str, budget: str) -> None:
    rare = ["smm.r1_gamma=1e-4", "smm.r1_every=3"] if name == "smm" else []
    subject = make(name, budget, *rare)
    assert estimated_flops(subject) == trained_flops(subject)


@pytest.mark.parametrize("name", VARIANTS)
def test_training_flops_of_variants(make: Make, name: str) -> None:
    subject = make(name, "0.15kimg")
    assert estimated_flops(subject) == trained_flops(subject)


def test_augmentation_and_dropout_can_be_counted(make: Make) -> None:
    """As in the paper's presets: autocast, random transforms, masks shared by evaluations."""
    overrides = ["cdm.augment=0.12", "cdm.network.dropout=0.1", "cdm.network.attention=[8]"]
    subject = make("cdm", "0.1kimg", *overrides)
    assert estimated_flops(subject) == trained_flops(subject)


def forget_every(stage: Stage, updates: steps.Updates, count: int) -> float:
    return sum((updates[o.label].flops or 0.0) * count for o in stage.objectives)


def forget_share(subject: Subject, method: Any, stage: Stage, updates: steps.Updates) -> int | None:
    whole = replace(stage, share=1.0)
    return steps_of(subject, method, whole, updates)


steps_of = steps.total_steps


@pytest.mark.parametrize(
    ("name", "part", "fault"),
    [("smm", "total_flops", forget_every), ("dlsm", "total_steps", forget_share)],
)
def test_a_planted_fault_shows(
    make: Make, name: str, part: str, fault: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rare = ["smm.r1_gamma=1e-4", "smm.r1_every=4"] if name == "smm" else []
    subject = make(name, "0.4kimg", *rare)
    right = trained_flops(subject)
    monkeypatch.setattr(steps, part, fault)
    assert abs(estimated_flops(subject) / right - 1) > 0.01


def test_a_method_that_looks_at_numbers_is_counted_by_the_trainer(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = make("sde")
    right = trained_flops(subject)

    def refuse(*_: object) -> float:
        raise RuntimeError("Cannot copy out of meta tensor; no data!")

    monkeypatch.setattr("bench.estimate.measured.count_update", refuse)
    whole = measure(subject, Known(extracting={"digits": 1e-4}))
    assert whole.train_flops == right
    assert "no data" in whole.troubles[0]


def test_methods_whose_first_stage_is_the_same_measure_it_once(make: Make) -> None:
    known = Known()
    for name in ("sde", "dlsm:on_sde", "sde:heun"):
        found = Measurement(make(name), known)
        found.count()
        assert bool(found.counts[0]) == (name == "sde")
        found.time()
        assert found.whole.train_seconds is not None
    assert len(known.shared) == 1


# -- sampling -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*METHODS, "sde:heun", "sde:predictor_corrector", "sde:unipc"])
def test_sampling_flops_are_those_of_a_real_draw(make: Make, name: str) -> None:
    subject = make(name)
    _, counted = count_sampling(source_of(subject), subject.settings.sampling.batch)
    assert draws.count_on_meta(subject) == pytest.approx(counted, rel=1e-9)


def source_of(subject: Subject) -> draws.Source:
    method = subject.on_device()
    for network in method.networks.values():
        network.eval().requires_grad_(False)
    return draws.Source(
        method, device=CPU, precision="fp32", seed=0, stream="samples",
        frequencies=subject.frequencies,
    )  # fmt: skip


def test_all_images_that_are_drawn_are_counted(make: Make) -> None:
    subject = make("smm")
    drawn = []
    source = source_of(subject)
    source.method.sample = lambda n, **_: drawn.append(n) or torch.zeros(n, 1, 8, 8)  # type: ignore[method-assign, func-returns-value]
    evaluation, sampling = subject.settings.evaluation, subject.settings.sampling
    found = draw_and_time(source, evaluation.samples, sampling, lambda fraction: None)
    count = draws.draws_of(subject.settings)
    assert count.snapshots == 60  # One of two moments, 50 samples in batches of 20.
    # Warm-up goes on until it is stable, which is luck: the fewest batches are told.
    warm_ups = [found.warm_ups[name].batches - 6 for name in ("batch", "latency")]
    told = count.images() - count.snapshots
    assert sum(drawn) == told + warm_ups[0] * count.size + warm_ups[1]


@pytest.mark.parametrize(
    ("seconds", "batches"), [(None, 6), (1e-3, 250), (0.1, 6), (2.5, 4), (60.0, 2)]
)
def test_warm_up_is_short_where_batches_are_slow(seconds: float | None, batches: int) -> None:
    assert draws.warm_ups_of(seconds) == batches
    if seconds is not None:
        assert settle(lambda: seconds, 1).batches == batches


def test_diagnostics_are_counted_by_running_them(make: Make) -> None:
    from bench import metrics

    subject = make("dlsm")
    method, images = subject.on_device(), 0
    n = 2

    def note(module: object, inputs: tuple[torch.Tensor, ...]) -> None:
        nonlocal images
        images += len(inputs[0])

    method.networks["denoiser"].register_forward_pre_hook(note)
    labels = torch.zeros(n, dtype=torch.int64)
    metrics.diagnose(
        method, subject.dataset, subject.data, n=n, labels=lambda: labels,
        generator=torch.Generator(),
    )  # fmt: skip
    assert draws.diagnostic_evaluations(subject) == images / n


@pytest.mark.parametrize(
    ("name", "budget"), [*((name, "1kimg") for name in METHODS), ("smm", "60s")]
)
def test_times_are_positive_and_finite(make: Make, name: str, budget: str) -> None:
    whole = measure(make(name, budget), Known(extracting={"digits": 1e-4}, cas=1.0))
    assert whole.troubles == []
    for value in (whole.train_flops, whole.sample_flops, whole.train_seconds,
                  whole.sample_seconds, whole.evaluate_seconds):  # fmt: skip
        assert value is not None
        assert 0 < value < math.inf
    if budget == "60s":
        assert whole.train_seconds == pytest.approx(60)
        assert "the budget is the time" in whole.sources[0]


# -- from records ---------------------------------------------------------------------------------


def leave(request: study.Request, label: str, seed: int = 0, **changes: Any) -> Record:
    """Leave a finished cell of the request's in its folder."""
    (cell,) = (
        each
        for each in study.plan(request, PREPARED)
        if (each.config.method, each.config.seed) == (label, seed)
    )
    identity = {"source": source_hashes(registry.load(label).__module__)}
    environment = {"device": device_name(CPU), "device_type": "cpu"}
    fields = {"key": cell.key, "identity": identity, "environment": environment} | changes
    row = make_record(request.folder, label, seed, **fields)
    cell.folder.mkdir(parents=True)
    record.save(row, cell.folder)
    files.write_text(cell.folder / "config.yaml", to_yaml(cell.config))
    return row


PREPARED = {
    "data_sha256": "d" * 64,
    "extractors": {"digits": "e" * 64},
    "reference_sha256": None,
    "protocol": "1",
}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, "from the record of sde-seed1"),
        ({"identity": {"source": {}}}, "from the record of sde-seed1, before its source changed"),
        ({"environment": {"device": "another"}}, None),
        ({"status": Status.FAILED}, None),
    ],
)
def test_a_finished_cell_tells_its_cost(
    tmp_path: Path, digits: Dataset, changes: dict[str, Any], told: str | None
) -> None:
    request = request_for("sde", tmp_path, seeds="1")
    row = leave(request, "sde", 1, **changes)
    found = recorded.from_records(
        subject_of(request, "sde", request.settings, digits), request.folder
    )
    if told is None:
        assert found is None
        return
    assert found is not None
    assert found.sources == [told]
    assert found.train_flops == row.cost.train_flops
    parts = (found.train_seconds, found.sample_seconds, found.evaluate_seconds, found.other_seconds)
    assert sum(filter(None, parts)) == pytest.approx(row.ledger["wall"])


def test_a_cell_of_other_settings_tells_nothing(tmp_path: Path, digits: Dataset) -> None:
    leave(request_for("sde", tmp_path), "sde")
    other = request_for("sde", tmp_path, "sde.sampler.steps=7")
    subject = subject_of(other, "sde", other.settings, digits)
    assert recorded.from_records(subject, other.folder) is None


def test_an_unreadable_record_is_passed_over(tmp_path: Path, digits: Dataset) -> None:
    request = request_for("sde", tmp_path)
    leave(request, "sde")
    (request.folder / "sde-seed0" / "record.json").write_text("{")
    subject = subject_of(request, "sde", request.settings, digits)
    assert recorded.from_records(subject, request.folder) is None
    assert recorded.left_of(request.folder / "sde-seed0", subject, None).trouble


@pytest.mark.parametrize(
    ("budget", "fraction"), [("1kimg", 0.25), ("1e10flop", 0.25), ("40s", 0.75)]
)
def test_what_is_left_is_read_from_the_checkpoint(
    tmp_path: Path, make: Make, budget: str, fraction: float
) -> None:
    """A quarter of the FLOPs and three quarters of the seconds are done."""
    subject = make("sde", budget)
    row = make_record(tmp_path, "sde", 0, key="k", status=Status.INTERRUPTED)
    row.cost.ms_per_image = None
    record.save(row, tmp_path)
    whole = Whole(train_flops=8.0, train_seconds=40.0)
    assert recorded.left_of(tmp_path, subject, whole) == Left()
    state = {
        "key": "k",
        "ledger": {"train": 30.0},
        "trainer": {"train_flops": {"a": 1.5, "b": 0.5}, "snapshots": 1},
    }
    torch.save(state, tmp_path / CHECKPOINT)
    found = recorded.left_of(tmp_path, subject, whole)
    assert found.is_begun
    assert found.train == pytest.approx(1 - fraction)
    # One of the two moments of its snapshots is over.
    count = draws.draws_of(subject.settings)
    assert found.sample == pytest.approx(1 - count.snapshots / 2 / count.images())
    (tmp_path / "drawing").mkdir()
    part = {"key": "k", "first": 3, "batches": [{}, {}]}
    torch.save(part, tmp_path / "drawing" / "part-00000003.pt")
    drawn = 5 * count.size + count.snapshots / 2
    assert recorded.left_of(tmp_path, subject, whole).sample == pytest.approx(
        1 - drawn / count.images()
    )
    row.cost.ms_per_image = make_record(tmp_path, "sde", 0).cost.ms_per_image
    record.save(row, tmp_path)
    (tmp_path / SAMPLES).touch()
    assert recorded.left_of(tmp_path, subject, whole).sample == 0
    torch.save(state | {"key": "another"}, tmp_path / CHECKPOINT)
    assert recorded.left_of(tmp_path, subject, whole) == Left()
    (tmp_path / CHECKPOINT).write_bytes(b"torn")
    assert "cannot be read" in recorded.left_of(tmp_path, subject, whole).trouble


def test_a_shared_stage_counts_its_own_seconds(tmp_path: Path, digits: Dataset) -> None:
    request = request_for("dlsm", tmp_path)
    shared = {"score": SharedBy(cell="sde-seed0", train_flops=1e13, seconds=20.0)}
    row = leave(request, "dlsm", shared_stages=shared)
    subject = subject_of(request, "dlsm", request.settings, digits)
    found = recorded.from_records(subject, request.folder)
    assert found is not None
    assert found.first_stage_seconds == 20
    assert found.train_seconds == row.ledger["train"]


# -- the plan -------------------------------------------------------------------------------------


@pytest.fixture
def planned(tmp_path: Path) -> list[Planned]:
    return study.plan(request_for("dlsm:on_sde,sde,smm", tmp_path, seeds="0,1"), PREPARED)


COSTS = {
    "sde": Whole(
        train_flops=10.0, train_seconds=100.0, first_stage_seconds=100.0, sample_flops=1.0,
        sample_seconds=10.0, evaluate_seconds=5.0, other_seconds=5.0,
    ),
    "dlsm:on_sde": Whole(
        train_flops=15.0, train_seconds=160.0, first_stage_seconds=100.0, sample_flops=2.0,
        sample_seconds=20.0, evaluate_seconds=5.0, other_seconds=5.0,
    ),
    "smm": Whole(
        train_flops=7.0, train_seconds=70.0, sample_flops=0.0, sample_seconds=0.0,
        evaluate_seconds=5.0, other_seconds=5.0,
    ),
}  # fmt: skip
STAGES = {"sde": "k", "dlsm:on_sde": "k", "smm": None}


def test_flops_are_charged_to_each_and_seconds_to_the_first(planned: list[Planned]) -> None:
    found = outlook(planned, STAGES, Forecast(methods=COSTS), jobs=1)
    seconds = {row.name: row.cost.total for row in found.rows}
    assert seconds["dlsm-on_sde-seed0"] == 190
    assert seconds["sde-seed0"] == 20
    assert seconds["smm-seed1"] == 80
    assert found.total.train_flops == 2 * (10 + 15 + 7)
    assert found.wall_clock == sum(filter(None, seconds.values())) == 2 * (190 + 20 + 80)
    text = "\n".join(lines(found))
    assert "* sde-seed1: its first stage is trained by dlsm-on_sde-seed1" in text


def test_a_stage_that_lies_there_costs_no_time(planned: list[Planned]) -> None:
    there = {"dlsm-on_sde-seed0": Left(has_first_stage=True)}
    found = outlook(planned, STAGES, Forecast(methods=COSTS, cells=there), jobs=1)
    assert found.rows[0].cost.total == 90
    assert found.rows[0].cost.train_flops == 15


def test_done_cells_cost_nothing_and_begun_ones_the_rest(planned: list[Planned]) -> None:
    actions = {
        "dlsm-on_sde-seed0": "resume", "sde-seed0": "reuse", "smm-seed0": "keep",
        "sde-seed1": "fail",
    }  # fmt: skip
    for cell in planned:
        cell.action = actions.get(cell.folder.name, "run")
    left = {
        "dlsm-on_sde-seed0": Left(is_begun=True, train=0.25, sample=0.5),
        # A checkpoint of something older, which is run afresh.
        "smm-seed1": Left(is_begun=True, train=0.1),
    }
    found = outlook(planned, STAGES, Forecast(methods=COSTS, cells=left), jobs=1)
    costs = {row.name: row.cost for row in found.rows}
    assert costs["dlsm-on_sde-seed0"].train == 40
    assert costs["dlsm-on_sde-seed0"].sample == 10
    assert costs["dlsm-on_sde-seed0"].train_flops == 3.75
    assert costs["smm-seed1"].train == 70
    assert costs["sde-seed0"].total == costs["smm-seed0"].total == costs["sde-seed1"].total == 0
    assert len(found.active) == 3


@pytest.mark.parametrize(("jobs", "expected"), [(1, 7 + 580), (2, 7 + 300), (6, 7 + 190)])
def test_the_wall_clock_is_that_of_a_greedy_schedule(
    planned: list[Planned], jobs: int, expected: float
) -> None:
    """190, 20, 80, 190, 20, 80 seconds in the order of the plan: with two slots 290 and 290."""
    found = outlook(planned, STAGES, Forecast(methods=COSTS, prepare_seconds=7.0), jobs=jobs)
    if jobs == 2:
        # 0-190 | 0-20, 20-100, 100-290, then 190-210, 210-290.
        expected = 7 + 290
    assert found.wall_clock == expected


def test_what_is_not_known_is_said(planned: list[Planned]) -> None:
    partly = COSTS | {"sde": Whole(train_flops=3.0, troubles=["sampling: no time"])}
    told = Forecast(at="smm", methods=partly, prepare_seconds=None)
    found = outlook(planned, STAGES, told, jobs=1)
    assert found.total.total is None
    text = "\n".join(lines(found))
    assert "in total at least" in text
    assert "sde: sampling: no time" in text
    assert "the estimate ended at smm" in text
    assert re.search(r"sde-seed0: run \(to do\) .*\?", text)


def test_columns_are_aligned(planned: list[Planned]) -> None:
    rows = lines(outlook(planned, STAGES, Forecast(methods=COSTS), jobs=1))[: len(planned) + 3]
    assert len({len(row) for row in rows}) == 1


# -- what goes wrong ------------------------------------------------------------------------------


def test_an_attempt_that_fails_or_takes_too_long_is_noted() -> None:
    troubles: list[str] = []
    attempt = Attempts(0.2, troubles)
    assert attempt("one", lambda: 1) == 1
    assert attempt("two", lambda: int("x")) is None
    started = time.perf_counter()
    assert attempt("three", lambda: time.sleep(30)) is None
    assert time.perf_counter() - started < 5
    assert troubles[0].startswith("two: ValueError: invalid literal")
    assert troubles[1] == "three: not measured within 0.2 s"


def test_a_method_that_fails_leaves_the_others(tmp_path: Path, digits: Dataset) -> None:
    request = request_for("smm,sde", tmp_path)
    subjects = [subject_of(request, name, request.settings, digits) for name in ("smm", "sde")]
    broken = replace(subjects[0], config={"no": "setting"})
    moments: list[str] = []
    found = forecast(
        [broken, subjects[1]], [0], study=tmp_path, cache=tmp_path, startup=1.0,
        note=lambda told: moments.append(told.at),
    )  # fmt: skip
    assert moments == ["the evaluation", "smm", "sde"]
    assert found.methods["smm"].troubles
    assert found.methods["sde"].train_seconds is not None
    assert found.prepare_seconds is not None
    assert found.prepare_seconds > 0
    json.loads(json.dumps(found.model_dump()))


def test_a_method_that_ends_the_process_ends_the_estimate_alone(
    tmp_path: Path, run_bench: Bench
) -> None:
    path = plugins.install(tmp_path / "plugin")
    (path / "faulty_methods.py").write_text(plugins.CODE.replace("> 6", "> 0"))
    env = {"PYTHONPATH": os.pathsep.join([str(path), os.environ.get("PYTHONPATH", "")])}
    command = ["run", "--methods", "smm,exits", "--dataset", "digits", "--preset", "smoke"]
    done = run_bench(*command, "--dry-run", env=env)
    assert done.returncode == 0, done.stderr
    assert re.search(r"# smm-seed0: run \(to do\) +[0-9.]+ GFLOP .* s\n", done.stdout)
    assert "# exits-seed0: run (to do)" in done.stdout
    assert "the estimate ended at exits" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["plugin"]
