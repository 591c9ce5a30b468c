"""The rules of sampling, one function each, in order."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from bench.commands.check.rules import BrokenRuleError, demand, describe, rule, some
from bench.commands.check.subject import (
    CPU,
    SAMPLES,
    Subject,
    differing,
    loaded,
    saved,
    watch_calls,
    weights,
)
from bench.sampling.source import RANGE, Source, count_sampling, fault_of, outside
from bench.training.checkpoint import clone, other_generators, seed_everything
from methods.base import Method

OUTSIDE = 0.005
"""A larger share of values than this outside of ``RANGE`` is worth a note."""


@rule("methods.base.Method.sample", needs=["stages"])
def samples_rule(subject: Subject) -> str | None:
    """float32 (n, C, H, W) for any n, finite, without a graph."""
    for drawn, n in ((subject.drawn, SAMPLES), (subject.draw(n=1), 1)):
        fault = fault_of(drawn, n, subject.data.shape, CPU)
        demand(not fault, fault)
        demand(drawn.dtype == torch.float32, f"sample({n}) gave {describe(drawn)}")
        bad = int((~torch.isfinite(drawn)).sum())
        demand(not bad, f"{bad} of {drawn.numel()} values are not finite")
    share = outside(subject.drawn)
    return f"{share:.0%} of values outside [-{RANGE}, {RANGE}]" if share > OUTSIDE else None


@rule("methods.base.Method.sample", needs=["samples"])
def seed_rule(subject: Subject) -> None:
    """The seed decides the samples."""
    demand(torch.equal(subject.drawn, subject.draw()), "the same seed gave other samples")
    other = subject.draw(seed=1, elsewhere=1)
    demand(not torch.equal(subject.drawn, other), "another seed gave the same samples")


@rule("methods.base.Method.sample", needs=["seed"])
def global_generators_rule(subject: Subject) -> None:
    """All noise from the generator that is given, none from a global one."""
    method = subject.trained()
    seed_everything(1)
    before = torch.get_rng_state(), other_generators()
    other = subject.draw(method, elsewhere=1)
    after = torch.get_rng_state(), other_generators()
    demand(torch.equal(subject.drawn, other), "samples follow a global generator's seed")
    unmoved = torch.equal(before[0], after[0]) and before[1] == after[1]
    demand(unmoved, "sampling moved a global generator")


@rule("methods.base.Method.sample", needs=["samples"])
def side_effects_rule(subject: Subject) -> None:
    """Sampling leaves weights, modes, gradients and requires_grad alone."""
    # Snapshots are sampled in the middle of training.
    method = subject.trained()
    for network in method.networks.values():
        network.requires_grad_(True)
    kept = clone(weights(method))
    subject.draw(method)
    changed = differing(kept, weights(method))
    demand(not changed, f"sample changed {some(changed)}")
    for name, network in method.networks.items():
        demand(not network.training, f"sample put '{name}' into training mode")
        for parameter in network.parameters():
            demand(parameter.requires_grad, f"sample froze parameters of '{name}'")
            demand(parameter.grad is None, f"sample left gradients in '{name}'")


@rule("methods.base.Method.networks", needs=["loss", "samples"])
def networks_rule(subject: Subject) -> None:
    """All that is trained or called is in networks, each parameter once."""
    # What is not there is neither moved to the device, averaged, stored nor counted.
    owner: dict[int, str] = {}
    for name, network in subject.run.method.networks.items():
        for parameter in network.parameters():
            other = owner.setdefault(id(parameter), name)
            demand(other == name, f"'{other}' and '{name}' share a parameter")
    for seen in subject.run.seen:
        demand_known(seen.strays, subject.run.method, f"the loss '{seen.label}'")
        unknown = sum(id(leaf) not in owner for leaf in seen.leaves)
        demand(not unknown, f"the loss '{seen.label}' moves {unknown} parameters not in networks")
    drawing = subject.trained()
    with watch_calls(drawing.networks) as strays:
        subject.draw(drawing)
    demand_known(strays, drawing, "sample")


def demand_known(strays: Sequence[nn.Module], method: Method, who: str) -> None:
    """Demand that modules called outside of the networks are at least parts of them."""
    known = {part for network in method.networks.values() for part in network.modules()}
    unknown = sorted({type(stray).__name__ for stray in strays if stray not in known})
    demand(not unknown, f"{who} calls {some(unknown)}, not in networks")


@rule("methods.base.Method.networks", needs=["seed", "networks"])
def save_and_load_rule(subject: Subject) -> None:
    """The networks' state decides the samples."""
    # Into an instance that began otherwise.
    first, second = subject.trained(), subject.trained(seed=1)
    for name, network in second.networks.items():
        network.load_state_dict(loaded(saved(first.networks[name].state_dict())))
    same = torch.equal(subject.drawn, subject.draw(second))
    demand(same, "an instance with the same weights gives other samples")


@rule("bench.sampling.source.count_sampling", needs=["samples"])
def cost_of_sampling_rule(subject: Subject) -> str:
    """Every network is called as network(x, ...), where hooks count it; FLOPs are counted."""
    method = subject.trained()
    classes = subject.data.classes
    even = np.full(classes, 1 / classes) if classes else None
    source = Source(
        method, shape=subject.data.shape, device=CPU, precision="fp32", seed=0, stream="check",
        frequencies=even,
    )  # fmt: skip
    try:
        with watch_calls(method.networks) as strays:
            calls, flops = count_sampling(source, SAMPLES)
    except (StopIteration, RuntimeError) as error:
        if isinstance(error, StopIteration) or isinstance(error.__cause__, StopIteration):
            raise BrokenRuleError("a network is called with keyword arguments alone") from error
        raise
    parts = {part for network in method.networks.values() for part in network.modules()}
    around = sorted({type(stray).__name__ for stray in strays if stray in parts})
    demand(not around, f"parts of a network ({some(around)}) are called around it")
    nfe = sum(calls.values())
    demand(nfe, "no call of a network was counted")
    demand(flops, "no FLOPs were counted")
    return f"NFE {nfe:g}, {flops / 1e6:.3g} MFLOP an image"


@rule("methods.base.Method.needs_labels", needs=["samples"])
def labels_rule(subject: Subject) -> str | None:
    """Classes are taken where needed, and their lack is a ValueError."""
    method = subject.trained()
    if not method.needs_labels:
        return None
    same = torch.equal(subject.drawn, subject.draw(shift=1))
    try:
        with torch.no_grad():
            method.sample(SAMPLES, labels=None, generator=torch.Generator().manual_seed(0))
    except ValueError as error:
        demand(str(error), "samples without labels end in a ValueError without a word")
    except Exception as error:
        found = f"samples without labels end in {type(error).__name__}: {error}"
        raise BrokenRuleError(found) from error
    else:
        demand(same, "samples without labels are of classes that nobody asked for")
    return "other classes gave the same samples" if same else None


@rule("methods.base.Method.denoiser_for", needs=["stages"])
def denoiser_rule(subject: Subject) -> str | None:
    """denoiser_for gives None, or D(x, sigma) shaped as x for sigma a scalar or (B,)."""
    # What diagnostics call, without classes and with them.
    method = subject.trained()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((SAMPLES, *subject.data.shape), generator=generator)
    classes = subject.data.classes
    found = False
    for labels in [None, torch.arange(SAMPLES) % classes] if classes else [None]:
        D = method.denoiser_for(labels)
        if D is None:
            continue
        found = True
        with torch.no_grad():
            one, each = D(x, torch.tensor(0.5)), D(x, torch.full((SAMPLES,), 0.5))
        demand(one.shape == x.shape, f"D(x, sigma) is {describe(one)} for x {tuple(x.shape)}")
        demand(torch.isfinite(one).all(), "D(x, sigma) is not finite")
        close = each.shape == one.shape and torch.allclose(one, each, atol=1e-5)
        demand(close, "a scalar sigma and the same sigma for each image give different D(x, sigma)")
    return None if found else "none, so no score error and no martingale violation"
