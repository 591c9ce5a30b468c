"""From the options of ``bench run`` to a validated request; UserError in one line for the rest."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from bench import config, study
from bench.commands import method_labels
from bench.commands.run import RunOptions
from bench.commands.settings import default_device, default_jobs, resolve_settings
from bench.config import Settings, UserError, unknown
from bench.progress.display import passing
from bench.records import STUDY, check_content, is_study, read_study
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
    method_labels.check_overrides(overrides, methods, preset)
    preset = config.apply_overrides(preset, overrides, methods)
    method_labels.check_common(overrides, methods)
    settings = resolve_settings(
        options.dataset, name, preset, device=device, data=options.data, weights=options.weights,
        reference=options.reference, budget=options.budget,
    )  # fmt: skip
    method_labels.check_training(overrides, settings.training.per_method, methods)
    for method in settings.training.per_method:
        if method not in registry.names():
            raise unknown("method in training.per_method", method, registry.names())
    called, asked = same_study(options, settings)
    return study.Request(
        name=called, asked=asked, results=options.results.resolve(), settings=settings,
        methods={label: method_labels.resolve_label(label, preset) for label in methods},
        seeds=options.seeds, jobs=options.jobs or default_jobs(settings), timeout=options.timeout,
        rerun=check_rerun(options.rerun), memory=options.memory, broken=broken,
        overrides=options.overrides,
    )  # fmt: skip


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


def same_study(options: RunOptions, settings: Settings) -> tuple[str, str]:
    """Return the name of the study, or that of one with the same files elsewhere; and ``asked``.

    Files are read only where no study has the name that the options make, in which places are, and
    one was asked for alike but for places.
    """
    name = study_name(options, settings.preset)
    if options.study is not None:
        return name, ""
    placeless = replace(options, data=None, weights=(), reference=None)
    asked = study_name(placeless, settings.preset)
    if name == asked or is_study(options.results / name):
        return name, asked
    found = cache(lambda: content(settings, options.results.resolve() / "cache"))
    for path in sorted(options.results.glob(f"{settings.dataset}-{settings.preset}-*/{STUDY}")):
        try:
            there = read_study(path.parent)
            elsewhere = as_there(options, there.settings)
            told = there.asked or study_name(elsewhere, settings.preset)
            if told in {asked, path.parent.name}:
                check_content(path.parent, settings, found())
                return path.parent.name, asked
        except UserError:
            continue  # It holds something else; what cannot be read is told when it is needed.
    return name, asked


def as_there(options: RunOptions, there: Settings) -> RunOptions:
    """Return the options as they would have been with the files of other settings."""
    lead = any("=" not in text for text in options.weights) and there.evaluation.extractor
    files = there.weights.items()
    weights = tuple(str(file) if name == lead else f"{name}={file}" for name, file in files)
    return replace(options, data=there.data, weights=weights, reference=there.reference)


def content(settings: Settings, place: Path) -> dict[str, Any]:
    """Return the hashes of data, weights and statistics; images are decoded into the cache."""
    from bench import metrics
    from bench.data import load

    with passing("reading the data, of which there may be a study") as progress:
        dataset = load(
            settings.dataset, path=settings.data, cache=place, size=settings.size, progress=progress
        )
    return metrics.identity(settings) | {"data_sha256": dataset.sha256}
