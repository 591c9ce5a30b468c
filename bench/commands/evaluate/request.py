"""From options to what is to be measured, and how; UserError in one line if it cannot be."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bench.commands.evaluate import EvaluateOptions, MeasureOptions
from bench.commands.evaluate.stored import EvaluationRequest
from bench.commands.settings import default_device, parse_weights, resolve_settings
from bench.config import Settings, UserError, build, choose_preset, unknown
from bench.metrics.protocol import FAMILIES
from bench.progress.display import passing
from bench.records import read_study

INCEPTIONS = {"fid": "fd", "kid": "kd", "fidc": "fdc"}
"""What Inception's values are called, by the family that they are of."""


def resolve_measuring(
    options: MeasureOptions, dataset: str, reference: Path | None = None
) -> Settings:
    """Resolve how images are measured: by a preset of a data set, or as told."""
    device = options.device or default_device()
    name, preset = choose_preset(dataset, options.preset, device)
    if options.extractor:
        lead, *also = options.extractor
        evaluation = preset.evaluation | {"extractor": lead, "also": also}
        preset = preset.model_copy(update={"evaluation": evaluation})
    return resolve_settings(
        dataset, name, preset, device=device, data=options.data, weights=options.weights,
        reference=reference,
    )  # fmt: skip


def study_settings(folder: Path, settings: Settings, options: EvaluateOptions) -> Settings:
    """Return a study's settings, with the extractors that are asked for beside its own."""
    if options.reference is not None:
        raise UserError(
            f"--reference: values of study '{folder.name}' would not compare with each other any "
            "more; leave it out, or give it to images alone, without --as"
        )
    if options.dataset not in {None, settings.dataset}:
        raise UserError(
            f"study '{folder.name}' is of {settings.dataset}, not {options.dataset}; "
            "leave --dataset out"
        )
    own = settings.evaluation.extractors
    more = [name for name in options.extractor or () if name not in own]
    evaluation = settings.evaluation.model_dump() | {"also": [*settings.evaluation.also, *more]}
    changes = {
        "evaluation": evaluation,
        "weights": settings.weights | parse_weights(options.weights, evaluation),
        "data": settings.data if options.data is None else options.data.resolve(),
    }
    found: Settings = build(Settings, settings.model_dump() | changes, f"settings of {folder.name}")
    return found


def request_in(folder: Path, options: EvaluateOptions) -> EvaluationRequest:
    """Put together what is to be measured within a study: on its data, and on its device."""
    stored = read_study(folder)
    settings = study_settings(folder, stored.settings, options)
    placed = replace(options, device=options.device or stored.settings.device)
    request = request_of(settings, placed, options.metrics)
    return replace(request, data_sha256=stored.prepared.data_sha256)


def request_of(
    settings: Settings, options: MeasureOptions, metrics: Sequence[str] | None = None
) -> EvaluationRequest:
    """Put together what is to be measured by resolved settings; UserError for unknown metrics."""
    for name in metrics or ():
        if name not in (known := [*FAMILIES, *INCEPTIONS]):
            raise unknown("metric", name, known)
    families = None if metrics is None else [INCEPTIONS.get(name, name) for name in metrics]
    cache, device = options.results.resolve() / "cache", options.device or default_device()
    return EvaluationRequest(settings, cache, families, device, passing)
