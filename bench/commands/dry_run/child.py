"""The process of a dry run: loads the data, checks the methods, and tells what cells will cost.

``python -m bench.commands.dry_run.child JOB.json`` downloads nothing and writes nothing but its
answer, in the job's own folder, and data that it had to decode, in the job's cache.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

from bench.commands.dry_run.candidate import Candidate
from bench.commands.dry_run.costs import Findings
from bench.commands.dry_run.rehearsal import rehearse
from bench.config.schema import CellConfig, Settings
from bench.executors.job import Job
from bench.executors.serve import serve
from bench.records.files import write_text
from bench.worker.preparation import answering, examine


def estimate(job: Job) -> None:
    """Check what a study needs and estimate its costs.

    The answer is written before each step of that too, any of which may end the process.
    """
    began = time.perf_counter()
    settings = Settings.model_validate(job.request["settings"])
    methods, study = job.request["methods"], Path(job.request["study"])
    examined = examine(settings, methods, job.cache, download=False)

    def note(found: Findings) -> None:
        answer = examined.answer | {"findings": found.model_dump()}
        write_text(job.answer, json.dumps(answer))

    dataset, stages = examined.dataset, examined.answer["stages"]
    candidates = [
        Candidate(
            CellConfig(settings=settings, method=label, method_config=config, seed=0),
            dataset,
            examined.device,
            stages[label],
        )
        for label, config in methods.items()
    ]
    # Reading the data takes a cell as long where they are not decoded first.
    loaded = began if dataset.stored else time.perf_counter()
    found = rehearse(
        candidates,
        job.request["seeds"],
        study=study,
        cache=job.cache,
        startup=loaded - job.begun(),
        note=note,
    )
    note(found)


if __name__ == "__main__":
    serve(answering(estimate))
