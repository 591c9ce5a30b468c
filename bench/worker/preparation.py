"""What a study needs: loaded and checked; and what is made once: reference statistics and anchors.

``python -m bench.worker.preparation JOB.json`` writes what it found into the job's answer.
"""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from bench import metrics
from bench.config import MissingDataError, Settings, UserError, one_line
from bench.data import Dataset
from bench.data.dataset import unheard
from bench.executors import BAD_INPUT, DONE, NO_DATA, Job, serve
from bench.records import ANCHORS, Anchors, check_content, write_text
from bench.worker.build import build_method, load_data, open_device
from bench.worker.held_out import keep_held_out
from bench.worker.progress_and_stop import Progress
from bench.worker.shared_stages import stage_key


def examine(
    settings: Settings, methods: Mapping[str, dict[str, Any]], cache: Path, *,
    download: bool = True, progress: Callable[[float], object] = unheard,
) -> tuple[Dataset, torch.device, dict[str, Any]]:  # fmt: skip
    """Load and check data, extractors and methods; nothing is stored but the decoded data.

    ``progress`` is told the fraction of the data that is read. Beside data and device returns what
    identifies data, extractors and each method's first stage (its seed apart), and notes on them.
    """
    samples, limit = settings.evaluation.samples, settings.evaluation.reference_images
    device = open_device(settings.device, settings.threads, settings.training.precision)
    identity = metrics.identity(settings)
    dataset = load_data(settings, cache, download=download, progress=progress)
    stages = {}
    for label, config in methods.items():
        with torch.device("meta"):
            first = build_method(label, config, dataset).stages()[0]
        stages[label] = stage_key(first, label, settings, dataset.sha256, None)
    notes = [*dataset.notes, *metrics.anchor_notes(dataset, samples, limit=limit)]
    answer = {
        "data_variant": dataset.variant, "data_sha256": dataset.sha256,
        "data_source": dataset.source, "notes": notes, **identity, "stages": stages,
    }  # fmt: skip
    return dataset, device, answer


def answering(task: Callable[[Job], object]) -> Callable[[Job], int]:
    """Make a task return its exit code; bad input is told in one line, the last that is printed."""

    def run(job: Job) -> int:
        try:
            task(job)
        except UserError as error:
            # What a plug-in has printed goes before it.
            sys.stdout.flush()
            print(one_line(error), file=sys.stderr)
            return NO_DATA if isinstance(error, MissingDataError) else BAD_INPUT
        return DONE

    return run


def prepare(job: Job) -> None:
    """Load and check data, methods and metrics; make reference statistics and anchors."""
    settings, progress = Settings.model_validate(job.request["settings"]), Progress(job)
    methods, reading = job.request["methods"], progress.of("reading the data")
    dataset, device, answer = examine(settings, methods, job.cache, progress=reading)
    study = Path(job.request["study"])
    check_content(study, settings, answer)
    metrics.self_test()
    evaluator = metrics.Evaluator.open(
        settings, dataset, device=device, cache=job.cache,
        progress=progress.of("reference statistics"),
    )  # fmt: skip
    path = study / ANCHORS
    if not are_current(path, answer, evaluator):
        samples = settings.evaluation.samples
        rows = metrics.measure_anchors(evaluator, samples, progress=progress.of("anchors"))
        write_text(path, Anchors(rows=rows).model_dump_json())
    keep_held_out(study, dataset)
    write_text(job.answer, json.dumps(answer))


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
