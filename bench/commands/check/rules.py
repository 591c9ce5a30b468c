"""What a rule of the interface is, and those of building and training, one function each."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from pydantic import BaseModel, ValidationError
from torch import Tensor, nn

from bench.commands.check.subject import Seen, Subject, differing, weights
from bench.config import resolve_method
from bench.config.random_streams import derive
from bench.records.plugins import method_class
from methods import registry
from methods.base import Method

Look = Callable[[Subject], str | None]
"""Looks at a subject: raises BrokenRuleError, or returns a note or nothing."""


class BrokenRuleError(Exception):
    """A rule is broken; the message says what was found."""


@dataclass(frozen=True)
class InterfaceRule:
    """One line of the interface."""

    name: str
    required: str
    source: str
    """Where the requirement is written down."""
    needs: tuple[str, ...]
    """Rules without which this one says nothing."""
    look: Look


RULES: list[InterfaceRule] = []


def rule(source: str, *, needs: Sequence[str] = ()) -> Callable[[Look], Look]:
    """Put a function into the list of rules; its docstring is what the interface requires."""

    def register(look: Look) -> Look:
        name = look.__name__.removesuffix("_rule").replace("_", " ")
        text = str(look.__doc__).partition("\n")[0].removesuffix(".")
        required = text if text[1].isupper() else text[0].lower() + text[1:]
        RULES.append(InterfaceRule(name, required, source, tuple(needs), look))
        return look

    return register


def demand(holds: object, found: str) -> None:
    """Raise BrokenRuleError with what was found, unless the condition holds."""
    if not holds:
        raise BrokenRuleError(found)


def describe(value: object) -> str:
    """A value's type, and a tensor's shape, for a message."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} of shape {tuple(value.shape)}"
    return f"a {type(value).__name__}"


def some(names: Sequence[str], most: int = 3) -> str:
    """The first of many names, and how many there are beside."""
    shown = ", ".join(f"'{name}'" for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")


@rule("methods.base.Settings")
def config_rule(subject: Subject) -> None:
    """A pydantic model, frozen, that refuses unknown keys and reads back from config.yaml."""
    kind = subject.kind.Config
    is_model = isinstance(kind, type) and issubclass(kind, BaseModel)
    demand(is_model, f"Config is {getattr(kind, '__name__', describe(kind))}")
    config = subject.config
    with suppress(ValidationError):
        kind.model_validate({**config.model_dump(), "no_such_setting": 1})
        demand(False, "the unknown key 'no_such_setting' was accepted")
    for name in list(kind.model_fields)[:1]:
        with suppress(ValidationError):
            setattr(config.model_copy(), name, getattr(config, name))
            demand(False, f"'{name}' of a finished Config can be set")
    again = kind.model_validate(json.loads(json.dumps(config.model_dump(mode="json"))))
    demand(again == config, "the settings written as YAML read back as others")
    lost = sorted(set(subject.kind.sampling_settings) - set(kind.model_fields))
    demand(not lost, f"sampling_settings names {some(lost)}, which Config has not")
    method = subject.label.partition(":")[0]
    for name, variant in subject.kind.variants.items():
        resolve_method(kind, subject.preset, f"{method}:{name}", [variant])


@rule("methods.base.Method.__init__", needs=["config"])
def building_rule(subject: Subject) -> str | None:
    """Built from torch's global generator on the CPU, and on the meta device."""
    if subject.refusal:
        return f"refuses {subject}: {subject.refusal}"
    with torch.device("meta"):
        list(subject.kind(subject.config, subject.data).stages())
    first, second = subject.build(), subject.build()
    networks = first.networks
    demand(isinstance(networks, dict) and networks, f"networks is {describe(networks)}, or empty")
    for name, network in networks.items():
        demand(isinstance(network, nn.Module), f"networks['{name}'] is {describe(network)}")
    changed = differing(weights(first), weights(second))
    demand(not changed, f"{some(changed)} start otherwise under the same global seed")
    lost = sorted(set(first.second_order) - set(networks))
    demand(not lost, f"second_order names {some(lost)}, which networks has not")
    return None


@rule("methods.base.Stage", needs=["building"])
def stages_rule(subject: Subject) -> str | None:
    """Positive shares; objectives with names of their own, each of one of networks."""
    method = subject.build()
    stages = list(method.stages())
    demand(stages and all(stage.objectives for stage in stages), "a stage or objective is missing")
    for stage in stages:
        demand(stage.share > 0, f"stage '{stage.name}' has the share {stage.share:g}")
        labels = [objective.label for objective in stage.objectives]
        twice = sorted({label for label in labels if labels.count(label) > 1})
        demand(not twice, f"two objectives of stage '{stage.name}' are called {some(twice)}")
        for objective in stage.objectives:
            known = objective.network in method.networks
            demand(known, f"'{objective.label}' trains '{objective.network}', not in networks")
            demand(objective.every >= 1, f"'{objective.label}' runs every {objective.every} steps")
    total = sum(stage.share for stage in stages)
    return None if abs(total - 1) < 1e-6 else f"shares sum to {total:g}: charged in full"


@rule("methods.base.Objective.loss", needs=["stages"])
def loss_rule(subject: Subject) -> None:
    """A finite scalar that depends on the network's parameters and leaves the batch as it was."""
    run = subject.run
    if run.error is not None and (not run.seen or run.seen[-1].loss is None):
        raise run.error
    for seen in run.seen:
        loss, name = seen.loss, seen.label
        scalar = isinstance(loss, Tensor) and loss.shape == () and loss.is_floating_point()
        demand(scalar, f"the loss '{name}' is {describe(loss)}")
        assert loss is not None
        demand(torch.isfinite(loss), f"the loss '{name}' is {float(loss.detach())}")
        demand(loss.requires_grad, f"the loss '{name}' depends on no parameter in training")
        demand(not seen.batch_changed, f"the loss '{name}' changed batch.x in place")


@rule("methods.base.Batch.log", needs=["loss"])
def logs_rule(subject: Subject) -> None:
    """Detached scalars."""
    for seen in subject.run.seen:
        for name, value in seen.logs.items():
            scalar = isinstance(value, Tensor) and value.shape == ()
            demand(scalar, f"'{seen.label}' logs '{name}', {describe(value)}")
            demand(not value.requires_grad, f"'{seen.label}' logs '{name}' with its graph")


@rule("methods.base.Objective.network", needs=["loss"])
def gradients_rule(subject: Subject) -> str | None:
    """Finite gradients for the named network and no other."""
    # Whom each loss moves, with the other networks frozen as in training.
    moved: dict[str, bool] = {}
    unused: dict[str, set[str]] = {}
    for seen in subject.run.seen:
        if not seen.gradients and subject.run.error is not None:
            raise subject.run.error
        for name in seen.gradients.keys() - {seen.network}:
            reached = len(given(seen, name))
            demand(not reached, f"the loss '{seen.label}' reaches {reached} parameters of '{name}'")
        own = given(seen, seen.network)
        demand_finite(seen, own)
        moved[seen.label] = moved.get(seen.label, False) or any(g.any() for g in own.values())
        idle = seen.gradients[seen.network].keys() - own.keys()
        unused[seen.network] = unused.get(seen.network, idle) & idle
    for label, some_gradient in moved.items():
        demand(some_gradient, f"the loss '{label}' gives its network no gradient but zeros")
    notes = [
        f"{len(keys)} parameters of '{name}' are unused ({some(sorted(keys), 1)})"
        for name, keys in unused.items()
        if keys
    ]
    return "; ".join(notes) or None


def given(seen: Seen, network: str) -> dict[str, Tensor]:
    """The gradients that there are, by the parameter's name."""
    return {key: g for key, g in seen.gradients.get(network, {}).items() if g is not None}


def demand_finite(seen: Seen, gradients: Mapping[str, Tensor]) -> None:
    """Demand finite gradients."""
    bad = [key for key, g in gradients.items() if not torch.isfinite(g).all()]
    demand(not bad, f"the loss '{seen.label}' gives {some(bad)} gradients that are not finite")


@rule("methods.base.Method.second_order", needs=["loss"])
def second_order_rule(subject: Subject) -> None:
    """A loss made of gradients names its networks in second_order, for torch.compile."""
    # torch.compile cannot differentiate twice; it is kept from these networks.
    declared = bool(subject.run.method.second_order)
    for seen in subject.run.seen:
        twice = seen.second_order and not declared
        demand(not twice, f"the loss '{seen.label}' holds gradients and second_order is empty")


@rule("bench.config.schema.Training.precision", needs=["gradients"])
def bf16_rule(subject: Subject) -> None:
    """Finite losses and gradients under autocast to bfloat16."""
    run = subject.train("bf16")
    for seen in run.seen:
        if seen.loss is not None:
            demand(torch.isfinite(seen.loss), f"the loss '{seen.label}' is not finite")
        demand_finite(seen, given(seen, seen.network))
    if run.error is not None:
        raise run.error


@rule("methods.base.Batch.generator", needs=["loss"])
def noise_of_losses_rule(subject: Subject) -> None:
    """Drawn from batch.generator; dropout alone may use a global one."""
    # Without dropout, under one seed of the batch and two of everything else.
    method = subject.trained()
    for network in method.networks.values():
        network.requires_grad_(True)
    for stage in method.stages():
        for objective in stage.objectives:
            name = objective.label
            first = subject.evaluate(method, objective, elsewhere=1)
            again = subject.evaluate(method, objective, elsewhere=1)
            demand(first == again, f"'{name}' is {first:.6g} and {again:.6g} under the same seeds")
            other = subject.evaluate(method, objective, elsewhere=2)
            demand(first == other, f"the loss '{name}' follows a global generator's seed")


@rule("methods.base.Stage.identity", needs=["noise of losses"])
def identity_rule(subject: Subject) -> str | None:
    """Equal identities for equal losses alone: such a stage is trained once for both methods."""
    # A first stage that calls itself another method's is taken over from there.
    method = subject.build()
    stage = next(iter(method.stages()))
    if stage.identity is None:
        return None
    demand("module" in stage.identity, "the identity names no module")
    demand(find_spec(str(stage.identity["module"])), "the identity's module cannot be imported")
    json.dumps(dict(stage.identity))
    shared = []
    for other in twins(subject, method):
        theirs = next(iter(other.stages())).objectives[0]
        name = stage.objectives[0].network
        other.networks[theirs.network].load_state_dict(method.networks[name].state_dict())
        mine = subject.evaluate(method, stage.objectives[0])
        demand(
            mine == subject.evaluate(other, theirs),
            f"the first stage has the identity of '{other.name}' and another loss",
        )
        shared.append(other.name)
    return f"first stage shared with {', '.join(shared)}" if shared else None


def twins(subject: Subject, method: Method) -> Iterator[Method]:
    """Methods whose first stage, under the settings in common, is called the same."""
    stage = next(iter(method.stages()))
    own = subject.config.model_dump(mode="json")
    for name in registry.names():
        with suppress(registry.BrokenMethodError, ValueError):
            kind = method_class(name)
            known = {key: own[key] for key in kind.Config.model_fields if key in own}
            config = kind.Config.model_validate(known)
            with torch.device("meta"):
                theirs = next(iter(kind(config, subject.data).stages()))
            alike = (theirs.name, theirs.identity) == (stage.name, stage.identity)
            if alike and kind.__name__ != subject.kind.__name__:
                torch.manual_seed(derive(0, "networks"))
                yield kind(config, subject.data)


@rule("bench.training.Trainer", needs=["gradients"])
def training_rule(subject: Subject) -> None:
    """Stopped and resumed it ends with the same bits; checkpoints hold no pickled code."""
    run = subject.run
    if run.error is not None:
        raise run.error
    initial, whole = weights(subject.build()), weights(run.method)
    changed = differing(initial, whole)
    for name in {seen.network for seen in run.seen}:
        moved = any(key.startswith(f"{name}.") for key in changed)
        demand(moved, f"training left '{name}' as it was")
    pieces = subject.train_in_pieces()
    changed = differing(whole, weights(pieces.method))
    demand(not changed, f"after interruptions {len(changed)} weights differ: {some(changed, 1)}")
    curves = [[(point["step"], point["values"]) for point in r.points] for r in (run, pieces)]
    demand(curves[0] == curves[1], "after interruptions the loss curve differs")


@rule("bench.costs.flops.count_flops", needs=["training"])
def cost_of_training_rule(subject: Subject) -> None:
    """FLOPs counted for every objective."""
    # Budgets in FLOPs and the comparison at equal compute rest on the count.
    counted = subject.run.train_flops
    for seen in subject.run.seen:
        demand(counted.get(seen.label), f"no FLOPs were counted for '{seen.label}'")
