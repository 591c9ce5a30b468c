"""What is found and made for a study before any of its cells is run, by a process of its own."""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.config import MissingDataError, UserError, one_line
from bench.executors import BAD_INPUT, NO_DATA, End, Job, LocalExecutor, follow
from bench.progress.display import Display
from bench.records import Prepared, StudyFile, is_study, now, read_study, write_study
from bench.study.request import Request, check_study


def make_ready(
    request: Request, tracker_factory: Any, display: Display
) -> tuple[dict[str, Any], Any]:
    """Prepare a study and write down what it is; return what was found, and the tracker."""
    check_study(request)
    before = read_study(request.folder) if is_study(request.folder) else None
    asked = request.asked or (before.asked if before else "")
    overrides = dict.fromkeys([*(before.overrides if before else ()), *request.overrides])
    with tempfile.TemporaryDirectory() as scratch:
        job = preparation(request, Path(scratch))
        handle = LocalExecutor().start(job)
        try:
            # MLflow's store takes seconds to create; the data load meanwhile.
            tracker = tracker_factory()
        except BaseException:
            handle.kill()
            raise
        prepared = answer_of(job, follow(handle, display.preparing))
    found = Prepared.model_validate(prepared)
    study = StudyFile(
        name=request.name, settings=request.settings, prepared=found,
        commanded=now(), reproduces=request.reproduces, asked=asked,
        overrides=[*overrides],
    )  # fmt: skip
    write_study(study, request.folder)
    return prepared, tracker


def preparation(request: Request, folder: Path, task: str = "bench.worker.preparation") -> Job:
    """The job of loading and checking data, extractor and methods, in a folder of its own."""
    settings = request.settings.model_dump(mode="json")
    asked = {"settings": settings, "methods": dict(request.methods), "seeds": list(request.seeds)}
    return request.job(task, folder, request=asked | {"study": str(request.folder)})


def wait_for_answer(job: Job) -> dict[str, Any]:
    """Run a job and return its answer; UserError with the one line that says what is wrong."""
    return answer_of(job, follow(LocalExecutor().start(job), lambda told: None))


def answer_of(job: Job, end: End) -> dict[str, Any]:
    """Return what a job that has ended found; UserError where it found nothing."""
    # All that is needed is there before an estimate is tried, which may end the process.
    if job.answer.exists():
        try:
            answer: dict[str, Any] = json.loads(job.answer.read_bytes())
            Prepared.model_validate(answer)
        except ValueError as error:
            told = one_line(error)[:200]
            raise UserError(f"preparing the study gave nothing of use: {told}") from error
        return answer
    errors = job.log_path.read_text("utf-8", "replace")
    if end.code in {BAD_INPUT, NO_DATA}:
        kind = MissingDataError if end.code == NO_DATA else UserError
        raise kind(one_line(errors.strip().splitlines()[-1]))
    print(errors, file=sys.stderr)
    raise UserError("preparing the study failed for the reason above")
