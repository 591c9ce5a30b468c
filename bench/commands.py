"""What the commands do: from what was asked for to a study, its table, plots and runs."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import psutil
import yaml

from bench import curve, study, sweep
from bench.config import (
    Preset,
    Settings,
    apply_overrides,
    build,
    choose_preset,
    config_folder,
    digest,
    one_line,
    parse_set,
    presets,
    resolve_method,
)
from bench.config import datasets as preset_names
from bench.curve import sampler_of
from bench.data import describe
from bench.errors import MissingDataError, UserError, unknown
from bench.progress import Display
from bench.record import Status, cells, load
from bench.report.frame import flatten
from bench.tracking import NullTracker, Tracker, has_store
from methods import registry
from methods.samplers import SAMPLERS

RESERVED = ("cache", "mlartifacts", "mlflow.db")
"""Names under the results folder that are no study's."""
SMALLEST_FREE = 64 * 2**20
"""Bytes that must be free where results go, before anything starts."""


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


# -- bench run ----------------------------------------------------------------------------------


def run(asked: Asked, *, tracking: bool, with_curve: bool = False) -> int:
    """Run a study, then print its table and where everything is; 1 if a cell failed.

    With ``with_curve`` its cells are then sampled with other samplers too.
    """
    os.environ["SCOREBENCH_COMMAND_STARTED"] = repr(command_started())
    request = resolve(asked)
    check_writable(request.results)
    display = Display()
    trackers: list[Tracker | NullTracker] = []
    heed_signals()
    lost: list[str] = []

    def open_tracker() -> Tracker | NullTracker:
        trackers.append(Tracker.open(request.results) if tracking else NullTracker())
        return trackers[-1]

    try:
        planned = study.execute(request, open_tracker, display)
        if with_curve:
            lost = sample_planned(request, planned, display)
    except KeyboardInterrupt:
        if (request.folder / "study.yaml").exists():
            finish(request.folder, trackers)
        raise
    finish(request.folder, trackers)
    print_places(request, tracking)
    return max(report_failures(planned), report_lost(lost))


def heed_signals() -> None:
    """Let a scheduler's or a closed terminal's signal end the command as Ctrl-C does."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)


def sample_planned(
    request: study.Request, planned: Sequence[study.Planned], display: Display
) -> list[str]:
    """Sample the finished cells of a command again for the curve; return the failures."""
    cells = [
        cell.folder.name
        for cell in planned
        if finished(cell) and sampler_of(cell.config.method_config) is not None
    ]
    if not cells:
        display.say("note: no finished cell has a sampler to exchange; there is no curve to draw")
        return []
    return sweep.execute(request, sweep.Sweep(cells=cells), display)


def report_lost(lost: Sequence[str]) -> int:
    """Print what could not be drawn of the curve; return the exit code."""
    for line in lost:
        print(f"bench: {line}", file=sys.stderr)
    return 1 if lost else 0


def command_started() -> float:
    """The ``perf_counter`` reading of the moment at which this process was started."""
    age: float = time.time() - psutil.Process().create_time()
    return time.perf_counter() - age


def finish(folder: Path, trackers: Sequence[Tracker | NullTracker]) -> None:
    """Write and print the tables, draw the plots, and put both into MLflow."""
    from bench.report import nfe
    from bench.report.plots import write_plots
    from bench.report.tables import render, write_tables

    write_tables(folder)
    print(render(folder, "md"))
    write_plots(folder)
    if nfe.write_tables(folder):
        print(nfe.render(folder))
        nfe.write_plots(folder)
    for tracker in trackers:
        tracker.sync_study(folder)


def print_places(request: study.Request, tracking: bool) -> None:
    """Say where the results are and what to do with them."""
    folder = request.folder
    print(f"tables   {folder}/table.md (.csv .tex .json)")
    if (folder / "nfe-curve.md").exists():
        print(f"curve    {folder}/nfe-curve.md (.csv), plots/nfe-curve-*.png")
    print(f"plots    {folder}/plots/")
    print(f"cells    {folder}/<method>-seed<k>/")
    if tracking:
        print(f"MLflow   bench ui --results {request.results}")


def report_failures(planned: Sequence[study.Planned]) -> int:
    """Name the cells without a result; return the exit code."""
    failed = [cell for cell in planned if not finished(cell)]
    for cell in failed:
        log = cell.folder / "log.txt"
        print(f"bench: {cell.folder.name} did not finish; see {log}", file=sys.stderr)
    return 1 if failed else 0


def finished(cell: study.Planned) -> bool:
    """Whether a cell has a result."""
    record = load(cell.folder)
    return record is not None and record.status == Status.FINISHED


def dry_run(asked: Asked) -> int:
    """Print the resolved configuration and the plan; nothing is downloaded or run."""
    request = resolve(asked)
    configuration = {
        "settings": request.settings.model_dump(mode="json"),
        "methods": dict(request.methods),
        "seeds": list(request.seeds),
    }
    print(yaml.safe_dump(configuration, sort_keys=False, allow_unicode=True), end="")
    print(f"# study {request.name} in {request.folder}, {request.jobs} cell(s) at a time")
    try:
        planned = study.dry_run(request)
    except MissingDataError as error:
        if asked.data is not None:
            raise
        print(f"# no plan before the data are there: {error}")
        return 0
    for cell in planned:
        print(f"# {cell.folder.name}: {cell.action} ({cell.why})")
    return 0


def resolve(asked: Asked) -> study.Request:
    """Resolve and validate all that was asked for; UserError in one line if it cannot be."""
    methods = parse_methods(asked.methods)
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


def check_writable(results: Path) -> None:
    """UserError if the results folder cannot be made or written, or its disk is full."""
    try:
        results.mkdir(parents=True, exist_ok=True)
        probe = results / f".probe-{os.getpid()}"
        probe.write_text("")
        probe.unlink()
        free = shutil.disk_usage(results).free
    except OSError as error:
        raise UserError(
            f"results folder '{results}' cannot be written ({error.strerror}); "
            "give another one with --results"
        ) from error
    if free < SMALLEST_FREE:
        raise UserError(f"only {free >> 20} MiB are free at '{results}'; give another --results")


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


def sample(folder: Path, asked: AskedSamples, *, tracking: bool) -> int:
    """Sample a study's finished cells again, print the curve's table; 1 if a point failed."""
    check_limits(asked.jobs, asked.timeout)
    wanted = resolve_samples(asked)
    request = sweep.request_of(folder, asked.jobs, asked.timeout)
    request = replace(request, jobs=asked.jobs or default_jobs(request.settings))
    check_writable(request.results)
    heed_signals()
    lost = sweep.execute(request, wanted, Display())
    write_curve(folder)
    if tracking:
        show_in_store(folder)
    return report_lost(lost)


def show_in_store(folder: Path) -> None:
    """Bring MLflow up to date with a study, where studies are tracked."""
    if has_store(folder.parent):
        Tracker.open(folder.parent).sync_study(folder)


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


def write_curve(folder: Path) -> None:
    """Write and print the curve's table, draw its plots and name the files."""
    from bench.report import nfe

    tables = nfe.write_tables(folder)
    print(nfe.render(folder))
    for path in [*tables, *nfe.write_plots(folder)]:
        print(path)


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


INCEPTIONS = {"fid": "fd", "kid": "kd", "fidc": "fdc"}
"""What Inception's values are called, by the family that they are of."""


def evaluate(asked: AskedEvaluation, format: str) -> int:
    """Measure finished cells again, or images from elsewhere; print what was found."""
    heed_signals()
    cells = find_cells(asked.path, asked.results)
    if cells is not None:
        return evaluate_cells(*cells, asked)
    if not Path(asked.path).exists():
        raise UserError(
            f"'{asked.path}' is no study or cell under '{asked.results}' and no folder or file; "
            "give one of these"
        )
    if asked.name is not None:
        return evaluate_as(asked)
    return evaluate_images(asked, format)


def find_cells(path: str, results: Path) -> tuple[Path, list[Path]] | None:
    """Return a study's folder and the cells meant, its finished ones for a study; else ``None``."""
    for place in (Path(path), results / path):
        if (place / "record.json").exists() and (place.parent / "study.yaml").exists():
            return place.parent, [place]
        if (place / "study.yaml").exists():
            done = [f for f, row in cells(place) if row.status == Status.FINISHED]
            if not done:
                raise UserError(f"study '{place.name}' has no finished cell to measure")
            return place, done
    return None


def evaluate_cells(folder: Path, chosen: Sequence[Path], asked: AskedEvaluation) -> int:
    """Measure cells of a study again, add to their records, and print its table."""
    from bench import evaluate as room

    for option, value in (("--as", asked.name), ("--samples", asked.samples)):
        if value is not None:
            raise UserError(f"{option} is for images made elsewhere; leave it out for cells")
    with study.only_command(folder):
        room.evaluate_cells(folder, chosen, wish_in(folder, asked))
        finish(folder, [])
        show_in_store(folder)
    return 0


def wish_in(folder: Path, asked: AskedEvaluation) -> Any:
    """Put together what is to be measured within a study: on its data, and on its device."""
    stored = yaml.safe_load((folder / "study.yaml").read_text())
    settings: Settings = build(Settings, stored["settings"], f"{folder / 'study.yaml'}")
    wish = wish_of(
        study_settings(folder, settings, asked),
        replace(asked, device=asked.device or settings.device),
    )
    return replace(wish, data_sha256=stored["prepared"]["data_sha256"])


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


def wish_of(settings: Settings, asked: AskedEvaluation) -> Any:
    """Put together what ``bench.evaluate`` wants to know."""
    from bench import evaluate as room
    from bench.progress import passing

    return room.Wish(
        settings=settings,
        cache=asked.results.resolve() / "cache",
        families=parse_families(asked.metrics),
        device=asked.device or default_device(),
        passing=passing,
    )


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


def evaluate_as(asked: AskedEvaluation) -> int:
    """Add images from elsewhere to a study's tables and plots by a name."""
    from bench import evaluate as room
    from bench.metrics import HELD_OUT, NOISE

    folder, name = asked.study, str(asked.name)
    assert folder is not None
    taken = {row.method for _, row in cells(folder)} | {*registry.names(), NOISE, HELD_OUT}
    if name in taken or not name.replace("-", "").replace("_", "").replace(".", "").isalnum():
        raise UserError(
            f"--as '{name}': use letters, digits, '-', '_' and '.', and no method's name, nor "
            f"an anchor's ({', '.join(sorted(taken))})"
        )
    if asked.samples is not None:
        raise UserError("--samples is the study's own number with --as; leave it out")
    with study.only_command(folder):
        wish = wish_in(folder, asked)
        measured = room.add_foreign(folder, Path(asked.path), wish, name=name, seed=asked.seed)
        for note in measured.notes:
            print(f"note: {note}", file=sys.stderr)
        finish(folder, [])
        show_in_store(folder)
    return 0


def evaluate_images(asked: AskedEvaluation, format: str) -> int:
    """Measure images from elsewhere and print their values with how they were measured."""
    from bench import evaluate as room
    from bench.report.values import render

    settings = resolve_evaluation(asked)
    wish = wish_of(settings, asked)
    measured = room.evaluate_samples(Path(asked.path), wish, wanted=asked.samples)
    for note in measured.notes:
        print(f"note: {note}", file=sys.stderr)
    print(render(measured.values, format), end="")
    return 0


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


def export_reference(file: Path, asked: AskedEvaluation) -> int:
    """Write a data set's reference statistics to a file."""
    from bench.metrics.references import export

    if file.suffix != ".npz":
        raise UserError(f"'{file}': statistics are written as .npz; give such a name")
    heed_signals()
    settings = resolve_evaluation(asked)
    if asked.extractor is not None and settings.evaluation.also:
        raise UserError(
            f"--extractor {asked.extractor}: a file holds the statistics of one; name one"
        )
    alone = settings.evaluation.model_copy(update={"also": ()})
    wish = wish_of(settings.model_copy(update={"evaluation": alone}), asked)
    extractor, found = wish.open().pairs[0]
    export(file, found, extractor)
    print(f"{file}: mu and sigma of {found.n} {found.variant} images by {extractor.name}")
    return 0


def sensitivity(asked: AskedEvaluation, into: Path | None) -> int:
    """Measure damaged real images, write the page of numbers and name its files."""
    from bench.environment import describe as surroundings
    from bench.metrics import sensitivity as measured
    from bench.report.sensitivity import write_page

    settings = resolve_evaluation(asked)
    folder = into or asked.results / f"{settings.dataset}-sensitivity"
    check_writable(folder.parent)
    heed_signals()
    wish = wish_of(settings, asked)
    evaluator = wish.open(lambda dataset: measured.check(dataset, asked.samples))
    # Now, since the checkout may be another when the page is done.
    environment = surroundings(evaluator.pairs[0][0].device)
    with wish.passing("clean and damaged images") as progress:
        page = measured.page(
            evaluator,
            asked.samples,
            limit=settings.evaluation.reference_images,
            cache=wish.cache,
            progress=progress,
        )
    paths = write_page(page, folder, environment)
    print((folder / "sensitivity.md").read_text())
    for path in paths:
        print(path)
    return 0


# -- the other commands -------------------------------------------------------------------------


def table(folder: Path, format: str) -> int:
    """Print a study's table in one format, and write it in all; and that of the curve."""
    from bench.report import nfe
    from bench.report.tables import render, write_tables

    print(render(folder, format))
    write_tables(folder)
    nfe.write_tables(folder)
    return 0


def plot(folder: Path) -> int:
    """Draw a study's plots and name the files."""
    from bench.report import nfe
    from bench.report.plots import write_plots

    for path in [*write_plots(folder, say=_complain), *nfe.write_plots(folder)]:
        print(path)
    return 0


def sync(results: Path, folders: Sequence[Path]) -> int:
    """Bring MLflow up to date with the studies; 1 if it could not be."""
    tracker = Tracker.open(results)
    for folder in folders:
        study.settle_if_idle(folder)
        tracker.sync_study(folder)
        if tracker.trouble:
            print(f"bench: {folder.name}: {tracker.trouble}", file=sys.stderr)
            return 1
        print(f"synced {folder.name}")
    return 0


def new(name: str, into: Path) -> int:
    """Write the project of a new method, and say what to do with it."""
    from bench.new import new as write

    folder = write(name, into)
    for path in sorted(folder.iterdir()):
        print(path)
    print(f"check    bench check {folder / name}.py")
    print(f"install  pip install -e {folder}")
    print(f"run      bench run --methods {name},{registry.names()[0]} --dataset digits")
    return 0


def check(methods: str, dataset: str, preset: str) -> int:
    """Print what every rule found; 1 if a method breaks one, or is a plug-in that is broken."""
    choose_preset(dataset, preset, "cpu")
    is_file = methods.endswith(".py")
    labels = registry.names() if methods == "all" else [methods] if is_file else None
    failed = [
        label
        for label in (parse_methods(methods) if labels is None else labels)
        if not check_one(label, dataset, preset)
    ]
    if failed:
        print(f"bench: {', '.join(failed)} failed", file=sys.stderr)
    return 1 if failed else 0


def check_one(label: str, dataset: str, preset: str) -> bool:
    """Print what every rule found for a method, a variant or a file; whether all hold."""
    from bench.check import check, load_file

    started = time.perf_counter()
    try:
        if label.endswith(".py"):
            findings = check(load_file(Path(label)), dataset=dataset, preset=preset)
        else:
            check_variant(label)
            findings = check(label, dataset=dataset, preset=preset)
    except registry.BrokenMethodError as error:
        print(f"{label}\nFAIL  {one_line(error)}")
        return False
    print(label, *findings, sep="\n")
    counts = Counter(finding.outcome for finding in findings)
    said = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
    print(f"{said}; {time.perf_counter() - started:.0f} s")
    return not counts["FAIL"]


def list_methods() -> int:
    """Print each method, its one line of description and where it comes from."""
    for name in registry.names():
        try:
            summary = (registry.load(name).__doc__ or "").strip().splitlines()[0]
        except registry.BrokenMethodError as error:
            summary = f"BROKEN: {one_line(error)}"
            variants = []
        else:
            variants = sorted(registry.load(name).variants)
        print(f"{name:<8} {summary}  [{registry.source(name)}]")
        if variants:
            print(f"{'':<8} variants: {', '.join(f'{name}:{variant}' for variant in variants)}")
    return 0


def list_datasets() -> int:
    """Print each data set with its presets and where it is looked for."""
    rows = {row.name: row for row in describe()}
    for name in preset_names():
        row = rows.get(name)
        told = "any images, cropped and resized to the presets' size; from --data PATH"
        if row is not None:
            told = (
                f"{row.images} images, {row.size}, {row.channels} channel(s), "
                f"{row.classes} classes; from {row.source}"
            )
        print(f"{name:<14} {told}")
        for preset_name, preset in presets(name).items():
            extractor = preset.evaluation.get("extractor")
            print(f"    {preset_name:<8} budget {preset.budget}, extractor {extractor}")
    print(f"presets in {config_folder()}")
    return 0


def prepare_data(dataset: str, data: Path | None, preset: str | None, results: Path) -> int:
    """Decode a data set into the cache as ``bench run`` would, and print what it is."""
    from bench.data import load as load_data
    from bench.progress import passing

    name, chosen = choose_preset(dataset, preset, default_device())
    check_writable(results)
    heed_signals()
    with passing(f"preparing {dataset}") as progress:
        found = load_data(
            dataset, path=data, cache=results / "cache", size=chosen.size, progress=progress
        )
    held_out = f" + {len(found.test)} held out" if found.test else ""
    channels, height, width = found.shape
    classes = f"{len(found.classes)}" if found.train.labels is not None else "no labels"
    print(f"data     {found.variant}, for preset {name} of {dataset}")
    print(f"source   {found.source}")
    print(f"images   {len(found.train)}{held_out}, {width}x{height}, {channels} channel(s)")
    print(f"classes  {classes}")
    print(f"sha256   {found.sha256}")
    print(f"cache    {found.stored or 'none: read in place'}")
    for note in found.notes:
        print(f"note     {note}")
    return 0


def _complain(line: str) -> None:
    print(line, file=sys.stderr)
