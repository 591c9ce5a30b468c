"""The dry run of ``bench run``: everything is checked, planned and estimated, nothing is left."""

from __future__ import annotations

import tempfile
from pathlib import Path

from bench.commands.dry_run.costs import Findings
from bench.commands.dry_run.plan_estimate import PlanEstimate, estimate_plan
from bench.study.plan import plan
from bench.study.preparation import preparation, wait_for_answer
from bench.study.request import Request, check_study


def estimate_study(request: Request) -> PlanEstimate:
    """Plan a study and estimate its costs; UserError where something is wrong with it."""
    check_study(request)
    with tempfile.TemporaryDirectory() as scratch:
        job = preparation(request, Path(scratch), task="bench.commands.dry_run.child")
        if not request.cache.exists():
            # Nothing is made in the results folder.
            job = job.model_copy(update={"cache": job.folder / "cache"})
        answer = wait_for_answer(job)
    findings = Findings.model_validate(answer["findings"])
    return estimate_plan(plan(request, answer), answer["stages"], findings, request.jobs)
