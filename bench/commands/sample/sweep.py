"""Sampling finished cells again for the curve of quality against network evaluations.

Each cell is sampled in a process of its own (:mod:`bench.commands.sample.worker`). Points that
are there are reused, so the command resumes and extends; a cell's record and checkpoint are
never touched.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench import metrics
from bench.config.errors import UserError, unknown
from bench.config.schema import read_cell
from bench.config.text import one_line
from bench.executors import End, Job
from bench.progress.display import Display
from bench.records import nfe_curve
from bench.records.locks import only_command
from bench.records.nfe_curve import Point
from bench.records.record import CHECKPOINT, CONFIG, Record, Status
from bench.records.source_code import source_digest
from bench.records.study_file import read_study
from bench.report.frame import read_records
from bench.study import Planned, Request, Runner, Work, cell_key
from methods import registry
from methods.samplers import SamplerSettings


@dataclass(frozen=True)
class Sweep:
    """What to sample finished cells with."""

    samplers: Sequence[str] = nfe_curve.SAMPLERS
    nfe: Sequence[int] = nfe_curve.NFE
    samples: int | None = None
    """Samples a point; ``None``: as many as the cells' own."""
    cells: Sequence[str] | None = None
    """Names of cells; ``None``: all finished ones that have a sampler."""


@dataclass
class CurveCell(Planned):
    """A cell and the points that it lacks."""

    record: Record = field(kw_only=True)
    missing: list[Point] = field(default_factory=list)


# -- what is to be drawn ------------------------------------------------------------------------


def refusal(folder: Path, record: Record, data_sha256: str) -> str | None:
    """Say why a cell cannot be sampled again and what to do, or return ``None`` if it can."""
    again = f"run it again: {record.environment.get('command', 'bench run')}"
    if record.status != Status.FINISHED:
        return f"it is not finished but {record.status}; {again}"
    if not (folder / CHECKPOINT).exists():
        return f"its {CHECKPOINT} is gone; {again}"
    config = read_cell(folder / CONFIG)
    try:
        source = source_digest(registry.load(config.method).__module__)
        identity = metrics.identity(config.settings) | {"data_sha256": data_sha256}
    except (KeyError, registry.BrokenMethodError, UserError) as error:
        return f"its method or extractor cannot be loaded ({one_line(error)}); install it again"
    made, now = (key.split("-") for key in (record.key, cell_key(config, identity, source)))
    if made[0] != now[0]:
        return f"its settings, extractor or evaluation protocol have changed since; {again}"
    if made[1] != now[1]:
        commit = str(record.environment.get("commit", "unknown"))[:12]
        return (
            f"the source of '{config.method}' has changed since it was trained (at commit "
            f"{commit}), so its weights may mean something else; check that commit out, or {again}"
        )
    return None


def choose(folder: Path, sweep: Sweep, data_sha256: str) -> tuple[list[CurveCell], list[str]]:
    """Return the cells to sample, and a line for each that should be but cannot.

    Raises:
        UserError: a cell that was named is unknown, has no sampler, or cannot be sampled.
    """
    cells = {path.name: (path, record) for path, record in read_records(folder)[0]}
    for name in sweep.cells or ():
        if name not in cells:
            raise unknown(f"cell of study '{folder.name}'", name, cells)
        path, record = cells[name]
        reason = refusal(path, record, data_sha256)
        if reason is None and sampler(path) is None:
            reason = "its method has no sampler to exchange; its record is its point of the curve"
        if reason is not None:
            raise UserError(f"{name}: {reason}")
    names = sweep.cells or [name for name, cell in cells.items() if is_sampled(*cell)]
    reasons = {name: refusal(*cells[name], data_sha256) for name in names}
    tasks = [plan(*cells[name], sweep) for name in names if reasons[name] is None]
    return tasks, [f"{name}: {reason}" for name, reason in reasons.items() if reason]


def is_sampled(folder: Path, record: Record) -> bool:
    """Whether a cell is sampled where none is named."""
    return record.status == Status.FINISHED and sampler(folder) is not None


def sampler(folder: Path) -> SamplerSettings | None:
    """The sampler's settings of a cell, or ``None`` if its method has none."""
    return nfe_curve.sampler_of(read_cell(folder / CONFIG).method_config)


def plan(folder: Path, record: Record, sweep: Sweep) -> CurveCell:
    """Find the points that a cell lacks."""
    config, own = read_cell(folder / CONFIG), sampler(folder)
    assert own is not None
    wanted = nfe_curve.choose(
        sweep.samplers,
        sweep.nfe,
        samples=sweep.samples or config.settings.evaluation.samples,
        seed=config.seed,
        own=own,
        calls=nfe_curve.calls_per_evaluation(record, own),
    )
    missing = note(folder, record, wanted, sweep)
    action = "sample" if missing else "reuse"
    why = f"{len(missing)} of {len(wanted)} points to draw"
    return CurveCell(
        config, folder, record.key, record.identity, action, why, record=record, missing=missing
    )


def note(folder: Path, record: Record, wanted: Sequence[Point], sweep: Sweep) -> list[Point]:
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
    for name in sweep.samplers:
        answered = {n for point in wanted if point.sampler["name"] == name for n in point.asked}
        if left := {*sweep.nfe} - answered:
            stored.too_few[name] = sorted({*stored.too_few.get(name, ()), *left})
    if stored != before:
        nfe_curve.save(stored, folder)
    return missing


# -- drawing it ---------------------------------------------------------------------------------


class SamplingWork(Work[CurveCell]):
    """Samples cells again. Names every point that failed."""

    def __init__(self, request: Request, data_sha256: str, scratch: Path, display: Display) -> None:
        self.request, self.display = request, display
        self.data_sha256, self.scratch = data_sha256, scratch
        self.failures: list[str] = []

    def renew(self, cell: CurveCell, *, elsewhere: bool) -> None:
        """Leave out the points that another command has drawn meanwhile."""
        stored = nfe_curve.read(cell.folder, cell.record)
        cell.missing = [point for point in cell.missing if not is_drawn(stored.find(point))]
        if not cell.missing:
            cell.action, cell.why = "reuse", "drawn by another command"

    def lay_out(self, cell: CurveCell) -> Job:
        """The job of drawing what is missing; only its points and its log go into the cell."""
        folder = self.scratch / cell.folder.name
        folder.mkdir()
        return self.request.job(
            "bench.commands.sample.worker",
            folder,
            log=cell.folder.resolve() / nfe_curve.LOG,
            limits=self.request.limits,
            request={
                "cell": str(cell.folder.resolve()),
                "data_sha256": self.data_sha256,
                "points": [point.model_dump(mode="json") for point in cell.missing],
            },
        )

    def close(self, cell: CurveCell, end: End) -> None:
        """Give each point without a result its reason, unless the user stopped the command."""
        if end.status != Status.INTERRUPTED:
            settle(cell, end.reason)
        failed = failures(cell)
        self.failures += failed
        lost = f", {len(failed)} failed" if failed else ""
        drawn = f"{len(cell.missing) - len(failed)} points drawn{lost}"
        self.display.close(cell.folder.name, drawn)


def is_drawn(point: Point | None) -> bool:
    """Whether a point is there and has a result."""
    return point is not None and not point.reason


def settle(task: CurveCell, reason: str) -> None:
    """Give the points that their process did not come to its end as their reason."""
    stored = nfe_curve.read(task.folder, task.record)
    lost = [point for point in task.missing if stored.find(point) is None]
    for point in lost:
        stored.put(point.model_copy(update={"reason": reason}))
    if lost:
        nfe_curve.save(stored, task.folder)


def failures(task: CurveCell) -> list[str]:
    """Return a line for each reason that points of a cell failed for, and where to look."""
    stored = nfe_curve.read(task.folder, task.record)
    reasons: dict[str, list[str]] = {}
    for point in task.missing:
        found = stored.find(point)
        if found is not None and found.reason:
            what = f"{found.sampler['name']} with {found.sampler['steps']} steps"
            reasons.setdefault(found.reason, []).append(what)
    return [
        f"{task.folder.name}: {', '.join(what)}: {reason}; see {task.folder / nfe_curve.LOG}"
        for reason, what in reasons.items()
    ]


def execute(request: Request, sweep: Sweep, display: Display) -> list[str]:
    """Draw what is missing of the cells' curves; return a line for each failure.

    Raises:
        UserError: nothing can be sampled, or a cell that was named cannot.
    """
    data_sha256 = read_study(request.folder).prepared.data_sha256

    def wait() -> None:
        display.say(f"another command holds study '{request.name}'; waiting for it")

    with only_command(request.folder, wait), tempfile.TemporaryDirectory() as scratch:
        tasks, refused = choose(request.folder, sweep, data_sha256)
        if not tasks:
            raise UserError(refused[0] if refused else nothing(request.folder))
        for task in tasks:
            display.say(f"plan: {task.folder.name}: {task.action} ({task.why})")
        work = SamplingWork(request, data_sha256, Path(scratch), display)
        with display:
            Runner(work, request.jobs, display).run(tasks)
    return refused + work.failures


def nothing(folder: Path) -> str:
    """Say that a study has nothing to sample again."""
    return (
        f"study '{folder.name}' has no finished cell whose method has a sampler; "
        "see its table: bench table"
    )
