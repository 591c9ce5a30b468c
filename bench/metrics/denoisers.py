"""What a method's denoiser is worth beside its samples: see :mod:`methods.diagnostics`."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from bench.config import UserError
from bench.data.dataset import Dataset, Progress, unheard
from bench.metrics.protocol import PROTOCOL
from bench.records import Value
from bench.sampling.source import fault_of
from methods.base import DataSpec, DenoiserFn, Method
from methods.diagnostics import LEVELS, martingale_violation, score_error
from methods.samplers import SamplerSettings, noise_levels

_CALLS = 33
"""Times that the violation asks a denoiser at each of its levels: once, and four branches' eight
substeps."""


def diagnose(
    method: Method, dataset: Dataset, data: DataSpec, *, n: int,
    labels: Callable[[], Tensor | None], generator: torch.Generator,
    levels: Sequence[float] = LEVELS, progress: Progress = unheard,
) -> dict[str, Value]:  # fmt: skip
    """Return ``violation``, and ``score_error`` where the density is known; both 0 at best.

    The violation is that of the denoiser that the method samples with, of the classes that
    ``labels`` draws (n,) where it needs them, at ``levels`` and along those of its own sampler. The
    score error is of the unconditional denoiser; ``score_error_class`` of the one with classes. A
    method without a denoiser has neither.
    """
    classes = labels() if method.needs_labels else None
    D = method.denoiser_for(classes)
    if D is None:
        return {}
    shared = {"protocol": PROTOCOL, "n": n, "data": dataset.variant}
    shared |= {"data_sha256": dataset.sha256}
    settings = getattr(getattr(method, "config", None), "sampler", None)
    if not isinstance(settings, SamplerSettings):  # A plug-in may call anything else a sampler.
        settings = SamplerSettings()
    held = _counted(_held(D), len(noise_levels(settings)) + len(levels) * _CALLS, progress)
    found = martingale_violation(held, (n, *data.shape), settings, generator, levels=levels)
    by_level = rounded(found.by_level.flip(0))  # From the smallest level, as they are named.
    details = {"standard_error": found.standard_error, "by_level": by_level}
    details |= {"levels": sorted(set(levels))}
    values = {"violation": Value(value=found.value, provenance=shared | details)}
    if dataset.truth is None:
        return values
    kinds = {"score_error": False} if method.denoiser_for(None) is not None else {}
    kinds |= {"score_error_class": True} if method.needs_labels else {}
    score = partial(score_error, method.denoiser_for, dataset.truth, n=n, generator=generator)
    for name, labelled in kinds.items():
        errors = score(labelled=labelled)
        provenance = shared | {"levels": list(LEVELS), "by_level": rounded(errors)}
        values[name] = Value(value=float(errors.mean()), provenance=provenance)
    return values


def _held(D: DenoiserFn) -> DenoiserFn:
    """The denoiser, each answer held against what was asked for: UserError if it is another."""

    def held(x: Tensor, sigma: Tensor) -> Tensor:
        clean = D(x, sigma)
        given = clean.detach() if isinstance(clean, Tensor) else clean
        if fault := fault_of(given, len(x), x.shape[1:], x.device, "the denoiser"):
            raise UserError(fault)
        return clean

    return held


def _counted(D: DenoiserFn, calls: int, progress: Progress) -> DenoiserFn:
    """The denoiser, telling the progress of about so many calls of it."""
    done = 0

    def counted(x: Tensor, sigma: Tensor) -> Tensor:
        nonlocal done
        done += 1
        progress(min(1.0, done / calls))
        return D(x, sigma)

    return counted


def rounded(values: Tensor) -> list[float]:
    """A tensor's numbers with six significant digits, as they are kept."""
    return [float(f"{value:.6g}") for value in values.tolist()]
