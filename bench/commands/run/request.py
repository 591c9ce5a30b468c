"""From the options of ``bench run`` to a validated request; UserError in one line for the rest."""

from collections.abc import Sequence
from pathlib import Path

from bench import config, study
from bench.commands import method_labels
from bench.commands.run import RunOptions, moved
from bench.commands.settings import default_device, default_jobs, resolve_settings
from bench.config import UserError, unknown
from methods import registry

RESERVED = ("cache", "mlartifacts", "mlflow.db")
"""Names under the results folder that are no study's."""


def resolve(options: RunOptions) -> study.Request:
    """Resolve and validate all that was asked for; UserError in one line if it cannot be."""
    wanted = method_labels.check_labels(options.methods)
    broken = method_labels.find_broken(wanted)
    methods = [label for label in wanted if label not in broken]
    if not methods:
        raise UserError(next(iter(broken.values())))
    if options.dataset not in config.datasets():
        raise unknown("data set", options.dataset, config.datasets())
    device = options.device or default_device()
    name, preset = config.choose_preset(options.dataset, options.preset, device)
    overrides = config.parse_set(options.overrides)
    method_labels.check_overrides(overrides, methods)
    preset = config.apply_overrides(preset, overrides, methods)
    method_labels.check_common(overrides, methods)
    settings = resolve_settings(
        options.dataset, name, preset, device=device, data=options.data, weights=options.weights,
        reference=options.reference, budget=options.budget,
    )  # fmt: skip
    for method in settings.training.per_method:
        if method not in registry.names():
            raise unknown("method in training.per_method", method, registry.names())
    called, asked = moved.find(options, settings, lambda given: study_name(given, name))
    return study.Request(
        name=called,
        asked=asked,
        results=options.results.resolve(),
        settings=settings,
        methods={label: method_labels.resolve_label(label, preset) for label in methods},
        seeds=options.seeds,
        jobs=options.jobs or default_jobs(settings),
        timeout=options.timeout,
        rerun=check_rerun(options.rerun),
        memory=options.memory,
        broken=broken,
    )


def check_rerun(names: Sequence[str]) -> frozenset[str]:
    """Return which cells to run again, none for ``none``; UserError for other choices."""
    for name in names:
        if name not in study.RERUN:
            raise unknown("choice of --rerun", name, study.RERUN)
    if not names or (len(names) > 1 and {*names} & {"all", "none"}):
        given = ",".join(names)
        raise UserError(f"--rerun '{given}': name at least one; all and none stand alone")
    return frozenset(names) - {"none"}


def study_name(options: RunOptions, preset: str) -> str:
    """Name the study after data set and preset, and after whatever else was asked for."""
    if options.study is not None:
        config.check_name("--study", options.study, taken=RESERVED)
        return options.study
    given = {
        "data": options.data and str(options.data.resolve()),
        "budget": options.budget,
        "set": sorted(options.overrides),
        "device": options.device,
        "weights": [
            text if "=" in text else str(Path(text).resolve()) for text in sorted(options.weights)
        ],
        "reference": options.reference and str(options.reference.resolve()),
    }
    suffix = f"-{config.digest(given)[:6]}" if any(given.values()) else ""
    return f"{options.dataset}-{preset}{suffix}"
