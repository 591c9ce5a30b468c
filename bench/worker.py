"""Work done in a process of its own: preparing a study, and running one cell.

``python -m bench.worker prepare REQUEST.json`` loads and checks everything a study needs before
any training; ``python -m bench.worker cell FOLDER`` builds, trains, samples, evaluates and records
one cell whose ``config.yaml`` and pending ``record.json`` are in the folder. Exit codes: 0 done,
1 failed (the record says why), 2 bad input (one line on standard error), 3 bad input for want of
data, 75 interrupted.
"""

from __future__ import annotations

import errno
import faulthandler
import json
import os
import pickle
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Collection, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench import metrics
from bench.config import CellConfig, Settings, build, one_line, read_cell
from bench.cost import Ledger, parameters, peak_memory
from bench.data import Dataset, load
from bench.environment import note
from bench.errors import MissingDataError, UserError
from bench.estimate import Forecast, Subject, forecast
from bench.machine import Watch
from bench.parts import Parts
from bench.record import (
    ANCHORS,
    CHECKPOINT,
    CURVES,
    SAMPLES,
    Anchors,
    Attempt,
    Record,
    Status,
    Value,
    is_sampled,
    remove_unfinished,
    save_anyhow,
    write_atomically,
    write_text,
)
from bench.record import load as load_record
from bench.report.grid import write_grid
from bench.sampling import (
    Drawn,
    Source,
    draw_and_time,
    draw_images,
    timed,
    warm_up_facts,
    warm_up_reasons,
)
from bench.seeds import derive
from bench.stages import StagePlace, stage_key
from bench.training import (
    DivergedError,
    Feed,
    Hooks,
    InterruptedTrainingError,
    State,
    Trainer,
    move,
    seed_everything,
)
from methods import registry
from methods.base import DataSpec, Method, Stage

FAILED, BAD_INPUT, NO_DATA, INTERRUPTED = 1, 2, 3, 75
PROGRESS_SECONDS = 0.3
ALIVE = "alive"
"""File with the seconds that a cell's process had worked when it last gave a sign of life."""
BEAT_SECONDS = 1.0
PATIENCE = 6.0
"""Seconds that a step, a batch or a file may go on after a request to stop, before it is cut."""
GRID_IMAGES = 64
OOM_SCORE = 500
"""Of 1000: how readily the kernel ends this process when memory runs short."""


def now() -> str:
    """The present moment, UTC, ISO 8601."""
    return stamp(time.time())


def stamp(seconds: float) -> str:
    """A moment given in seconds since 1970, UTC, ISO 8601 to the millisecond."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def open_device(name: str, threads: int | None, precision: str) -> torch.device:
    """Return the device; UserError if this machine does not have it."""
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        found = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        raise UserError(
            f"device '{name}' is not here ({one_line(error)[:80]}); choose from: {', '.join(found)}"
        ) from error
    if threads is not None:
        torch.set_num_threads(threads)
    if precision == "tf32":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
    else:
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = False
    return device


def data_spec(dataset: Dataset) -> DataSpec:
    """Tell a method what it may know of the data."""
    channels, size, _ = dataset.shape
    labelled = dataset.train.labels is not None
    return DataSpec(channels=channels, size=size, classes=len(dataset.classes) if labelled else 0)


def class_frequencies(dataset: Dataset) -> Any:
    """Fraction of each class in the training split, (classes,); ``None`` without labels."""
    labels = dataset.train.labels
    if labels is None:
        return None
    return np.bincount(labels, minlength=len(dataset.classes)) / len(labels)


def build_method(name: str, config: dict[str, Any], dataset: Dataset) -> Method:
    """Build a method on torch's current default device; UserError if it cannot be."""
    try:
        kind = registry.load(name)
    except registry.BrokenMethodError as error:
        raise UserError(str(error)) from error
    if kind.needs_labels and dataset.train.labels is None:
        raise UserError(
            f"method '{name}' needs class labels and {dataset.source} has none; "
            "add labels to its dataset.json or leave the method out"
        )
    settings = build(kind.Config, config, f"settings of {name}")
    try:
        return kind(settings, data_spec(dataset))
    except ValueError as error:
        raise UserError(f"settings of {name}: {one_line(error)}") from error


# -- preparing a study ----------------------------------------------------------------------


def prepare(request: dict[str, Any]) -> dict[str, Any]:
    """Load and check data, extractor and methods; make reference statistics and anchors.

    Returns what identifies them. With ``check_only`` nothing is computed or stored but the
    decoded data.
    """
    began = time.perf_counter()
    settings = Settings.model_validate(request["settings"])
    evaluation = settings.evaluation
    device = open_device(settings.device, settings.threads, settings.training.precision)
    check_only = request["check_only"]
    identity = metrics.identity(settings)
    dataset = load(
        settings.dataset,
        path=settings.data,
        cache=Path(request["cache"]),
        size=settings.size,
        download=not check_only,
        progress=telling("reading the data"),
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
        "stages": first_stages(request["methods"], settings, dataset),
    }
    if check_only:
        answer["forecast"] = estimate(
            request, answer, settings=settings, dataset=dataset, device=device, began=began
        )
    else:
        make_yardsticks(request, answer, settings=settings, dataset=dataset, device=device)
    return answer


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


def make_yardsticks(
    request: dict[str, Any],
    answer: dict[str, Any],
    *,
    settings: Settings,
    dataset: Dataset,
    device: torch.device,
) -> None:
    """Check the metrics, and make reference statistics and anchors unless they are there."""
    metrics.self_test()
    evaluator = metrics.Evaluator.open(
        settings,
        dataset,
        device=device,
        cache=Path(request["cache"]),
        progress=telling("reference statistics"),
    )
    path = Path(request["study"]) / ANCHORS
    if not are_current(path, answer, evaluator):
        rows = evaluator.anchors(settings.evaluation.samples, progress=telling("anchors"))
        write_text(path, Anchors(rows=rows).model_dump_json())


def estimate(
    request: dict[str, Any],
    answer: dict[str, Any],
    *,
    settings: Settings,
    dataset: Dataset,
    device: torch.device,
    began: float,
) -> dict[str, Any]:
    """Estimate what the study costs; the answer is written first, should that end the process."""

    def note(found: Forecast) -> None:
        whole = answer | {"forecast": found.model_dump()}
        write_text(Path(request["answer"]), json.dumps(whole))

    data, frequencies = data_spec(dataset), class_frequencies(dataset)
    subjects = [
        Subject(label, config, settings, dataset, device, build_method, data, frequencies)
        for label, config in request["methods"].items()
    ]
    # Reading the data takes a cell as long where they are not decoded first.
    loaded = began if dataset.stored else time.perf_counter()
    found = forecast(
        subjects,
        request["seeds"],
        study=Path(request["study"]),
        cache=Path(request["cache"]),
        startup=loaded - float(os.environ.get("SCOREBENCH_SPAWNED", began)),
        note=note,
    )
    return found.model_dump()


def telling(phase: str) -> Callable[[float], None]:
    """Return what tells the parent process of a long pass."""
    progress = Progress()
    return lambda fraction: progress(phase, fraction=fraction)


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


# -- running a cell -------------------------------------------------------------------------


class Stop:
    """A request to stop, by signal: training heeds it after a step, everything else at once.

    ``give_up`` is called where that takes too long, from another thread: a single backward pass
    may keep Python from seeing a signal for minutes.
    """

    def __init__(self, give_up: Callable[[], None]) -> None:
        self.requested = False
        self.training = False
        self.give_up = give_up
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(reading,), daemon=True).start()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    def _watch(self, reading: int) -> None:
        os.read(reading, 1)
        time.sleep(PATIENCE)
        self.give_up()

    def _handle(self, number: int, frame: object) -> None:
        # A second signal must not break into what the first one set off.
        first, self.requested = not self.requested, True
        if first and not self.training:
            raise InterruptedTrainingError(f"stopped by {signal.Signals(number).name}")


class Progress:
    """Tells the parent process how far the cell is, a few times a second at most."""

    def __init__(self) -> None:
        self.descriptor = int(os.environ.get("SCOREBENCH_PROGRESS", "-1"))
        self.last, self.phase = 0.0, ""
        self.beat: Callable[[], None] = lambda: None
        """Called now and then, as a sign of life."""

    def __call__(self, phase: str, **values: Any) -> None:
        """Send one line of JSON; a parent that is gone is no reason to stop."""
        moment = time.monotonic()
        too_soon = phase == self.phase and moment - self.last < PROGRESS_SECONDS
        if too_soon:
            return
        self.last, self.phase = moment, phase
        self.beat()
        if self.descriptor < 0:
            return
        try:
            os.write(self.descriptor, json.dumps({"phase": phase, **values}).encode() + b"\n")
        except OSError:
            self.descriptor = -1


@dataclass
class Curves:
    """The growing file ``metrics.jsonl``, cut back to a checkpoint when a run goes on."""

    path: Path

    def append(self, point: dict[str, Any]) -> None:
        """Add one point."""
        with self.path.open("a") as file:
            file.write(json.dumps(point) + "\n")

    def size(self) -> int:
        """Bytes so far."""
        return self.path.stat().st_size if self.path.exists() else 0

    def cut(self, size: int) -> None:
        """Drop what was written after a checkpoint."""
        if self.path.exists():
            os.truncate(self.path, size)


class Cell:
    """One method with one seed: build, train, sample, evaluate, record."""

    ledger: Ledger

    def __init__(self, folder: Path, cache: Path) -> None:
        record = load_record(folder)
        assert record is not None, f"{folder} has no record"
        self.folder, self.cache, self.record = folder, cache, record
        self.config: CellConfig = read_cell(folder / "config.yaml")
        self.settings = self.config.settings
        self.training = self.settings.training.of(self.config.method)
        self.evaluation = self.settings.evaluation
        self.stop, self.progress = Stop(self.give_up), Progress()
        self.beaten = 0.0
        self.curves = Curves(folder / CURVES)
        self.parts = Parts(
            folder, record.key, lambda: self.ledger, self.training.checkpoint_seconds
        )
        self.spawned = float(os.environ.get("SCOREBENCH_SPAWNED", time.perf_counter()))

    def run(self) -> None:
        """Run the cell to its end; the record is complete when this returns."""
        self._begin()
        self.progress("starting", fraction=0.0)
        settings = self.settings
        self.device = open_device(settings.device, settings.threads, self.training.precision)
        state = self._read_checkpoint()
        self._open_ledger(state)
        note(self.record, self.folder.parent, self.device)
        self._save()
        self._load()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        self._train(state)
        images, labels = self._kept_samples() or self._sample()
        self._evaluate(images, labels)
        self.close(Status.FINISHED, "")

    def _begin(self) -> None:
        """Note in the record that this process works on the cell now."""
        remove_unfinished(self.folder)
        note_death(self.record, self.folder)
        host, pid = socket.gethostname(), os.getpid()
        self.record.status, self.record.reason = Status.RUNNING, ""
        began = stamp(time.time() - (time.perf_counter() - self.spawned))
        self.record.started = self.record.started or began
        self.record.environment |= {"host": host, "pid": pid}
        self.record.attempts.append(Attempt(started=began, pid=pid, host=host))
        self._save()
        self.progress.beat = self._beat

    def _open_ledger(self, state: State | None) -> None:
        """Go on with the ledger where the latest of the cell's files leaves it."""
        known = [self.record.ledger if self._has_samples else None, self.parts.seconds()]
        known += [state["ledger"] if state else None]
        carried = max(filter(None, known), key=lambda totals: totals["wall"], default=None)
        before = self.record.attempts[:-1]
        kept = carried["wall"] - carried.get("charged", 0.0) if carried else 0.0
        if before and kept > self.record.spent:
            # Its last sign of life was before its last checkpoint.
            before[-1].seconds = (before[-1].seconds or 0.0) + kept - self.record.spent
        self.ledger = Ledger(
            self.device, started=self.spawned, carried=carried, spent=self.record.spent
        )
        if before:
            told = sum(attempt.lost or 0.0 for attempt in before[:-1])
            lost = self.ledger.totals()["lost"] - told
            before[-1].lost = round(max(0.0, lost), 3)

    def _save(self) -> None:
        save_anyhow(self.record, self.folder)

    def _beat(self) -> None:
        """Leave a sign of life, for whoever finds this cell after its end was seen by nobody."""
        if time.monotonic() - self.beaten > BEAT_SECONDS:
            self.beaten = time.monotonic()
            with suppress(OSError):
                (self.folder / ALIVE).write_text(repr(time.perf_counter() - self.spawned))

    def _load(self) -> None:
        settings = self.settings
        self.dataset = load(
            settings.dataset, path=settings.data, cache=self.cache, size=settings.size
        )
        self.record.data = self.dataset.facts()
        with self.ledger.part("evaluate"):
            self.evaluator = metrics.Evaluator.open(
                settings, self.dataset, device=self.device, cache=self.cache
            )
        self.method = self._build()

    def _build(self) -> Method:
        """Build the method, with weights of the seed's own, on the device."""
        seed_everything(derive(self.config.seed, "networks"))
        method = build_method(self.config.method, self.config.method_config, self.dataset)
        return move(method, self.device)

    # -- training ---------------------------------------------------------------------------

    def _train(self, state: State | None) -> None:
        settings, train = self.settings, self.dataset.train
        feed = Feed(
            train.images,
            train.labels,
            device=self.device,
            batch=self.training.batch,
            flip=self.training.flip,
            seed=self.config.seed,
        )
        hooks = Hooks(
            log=self.curves.append,
            snapshot=self._snapshot,
            checkpoint=self._checkpoint,
            progress=self._training_progress,
            stopping=lambda: self.stop.requested,
            shared=self._shared_stage if self.training.share_stages else lambda _: nullcontext(),
        )
        self.trainer = Trainer(
            self.method,
            feed,
            settings=self.training,
            budget=settings.budget,
            seed=self.config.seed,
            ledger=self.ledger,
            hooks=hooks,
        )
        self.curves.cut(state["curve_bytes"] if state else 0)
        self.first_images: int | None = None
        self.stop.training = True
        self.trainer.run(state["trainer"] if state else None)
        self.stop.training = False
        if self.stop.requested:
            raise InterruptedTrainingError("stopped after training")
        cost = self.record.cost
        cost.steps, cost.images_seen = self.trainer.steps, self.trainer.images
        cost.train_flops_by_objective = self.trainer.train_flops
        cost.train_flops = sum(self.trainer.train_flops.values())

    def _shared_stage(self, stage: Stage) -> StagePlace:
        """Where the result of a stage lies that other cells of the study have too."""
        label, seed = self.config.method, self.config.seed
        key = stage_key(stage, label, self.settings, self.dataset.sha256, seed)
        return StagePlace(
            self.folder.parent / "stages" / f"{key}.pt",
            stage=stage.name,
            record=self.record,
            folder=self.folder,
            wait=self._wait,
            peak=self._note_peak_memory,
        )

    def _wait(self) -> None:
        self.progress("waiting", fraction=0.0)
        if self.stop.requested:
            raise InterruptedTrainingError("stopped while another cell trained its first stage")

    def _training_progress(self, place: dict[str, Any]) -> None:
        if self.first_images is None:
            self.first_images = place["images"]
            self.first_seconds = time.perf_counter()
            self._note_first_step()
        elapsed = time.perf_counter() - self.first_seconds
        rate = (place["images"] - self.first_images) / elapsed if elapsed > 0 else 0.0
        self.progress("training", rate=rate, **place)

    def _note_first_step(self) -> None:
        moment = time.perf_counter()
        environment = self.record.environment
        if "seconds_to_first_step" in environment:
            return
        environment["seconds_to_first_step"] = round(moment - self.spawned, 2)
        command = float(os.environ.get("SCOREBENCH_COMMAND_STARTED", self.spawned))
        environment["seconds_from_shell_to_first_step"] = round(moment - command, 2)

    def _checkpoint(self, trainer: State) -> None:
        state = {
            "key": self.record.key,
            "trainer": trainer,
            "curve_bytes": self.curves.size(),
            "ledger": self.ledger.totals(),
        }
        write_atomically(self.folder / CHECKPOINT, lambda file: torch.save(state, file))

    def _read_checkpoint(self) -> State | None:
        path = self.folder / CHECKPOINT
        if not path.exists():
            return None
        try:
            state: State = torch.load(path, map_location=self.device, weights_only=True)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise UserError(
                f"'{path}' cannot be read ({one_line(error)[:100]}); remove it to train anew"
            ) from error
        # A checkpoint of other settings or another source is not this cell's.
        return state if state["key"] == self.record.key else None

    def _snapshot(self, place: dict[str, Any]) -> None:
        """Measure quality for the curves; it never decides anything."""
        wanted = self.evaluation.snapshot_samples
        source = self._source("snapshots")
        with self.ledger.part("sample"):
            images = draw_images(source, wanted, min(wanted, self.settings.sampling.batch))
        self._note_peak_memory()
        with self.ledger.part("evaluate"):
            values = self._measure_for_curve(images)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        self.curves.append({**place, "values": {name: v.value for name, v in values.items()}})

    # -- after training -----------------------------------------------------------------------

    def _source(self, stream: str) -> Source:
        return Source(
            self.method,
            device=self.device,
            precision=self.training.precision,
            seed=self.config.seed,
            stream=stream,
            frequencies=class_frequencies(self.dataset),
            quantise=not self.dataset.is_points,
        )

    @property
    def _has_samples(self) -> bool:
        """Whether an earlier process has drawn all samples."""
        return is_sampled(self.record, self.folder)

    def _kept_samples(self) -> tuple[Any, Any] | None:
        """Return the samples and classes that an earlier process has drawn, if it has."""
        if not self._has_samples:
            return None
        self.parts.clear()
        with np.load(self.folder / SAMPLES) as content:
            return content["images"], content.get("labels")

    def _sample(self) -> tuple[Any, Any]:
        """Draw the samples; return images and classes once they and their cost are on disk."""
        with self.ledger.part("sample"):
            drawn = self._draw()
        self._note_sampling(drawn)
        with self.ledger.part("log"):
            arrays: dict[str, Any] = {"images": drawn.images}
            if drawn.labels is not None:
                arrays["labels"] = drawn.labels
            shown = len(drawn.images) if self.dataset.is_points else GRID_IMAGES
            write_grid(self.folder / "grid.png", drawn.images[:shown], labels=drawn.labels)
            # Last: once they are there, nothing of this is done again.
            write_atomically(self.folder / SAMPLES, lambda file: np.savez(file, **arrays))
        self.record.ledger = self.ledger.totals()
        self._save()
        self.parts.clear()
        return drawn.images, drawn.labels

    def _draw(self) -> Drawn:
        source, size = self._source("samples"), self.settings.sampling.batch
        watch = Watch(self.device, work=lambda: timed(source, size, 0))
        try:
            with watch:
                drawn = draw_and_time(
                    source,
                    self.evaluation.samples,
                    self.settings.sampling,
                    lambda fraction: self.progress("sampling", fraction=fraction),
                    self.parts,
                )
        except InterruptedTrainingError:
            self.parts.save()
            raise
        cost, unwatched = self.record.cost, self.parts.found
        cost.timing = watch.facts() | {
            "warm_up": warm_up_facts(drawn.warm_ups),
            "batches_of_earlier_processes": unwatched,
        }
        cost.unfit = [*watch.unfit(), *warm_up_reasons(drawn.warm_ups)]
        if unwatched:
            cost.unfit.append(f"{unwatched} batches were timed before an interruption, unwatched")
        return drawn

    def _note_sampling(self, drawn: Drawn) -> None:
        self._note_peak_memory()
        self._note_size()
        cost = self.record.cost
        cost.ms_per_image, cost.latency_ms = drawn.ms_per_image, drawn.latency_ms
        cost.nfe_by_network = drawn.nfe_by_network
        cost.nfe = sum(drawn.nfe_by_network.values())
        cost.sample_flops_per_image = drawn.flops_per_image

    def _evaluate(self, images: Any, labels: Any) -> None:
        self.progress("evaluating", fraction=0.0)
        with self.ledger.part("evaluate"):
            self.record.metrics = self._measure(images, labels, folder=self.folder)
            self.record.metrics |= self._diagnose()
            # The curves' last point, of as many samples as the points before it.
            few = self.evaluation.snapshot_samples
            last = self._measure_for_curve(images[:few]) if few < len(images) else {}
        place = {"images": self.trainer.images, "step": self.trainer.steps}
        seconds = round(self.ledger.elapsed("train"), 3)
        measured = last | self.record.metrics
        values = {name: value.value for name, value in measured.items()}
        self.curves.append({**place, "seconds": seconds, "stage": "final", "values": values})

    def _measure(
        self,
        images: Any,
        labels: Any,
        *,
        families: Collection[str] | None = None,
        folder: Path | None = None,
    ) -> dict[str, Value]:
        """Measure final samples by all extractors; features are kept in ``folder``."""
        return self.evaluator.measure(
            images,
            labels,
            families=families,
            jackknife=True,
            folder=folder,
            provenance=self._provenance(),
            progress=lambda fraction: self.progress("evaluating", fraction=fraction),
        )

    def _measure_for_curve(self, images: Any) -> dict[str, Value]:
        return self.evaluator.lead.measure(images, families=metrics.CURVE)

    def _provenance(self) -> dict[str, Any]:
        """How the samples were drawn, to be kept with each value."""
        averages = {
            objective.network: objective.ema.model_dump() if objective.ema else None
            for stage in self.method.stages()
            for objective in stage.objectives
        }
        return {
            "sampling_seed": self.config.seed,
            "nfe": self.record.cost.nfe,
            "sampler": self.config.method_config.get("sampler"),
            "ema": averages,
            "precision": self.training.precision,
        }

    def _diagnose(self) -> dict[str, Value]:
        """Measure the denoiser itself, where there is one."""
        n = self.evaluation.diagnostic_samples
        source = self._source("diagnostics")
        generator = torch.Generator(self.device)
        return metrics.diagnose(
            self.method,
            self.dataset,
            data_spec(self.dataset),
            n=n,
            labels=lambda: source.labels(n, 0),
            generator=generator.manual_seed(derive(self.config.seed, "diagnostics")),
        )

    def _note_size(self) -> None:
        networks, cost = self.method.networks, self.record.cost
        cost.parameters_by_network = {name: parameters(n) for name, n in networks.items()}
        cost.parameters = sum(cost.parameters_by_network.values())

    def _note_peak_memory(self) -> int:
        """Keep and return the peak of training and sampling; the extractor's must not count."""
        cost = self.record.cost
        peak, cost.peak_memory_kind = peak_memory(self.device)
        cost.peak_memory_bytes = max(peak, cost.peak_memory_bytes or 0)
        return cost.peak_memory_bytes

    def close(self, status: Status, reason: str) -> None:
        """Write the record's end."""
        self.record.status, self.record.reason, self.record.ended = status, reason, now()
        if hasattr(self, "ledger"):
            self.record.ledger = self.ledger.totals()
        if self.record.attempts:
            attempt = self.record.attempts[-1]
            attempt.seconds, attempt.ended = time.perf_counter() - self.spawned, status
        self._save()
        (self.folder / ALIVE).unlink(missing_ok=True)

    def give_up(self) -> None:
        """End this process at once: a request to stop was not heeded in time."""
        self.close(Status.INTERRUPTED, "stopped within a step; goes on from the last checkpoint")
        os._exit(INTERRUPTED)


def run_cell(folder: Path, cache: Path) -> int:
    """Run one cell; whatever happens, the record says what it was."""
    cell = Cell(folder, cache)
    try:
        cell.run()
    except InterruptedTrainingError as error:
        cell.close(Status.INTERRUPTED, str(error))
        return INTERRUPTED
    except DivergedError as error:
        cell.close(Status.DIVERGED, str(error))
        return FAILED
    except Exception as error:
        cell.close(Status.MEMORY if is_for_memory(error) else Status.FAILED, explain(error))
        with suppress(OSError):  # The log may lie on a full disk, too.
            traceback.print_exc()
            sys.stderr.flush()
        return FAILED
    return 0


def is_for_memory(error: Exception) -> bool:
    """Whether an error says that there is not enough memory, on the device or off it."""
    known = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    return known or "DefaultCPUAllocator" in str(error) or is_errno(error, errno.ENOMEM)


def is_errno(error: BaseException, number: int) -> bool:
    """Whether the system gave this number as an error's reason."""
    return isinstance(error, OSError) and error.errno == number


def explain(error: Exception) -> str:
    """Say in one line what an error was."""
    told = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    return one_line(told)[:500]


def note_death(record: Record, folder: Path) -> None:
    """Give a last attempt that nobody saw the end of the time of its last sign of life.

    The sign is a content and no file's time, which a copy of the folder would change.
    """
    if not record.attempts or record.attempts[-1].seconds is not None:
        return
    attempt, sign = record.attempts[-1], folder / ALIVE
    attempt.seconds, attempt.ended = 0.0, Status.KILLED
    with suppress(OSError, ValueError):
        attempt.seconds = float(sign.read_text())


def die_with_parent() -> None:
    """Ask Linux for a SIGTERM when the parent process ends, so that no cell is orphaned."""
    if sys.platform == "linux":
        import ctypes

        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
    # The parent may have ended before this process could ask.
    if os.getppid() != int(os.environ.get("SCOREBENCH_PARENT", os.getppid())):
        sys.exit(INTERRUPTED)


def offer_to_the_kernel() -> None:
    """Have Linux end this process before the command that waits for it, if memory runs short."""
    place = Path("/proc/self/oom_score_adj")
    with suppress(OSError, ValueError):
        place.write_text(str(max(int(place.read_text()), OOM_SCORE)))


def main(arguments: list[str]) -> int:
    """Run the task named on the command line."""
    die_with_parent()
    faulthandler.enable()
    offer_to_the_kernel()
    task, path = arguments[0], Path(arguments[1])
    if task == "cell":
        return run_cell(path, Path(os.environ["SCOREBENCH_CACHE"]))
    request = json.loads(path.read_text())
    try:
        answer = prepare(request)
    except UserError as error:
        # The last line there is the reason; what a plug-in has printed goes before it.
        sys.stdout.flush()
        print(one_line(error), file=sys.stderr)
        return NO_DATA if isinstance(error, MissingDataError) else BAD_INPUT
    write_text(Path(request["answer"]), json.dumps(answer))
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1:])
    if code == INTERRUPTED:
        # All is on disk, and whoever asked this process to stop will not wait for long.
        with suppress(OSError):
            sys.stdout.flush()
        os._exit(code)
    sys.exit(code)
