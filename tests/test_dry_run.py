"""What a dry run tells of costs, held against real runs, and what becomes of it in trouble."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench import metrics, study, worker
from bench.commands.dry_run import candidate as trying
from bench.commands.dry_run import recorded, rehearsal, trials
from bench.commands.dry_run.candidate import Attempts, Candidate, grown, warm_ups
from bench.commands.dry_run.command import lines
from bench.commands.dry_run.costs import FREE, CellCost, Findings, Remaining, estimate_plan
from bench.commands.dry_run.rehearsal import Shared, rehearse
from bench.commands.dry_run.trials import (
    EvaluationCost,
    cost_of_stage,
    diagnostic_evaluations,
    try_draws,
)
from bench.commands.options import parse_seeds, split
from bench.commands.run import RunOptions
from bench.commands.run.request import resolve
from bench.config.schema import CellConfig, Settings, parse_budget
from bench.config.text import to_yaml
from bench.costs import ledger
from bench.costs.ledger import Ledger
from bench.data.dataset import Dataset
from bench.data.loading import load
from bench.records.environment import device_name
from bench.records.files import write_text
from bench.records.record import CHECKPOINT, SAMPLES, Record, SharedBy, Status, save
from bench.records.source_code import source_hashes
from bench.sampling.source import count_sampling
from bench.sampling.timing import draw_and_time, settle
from bench.study.plan import Planned
from bench.training.trainer import Hooks, Trainer
from bench.worker.shared_stages import stage_key
from methods import registry
from methods.base import Stage

from . import plugins
from .conftest import Bench, install_here
from .fake_study import make_record

CPU = torch.device("cpu")
METHODS = registry.names()
VARIANTS = ("cdm:semi", "dlsm:on_sde", "sde:heun", "sde:ve", "smm:no_mismatch")
Make = Callable[..., Candidate]
RARE = ["smm.r1_gamma=1e-4", "smm.r1_every=3"]


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

    def candidate(label: str, budget: str = "0.4kimg", *overrides: str) -> Candidate:
        request = request_for(label, tmp_path, *overrides)
        changed = request.settings.model_dump() | {"budget": parse_budget(budget)}
        return candidate_of(request, label, Settings.model_validate(changed), digits)

    return candidate


def candidate_of(
    request: study.Request, label: str, settings: Settings, data: Dataset
) -> Candidate:
    config = request.methods[label]
    cell = CellConfig(settings=settings, method=label, method_config=config, seed=0)
    return Candidate(cell, data, CPU)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two images are enough of every trial."""
    monkeypatch.setattr(trying, "ENOUGH", 0.0)
    monkeypatch.setattr(trials, "STEPS_SECONDS", 0.0)


# -- FLOPs of training ----------------------------------------------------------------------------


def trained_flops(candidate: Candidate) -> float:
    """What the trainer counts in a whole training."""
    built = candidate.built()
    trainer = Trainer(
        built.method,
        worker.feed_of(built),
        settings=candidate.cell.training,
        budget=candidate.settings.budget,
        seed=0,
        ledger=Ledger(CPU),
        hooks=Hooks(),
    )
    trainer.run()
    return sum(trainer.train_flops.values())


def estimated(candidate: Candidate) -> tuple[float, float]:
    """FLOPs and seconds of the training as a dry run tells them."""
    whole, built = CellCost(), candidate.shortened().built()
    attempt = Attempts(600.0, whole.troubles)
    rehearsal.note_training(whole, built, None, Shared(0.0), attempt)
    assert whole.troubles == []
    assert whole.train_flops > 0
    assert whole.train_seconds > 0
    return whole.train_flops, whole.train_seconds


@pytest.mark.slow
@pytest.mark.parametrize("budget", ["0.25kimg", "2e9flop"])
@pytest.mark.parametrize("name", METHODS)
def test_training_flops_are_those_of_a_real_run(
    make: Make, few: None, name: str, budget: str
) -> None:
    """Though they are counted on two images of 64."""
    candidate = make(name, budget, *(RARE if name == "smm" else []))
    assert estimated(candidate)[0] == trained_flops(candidate)


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_training_flops_of_variants(make: Make, few: None, name: str) -> None:
    candidate = make(name, "0.15kimg")
    assert estimated(candidate)[0] == trained_flops(candidate)


@pytest.mark.slow
def test_augmentation_and_dropout_can_be_counted(make: Make, few: None) -> None:
    """As in the paper's presets: random transforms, masks shared by evaluations.

    What is logged of dropout, of an eighth of a batch, is not seen of two images.
    """
    overrides = ["cdm.augment=0.12", "cdm.network.dropout=0.1", "cdm.network.attention=[8]"]
    candidate = make("cdm", "0.1kimg", *overrides, "training.precision=bf16")
    assert 0.97 < estimated(candidate)[0] / trained_flops(candidate) < 1
    candidate = make("cdm:one_step", "0.1kimg", "cdm.augment=0.12", "cdm.network.attention=[8]")
    assert estimated(candidate)[0] == trained_flops(candidate)


def forget_every(stage: Stage) -> Stage:
    return replace(stage, objectives=[replace(o, every=1) for o in stage.objectives])


def forget_share(stage: Stage) -> Stage:
    return replace(stage, share=1.0)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "fault"), [("smm", forget_every), ("dlsm", forget_share)])
def test_a_planted_fault_shows(
    make: Make, few: None, name: str, fault: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidate = make(name, "0.4kimg", *(RARE if name == "smm" else []))
    right, scale = trained_flops(candidate), trials.scaled_up
    monkeypatch.setattr(
        trials, "scaled_up", lambda built, stage, parts: scale(built, fault(stage), parts)
    )
    assert abs(estimated(candidate)[0] / right - 1) > 0.01


# -- seconds of training --------------------------------------------------------------------------


class Clock(SimpleNamespace):
    """Stands still but where work is said to be done."""

    def __init__(self) -> None:
        super().__init__(now=0.0)

    def perf_counter(self) -> float:
        return float(self.now)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("budget", "seconds"), [("0.64kimg", 10 * 64 * (0.01 + 0.02 + 0.03 / 3)), ("60s", 60.0)]
)
def test_seconds_are_those_of_the_trainers_own_ledger(
    make: Make, monkeypatch: pytest.MonkeyPatch, budget: str, seconds: float
) -> None:
    """Ten steps, of which the rarest objective takes part in each third."""
    clock, candidate = Clock(), make("smm", budget, *RARE)
    monkeypatch.setattr(ledger, "time", clock)
    built = candidate.built()

    def slow(objective: Any, each: float) -> Any:
        def loss(batch: Any) -> torch.Tensor:
            clock.now += each * len(batch.x)
            return objective.loss(batch)  # type: ignore[no-any-return]

        return replace(objective, loss=loss)

    (stage,) = built.method.stages()
    assert sorted(o.every for o in stage.objectives) == [1, 1, 3]
    costs = iter([0.01, 0.02])
    objectives = [slow(o, 0.03 if o.every == 3 else next(costs)) for o in stage.objectives]
    troubles: list[str] = []
    found = cost_of_stage(built, replace(stage, objectives=objectives), Attempts(600.0, troubles))
    assert troubles == []
    assert found is not None
    assert found.seconds == pytest.approx(seconds)
    assert found.told[0].startswith("the budget is the time" if budget == "60s" else "steps of")


def test_a_slow_first_step_is_the_only_one(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, candidate, calls = Clock(), make("sde", "0.64kimg"), []
    monkeypatch.setattr(ledger, "time", clock)
    built = candidate.built()
    (stage,) = built.method.stages()

    def slow(batch: Any) -> torch.Tensor:
        calls.append(len(batch.x))
        clock.now += 30.0
        return stage.objectives[0].loss(batch)

    lame = replace(stage, objectives=[replace(stage.objectives[0], loss=slow)])
    found = cost_of_stage(built, lame, Attempts(600.0, []))
    assert found is not None
    assert calls == [2]
    assert found.seconds == pytest.approx(10 * 30.0 / 2 * 64)
    assert found.told == ["steps of 2 timed for 64"]


@pytest.mark.slow
def test_methods_whose_first_stage_is_the_same_try_it_once(make: Make, few: None) -> None:
    shared, tried = Shared(0.0, EvaluationCost({"digits": 1e-4})), []
    for name in ("sde", "dlsm:on_sde", "sde:heun"):
        candidate = make(name)
        first = candidate.outlined().stages()[0]
        key = stage_key(first, name, candidate.settings, candidate.dataset.sha256, None)
        whole = CellCost()
        rehearsal.fill(whole, replace(candidate, stage=key), shared)
        assert whole.first_stage_seconds
        tried.append(whole.first_stage_seconds)
    assert len(shared.stages) == 1
    assert len(set(tried)) == 1


@pytest.mark.parametrize(
    ("each", "sizes"), [(1.0, [2]), (0.1, [2, 10]), (1e-4, [2, 64]), (0.03, [2, 33])]
)
def test_trials_grow_until_they_take_a_moment(each: float, sizes: list[int]) -> None:
    tried = []

    def attempt(size: int) -> float:
        tried.append(size)
        return size * each

    found = grown(attempt, 64, CPU)
    assert tried == sizes
    assert found.of(10) == pytest.approx(10 * each)
    assert grown(attempt, 64, torch.device("cuda")).size == 64


# -- sampling -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", [*METHODS, "sde:heun", "sde:predictor_corrector", "sde:unipc"])
def test_sampling_flops_are_those_of_a_real_draw(make: Make, few: None, name: str) -> None:
    candidate = make(name)
    source = candidate.built().source("samples")
    _, counted = count_sampling(source, candidate.settings.sampling.batch)
    found = try_draws(candidate, candidate.shortened().built())
    assert found.flops == counted
    # One evaluation, as the diagnostics make them; where there is no sampler, by what is called.
    assert found.evaluation_flops == counted / candidate.evaluations()


def test_all_images_that_are_drawn_are_counted(make: Make) -> None:
    candidate = make("smm")
    drawn = []
    source = candidate.built().source("samples")
    source.method.sample = lambda n, **_: drawn.append(n) or torch.zeros(n, 1, 8, 8)  # type: ignore[method-assign, func-returns-value]
    evaluation, sampling = candidate.settings.evaluation, candidate.settings.sampling
    found = draw_and_time(source, evaluation.samples, sampling, lambda fraction: None)
    assert candidate.snapshots == 60  # One of two moments, 50 samples in batches of 20.
    # Warm-up goes on until it is stable, which is luck: the usual number of batches is told.
    more = [found.warm_ups[name].batches - 6 for name in ("batch", "latency")]
    told = candidate.at_once() - candidate.snapshots + candidate.alone()
    assert sum(drawn) == told + more[0] * sampling.batch + more[1]


@pytest.mark.parametrize(
    ("seconds", "batches"), [(None, 6), (1e-3, 250), (0.1, 6), (2.5, 4), (60.0, 2)]
)
def test_warm_up_is_short_where_batches_are_slow(seconds: float | None, batches: int) -> None:
    assert warm_ups(seconds) == batches
    if seconds is not None:
        assert settle(lambda: seconds, 1).batches == batches


@pytest.mark.slow
def test_diagnostics_are_counted_by_running_them(make: Make) -> None:
    candidate = make("dlsm")
    method, images = candidate.built().method, 0
    n = candidate.settings.evaluation.diagnostic_samples

    def note(module: object, inputs: tuple[torch.Tensor, ...]) -> None:
        nonlocal images
        images += len(inputs[0])

    method.networks["denoiser"].register_forward_pre_hook(note)
    labels = torch.zeros(n, dtype=torch.int64)
    metrics.diagnose(
        method, candidate.dataset, worker.data_spec(candidate.dataset), n=n,
        labels=lambda: labels, generator=torch.Generator(),
    )  # fmt: skip
    assert diagnostic_evaluations(candidate) == images


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_times_are_positive_and_finite(make: Make, few: None, name: str) -> None:
    whole, evaluation = CellCost(), EvaluationCost({"digits": 1e-4}, cas=1.0)
    rehearsal.fill(whole, make(name, "1kimg"), Shared(1.0, evaluation))
    assert whole.troubles == []
    for value in (whole.train_flops, whole.sample_flops, whole.train_seconds,
                  whole.sample_seconds, whole.evaluate_seconds):  # fmt: skip
        assert 0 < value < math.inf


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
    save(row, cell.folder)
    write_text(cell.folder / "config.yaml", to_yaml(cell.config))
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
        candidate_of(request, "sde", request.settings, digits), request.folder
    )
    if told is None:
        assert found is None
        return
    assert found is not None
    assert found.sources == [told]
    assert found.train_flops == row.cost.train_flops
    parts = (found.train_seconds, found.sample_seconds, found.evaluate_seconds, found.other_seconds)
    assert sum(parts) == pytest.approx(row.ledger["wall"])


def test_a_cell_of_other_settings_tells_nothing(tmp_path: Path, digits: Dataset) -> None:
    leave(request_for("sde", tmp_path), "sde")
    other = request_for("sde", tmp_path, "sde.sampler.steps=7")
    candidate = candidate_of(other, "sde", other.settings, digits)
    assert recorded.from_records(candidate, other.folder) is None


def test_an_unreadable_record_is_passed_over(tmp_path: Path, digits: Dataset) -> None:
    request = request_for("sde", tmp_path)
    leave(request, "sde")
    (request.folder / "sde-seed0" / "record.json").write_text("{")
    candidate = candidate_of(request, "sde", request.settings, digits)
    assert recorded.from_records(candidate, request.folder) is None
    assert recorded.remaining_of(request.folder / "sde-seed0", candidate, CellCost()).trouble


@pytest.mark.parametrize(
    ("budget", "fraction"), [("1kimg", 0.25), ("1e10flop", 0.25), ("40s", 0.75)]
)
def test_what_is_left_is_read_from_the_checkpoint(
    tmp_path: Path, make: Make, budget: str, fraction: float
) -> None:
    """A quarter of the FLOPs and three quarters of the seconds are done."""
    candidate = make("sde", budget)
    row = make_record(tmp_path, "sde", 0, key="k", status=Status.INTERRUPTED)
    row.cost.ms_per_image = None
    save(row, tmp_path)
    whole = CellCost(train_flops=8.0, train_seconds=40.0)
    assert recorded.remaining_of(tmp_path, candidate, whole) == Remaining()
    state = {
        "key": "k",
        "ledger": {"train": 30.0},
        "trainer": {"train_flops": {"a": 1.5, "b": 0.5}, "snapshots": 1},
    }
    torch.save(state, tmp_path / CHECKPOINT)
    found = recorded.remaining_of(tmp_path, candidate, whole)
    assert found.is_begun
    assert found.train == pytest.approx(1 - fraction)
    # One of the two moments of its snapshots is over.
    images, batch = candidate.at_once() + candidate.alone(), candidate.settings.sampling.batch
    assert found.sample == pytest.approx(1 - candidate.snapshots / 2 / images)
    (tmp_path / "drawing").mkdir()
    part = {"key": "k", "first": 3, "batches": [{}, {}], "ledger": {}}
    torch.save(part, tmp_path / "drawing" / "part-00000003.pt")
    drawn = 5 * batch + candidate.snapshots / 2
    found = recorded.remaining_of(tmp_path, candidate, whole)
    assert found.sample == pytest.approx(1 - drawn / images)
    row.cost.ms_per_image = make_record(tmp_path, "sde", 0).cost.ms_per_image
    save(row, tmp_path)
    (tmp_path / SAMPLES).touch()
    assert recorded.remaining_of(tmp_path, candidate, whole).sample == 0
    torch.save(state | {"key": "another"}, tmp_path / CHECKPOINT)
    assert recorded.remaining_of(tmp_path, candidate, whole) == Remaining()
    (tmp_path / CHECKPOINT).write_bytes(b"torn")
    assert "cannot be read" in recorded.remaining_of(tmp_path, candidate, whole).trouble


def test_a_shared_stage_counts_its_own_seconds(tmp_path: Path, digits: Dataset) -> None:
    request = request_for("dlsm", tmp_path)
    shared = {"score": SharedBy(cell="sde-seed0", train_flops=1e13, seconds=20.0)}
    row = leave(request, "dlsm", shared_stages=shared)
    candidate = candidate_of(request, "dlsm", request.settings, digits)
    found = recorded.from_records(candidate, request.folder)
    assert found is not None
    assert found.first_stage_seconds == 20
    assert found.train_seconds == row.ledger["train"]


# -- the plan -------------------------------------------------------------------------------------


@pytest.fixture
def planned(tmp_path: Path) -> list[Planned]:
    return study.plan(request_for("dlsm:on_sde,sde,smm", tmp_path, seeds="0,1"), PREPARED)


COSTS = {
    "sde": CellCost(
        train_flops=10.0, train_seconds=100.0, first_stage_seconds=100.0, sample_flops=1.0,
        sample_seconds=10.0, evaluate_seconds=5.0, other_seconds=5.0,
    ),
    "dlsm:on_sde": CellCost(
        train_flops=15.0, train_seconds=160.0, first_stage_seconds=100.0, sample_flops=2.0,
        sample_seconds=20.0, evaluate_seconds=5.0, other_seconds=5.0,
    ),
    "smm": CellCost(
        train_flops=7.0, train_seconds=70.0, sample_flops=0.0, sample_seconds=0.0,
        evaluate_seconds=5.0, other_seconds=5.0,
    ),
}  # fmt: skip
STAGES = {"sde": "k", "dlsm:on_sde": "k", "smm": None}


def test_flops_are_charged_to_each_and_seconds_to_the_first(planned: list[Planned]) -> None:
    found = estimate_plan(planned, STAGES, Findings(methods=COSTS), jobs=1)
    seconds = {row.name: sum(row.cost.seconds) for row in found.rows}
    assert seconds["dlsm-on_sde-seed0"] == 190
    assert seconds["sde-seed0"] == 20
    assert seconds["smm-seed1"] == 80
    assert found.total.train_flops == 2 * (10 + 15 + 7)
    assert found.wall_clock == sum(seconds.values()) == 2 * (190 + 20 + 80)
    text = "\n".join(lines(found))
    assert "* sde-seed1: its first stage is trained by dlsm-on_sde-seed1" in text


def test_a_stage_that_lies_there_costs_no_time(planned: list[Planned]) -> None:
    there = {"dlsm-on_sde-seed0": Remaining(has_first_stage=True)}
    found = estimate_plan(planned, STAGES, Findings(methods=COSTS, cells=there), jobs=1)
    assert sum(found.rows[0].cost.seconds) == 90
    assert found.rows[0].cost.train_flops == 15


def test_done_cells_cost_nothing_and_begun_ones_the_rest(planned: list[Planned]) -> None:
    actions = {
        "dlsm-on_sde-seed0": "resume", "sde-seed0": "reuse", "smm-seed0": "keep",
        "sde-seed1": "fail",
    }  # fmt: skip
    for cell in planned:
        cell.action = actions.get(cell.folder.name, "run")
    left = {
        "dlsm-on_sde-seed0": Remaining(is_begun=True, train=0.25, sample=0.5),
        # A checkpoint of something older, which is run afresh.
        "smm-seed1": Remaining(is_begun=True, train=0.1),
    }
    found = estimate_plan(planned, STAGES, Findings(methods=COSTS, cells=left), jobs=1)
    costs = {row.name: row.cost for row in found.rows}
    assert costs["dlsm-on_sde-seed0"].train_seconds == 40
    assert costs["dlsm-on_sde-seed0"].sample_seconds == 10
    assert costs["dlsm-on_sde-seed0"].train_flops == 3.75
    assert costs["smm-seed1"].train_seconds == 70
    assert [costs[name] for name in ("sde-seed0", "smm-seed0", "sde-seed1")] == [FREE] * 3
    assert len(found.active) == 3


@pytest.mark.parametrize(("jobs", "expected"), [(1, 7 + 580), (2, 7 + 300), (6, 7 + 190)])
def test_the_wall_clock_is_that_of_a_greedy_schedule(
    planned: list[Planned], jobs: int, expected: float
) -> None:
    """190, 20, 80, 190, 20, 80 seconds in the order of the plan: with two slots 290 and 290."""
    found = estimate_plan(planned, STAGES, Findings(methods=COSTS, prepare_seconds=7.0), jobs=jobs)
    if jobs == 2:
        # 0-190 | 0-20, 20-100, 100-290, then 190-210, 210-290.
        expected = 7 + 290
    assert found.wall_clock == expected


def test_what_is_not_known_is_said(planned: list[Planned]) -> None:
    partly = COSTS | {"sde": CellCost(train_flops=3.0, troubles=["sampling: no time"])}
    told = Findings(at="smm", methods=partly, prepare_seconds=math.nan)
    found = estimate_plan(planned, STAGES, told, jobs=1)
    assert math.isnan(sum(found.total.seconds))
    text = "\n".join(lines(found))
    assert "in total at least" in text
    assert "sde: sampling: no time" in text
    assert "the estimate ended at smm" in text
    assert re.search(r"sde-seed0: run \(to do\) .*\?", text)


def test_columns_are_aligned(planned: list[Planned]) -> None:
    rows = lines(estimate_plan(planned, STAGES, Findings(methods=COSTS), jobs=1))[
        : len(planned) + 3
    ]
    assert len({len(row) for row in rows}) == 1


# -- what goes wrong ------------------------------------------------------------------------------


def test_an_attempt_that_fails_or_begins_too_late_is_noted() -> None:
    troubles: list[str] = []
    attempt = Attempts(60.0, troubles)
    assert attempt("one", None, lambda: 1) == 1
    assert attempt("two", None, int, "x") is None
    attempt.began = time.perf_counter() - 61
    assert attempt("three", None, lambda: 3) is None
    assert troubles[0].startswith("two: ValueError: invalid literal")
    assert troubles[1] == "three: not tried within 60 s"


def test_a_method_that_fails_leaves_the_others(tmp_path: Path, digits: Dataset, few: None) -> None:
    request = request_for("smm,sde", tmp_path)
    smm, sde = (candidate_of(request, name, request.settings, digits) for name in ("smm", "sde"))
    no_such = smm.cell.model_copy(update={"method_config": {"no": "setting"}})
    broken = replace(smm, cell=no_such)
    moments: list[str] = []
    found = rehearse(
        [broken, sde], [0], study=tmp_path, cache=tmp_path, startup=1.0,
        note=lambda told: moments.append(told.at),
    )  # fmt: skip
    assert moments == ["the evaluation", "smm", "sde"]
    assert found.methods["smm"].troubles
    assert found.methods["sde"].train_seconds > 0
    assert found.prepare_seconds > 0
    json.loads(json.dumps(found.model_dump()))


@pytest.mark.usefixtures("forks")
def test_a_method_that_ends_the_process_ends_the_estimate_alone(
    tmp_path: Path, call_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = plugins.install(tmp_path / "plugin")
    (path / "faulty_methods.py").write_text(plugins.CODE.replace("> 6", "> 0"))
    install_here(path, monkeypatch)
    command = ["run", "--methods", "smm,exits", "--dataset", "digits", "--preset", "smoke"]
    done = call_bench(*command, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert re.search(r"# smm-seed0: run \(to do\) +[0-9.]+ GFLOP .* (s|min|h)\n", done.stdout)
    assert "# exits-seed0: run (to do)" in done.stdout
    assert "the estimate ended at exits" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["plugin"]
