"""What is made once for a study: checks, reference statistics and anchors.

``python -m bench.worker.preparation JOB.json`` writes what it found into the job's answer.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench import metrics
from bench.config.schema import Settings
from bench.executors import Job, serve
from bench.records.files import write_text
from bench.records.record import ANCHORS, Anchors
from bench.worker.examine import Examined, answering, examine
from bench.worker.process import Progress


def prepare(job: Job) -> None:
    """Load and check what a study needs; make reference statistics and anchors."""
    settings, progress = Settings.model_validate(job.request["settings"]), Progress(job)
    found = examine(
        settings,
        job.request["methods"],
        job.cache,
        progress=progress.of("reading the data"),
    )
    make_yardsticks(job, settings, found, progress)
    write_text(job.answer, json.dumps(found.answer))


def make_yardsticks(job: Job, settings: Settings, found: Examined, progress: Progress) -> None:
    """Check the metrics, and make reference statistics and anchors unless they are there."""
    metrics.self_test()
    evaluator = metrics.Evaluator.open(
        settings,
        found.dataset,
        device=found.device,
        cache=job.cache,
        progress=progress.of("reference statistics"),
    )
    path = Path(job.request["study"]) / ANCHORS
    if not are_current(path, found.answer, evaluator):
        rows = evaluator.anchors(settings.evaluation.samples, progress=progress.of("anchors"))
        write_text(path, Anchors(rows=rows).model_dump_json())


def are_current(path: Path, answer: dict[str, Any], evaluator: metrics.Evaluator) -> bool:
    """Whether the stored anchors are of the same data, extractors, reference and protocol."""
    if not path.exists():
        return False
    rows = Anchors.model_validate_json(path.read_bytes()).rows
    values = [value for row in rows.values() for value in row.values()]
    found = {value.provenance.get("extractor"): value.provenance for value in values}
    # There may be others too, which `bench evaluate` was asked for.
    return answer["extractors"].keys() <= found.keys() and all(
        found[extractor.name].get(key) == expected
        for extractor, reference in evaluator.pairs
        for key, expected in {
            "extractor_sha256": extractor.sha256,
            "data_sha256": answer["data_sha256"],
            "protocol": answer["protocol"],
            "reference_sha256": reference.imported.get("reference_sha256"),
        }.items()
    )


if __name__ == "__main__":
    serve(answering(prepare))
