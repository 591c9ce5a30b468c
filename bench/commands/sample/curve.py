"""Sampling finished cells again: quality against network evaluations, or against a setting.

Each cell is sampled in a process of its own (:mod:`bench.commands.sample.worker`). Points that
are there are reused, so the command resumes and extends; a cell's record and checkpoint are
never touched.
"""

import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.commands.finished_cells import choose_cells
from bench.commands.options import Sweep
from bench.commands.sample import NFE, SampleOptions
from bench.config import (
    CellConfig,
    UserError,
    bench_command,
    build,
    put_setting,
    read_cell,
    unknown,
)
from bench.executors import End, Job
from bench.progress.display import Display
from bench.records import CONFIG, Record, Status, nfe_curve, only_command, read_study
from bench.records.nfe_curve import Curve, Point
from bench.records.plugins import method_class
from bench.report.frame import flatten
from bench.study import Planned, Request, Runner, Work, replace
from methods.samplers import SAMPLERS
from methods.samplers import nfe as evaluations


@dataclass
class CurveCell(Planned):
    """A cell and the points that it lacks."""

    record: Record = field(kw_only=True)
    missing: list[Point] = field(default_factory=list)


def plan(folder: Path, record: Record, options: SampleOptions) -> CurveCell:
    """Find the points that a cell lacks; UserError if it has no sampler, or not what is swept."""
    config = read_cell(folder / CONFIG)
    samples = options.samples or config.settings.evaluation.samples
    if options.sweep:
        wanted = swept_points(config, options.sweep, samples)
        missing = note(folder, record, wanted)
    else:
        own = nfe_curve.sampler_of(config.method_config)
        if own is None:
            why = "its method has no sampler to exchange; its record is its point of the curve"
            raise UserError(f"{folder.name}: {why}")
        names, nfe = options.samplers or nfe_curve.SAMPLERS, {*(options.nfe or NFE)}
        wanted = nfe_curve.choose(
            names, sorted(nfe), seed=config.seed, own=own, samples=samples,
            # Of networks for one of the sampler's, as the cell counted: 2 with a classifier.
            calls=(record.cost.nfe or evaluations(own)) / evaluations(own),
        )  # fmt: skip
        missing = note(folder, record, wanted, names, nfe)
    action = "sample" if missing else "reuse"
    why = f"{len(missing)} of {len(wanted)} points to draw"
    return CurveCell(
        config, folder, record.key, record.identity, action, why, record=record, missing=missing
    )


def is_swept(config: CellConfig, setting: str) -> bool:
    """Whether a cell's method has a setting, and says that it acts in sampling alone."""
    allowed = method_class(config.method).sampling_settings
    own = flatten("", config.method_config).get(setting, "")
    return setting.partition(".")[0] in allowed and isinstance(own, int | float | None)


def swept_points(config: CellConfig, sweep: Sweep, samples: int) -> list[Point]:
    """The points of a sweep; UserError if the method has no such setting, or not such a value."""
    if not is_swept(config, sweep.setting):
        allowed = sorted(method_class(config.method).sampling_settings)
        told = ", ".join(allowed) or "none"
        raise UserError(
            f"'{config.method}' has no number '{sweep.setting}' that acts in sampling alone; "
            f"settings of it that do: {told}"
        )
    points = []
    for value in sweep.values:
        body = put_setting(config.method_config, sweep.setting, value)
        whole = build(method_class(config.method).Config, body, f"--sweep {sweep}: {config.method}")
        sampler = whole.model_dump(mode="json").get("sampler") or {}
        points.append(
            Point(sampler=sampler, swept={sweep.setting: value}, samples=samples, seed=config.seed)
        )
    return points


def note(
    folder: Path, record: Record, wanted: Sequence[Point], samplers: Sequence[str] = (),
    nfe: Collection[int] = (),
) -> list[Point]:  # fmt: skip
    """Note in a cell's file what is asked for; return the points that have no result yet."""
    try:
        stored = nfe_curve.read(folder, record)
    except ValueError as error:
        path = folder / nfe_curve.FILE
        raise UserError(f"'{path}' cannot be read; remove it and sample again") from error
    before, missing = stored.model_copy(deep=True), []
    for point in wanted:
        found = stored.find(point)
        if found is None or found.reason:
            missing.append(point)
            stored.points = [kept for kept in stored.points if kept is not found]
        else:
            found.asked = sorted({*found.asked, *point.asked})
    for name in samplers:
        answered = {n for point in wanted if point.sampler["name"] == name for n in point.asked}
        if left := {*nfe} - answered:
            stored.too_few[name] = sorted({*stored.too_few.get(name, ()), *left})
    if stored != before:
        nfe_curve.save(stored, folder)
    return missing


def fits(config: CellConfig, sweep: Sweep | None) -> bool:
    """Whether a cell can be sampled otherwise: by what is swept, or by another sampler."""
    if sweep:
        return is_swept(config, sweep.setting)
    return nfe_curve.sampler_of(config.method_config) is not None


class SamplingWork(Work[CurveCell]):
    """Samples cells again. Names every point that failed."""

    def __init__(self, request: Request, data_sha256: str, scratch: Path, display: Display) -> None:
        self.request, self.display = request, display
        self.data_sha256, self.scratch = data_sha256, scratch
        self.failures: list[str] = []

    def renew(self, cell: CurveCell, *, elsewhere: bool) -> None:
        """Leave out the points that another command has drawn meanwhile."""
        drawn = [point for point in stored_of(cell).points if not point.reason]
        cell.missing = [p for p in cell.missing if not any(map(p.is_for, drawn))]
        if not cell.missing:
            cell.action, cell.why = "reuse", "drawn by another command"

    def lay_out(self, cell: CurveCell) -> Job:
        """The job of drawing what is missing; only its points and its log go into the cell."""
        folder = self.scratch / cell.folder.name
        folder.mkdir()
        place = cell.folder.resolve()
        points = [point.model_dump(mode="json") for point in cell.missing]
        return self.request.job(
            "bench.commands.sample.worker", folder,
            log=place / nfe_curve.LOG, limits=self.request.limits,
            request={"cell": str(place), "data_sha256": self.data_sha256, "points": points},
        )  # fmt: skip

    def close(self, cell: CurveCell, end: End) -> None:
        """Give each point without a result its reason, unless the user stopped the command.

        A line for each reason says which points failed for it, and where to look.
        """
        reason, stored = "" if end.status == Status.INTERRUPTED else end.reason, stored_of(cell)
        lost = [point for point in cell.missing if reason and stored.find(point) is None]
        for point in lost:
            stored.put(point.model_copy(update={"reason": reason}))
        if lost:
            nfe_curve.save(stored, cell.folder)
        reasons: dict[str, list[str]] = {}
        for found in filter(None, map(stored.find, cell.missing)):
            if found.reason:
                reasons.setdefault(found.reason, []).append(found.title)
        name, log = cell.folder.name, cell.folder / nfe_curve.LOG
        for why, points in reasons.items():
            self.failures.append(f"{name}: {', '.join(points)}: {why}; see {log}")
        failed = f", {len(reasons)} failed" if reasons else ""
        self.display.close(name, f"{len(cell.missing) - len(reasons)} points drawn{failed}")


def stored_of(cell: CurveCell) -> Curve:
    """What a cell's file keeps of its curve; one that cannot be read is set aside."""
    try:
        return nfe_curve.read(cell.folder, cell.record)
    except ValueError:
        replace(cell.folder / nfe_curve.FILE)
        return Curve(key=cell.record.key)


def draw_curves(request: Request, options: SampleOptions, display: Display) -> list[str]:
    """Draw what is missing of the cells' curves; return a line for each failure.

    UserError where a sampler or a cell that was named is unknown, the cell has no sampler or cannot
    be sampled, or nothing can.
    """
    for name in options.samplers or ():
        if name not in SAMPLERS:
            raise unknown("sampler", name, SAMPLERS)
    data_sha256 = read_study(request.folder).prepared.data_sha256

    def wait() -> None:
        display.say(f"another command holds study '{request.name}'; waiting for it")

    with only_command(request.folder, wait), tempfile.TemporaryDirectory() as scratch:
        found, reasons = choose_cells(
            request.folder, options.cells, data_sha256,
            lambda folder: fits(read_cell(folder / CONFIG), options.sweep),
        )  # fmt: skip
        refused = [f"{name}: {reason}" for name, reason in reasons.items()]
        if not found:
            wanted = f"setting '{options.sweep.setting}'" if options.sweep else "sampler"
            nothing = (
                f"study '{request.name}' has no finished cell whose method has a {wanted}; see its "
                f"table: {bench_command('table', request.name, results=request.results)}"
            )
            raise UserError(refused[0] if refused else nothing)
        cells = [plan(folder, record, options) for folder, record in found]
        for cell in cells:
            display.say(f"plan: {cell.folder.name}: {cell.action} ({cell.why})")
        work = SamplingWork(request, data_sha256, Path(scratch), display)
        with display:
            Runner(work, request.jobs, display).run(cells)
    return refused + work.failures
