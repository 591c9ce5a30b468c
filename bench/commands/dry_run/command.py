"""``bench run --dry-run``: print what would be run and what it costs, and do nothing."""

import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from bench.commands.dry_run.costs import FREE, CellCost, Findings, PlanEstimate, estimate_plan
from bench.commands.run import RunOptions
from bench.commands.run.request import resolve
from bench.config import MissingDataError
from bench.report.table.numbers import number, scaled
from bench.study.plan import plan
from bench.study.preparation import preparation, wait_for_answer
from bench.study.request import Request, check_study

HEAD = ("training", "sampling", "training", "sampling", "evaluation", "other", "total")
UNKNOWN = "?"
MINUTE, HOUR, DAY, YEAR = 60.0, 3600.0, 86_400.0, 31_557_600.0


def dry_run(options: RunOptions) -> int:
    """Print the resolved configuration and the plan; nothing is downloaded or run."""
    request = resolve(options)
    configuration = {
        "settings": request.settings.model_dump(mode="json"),
        "methods": dict(request.methods),
        "seeds": list(request.seeds),
    }
    print(yaml.safe_dump(configuration, sort_keys=False, allow_unicode=True), end="")
    print(f"# study {request.name} in {request.folder}, {request.jobs} cell(s) at a time")
    try:
        found = estimate_study(request)
    except MissingDataError as error:
        if options.data is not None:
            raise
        print(f"# no plan before the data are there: {error}")
        return 0
    for line in lines(found):
        print(f"# {line}")
    return 0


def estimate_study(request: Request) -> PlanEstimate:
    """Plan a study and estimate its costs; UserError where something is wrong with it."""
    check_study(request)
    with tempfile.TemporaryDirectory() as scratch:
        job = preparation(request, Path(scratch), task="bench.commands.dry_run.rehearsal")
        if not request.cache.exists():
            # Nothing is made in the results folder.
            job = job.model_copy(update={"cache": job.folder / "cache"})
        answer = wait_for_answer(job)
    findings = Findings.model_validate(answer["findings"])
    return estimate_plan(plan(request, answer), answer["stages"], findings, request.jobs)


def lines(found: PlanEstimate) -> list[str]:
    """Write an estimate: a table of the cells, the totals, and where the numbers come from."""
    table = [["", "FLOPs", "FLOPs", *["time"] * 5], ["cell", *HEAD]]
    table += [[f"{row.name}: {row.action}", *texts(row.cost, row.trained_by)] for row in found.rows]
    table.append([f"to be run: {len(found.active)} cell(s)", *texts(found.total)])
    return [*aligned(table), *totals(found), *provenance(found)]


def texts(cost: CellCost, trained_by: str = "") -> list[str]:
    """FLOPs, and seconds of all parts and in total; zeros where nothing is done with the cell."""
    if cost is FREE:
        return ["0"] * len(HEAD)
    flops = [cost.train_flops, cost.sample_flops]
    written = [UNKNOWN if math.isnan(each) else scaled(each, "FLOP") for each in flops]
    training, *others = map(duration, [*cost.seconds, sum(cost.seconds)])
    return [*written, training + ("*" if trained_by else ""), *others]


def duration(seconds: float) -> str:
    """Write seconds in the unit that suits them."""
    if math.isnan(seconds):
        return UNKNOWN
    for unit, name in ((YEAR, "years"), (DAY, "days"), (HOUR, "h"), (MINUTE, "min")):
        if seconds >= 2 * unit:
            return f"{number(seconds / unit, 2 if seconds < 10 * unit else 3)} {name}"
    return f"{number(seconds, 2)} s" if seconds >= 0.1 else "< 0.1 s"


def aligned(table: Sequence[Sequence[str]]) -> list[str]:
    """Columns of one width, the first to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    written = []
    for first, *others in table:
        cells = [text.rjust(width) for text, width in zip(others, widths[1:], strict=True)]
        written.append("  ".join([first.ljust(widths[0]), *cells]).rstrip())
    return written


def totals(found: PlanEstimate) -> Iterator[str]:
    """The sums of FLOPs and of seconds, and the wall clock."""
    if not found.active:
        return
    total, preparing = found.total, found.findings.prepare_seconds
    flops = [total.train_flops, total.sample_flops]
    least = "at least " if math.isnan(sum([*flops, *total.seconds, preparing])) else ""
    known = sum(each for each in flops if not math.isnan(each))
    yield (
        f"in total {least}{scaled(known, 'FLOP')} and "
        f"{duration(sum(row.cost.known_seconds for row in found.active))} of cells; wall clock "
        f"{least}{duration(found.wall_clock)} with {found.jobs} cell(s) at a time, each taken to "
        "be as fast as one alone"
    )
    if math.isnan(preparing):
        yield "before the cells: reference statistics and anchors, whose time is not known here"
    elif preparing >= 1:
        yield f"before the cells: {duration(preparing)} of reference statistics and anchors"


def provenance(found: PlanEstimate) -> Iterator[str]:
    """Where the numbers come from, and why some are missing."""
    for row in found.rows:
        if row.trained_by:
            yield (
                f"* {row.name}: its first stage is trained by {row.trained_by}; the FLOPs are "
                "charged to each, the time to one"
            )
    active = {row.method for row in found.active}
    for label, whole in found.findings.methods.items():
        if label in active:
            yield from (f"{label}: {source}" for source in whole.sources)
            yield from (f"{label}: {trouble}" for trouble in whole.troubles)
    cores = os.cpu_count() or 1
    if found.findings.load > cores:
        yield (
            f"the machine was busy (load {found.findings.load:.1f} on {cores} cores): times that "
            "were measured are longer than they need be"
        )
    if found.findings.at:
        yield f"not known: the estimate ended at {found.findings.at}, which ended its process"
    yield from found.findings.notes
    for name, remaining in found.findings.cells.items():
        if remaining.trouble:
            yield f"{name}: {remaining.trouble}; charged in full"
