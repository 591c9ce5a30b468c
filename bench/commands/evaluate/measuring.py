"""From options to what is measured on disk: cells that are finished, and samples from elsewhere.

A cell is measured again from the features that it kept, or from its samples where an extractor has
not seen them yet; nothing is trained or drawn. Foreign samples, a folder, zip or ``.npz`` of
images, go the same way, and can stand in a study's tables as a row without costs.
"""

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench import metrics
from bench.commands.evaluate import EvaluateOptions, MeasureOptions
from bench.commands.finished_cells import made_by
from bench.commands.settings import default_device, parse_weights, resolve_settings
from bench.config import Settings, UserError, build, choose_preset, unknown
from bench.data import Dataset, Split, load
from bench.data.dataset import Progress
from bench.data.sources.given import load_samples
from bench.metrics.frechet_distance import permutation
from bench.metrics.protocol import FAMILIES
from bench.progress.display import passing
from bench.records import Anchors, Record, Status, Value, now, read_study, record, write_text
from bench.records.environment import describe
from bench.records.grid import read_samples, write_grid
from bench.report.frame import read_cells
from bench.worker import GRID_IMAGES, open_device

DRAWN = ("sampling_seed", "nfe", "sampler", "ema", "precision")
"""What a value's provenance says of how the samples were drawn."""
INCEPTIONS = {"fid": "fd", "kid": "kd", "fidc": "fdc"}
"""What Inception's values are called, by the family that they are of."""

Images = NDArray[Any]
Labels = NDArray[np.int64] | None
Values = dict[str, Value]
Passing = Callable[[str], AbstractContextManager[Progress]]
"""Opens the display of a long pass by its title; gives what is told the fraction done."""


@dataclass(frozen=True)
class EvaluationRequest:
    """What is to be measured, and how."""

    settings: Settings
    cache: Path
    families: Collection[str] | None
    """Of ``metrics.FAMILIES``; ``None``: ``BY_DEFAULT``."""
    device: str
    passing: Passing
    data_sha256: str | None = None
    """The hash that the data must have, if any."""

    def open(self, check: Callable[[Dataset], object] | None = None) -> metrics.Evaluator:
        """Load data, extractors and references; UserError if the data or their ``check`` fail."""
        settings = self.settings
        device = open_device(self.device, settings.threads, "fp32")
        with self.passing("data") as progress:
            dataset = load(
                settings.dataset, path=settings.data, cache=self.cache, size=settings.size,
                progress=progress,
            )  # fmt: skip
        if self.data_sha256 not in {None, dataset.sha256}:
            raise UserError(
                f"the images at {dataset.source} are not those that the study was run on; give "
                "its own with --data"
            )
        if check is not None:
            check(dataset)
        metrics.self_test()
        with self.passing("reference statistics") as progress:
            return metrics.Evaluator.open(
                settings, dataset, device=device, cache=self.cache, progress=progress
            )

    def measure(
        self, title: str, evaluator: metrics.Evaluator, images: Images, labels: Labels, **more: Any
    ) -> Values:
        """Measure images by an open evaluator, with their errors, under a title of progress."""
        with self.passing(title) as progress:
            return evaluator.measure(
                images, labels, families=self.families, jackknife=True,
                insist=self.families is not None, progress=progress, **more,
            )  # fmt: skip


def resolve_measuring(
    options: MeasureOptions, dataset: str, reference: Path | None = None
) -> Settings:
    """Resolve how images are measured: by a preset of a data set, or as told."""
    device = options.device or default_device()
    name, preset = choose_preset(dataset, options.preset, device)
    if options.extractor:
        lead, *also = options.extractor
        evaluation = preset.evaluation | {"extractor": lead, "also": also}
        preset = preset.model_copy(update={"evaluation": evaluation})
    return resolve_settings(
        dataset, name, preset, device=device, data=options.data, weights=options.weights,
        reference=reference,
    )  # fmt: skip


def study_settings(folder: Path, settings: Settings, options: EvaluateOptions) -> Settings:
    """Return a study's settings, with the extractors that are asked for beside its own."""
    if options.reference is not None:
        raise UserError(
            f"--reference: values of study '{folder.name}' would not compare with each other any "
            "more; leave it out, or give it to images alone, without --as"
        )
    if options.dataset not in {None, settings.dataset}:
        raise UserError(
            f"study '{folder.name}' is of {settings.dataset}, not {options.dataset}; "
            "leave --dataset out"
        )
    own = settings.evaluation.extractors
    more = [name for name in options.extractor or () if name not in own]
    evaluation = settings.evaluation.model_dump() | {"also": [*settings.evaluation.also, *more]}
    changes = {
        "evaluation": evaluation,
        "weights": settings.weights | parse_weights(options.weights, evaluation),
        "data": settings.data if options.data is None else options.data.resolve(),
    }
    found: Settings = build(Settings, settings.model_dump() | changes, f"settings of {folder.name}")
    return found


def request_in(folder: Path, options: EvaluateOptions) -> EvaluationRequest:
    """Put together what is to be measured within a study: on its data, and on its device."""
    stored = read_study(folder)
    settings = study_settings(folder, stored.settings, options)
    placed = replace(options, device=options.device or stored.settings.device)
    request = request_of(settings, placed, options.metrics)
    return replace(request, data_sha256=stored.prepared.data_sha256)


def request_of(
    settings: Settings, options: MeasureOptions, metrics: Sequence[str] | None = None
) -> EvaluationRequest:
    """Put together what is to be measured by resolved settings; UserError for unknown metrics."""
    for name in metrics or ():
        if name not in (known := [*FAMILIES, *INCEPTIONS]):
            raise unknown("metric", name, known)
    families = None if metrics is None else [INCEPTIONS.get(name, name) for name in metrics]
    cache, device = options.results.resolve() / "cache", options.device or default_device()
    return EvaluationRequest(settings, cache, families, device, passing)


def evaluate_cells(study: Path, cells: Sequence[Path], request: EvaluationRequest) -> None:
    """Measure finished cells and the anchors of their study; values are added to their records.

    UserError where a cell is not finished, its samples are gone, or the data are others.
    """
    rows = {folder: _finished(folder) for folder in cells}
    evaluator = request.open()
    for folder, row in rows.items():
        images, labels = read_samples(folder / record.SAMPLES)
        # How the samples were drawn, as the values tell that are there.
        told = next((v.provenance for v in row.metrics.values() if DRAWN[0] in v.provenance), {})
        drawn = {key: told.get(key) for key in DRAWN} if told else {}
        row.metrics |= request.measure(
            folder.name, evaluator, images, labels, folder=folder, provenance=drawn
        )
        record.save(row, folder)
    _measure_foreign(study, evaluator, request)
    # The yardsticks of a new column: noise and held-out images.
    known, samples = record.read_anchors(study).rows, request.settings.evaluation.samples
    with request.passing("anchors") as progress:
        found = metrics.measure_anchors(
            evaluator, samples, families=request.families, progress=progress
        )
    merged = {name: known.get(name, {}) | found.get(name, {}) for name in {**known, **found}}
    write_text(study / record.ANCHORS, Anchors(rows=merged).model_dump_json())


def _measure_foreign(study: Path, evaluator: metrics.Evaluator, request: EvaluationRequest) -> None:
    """Give samples from elsewhere the same metrics; say which are not to be had any more."""
    for folder, row in read_cells(study / record.FOREIGN):
        path = Path(row.environment["samples"])
        hashes = {value.provenance.get("samples_sha256") for value in row.metrics.values()}
        try:
            measured = _measure_given(
                path, evaluator, request, wanted=request.settings.evaluation.samples,
                folder=folder, sha256=next(iter(hashes), None),
            )  # fmt: skip
        except UserError as error:
            metrics.to_stderr(f"{folder.name} keeps the metrics that it has: {error}")
            continue
        row.metrics |= measured.values
        record.save(row, folder)


def _finished(folder: Path) -> Record:
    row = record.load(folder)
    if row is None or row.status != Status.FINISHED:
        told = "there is no record" if row is None else f"it is {row.status}"
        command = "bench run" if row is None else made_by(row)
        raise UserError(f"'{folder}' has no result to measure: {told}; run it first: {command}")
    return row


@dataclass(frozen=True)
class Measured:
    """Foreign samples and what was measured of them."""

    values: Values
    samples: Split
    notes: tuple[str, ...]
    """What a reader of the values must know of the images."""
    dataset: Dataset
    """What they were compared with."""


def evaluate_samples(
    path: Path, request: EvaluationRequest, *, wanted: int | None, folder: Path | None = None
) -> Measured:
    """Measure the images at a path, ``wanted`` of them (``None``: all), as samples are measured.

    Features are kept in ``folder``, if one is given. UserError where images are of another shape
    than the data set's, or fewer than wanted.
    """
    evaluator = request.open()
    dataset = evaluator.dataset
    if dataset.is_points:
        raise UserError(f"'{dataset.name}' has points, not images; give another --dataset")
    return _measure_given(path, evaluator, request, wanted=wanted, folder=folder)


def _measure_given(
    path: Path, evaluator: metrics.Evaluator, request: EvaluationRequest, *,
    wanted: int | None, folder: Path | None, sha256: str | None = None,
) -> Measured:  # fmt: skip
    """Measure images by an open evaluator; with ``sha256`` they must be those of that hash."""
    dataset, cache = evaluator.dataset, request.cache
    with request.passing(str(path.name)) as progress:
        given = load_samples(
            path, shape=dataset.shape, classes=dataset.classes, cache=cache, progress=progress
        )
    if sha256 not in {None, given.sha256}:
        raise UserError(f"'{path}' holds other images than were measured; add them again: --as")
    chosen, there, notes = given.train, len(given.train), [*given.notes]
    if wanted is not None and wanted > there:
        # Within a study their number is the study's own.
        advice = "give more images" + (", or fewer --samples" if folder is None else "")
        raise UserError(f"'{path}' holds {there} images and {wanted} are measured; {advice}")
    if wanted is not None and wanted < there:
        rows, labels = np.sort(permutation(there)[:wanted]), chosen.labels
        chosen = Split(chosen.images[rows], None if labels is None else labels[rows])
        notes.append(f"{wanted} of the {there} images were taken, at random")
    provenance = {
        "samples": path.name, "samples_sha256": given.sha256, "samples_notes": notes, "given": there
    }  # fmt: skip
    values = request.measure(
        "measuring", evaluator, chosen.images, chosen.labels, folder=folder, provenance=provenance
    )
    if not values:
        raise UserError(f"'{path}': none of what was asked for can be measured, as said above")
    return Measured(values, chosen, tuple(notes), dataset)


def add_foreign(
    study: Path, path: Path, request: EvaluationRequest, *, name: str, seed: int
) -> Measured:
    """Measure foreign samples as a study's own are, on its data, and keep them as a row of it."""
    folder = study / record.FOREIGN / f"{name}-seed{seed}"
    measured = evaluate_samples(
        path, request, wanted=request.settings.evaluation.samples, folder=folder
    )
    row = Record(
        study=study.name, cell=folder.name, method=name, seed=seed, key="foreign", origin="foreign",
        dataset=request.settings.dataset, data_variant=measured.dataset.variant,
        preset=request.settings.preset, data=measured.dataset.facts(), status=Status.FINISHED,
        reason="; ".join([f"samples from {path}", *measured.notes]), started=now(), ended=now(),
        metrics=measured.values,
        environment=describe(torch.device(request.device)) | {"samples": str(path)},
    )  # fmt: skip
    record.save(row, folder)
    shown = measured.samples.labels
    write_grid(folder / record.GRID, np.array(measured.samples.images[:GRID_IMAGES]), labels=shown)
    return measured
