"""``bench run --dry-run``: print what would be run, and do nothing."""

import tempfile
from pathlib import Path

import yaml

from bench.commands.dry_run.costs import Findings, PlanEstimate, estimate_plan
from bench.commands.dry_run.table import lines
from bench.commands.run import RunOptions
from bench.commands.run.request import resolve
from bench.config import MissingDataError
from bench.study.plan import plan
from bench.study.preparation import preparation, wait_for_answer
from bench.study.request import Request, check_study


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
