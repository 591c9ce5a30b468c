"""What a study needs, loaded and checked before anything of it is run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench import metrics
from bench.config.errors import MissingDataError, UserError
from bench.config.schema import Settings
from bench.config.text import one_line
from bench.data import Dataset, load
from bench.executors import BAD_INPUT, DONE, NO_DATA, Job
from bench.worker.build import build_method, open_device
from bench.worker.shared_stages import stage_key


@dataclass(frozen=True)
class Examined:
    """What a study needs."""

    dataset: Dataset
    device: torch.device
    answer: dict[str, Any]
    """What identifies data, extractors and first stages, and notes on them."""


def examine(
    settings: Settings,
    methods: Mapping[str, dict[str, Any]],
    cache: Path,
    *,
    download: bool = True,
    progress: Callable[[float], None] = lambda fraction: None,
) -> Examined:
    """Load and check data, extractors and methods; nothing is stored but the decoded data.

    ``progress`` is told the fraction of the data that is read.
    """
    evaluation = settings.evaluation
    device = open_device(settings.device, settings.threads, settings.training.precision)
    identity = metrics.identity(settings)
    dataset = load(
        settings.dataset,
        path=settings.data,
        cache=cache,
        size=settings.size,
        download=download,
        progress=progress,
    )
    answer = {
        "data_variant": dataset.variant,
        "data_sha256": dataset.sha256,
        "data_source": dataset.source,
        "notes": [
            *dataset.notes,
            *metrics.anchor_notes(dataset, evaluation.samples, limit=evaluation.reference_images),
        ],
        **identity,
        "stages": first_stages(methods, settings, dataset),
    }
    return Examined(dataset, device, answer)


def first_stages(
    methods: Mapping[str, dict[str, Any]], settings: Settings, dataset: Dataset
) -> dict[str, str | None]:
    """What identifies the first stage of each method, its seed apart; builds every method."""
    keys = {}
    for label, config in methods.items():
        with torch.device("meta"):
            first = build_method(label, config, dataset).stages()[0]
        keys[label] = stage_key(first, label, settings, dataset.sha256, None)
    return keys


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
