"""Variants of the methods as settings, and first stages that are trained once for several cells."""

from __future__ import annotations

import re
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.commands.method_labels import check_overrides, check_reach, resolve_label
from bench.config.errors import UserError
from bench.config.overrides import apply_overrides
from bench.config.presets import choose_preset, datasets, merge, presets
from bench.config.schema import Preset
from bench.costs.flops import count_calls, count_flops, parameters
from bench.costs.ledger import PARTS
from bench.data.catalogue import KNOWN
from bench.records import record
from bench.training import Trainer
from bench.worker.shared_stages import stage_key
from methods import registry
from methods.base import EMA, Adam, DataSpec, Method
from methods.dlsm import DLSM, DLSMConfig
from methods.networks.unet import UNetSettings
from methods.noise import VENoise
from methods.samplers import SamplerSettings, nfe, noise_levels
from methods.sde import DenoiserConfig
from methods.smm import SMM, SMMConfig

from .conftest import Bench
from .test_samplers import DETERMINISTIC
from .tiny import GREY, Watch, draw, make_batch, make_trainer, weights

VARIANTS = [
    f"{name}:{variant}" for name in registry.BUILTIN for variant in registry.load(name).variants
]


def resolved(label: str, **settings: Any) -> dict[str, Any]:
    _, preset = choose_preset("digits", "smoke", "cpu")
    own = merge(preset.methods, {registry.base(label): settings})
    return resolve_label(label, Preset.model_validate({**preset.model_dump(), "methods": own}))


def make(label: str, seed: int = 0, data: DataSpec = GREY, **settings: Any) -> Method:
    kind = registry.load(label)
    torch.manual_seed(seed)
    return kind(kind.Config.model_validate(resolved(label, **settings)), data)


@pytest.mark.slow
@pytest.mark.parametrize("label", VARIANTS)
def test_every_variant_changes_what_it_says_and_runs(label: str) -> None:
    plain, changed = resolved(registry.base(label)), resolved(label)
    _, preset = choose_preset("digits", "smoke", "cpu")
    for settings in registry.variants(label):
        for key, value in merge(settings, preset.methods.get(label, {})).items():
            found = changed[key]
            assert value.items() <= found.items() if isinstance(value, dict) else found == value
    # What the preset has anyway.
    same = {"cdm:one_step", "dlsm:total", "smm:equal_rates"}
    assert plain != changed or label in same or label.endswith(":ancestral")
    method = make(label)
    for stage in method.stages():
        for objective in stage.objectives:
            loss = objective.loss(make_batch())
            assert torch.isfinite(loss), label
    assert torch.isfinite(draw(method, 3)).all()


def test_variants_join_and_the_label_s_own_block_comes_last() -> None:
    joined = resolved("sde:conditional+heun")
    assert joined["conditional"] is True
    assert joined["sampler"]["name"] == "heun"
    _, preset = choose_preset("digits", "smoke", "cpu")
    body = preset.model_dump()
    body["methods"]["cdm:semi"] = {"consistency_weight": 3.0}
    body["methods"]["cdm"] = {"consistency_weight": 5.0, "max_gap": 0.5}
    settings = resolve_label("cdm:semi", Preset.model_validate(body))
    assert settings["consistency_weight"] == 3.0
    assert settings["estimator"] == "semi"
    assert settings["max_gap"] == 0.5
    # A block of one variant reaches those that join it: after its settings, before the next.
    body["methods"]["cdm:semi"] |= {"conditional": False, "branch_steps": 7, "rho": 2.0}
    body["methods"]["cdm:semi+conditional"] = {"rho": 3.0}
    settings = resolve_label("cdm:semi+conditional", Preset.model_validate(body))
    found = {k: settings[k] for k in ("consistency_weight", "branch_steps", "rho", "conditional")}
    assert found == {
        "consistency_weight": 3.0, "branch_steps": 7, "rho": 3.0, "conditional": True
    }  # fmt: skip


@pytest.mark.parametrize("dataset", datasets())
def test_what_joins_a_release_has_its_networks(dataset: str) -> None:
    """Whatever it is joined with, in every preset: a smaller one would pass for the authors'."""
    for name, preset in presets(dataset).items():
        for label, keys in (
            ("dlsm:as_released", ("network", "classifier")),
            ("smm:main", ("generator", "score_network")),
        ):
            method, alone = registry.load(label), resolve_label(label, preset)
            others = [v for v, own in method.variants.items() if not own.keys() & {*keys}]
            assert len(others) > 2
            for other in others:
                joined = resolve_label(f"{label}+{other}", preset)
                assert {k: joined[k] for k in keys} == {k: alone[k] for k in keys}, (name, other)


def test_an_unknown_variant_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"unknown variant of cdm 'semy'.*did you mean 'semi'"):
        resolved("cdm:semy")


def test_another_kind_of_network_replaces_the_preset_s_block() -> None:
    settings = resolved("sde", network={"kind": "mlp", "width": 32})
    assert settings["network"]["kind"] == "mlp"
    assert settings["network"]["width"] == 32
    assert "multipliers" not in settings["network"]


def test_a_key_of_another_kind_is_refused() -> None:
    with pytest.raises(UserError, match=r"unknown key 'network\.depth'.*channels"):
        resolved("sde", network={"depth": 3})
    with pytest.raises(UserError, match=r"network\.kind = 'unett'.*did you mean 'unet'"):
        resolved("sde", network={"kind": "unett"})


# -- what the variants are ------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("label", "ratio"),
    [
        ("cdm:published", 17 / 3),
        ("cdm:as_released", 19 / 3),
        ("cdm:one_step", 3.0),
        ("cdm:semi", 4 / 3),
    ],
)
def test_the_cost_of_consistency_is_what_is_said(label: str, ratio: float) -> None:
    """Forward-equivalents of a step over those of denoising score matching, which takes 3."""

    def flops(name: str) -> float:
        (objective,) = make(name).stages()[0].objectives
        return count_flops(lambda: objective.loss(make_batch()).backward())[1]

    assert flops(label) / flops("sde") == pytest.approx(ratio, rel=0.01)


def test_cross_entropy_alone_asks_the_score_network_nothing() -> None:
    method = make("dlsm:ce")
    with count_calls(method.networks) as calls:
        method.stages()[1].objectives[0].loss(make_batch())
    assert calls["denoiser"] == 0
    assert calls["classifier"] == 12


def test_a_relative_gap_scales_with_the_level() -> None:
    method, batch = make("cdm:relative"), make_batch(4000)
    for level in (0.05, 20.0):
        end = method.draw_end(batch, torch.full((4000,), level)) / level
        assert end.min() >= 0.5
        assert end.max() <= 1
        assert float(end.mean()) == pytest.approx(0.75, abs=0.01)


def test_semi_sends_no_gradient_through_the_branch() -> None:
    """With D = a x + b, the gradient of w |D0 - sg(D1)|^2 in b is 2 w (D0 - D1) alone."""
    method = make("cdm:semi")
    seen: list[bool] = []
    method.denoiser.network.register_forward_hook(
        lambda module, inputs, output: seen.append(output.requires_grad)
    )
    method.loss(make_batch())
    assert seen == [True, False]


def test_the_control_is_the_non_saturating_game() -> None:
    """At a critic that says 0 everywhere the losses are 2 ln 2 and ln 2."""
    method = make("smm:gan")
    with torch.no_grad():
        for parameter in method.score.conv_out.parameters():
            parameter.zero_()
    assert float(method.score_loss(make_batch()).detach()) == pytest.approx(2 * np.log(2), rel=1e-5)
    assert float(method.generator_loss(make_batch()).detach()) == pytest.approx(np.log(2), rel=1e-5)


def test_two_time_scales_are_a_ratio_of_rates() -> None:
    objectives = {o.network: o for o in make("smm:two_time_scales").stages()[0].objectives}
    rates = {name: objective.optimizer.lr for name, objective in objectives.items()}
    assert rates["score"] == pytest.approx(3 * rates["generator"])


@pytest.mark.parametrize("name", ["sde", "cdm"])
def test_a_conditional_network_hears_the_class(name: str) -> None:
    method = make(f"{name}:conditional")
    assert method.needs_labels
    batch = make_batch()
    batch.labels = None
    with pytest.raises(ValueError, match="label"):
        method.loss(batch)
    with pytest.raises(ValueError, match="one class label an image"):
        method.sample(2, generator=torch.Generator())
    with torch.no_grad():
        for parameter in method.denoiser.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        samples = [
            method.sample(
                2, labels=torch.tensor(wanted), generator=torch.Generator().manual_seed(0)
            )
            for wanted in ([1, 2], [1, 3])
        ]
    assert torch.equal(samples[0][0], samples[1][0])
    assert not torch.allclose(samples[0][1], samples[1][1])


def test_conditional_networks_need_labelled_data() -> None:
    with pytest.raises(ValueError, match="the data have none"):
        make("sde:conditional", data=DataSpec(channels=1, size=8, classes=0))


# -- shared first stages --------------------------------------------------------------------------


class Shelf:
    """Keeps one stage's result."""

    def __init__(self) -> None:
        self.result: Any = None

    def load(self) -> Any:
        return self.result

    def save(self, result: Any) -> None:
        self.result = result


def train(method: Method, shelf: Shelf | None = None, **settings: Any) -> Trainer:
    trainer = make_trainer(method, Watch(), **settings)
    if shelf is not None:
        trainer.hooks.shared = lambda stage: nullcontext(shelf)
    trainer.run()
    return trainer


@pytest.mark.slow
def test_a_shared_stage_leaves_the_bits_that_training_it_would() -> None:
    """With dropout, in two stages: what a cell takes over changes nothing of what it ends with."""
    own = {"network": {"dropout": 0.1}}
    alone = make("dlsm", **own)
    reference = train(alone)
    shelf = Shelf()
    train(make("dlsm:ce", **own), shelf)
    taking = make("dlsm", seed=7, **own)
    # The classifier's first weights come from the constructor, as they do in a cell of equal seed.
    taking.classifier.load_state_dict(make("dlsm", **own).classifier.state_dict())
    trainer = train(taking, shelf)
    for key, value in weights(alone).items():
        assert torch.equal(value, weights(taking)[key]), key
    assert trainer.steps == reference.steps
    assert trainer.train_flops == reference.train_flops
    assert trainer.ledger.totals()["train"] > shelf.result["seconds"] > 0


@pytest.mark.slow
def test_the_first_stage_is_the_same_for_whom_it_should_be() -> None:
    _, preset = choose_preset("digits", "smoke", "cpu")
    from bench.config.schema import Settings

    def key(label: str, budget: str = "1kimg", seed: int = 0, **settings: Any) -> str | None:
        shared = Settings.model_validate(
            {
                "dataset": "digits",
                "preset": "smoke",
                "device": "cpu",
                "budget": budget,
                "training": preset.training,
                "evaluation": preset.evaluation,
            }
        )
        return stage_key(make(label, **settings).stages()[0], label, shared, "data", seed)

    assert key("sde") == key("sde:heun") == key("dlsm:on_sde")
    assert key("dlsm") == key("dlsm:ce") == key("dlsm:dlsm_alone")
    assert key("dlsm") != key("sde")  # a smaller share of the budget
    own = preset.training["batch"]
    assert key("dlsm", score_batch=own, score_flip=False) == key("dlsm")
    assert key("dlsm", score_batch=own + 1) != key("dlsm") != key("dlsm", score_flip=True)
    assert key("sde") != key("sde", seed=1)
    assert key("sde") != key("sde", budget="2kimg")
    assert key("sde") != key("sde:conditional")
    assert key("sde") != key("sde", ema={"halflife_kimg": 1})
    assert key("cdm") != key("sde")
    assert key("smm") is None


def test_a_subclass_from_elsewhere_shares_nothing() -> None:
    class Mine(registry.load("sde")):  # type: ignore[misc]
        pass

    torch.manual_seed(0)
    mine = Mine(Mine.Config.model_validate(resolved("sde")), GREY)
    assert mine.stages()[0].identity is None


def test_churn_makes_the_stochastic_sampler_another() -> None:
    """Without churn it is Heun's; the variant has some in every preset."""
    assert not torch.equal(draw(make("sde:edm_stochastic")), draw(make("sde:heun")))


@pytest.mark.parametrize(
    ("label", "ratio"), [("smm:main", (16 / 17) / (4 / 5)), ("smm:simple", 1.0)]
)
def test_published_rates_are_not_scaled_by_the_preset(label: str, ratio: float) -> None:
    method = make(label, score_lr_ratio=7.0)
    rates = {o.network: o.optimizer.lr for o in method.stages()[0].objectives}
    assert rates["score"] / rates["generator"] == pytest.approx(ratio)


@pytest.mark.parametrize("label", ["smm", "smm:main"])
@pytest.mark.parametrize("dataset", ["cifar10", "cifar100", "images64"])
def test_smm_at_the_paper_s_preset_is_the_authors_main_recipe(label: str, dataset: str) -> None:
    """``train.py --cfg=cifar --aug=noaug``: 2.5e-3, (0, 0.99), rescaled by lazy regularisation.

    Every 4 and 16 steps a penalty: the rate times n / (n + 1), the betas to that power.
    """
    _, preset = choose_preset(dataset, "paper", "cpu")
    config = SMMConfig.model_validate(resolve_label(label, preset))
    for optimizer, every in ((config.generator_optimizer, 4), (config.score_optimizer, 16)):
        lazy = every / (every + 1)
        assert optimizer.lr == pytest.approx(2.5e-3 * lazy, rel=1e-6)
        assert optimizer.betas == pytest.approx((0, 0.99**lazy), rel=1e-6)
        assert optimizer.eps == pytest.approx(1e-8 / (64 * 3072), rel=1e-3)
        assert (optimizer.warmup_kimg, optimizer.decay, optimizer.clip) == (0, "constant", None)
    with torch.device("meta"):
        method = SMM(config, DataSpec(channels=3, size=32))
    assert {name: parameters(network) for name, network in method.networks.items()} == {
        "score": 468_963,
        "generator": 24_669_715,
    }
    assert parameters(method.generator.mapping) == 5_247_488
    assert (config.score_input, config.score_output) == ("doubled", "over_ncsn")
    assert (config.r1_gamma, config.r1_every, config.r1_beside) == (0.01, 16, "sum")
    assert (config.levels, config.order, config.generator_noises) == (10, "generator_first", 2)
    assert config.generator_ema == EMA(halflife_kimg=500, rampup_ratio=0.05)
    assert config.score_network.dropout == 0.1
    assert preset.training["per_method"]["smm"] == {"batch": 64}
    assert preset.training["flip"] is False


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dataset", "blocks"), [("cifar10", (2, 2, 2, 2)), ("cifar100", (3, 4, 6, 3))]
)
def test_dlsm_at_the_paper_s_preset_is_the_authors_release(
    dataset: str, blocks: tuple[int, ...]
) -> None:
    """configs/default_cifar_configs.py and those of score and classifier; twice their levels."""
    _, preset = choose_preset(dataset, "paper", "cpu")
    config = DLSMConfig.model_validate(resolve_label("dlsm:as_released", preset))
    with torch.device("meta"):
        method = DLSM(config, DataSpec(channels=3, size=32, classes=10))
    assert parameters(method.denoiser) == pytest.approx(107.6e6, abs=0.05e6)
    assert config.network.dropout == 0.1
    assert config.noise == VENoise(sigma_min=2 * 0.01, sigma_max=2 * 50)
    assert config.classifier_noise is None
    assert config.optimizer == Adam(lr=2e-4, warmup_kimg=5000 * 128 / 1000, clip=1)
    warm = {"cifar10": 0, "cifar100": 1000 * 150 / 1000}[dataset]
    assert config.classifier_optimizer == Adam(lr=2e-4, warmup_kimg=warm, clip=1)
    assert config.classifier.blocks == blocks
    assert (config.balance, config.ce_weight, config.guidance, config.augment) == (0, 1, 1, 0)
    # 1/sigma^2 of images in [0, 1] is 4 times ours.
    assert config.dlsm_weight == 4
    assert (config.sampler.name, config.sampler.snr) == ("predictor_corrector", 0.16)
    assert nfe(config.sampler) == 2000
    levels = noise_levels(config.sampler)
    assert (float(levels[0]), float(levels[-2])) == pytest.approx((100, 0.02))


@pytest.mark.parametrize("dataset", ["digits", "mnist", "fashion-mnist", "cifar10", "cifar100"])
def test_the_paper_s_stochastic_sampler_churns_as_edm_s(dataset: str) -> None:
    """30 over 256 steps, 511 evaluations; over 18 steps it would be held at sqrt 2 - 1."""
    _, preset = choose_preset(dataset, "paper", "cpu")
    sampler = SamplerSettings.model_validate(resolve_label("sde", preset)["sampler"])
    assert (sampler.name, nfe(sampler)) == ("edm_stochastic", 511)
    assert sampler.s_churn / sampler.steps == pytest.approx(0.117, abs=1e-3)
    for name in DETERMINISTIC:
        for label in (f"sde:{name}", *(["sde:conditional+heun"] if name == "heun" else [])):
            sampler = SamplerSettings.model_validate(resolve_label(label, preset)["sampler"])
            assert (sampler.name, sampler.steps) == (name, 18)


def test_cdm_as_released_is_published_with_the_authors_three_accidents() -> None:
    for dataset in ("digits", "cifar10"):
        _, preset = choose_preset(dataset, "paper", "cpu")
        found = {key: resolve_label(f"cdm:{key}", preset) for key in ("published", "as_released")}
        assert {
            key: value
            for key, value in found["as_released"].items()
            if found["published"][key] != value
        } == {
            "branch_dropout": "independent",
            "branch_labels": "dropped",
            "branch_start": "anew",
        }


@pytest.mark.parametrize(
    ("label", "overrides", "key"),
    [
        ("cdm:semi", {"cdm": {"branch_steps": 3}}, "branch_steps"),
        ("sde:ve", {"sde": {"noise": {"sigma_data": 0.9}}}, "noise.kind"),
        ("sde:heun", {"sde": {"sampler": {"name": "euler"}}}, "sampler.name"),
        ("sde:heun", {"common": {"sampler": {"name": "euler"}}}, "sampler.name"),
        ("sde:vp+heun", {"sde:vp": {"sampler": {"name": "euler"}}}, "sampler.name"),
        # What the preset has of a variant undoes it as well.
        ("sde:conditional+ipndm", {"sde": {"sampler": {"steps": 9}}}, "sampler.steps"),
        ("sde:heun", {"common": {"sampler": {"steps": 9}}}, "sampler.steps"),
    ],
)
def test_a_value_that_a_variant_would_undo_is_refused(
    label: str, overrides: dict[str, Any], key: str
) -> None:
    named, (_, preset) = re.escape(label), choose_preset("cifar10", "paper", "cpu")
    with pytest.raises(UserError, match=rf"'{named}' sets {key} itself.*--set {named}\."):
        check_reach(label, overrides, preset)
    check_reach(label, {label: {"anything": 1}}, preset)
    check_reach(label, {**overrides, label: next(iter(overrides.values()))}, preset)
    check_reach(label, {registry.base(label): {"ema": {"halflife_kimg": 1}}}, preset)


def test_a_value_that_is_not_undone_is_taken() -> None:
    """A variant's comes over those before it, and reaches labels that join it."""
    _, preset = choose_preset("cifar10", "paper", "cpu")
    for head, label in (("sde:heun", "sde:vp+heun"), ("cdm:semi", "cdm:semi+conditional")):
        given = {head: {"sampler": {"name": "euler"}}}
        check_overrides(given, [label], preset)
        settings = resolve_label(label, apply_overrides(preset, given, [label]))
        assert settings["sampler"]["name"] == "euler"


@pytest.mark.parametrize("dataset", datasets())
def test_blocks_of_a_choice_name_their_kind_in_every_preset(dataset: str) -> None:
    """A block without one cannot be told from a block of another kind when they are merged."""
    choices = {"network", "noise", "score_network", "generator", "classifier"}
    for name, preset in presets(dataset).items():
        for block in [preset.common, *preset.methods.values()]:
            for key in choices & block.keys():
                assert "kind" in block[key], f"{dataset} {name} {key}"


@pytest.mark.usefixtures("forks", "no_plots")
def test_cells_that_share_a_stage_say_so_and_pay_in_full(tmp_path: Path, call_bench: Bench) -> None:
    """Two cells, one training; the samples are those of cells that share nothing."""
    smoke = ("--dataset", "digits", "--preset", "smoke", "--no-tracking")
    methods = ("--methods", "sde,dlsm:on_sde", *smoke)
    done = call_bench("run", *methods, "--study", "shared")
    assert done.returncode == 0, done.stderr
    done_alone = call_bench(
        "run", *methods, "--study", "alone", "--set", "training.share_stages=false"
    )
    assert done_alone.returncode == 0, done_alone.stderr
    shared = dict(cells(tmp_path / "results" / "shared"))
    alone = dict(cells(tmp_path / "results" / "alone"))
    assert sum(bool(row.shared_stages) for row in shared.values()) == 1
    assert not any(row.shared_stages for row in alone.values())
    assert "charged in full" in done.stdout
    assert "charged in full" not in done_alone.stdout
    for name, row in shared.items():
        assert row.cost.train_flops == alone[name].cost.train_flops
        assert row.cost.steps == alone[name].cost.steps
        assert {k: v.value for k, v in row.metrics.items()} == {
            k: v.value for k, v in alone[name].metrics.items()
        }
        parts = sum(row.ledger[part] for part in PARTS)
        assert parts == pytest.approx(row.ledger["wall"], rel=0.01)
        assert row.is_balanced
        assert (row.ledger["charged"] > 0) == bool(row.shared_stages)
        curves = record.read_curves(tmp_path / "results" / "shared" / name)
        assert any("loss/denoiser" in point["values"] for point in curves)


def cells(study: Path) -> list[tuple[str, record.Record]]:
    return [(folder.name, row) for folder, row in record.cells(study)]


@pytest.mark.parametrize(
    ("preset", "batch", "dropout"),
    [("paper", 256, 0.05), ("paper-ffhq", 256, 0.05), ("paper-afhq", 128, 0.25)],
)
def test_papers_at_64_pixels_have_their_presets_by_name(
    preset: str, batch: int, dropout: float
) -> None:
    """``--cres=1,2,2,2 --lr=2e-4 --augment=0.15``, batch and dropout: EDM's and CDM's READMEs."""
    name, chosen = choose_preset("images64", preset, "cpu")
    assert (name, chosen.training["batch"], chosen.budget) == (preset, batch, "200000kimg")
    for label in ("sde", "cdm:as_released"):
        config = registry.load(label).Config.model_validate(resolve_label(label, chosen))
        assert isinstance(config, DenoiserConfig)
        network = config.network
        assert isinstance(network, UNetSettings)
        assert (network.channels, network.multipliers, network.dropout) == (
            128,
            (1, 2, 2, 2),
            dropout,
        )
        assert (config.optimizer.lr, config.augment) == (2e-4, 0.15)
        assert (config.sampler.name, nfe(config.sampler)) == ("heun", 79)


def test_lsun_has_smm_s_recipe_and_length() -> None:
    _, chosen = choose_preset("images64", "paper-lsun", "cpu")
    _, cifar = choose_preset("cifar10", "paper", "cpu")
    assert chosen.budget == "100000kimg"
    assert chosen.training["per_method"]["smm"] == {"batch": 64}
    assert resolve_label("smm", chosen) == resolve_label("smm", cifar)


@pytest.mark.slow
@pytest.mark.parametrize("dataset", datasets())
def test_released_recipes_fit_every_data_set(dataset: str) -> None:
    """Their networks can be built for it at each of its presets; small presets have small ones."""
    known = KNOWN.get(dataset)
    size, channels = (known.size, known.channels) if known else (64, 3)
    data = DataSpec(channels=channels, size=size, classes=3)
    for name in presets(dataset):
        _, preset = choose_preset(dataset, name, "cpu")
        for label in ("cdm:as_released", "dlsm:as_released", "smm:main", "smm:simple"):
            kind = registry.load(label)
            with torch.device("meta"):
                method = kind(kind.Config.model_validate(resolve_label(label, preset)), data)
            if name in ("smoke", "quick"):
                total = sum(parameters(network) for network in method.networks.values())
                assert total < 3e6, f"{dataset} {name} {label}"
