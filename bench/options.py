"""From options as they were typed to validated settings; UserError in one line for the rest."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from bench import curve, study, sweep
from bench.config import (
    Preset,
    Settings,
    apply_overrides,
    build,
    choose_preset,
    digest,
    one_line,
    parse_set,
    resolve_method,
)
from bench.config import datasets as preset_names
from bench.errors import UserError, unknown
from bench.report.frame import flatten
from methods import registry
from methods.samplers import SAMPLERS

RESERVED = ("cache", "mlartifacts", "mlflow.db")
"""Names under the results folder that are no study's."""
SMALLEST_MEMORY = 2**26
"""Bytes below which a limit of memory must be a slip of the pen."""
INCEPTIONS = {"fid": "fd", "kid": "kd", "fidc": "fdc"}
"""What Inception's values are called, by the family that they are of."""


# -- bench run ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Asked:
    """The options of ``bench run`` as they were typed."""

    methods: str | None
    dataset: str
    preset: str | None
    data: Path | None
    seeds: str
    budget: str | None
    overrides: Sequence[str]
    device: str | None
    jobs: int | None
    timeout: float | None
    weights: Sequence[str]
    reference: Path | None
    study: str | None
    results: Path
    rerun: str = "failed,stale"
    memory: str | None = None


UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12} | {
    f"{letter}i": 2 ** (10 * power) for power, letter in enumerate("kmgt", start=1)
}
"""Bytes in each prefix of a size, in lower case."""


def parse_size(text: str) -> int:
    """Parse ``8GiB``, ``500MB`` or ``8g`` into bytes; UserError if it is no size."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?", text.strip().lower())
    size = float(match[1]) * UNITS.get(match[2], 0) if match else 0
    if size < SMALLEST_MEMORY:
        raise UserError(
            f"--memory '{text}': write a size of {SMALLEST_MEMORY >> 20} MiB or more, as 8GiB or "
            "500MB"
        )
    return int(size)


def resolve(asked: Asked) -> study.Request:
    """Resolve and validate all that was asked for; UserError in one line if it cannot be."""
    wanted = parse_methods(asked.methods)
    broken = find_broken(wanted)
    methods = [label for label in wanted if label not in broken]
    if not methods:
        raise UserError(next(iter(broken.values())))
    seeds = parse_seeds(asked.seeds)
    check_limits(asked.jobs, asked.timeout)
    if asked.dataset not in preset_names():
        raise unknown("data set", asked.dataset, preset_names())
    device = asked.device or default_device()
    preset_name, preset = choose_preset(asked.dataset, asked.preset, device)
    overrides = parse_set(asked.overrides)
    reached = {*methods, *map(registry.base, methods)}
    left_out = [n for n in overrides if registry.base(n) in registry.names() and n not in reached]
    if left_out:
        raise UserError(
            f"--set names '{left_out[0]}', which --methods leaves out; add it or drop it"
        )
    for label in methods:
        check_reach(label, overrides)
    preset = apply_overrides(preset, overrides, methods)
    check_common(preset, overrides, methods)
    settings = resolve_settings(asked, preset_name, preset, device)
    for name in settings.training.per_method:
        if name not in registry.names():
            raise unknown("method in training.per_method", name, registry.names())
    return study.Request(
        name=study_name(asked, preset_name),
        results=asked.results.resolve(),
        settings=settings,
        methods={label: resolve_label(label, preset) for label in methods},
        seeds=seeds,
        jobs=asked.jobs or default_jobs(settings),
        timeout=asked.timeout,
        rerun=parse_rerun(asked.rerun),
        memory=None if asked.memory is None else parse_size(asked.memory),
        broken=broken,
    )


def parse_rerun(text: str) -> frozenset[str]:
    """Parse ``failed,stale``, ``all`` or ``none``; UserError if it is none of these."""
    names = frozenset(parse_names("rerun", text) or ())
    for name in names:
        if name not in study.RERUN:
            raise unknown("choice of --rerun", name, study.RERUN)
    if len(names) > 1 and names & {"all", "none"}:
        raise UserError(f"--rerun '{text}': all and none stand alone")
    return names - {"none"}


def check_limits(jobs: int | None, timeout: float | None) -> None:
    """UserError if a number of cells or of seconds makes no sense."""
    if timeout is not None and not timeout > 0:
        raise UserError(f"--timeout {timeout:g}: give a positive number of seconds")
    if jobs is not None and jobs < 1:
        raise UserError(f"--jobs {jobs}: give a number of cells, at least 1")


def resolve_settings(asked: Asked, name: str, preset: Preset, device: str) -> Settings:
    """Resolve what all cells of the study share."""
    values = {
        "dataset": asked.dataset,
        "preset": name,
        "data": None if asked.data is None else asked.data.resolve(),
        "weights": parse_weights(asked.weights, preset.evaluation),
        "reference": None if asked.reference is None else asked.reference.resolve(),
        "size": preset.size,
        "device": device,
        "threads": preset.threads,
        "budget": asked.budget or preset.budget,
        "training": preset.training,
        "sampling": preset.sampling,
        "evaluation": preset.evaluation,
    }
    return cast("Settings", build(Settings, values, f"preset {name} of {asked.dataset}"))


def parse_weights(texts: Sequence[str], evaluation: Mapping[str, Any]) -> dict[str, Path]:
    """Parse ``FILE``, for the extractor that leads, or ``NAME=FILE``; UserError if neither is."""
    files: dict[str, Path] = {}
    used = [str(evaluation.get("extractor")), *map(str, evaluation.get("also", ()))]
    for text in texts:
        name, equals, file = text.partition("=")
        if not equals or Path(text).exists():
            name, file = str(evaluation.get("extractor")), text
        if name in files:
            raise UserError(f"--weights names a file for '{name}' twice; give each one file")
        if not Path(file).exists():
            raise UserError(f"--weights {text}: no such file; write NAME=FILE or FILE")
        if name not in {*used, "inception"}:
            raise UserError(
                f"--weights {text}: extractor '{name}' is not in use, only {', '.join(used)}; add "
                f"it with --set evaluation.also=[{name}], or --extractor for `bench evaluate`"
            )
        files[name] = Path(file).resolve()
    return files


def parse_methods(text: str | None) -> list[str]:
    """Parse a comma-separated list of methods and variants; ``None``: all built-in methods."""
    if text is None:
        return list(registry.BUILTIN)
    labels = [label.strip() for label in text.split(",") if label.strip()]
    if not labels:
        known = ", ".join(registry.names())
        raise UserError(f"--methods '{text}' names none; choose from: {known}")
    for label in labels:
        if registry.base(label) not in registry.names():
            raise unknown("method", registry.base(label), registry.names())
        if labels.count(label) > 1:
            raise UserError(f"--methods names '{label}' twice; name each method once")
    return labels


def find_broken(labels: Sequence[str]) -> dict[str, str]:
    """Return the methods that cannot be loaded, each with the reason in one line."""
    found = {}
    for label in labels:
        try:
            registry.load(label)
        except registry.BrokenMethodError as error:
            found[label] = one_line(error)
    return found


def load_method(label: str) -> Any:
    """Load the class of a method or variant; UserError if its plug-in is broken."""
    try:
        return registry.load(label)
    except registry.BrokenMethodError as error:
        raise UserError(one_line(error)) from error


def check_reach(label: str, overrides: dict[str, Any]) -> None:
    """Refuse a ``--set METHOD.KEY`` or ``common.KEY`` that a variant would undo without a word."""
    said = flatten("", overrides.get(label, {}))
    own = [key for settings in check_variant(label) for key in flatten("", settings)]
    for head in ("common", registry.base(label)) if own else ():
        for key in flatten("", overrides.get(head, {})).keys() - said.keys():
            for mine in own:
                kind = mine.endswith(".kind") and key.startswith(mine.removesuffix("kind"))
                if key == mine or kind:
                    raise UserError(
                        f"'{label}' sets {mine} itself, which --set {head}.{key} does not "
                        f"change; write --set {label}.{key}=... as well to say what it shall be"
                    )


def resolve_label(label: str, preset: Preset) -> dict[str, Any]:
    """Resolve the settings of a method or variant; UserError if there is no such variant."""
    method = load_method(label)
    return resolve_method(method.Config, preset, label, check_variant(label))


def check_variant(label: str) -> list[Mapping[str, Any]]:
    """Return the settings of a label's variants; UserError if there is no such variant."""
    try:
        return registry.variants(label)
    except KeyError as error:
        name, known = registry.base(label), registry.load(label).variants
        if not known:
            raise UserError(f"'{label}': {name} has no variants; write {name}") from error
        raise unknown(f"variant of {name}", error.args[0], known) from error


def check_common(preset: Preset, overrides: dict[str, Any], methods: Sequence[str]) -> None:
    """Refuse a ``--set common.key`` that no chosen method has."""
    known = {key for name in methods for key in load_method(name).Config.model_fields}
    for key in overrides.get("common", {}):
        if key not in known:
            raise unknown("key in --set common", key, known)


def parse_seeds(text: str) -> list[int]:
    """Parse ``0,1,2`` or ``0-2``; UserError if it is neither or names a seed twice."""
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise UserError(f"--seeds '{text}': write seeds as 0,1,2 or 0-2")
        seeds += range(int(first), int(last or first) + 1)
    if not seeds or len(set(seeds)) < len(seeds):
        raise UserError(f"--seeds '{text}': name at least one seed, and each once")
    return seeds


def study_name(asked: Asked, preset: str) -> str:
    """Name the study after data set and preset, and after whatever else was asked for."""
    if asked.study is not None:
        plain = asked.study.replace("-", "").replace("_", "").replace(".", "").isalnum()
        if not plain or asked.study in RESERVED:
            raise UserError(
                f"--study '{asked.study}': use letters, digits, '-', '_' and '.', and none of "
                f"{', '.join(RESERVED)}"
            )
        return asked.study
    given = {
        "data": asked.data and str(asked.data.resolve()),
        "budget": asked.budget,
        "set": sorted(asked.overrides),
        "device": asked.device,
        "weights": [
            text if "=" in text else str(Path(text).resolve()) for text in sorted(asked.weights)
        ],
        "reference": asked.reference and str(asked.reference.resolve()),
    }
    suffix = f"-{digest(given)[:6]}" if any(given.values()) else ""
    return f"{asked.dataset}-{preset}{suffix}"


def default_device() -> str:
    """``cuda`` if there is one, else ``cpu``."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def default_jobs(settings: Settings) -> int:
    """One cell at a time on an accelerator; on a CPU as many as its cores carry."""
    if settings.device != "cpu" or settings.threads is None:
        return 1
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return max(1, cores // settings.threads)


# -- bench sample -------------------------------------------------------------------------------


@dataclass(frozen=True)
class AskedSamples:
    """The options of ``bench sample`` as they were typed."""

    cells: str | None
    samplers: str | None
    nfe: str | None
    samples: int | None
    jobs: int | None
    timeout: float | None


def resolve_samples(asked: AskedSamples) -> sweep.Sweep:
    """Validate what ``bench sample`` was asked for; UserError in one line if it cannot be."""
    samplers = parse_names("samplers", asked.samplers) or curve.SAMPLERS
    for name in samplers:
        if name not in SAMPLERS:
            raise unknown("sampler", name, SAMPLERS)
    if asked.samples is not None and asked.samples < 2:
        raise UserError(f"--samples {asked.samples}: give a number of samples, at least 2")
    return sweep.Sweep(
        samplers=samplers,
        nfe=parse_nfe(asked.nfe),
        samples=asked.samples,
        cells=parse_names("cells", asked.cells),
    )


def parse_names(option: str, text: str | None) -> list[str] | None:
    """Parse a comma-separated list; UserError if it names nothing or something twice."""
    if text is None:
        return None
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names or len(set(names)) < len(names):
        raise UserError(f"--{option} '{text}': name at least one, and each once")
    return names


def parse_nfe(text: str | None) -> Sequence[int]:
    """Parse ``5,10,20``; UserError if it is no list of positive whole numbers."""
    if text is None:
        return curve.NFE
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UserError(f"--nfe '{text}': write network evaluations as 5,10,20")
    return sorted({int(part) for part in parts})


# -- bench evaluate -----------------------------------------------------------------------------


@dataclass(frozen=True)
class AskedEvaluation:
    """The options of ``bench evaluate`` as they were typed."""

    path: str
    results: Path
    metrics: str | None = None
    extractor: str | None = None
    dataset: str | None = None
    preset: str | None = None
    data: Path | None = None
    samples: int | None = None
    name: str | None = None
    seed: int = 0
    study: Path | None = None
    weights: Sequence[str] = ()
    reference: Path | None = None
    device: str | None = None


def resolve_evaluation(asked: AskedEvaluation) -> Settings:
    """Resolve how images are measured: by a preset of a data set, or as told."""
    if asked.dataset is None:
        raise UserError(
            f"'{asked.path}': give the --dataset that the images are compared with; choose from: "
            f"{', '.join(preset_names())}"
        )
    if asked.samples is not None and asked.samples < 2:
        raise UserError(f"--samples {asked.samples}: give a number of images, at least 2")
    device = asked.device or default_device()
    name, preset = choose_preset(asked.dataset, asked.preset, device)
    names = parse_names("extractor", asked.extractor)
    if names:
        evaluation = preset.evaluation | {"extractor": names[0], "also": names[1:]}
        preset = preset.model_copy(update={"evaluation": evaluation})
    options = Asked(
        methods=None,
        dataset=asked.dataset,
        preset=name,
        data=asked.data,
        seeds="0",
        budget=None,
        overrides=(),
        device=device,
        jobs=None,
        timeout=None,
        weights=asked.weights,
        reference=asked.reference,
        study=None,
        results=asked.results,
    )
    return resolve_settings(options, name, preset, device)


def study_settings(folder: Path, settings: Settings, asked: AskedEvaluation) -> Settings:
    """Return a study's settings, with the extractors that are asked for beside its own."""
    if asked.reference is not None:
        raise UserError(
            f"--reference: values of study '{folder.name}' would not compare with each other any "
            "more; leave it out, or give it to images alone, without --as"
        )
    if asked.dataset not in {None, settings.dataset}:
        raise UserError(
            f"study '{folder.name}' is of {settings.dataset}, not {asked.dataset}; "
            "leave --dataset out"
        )
    own = settings.evaluation.extractors
    more = [name for name in parse_names("extractor", asked.extractor) or [] if name not in own]
    evaluation = settings.evaluation.model_dump() | {"also": [*settings.evaluation.also, *more]}
    weights = parse_weights(asked.weights, evaluation)
    changes = {
        "evaluation": evaluation,
        "weights": settings.weights | weights,
        "data": settings.data if asked.data is None else asked.data.resolve(),
    }
    values = settings.model_dump() | changes
    return cast("Settings", build(Settings, values, f"settings of {folder.name}"))


def parse_families(text: str | None) -> list[str] | None:
    """Parse ``kid,precision``; UserError names what there is."""
    from bench.metrics.protocol import FAMILIES

    names = parse_names("metrics", text)
    if names is None:
        return None
    for name in names:
        if name not in {*FAMILIES, *INCEPTIONS}:
            raise unknown("metric", name, [*FAMILIES, *INCEPTIONS])
    return [INCEPTIONS.get(name, name) for name in names]
