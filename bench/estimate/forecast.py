"""The estimate of a study, made where the data are loaded, one method after the other."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.config.text import one_line
from bench.estimate import judging
from bench.estimate.attempts import Attempts
from bench.estimate.draws import draws_of
from bench.estimate.measured import Known, diagnostic_flops, measure
from bench.estimate.recorded import from_records, is_kept, left_of
from bench.estimate.steps import known_sum
from bench.estimate.subject import Subject
from bench.estimate.whole import Forecast, Left, Whole
from bench.records.record import ANCHORS, cell_name

JUDGING_SECONDS = 6.0
RECORD_SECONDS = 10.0


def forecast(
    subjects: Sequence[Subject],
    seeds: Sequence[int],
    *,
    study: Path,
    cache: Path,
    startup: float,
    note: Callable[[Forecast], None],
) -> Forecast:
    """Estimate what cells in ``study`` cost; an error or a lack of time leaves a hole, and why.

    Args:
        subjects: the study's methods.
        seeds: of the cells.
        study: its folder, in which cells may lie.
        cache: where extractors' weights and reference statistics are kept.
        startup: seconds from the start of this process until its data were loaded.
        note: is told all that is known before each step, any of which may end this process.
    """
    found, known = Forecast(load=os.getloadavg()[0]), Known(startup=startup)
    found.at = "the evaluation"
    note(found)
    recorded = {each.label: recorded_cost(each, study) for each in subjects}
    if not all(recorded.values()):
        judge(found, known, subjects[0], study, cache)
    for subject in subjects:
        found.at = subject.label
        note(found)
        whole = recorded[subject.label] or Whole()
        found.methods[subject.label] = whole
        try:
            if not recorded[subject.label]:
                found.methods[subject.label] = whole = measure(subject, known)
            found.cells |= cells_of(subject, seeds, study, whole)
        except Exception as error:  # Of whatever kind a method's own are.
            whole.troubles.append(one_line(f"{type(error).__name__}: {error}")[:160])
    found.at = ""
    return found


def recorded_cost(subject: Subject, study: Path) -> Whole | None:
    """What a finished cell of the study says, with the FLOPs of all that it drew."""
    troubles: list[str] = []
    attempt = Attempts(RECORD_SECONDS, troubles)
    whole = attempt("records", lambda: from_records(subject, study))
    if whole is not None and whole.sample_flops_per_image is not None:
        drawn = whole.sample_flops_per_image * draws_of(subject.settings).images()
        diagnosed = attempt("diagnostics", lambda: diagnostic_flops(subject))
        whole.sample_flops = drawn + (diagnosed or 0.0)
        whole.troubles += troubles
    return whole


def judge(found: Forecast, known: Known, subject: Subject, study: Path, cache: Path) -> None:
    """Time the extractors and the classifier of the CAS, and the study's own preparation."""
    settings, dataset, device = subject.settings, subject.dataset, subject.device
    attempt = Attempts(JUDGING_SECONDS, found.notes)
    for name in settings.evaluation.extractors:
        seconds = attempt(
            f"extractor '{name}'",
            lambda name=name: judging.time_extractor(  # type: ignore[misc]
                name, settings, dataset, device, cache
            ),
        )
        if seconds is not None:
            known.extracting[name] = seconds
    samples = settings.evaluation.samples
    known.cas = attempt(
        "the classification accuracy score", lambda: judging.cas_seconds(dataset, samples, device)
    )
    anchors = not (study / ANCHORS).exists()
    found.prepare_seconds = known_sum(
        [
            judging.preparation_seconds(settings, dataset, known.extracting, cache, anchors),
            known.cas if anchors and samples <= len(dataset.train) else 0.0,
        ]
    )


def cells_of(subject: Subject, seeds: Sequence[int], study: Path, whole: Whole) -> dict[str, Left]:
    """How much is left of the method's cells; those of which all is left are not named."""
    first = subject.on_meta().stages()[0]
    cells = {}
    for seed in seeds:
        name = cell_name(subject.label, seed)
        left = left_of(study / name, subject, whole)
        left.has_first_stage = is_kept(subject, first, study, seed)
        if left != Left():
            cells[name] = left
    return cells
