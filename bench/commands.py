"""What the commands do: from what was asked for to a study, its table, plots and runs."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil
import yaml

from bench import estimate, study, sweep, timing
from bench.config import (
    choose_preset,
    config_folder,
    one_line,
    presets,
)
from bench.config import datasets as preset_names
from bench.curve import sampler_of
from bench.data import describe
from bench.errors import MissingDataError, UserError
from bench.options import (
    Asked,
    AskedSamples,
    check_limits,
    check_variant,
    default_device,
    default_jobs,
    parse_methods,
    resolve,
    resolve_samples,
)
from bench.orphans import readable, settle_study
from bench.progress import Display
from bench.record import RESERVE, Status
from bench.tracking import Background, NullTracker, Tracker, has_store
from methods import registry

SMALLEST_FREE = 64 * 2**20
"""Bytes that must be free where results go, before anything starts."""
SHORT_PATIENCE = 0.5
"""Seconds that a command which was stopped waits for MLflow; see ``Background.close``."""


# -- bench run ----------------------------------------------------------------------------------


def run(asked: Asked, *, tracking: bool, with_curve: bool = False) -> int:
    """Run a study, then print its table and where everything is; 1 if a cell failed.

    With ``with_curve`` its cells are then sampled with other samplers too.
    """
    request = replace(resolve(asked), command_started=psutil.Process().create_time())
    check_writable(request.results)
    display = Display()
    trackers: list[Background | NullTracker] = []
    heed_signals()
    lost: list[str] = []

    def open_tracker() -> Background | NullTracker:
        opener = partial(Tracker.open, request.results)
        trackers.append(Background(opener) if tracking else NullTracker())
        return trackers[-1]

    try:
        planned = study.execute(request, open_tracker, display)
        if with_curve:
            lost = draw_curve(request, planned, display)
    except KeyboardInterrupt:
        if any(request.folder.glob("*/record.json")):
            break_off(request.folder, trackers)
        drop(trackers)
        raise
    except UserError:
        drop(trackers)
        raise
    finish(request.folder, trackers)
    print_places(request, tracking)
    return max(report_failures(planned), report_lost(lost))


def heed_signals() -> None:
    """Let a scheduler's or a closed terminal's signal end the command as Ctrl-C does."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)


def interrupt(number: int, frame: object) -> None:
    """Interrupt what the command does; the event is for where that is lost, in a finaliser."""
    study.stopping.set()
    if not study.deaf.is_set():
        raise KeyboardInterrupt


def draw_curve(
    request: study.Request, planned: Sequence[study.Planned], display: Display
) -> list[str]:
    """Sample for the curve; what keeps that from happening must not cost the table."""
    try:
        return sample_planned(request, planned, display)
    except UserError as error:
        return [f"no curve: {error}"]


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


def finish(folder: Path, trackers: Sequence[Background | NullTracker]) -> None:
    """Write and print the tables, draw the plots, and put both into MLflow."""
    from bench.report.nfe import render_nfe_table, write_nfe_plots, write_nfe_tables
    from bench.report.plots import write_plots
    from bench.report.study_report import StudyReport
    from bench.report.table import render_table, write_tables

    report = StudyReport.read(folder)
    print(render_table(report))
    try:
        write_tables(report)
    except OSError:
        # On a full disk the tables take the room that was kept for the records.
        (folder / RESERVE).unlink(missing_ok=True)
        write_tables(report)
    write_plots(report)
    if write_nfe_tables(report):
        print(render_nfe_table(report))
        write_nfe_plots(report)
    for tracker in trackers:
        tracker.sync_study(folder)
        tracker.close()


def drop(trackers: Sequence[Background | NullTracker]) -> None:
    """End the logging of a command that ends here, and what it would say."""
    for tracker in trackers:
        tracker.drop()


def break_off(folder: Path, trackers: Sequence[Background | NullTracker]) -> None:
    """Write and print the tables of a study that was stopped; plots take too long."""
    from bench.report.study_report import StudyReport
    from bench.report.table import render_table, write_tables

    report = StudyReport.read(folder)
    print(render_table(report))
    write_tables(report)
    print(f"plots    bench plot {folder.name}")
    for tracker in trackers:
        tracker.sync_study(folder)
        tracker.close(SHORT_PATIENCE)


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
    failed = [cell for cell in planned if cell.broken or not finished(cell)]
    for cell in failed:
        told = cell.broken or f"see {cell.folder / study.LOG}"
        print(f"bench: {cell.folder.name} did not finish; {told}", file=sys.stderr)
    return 1 if failed else 0


def finished(cell: study.Planned) -> bool:
    """Whether a cell has a result."""
    record = readable(cell.folder)
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
        found = study.dry_run(request)
    except MissingDataError as error:
        if asked.data is not None:
            raise
        print(f"# no plan before the data are there: {error}")
        return 0
    for line in estimate.lines(found):
        print(f"# {line}")
    return 0


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


def sample(folder: Path, asked: AskedSamples, *, tracking: bool) -> int:
    """Sample a study's finished cells again, print the curve's table; 1 if a point failed."""
    check_limits(asked.jobs, asked.timeout)
    wanted = resolve_samples(asked)
    request = study.request_of(folder, asked.jobs, asked.timeout)
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
        tracker = Background(partial(Tracker.open, folder.parent))
        tracker.sync_study(folder)
        tracker.close()


def write_curve(folder: Path) -> None:
    """Write and print the curve's table, draw its plots and name the files."""
    from bench.report.nfe import render_nfe_table, write_nfe_plots, write_nfe_tables
    from bench.report.study_report import StudyReport

    report = StudyReport.read(folder)
    tables = write_nfe_tables(report)
    print(render_nfe_table(report))
    for path in [*tables, *write_nfe_plots(report)]:
        print(path)


# -- bench time ---------------------------------------------------------------------------------


def time_together(folder: Path, wish: timing.Wish, *, tracking: bool) -> int:
    """Time a study's finished cells in turn, print the times; 1 if a cell could not be timed."""
    from bench.report.plots import write_plots
    from bench.report.study_report import StudyReport
    from bench.report.table import write_tables
    from bench.report.timing import render_timing, write_timing

    timing.check(wish)
    check_writable(folder.parent)
    heed_signals()
    found = timing.execute(folder, wish, Display())
    write_timing(folder)
    print(render_timing(found))
    report = StudyReport.read(folder)
    write_tables(report)
    write_plots(report)
    if tracking:
        show_in_store(folder)
    print(f"timing   {folder}/timing.md (.json), and the times of {folder}/table.md")
    return report_lost([f"{name}: {reason}" for name, reason in found.failed.items()])


# -- bench rerun --------------------------------------------------------------------------------


def rerun(given: str, results: Path, data: Path | None, *, tracking: bool) -> int:
    """Repeat a finished cell, and print whether it gave the same; 1 if it did not."""
    from bench import rerun as room

    folder = room.find(given, results)
    check_writable(results)
    heed_signals()
    again = room.execute(folder, results, data, Display())
    if room.read(again).status != Status.FINISHED:
        log = again / study.LOG
        print(f"bench: the repetition did not finish; see {log}", file=sys.stderr)
        return 1
    page, holds = room.report(folder, again)
    print(page, end="")
    if tracking:
        show_in_store(again.parent)
    return 0 if holds else 1


# -- the other commands -------------------------------------------------------------------------


def table(folder: Path, format: str) -> int:
    """Print a study's table in one format, and write it in all; and that of the curve."""
    from bench.report.nfe import write_nfe_tables
    from bench.report.study_report import StudyReport
    from bench.report.table import render_table, write_tables

    report = StudyReport.read(folder)
    print(render_table(report, format))
    write_tables(report)
    write_nfe_tables(report)
    return 0


def compare(one: Path, other: Path, format: str) -> int:
    """Print what moved between two studies."""
    from bench.report.compare import render_comparison

    print(render_comparison(one, other, format), end="")
    return 0


def plot(folder: Path) -> int:
    """Draw a study's plots and name the files."""
    from bench.report.nfe import write_nfe_plots
    from bench.report.plots import write_plots
    from bench.report.study_report import StudyReport

    report = StudyReport.read(folder)
    for path in [*write_plots(report, say=_complain), *write_nfe_plots(report)]:
        print(path)
    return 0


def sync(results: Path, folders: Sequence[Path]) -> int:
    """Bring MLflow up to date with the studies; 1 if it could not be."""
    tracker = Tracker.open(results)
    for folder in folders:
        settle_study(folder)
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
