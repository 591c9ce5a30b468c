"""A cell from its start to its end, whatever that is: trained, its samples drawn and measured."""

import os
import sys
import time
import traceback
from contextlib import nullcontext, suppress
from typing import Any

import numpy as np
import torch

from bench import metrics
from bench.config.random_streams import derive
from bench.costs.flops import parameters
from bench.costs.machine.fitness import Watch
from bench.data.dataset import Progress, unheard
from bench.executors import DONE, FAILED, INTERRUPTED, Job
from bench.metrics.features import share_of
from bench.records import GRID, SAMPLES, Status, Value, is_sampled, write_archive
from bench.records.grid import read_samples, write_grid
from bench.sampling.source import draw_batches, timed
from bench.sampling.timing import Drawn, draw_and_time, warm_up_facts, warm_up_reasons
from bench.training import DivergedError, Feed, Hooks, InterruptedTrainingError, State, Trainer
from bench.worker.build import Built, data_spec
from bench.worker.cell import Cell
from bench.worker.progress_and_stop import explain, is_for_memory
from bench.worker.shared_stages import StagePlace

GRID_IMAGES = 64


def run_cell(job: Job) -> int:
    """Run the cell in a job's folder; whatever happens, the record says what it was."""
    cell = Cell(job)
    try:
        state = cell.open()
        train(cell, state)
        images, labels = sample(cell)
        evaluate(cell, images, labels)
        cell.close(Status.FINISHED, "")
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
    return DONE


def train(cell: Cell, state: State | None) -> None:
    """Train a cell's method, from ``state`` on if there is one; its record tells the cost.

    InterruptedTrainingError where it was asked to stop; a checkpoint has been written.
    """
    shares = cell.training.share_stages
    hooks = Hooks(
        log=cell.add_point,
        snapshot=lambda place: take_snapshot(cell, place),
        checkpoint=cell.write_checkpoint,
        progress=TrainingProgress(cell),
        stopping=lambda: cell.stop.requested,
        shared=lambda stage: StagePlace(cell, stage) if shares else nullcontext(),
    )
    trainer = Trainer(
        cell.built.method, feed_of(cell.built), settings=cell.training, seed=cell.config.seed,
        budget=cell.settings.budget, ledger=cell.ledger, hooks=hooks,
    )  # fmt: skip
    if cell.curves.exists():
        os.truncate(cell.curves, state["curve_bytes"] if state else 0)
    cell.stop.training = True
    trainer.run(state["trainer"] if state else None)
    cell.stop.training = False
    if cell.stop.requested:
        raise InterruptedTrainingError("stopped after training")
    cost = cell.record.cost
    cost.steps, cost.images_seen = trainer.steps, trainer.images
    cost.train_flops_by_objective = trainer.train_flops
    cost.train_flops = sum(trainer.train_flops.values())


def feed_of(built: Built) -> Feed:
    """The batches that a cell is trained on."""
    data, how, seed = built.dataset.train, built.config.training, built.config.seed
    return Feed(
        data.images, data.labels, device=built.device, batch=how.batch, flip=how.flip, seed=seed
    )


class TrainingProgress:
    """Tells how training goes on, and how fast since this process began with it."""

    def __init__(self, cell: Cell) -> None:
        self.cell = cell
        self.first: tuple[int, float] | None = None
        """Images and ``perf_counter`` where this process began."""

    def __call__(self, place: dict[str, Any]) -> None:
        """Tell the place that training has come to."""
        moment = time.perf_counter()
        if self.first is None:
            self.first = place["images"], moment
            self._note_first_step()
        images, began = self.first
        rate = (place["images"] - images) / (moment - began) if moment > began else 0.0
        self.cell.progress("training", rate=rate, **place)

    def _note_first_step(self) -> None:
        environment, job = self.cell.record.environment, self.cell.job
        if "seconds_to_first_step" not in environment:  # An earlier process may have noted it.
            seconds = time.perf_counter() - self.cell.begun
            earlier = max(0.0, job.started - (job.command_started or job.started))
            environment["seconds_to_first_step"] = round(seconds, 2)
            environment["seconds_from_shell_to_first_step"] = round(earlier + seconds, 2)


def take_snapshot(cell: Cell, place: dict[str, Any]) -> None:
    """Measure quality for the curves; it never decides anything."""
    wanted = cell.evaluation.snapshot_samples
    source = cell.built.source("snapshots")
    with cell.ledger.part("sample"):
        size = min(wanted, cell.settings.sampling.batch)
        images, _, _ = draw_batches(source, wanted, size)
    cell.note_peak_memory()
    with cell.ledger.part("evaluate"):
        whole = wanted >= cell.evaluation.samples
        values = cell.evaluator.measure_for_curve(images, is_whole=whole)
    if cell.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(cell.device)
    cell.add_point({**place, "values": {name: v.value for name, v in values.items()}})


def sample(cell: Cell) -> tuple[Any, Any]:
    """Return images and classes, drawn unless they are there, once they and their cost are kept."""
    if is_sampled(cell.record, cell.folder):
        cell.parts.clear()
        return read_samples(cell.folder / SAMPLES)
    with cell.ledger.part("sample"):
        drawn = draw(cell)
    note_sampling(cell, drawn)
    with cell.ledger.part("log"):
        arrays: dict[str, Any] = {"images": drawn.images}
        if drawn.labels is not None:
            arrays["labels"] = drawn.labels
        shown = len(drawn.images) if cell.dataset.is_points else GRID_IMAGES
        write_grid(cell.folder / GRID, drawn.images[:shown], labels=drawn.labels)
        # Last: once they are there, nothing of this is done again.
        write_archive(cell.folder / SAMPLES, lambda file: np.savez(file, **arrays))
    cell.record.ledger = cell.ledger.totals()
    cell.save()
    cell.parts.clear()
    return drawn.images, drawn.labels


def draw(cell: Cell) -> Drawn:
    """Draw and time the samples that are not drawn yet, with an eye on the machine."""
    source, size = cell.built.source("samples"), cell.settings.sampling.batch
    wanted, tell = cell.evaluation.samples, cell.progress.of("sampling")
    watch = Watch(cell.device, work=lambda: timed(source, size, 0))
    try:
        with watch:
            drawn = draw_and_time(source, wanted, cell.settings.sampling, tell, cell.parts)
    except InterruptedTrainingError:
        cell.parts.save()
        raise
    cost, unwatched = cell.record.cost, cell.parts.found
    cost.timing = watch.facts() | {"warm_up": warm_up_facts(drawn.warm_ups)}
    cost.timing["batches_of_earlier_processes"] = unwatched
    cell.record.notes = [source.note] if source.note else []
    cost.unfit = [*watch.unfit(), *warm_up_reasons(drawn.warm_ups)]
    if unwatched:
        cost.unfit.append(f"{unwatched} batches were timed before an interruption, unwatched")
    return drawn


def note_sampling(cell: Cell, drawn: Drawn) -> None:
    """Note what sampling cost, and how large the networks are."""
    cell.note_peak_memory()
    networks, cost = cell.built.method.networks, cell.record.cost
    cost.parameters_by_network = {name: parameters(n) for name, n in networks.items()}
    cost.parameters = sum(cost.parameters_by_network.values())
    cost.ms_per_image, cost.latency_ms = drawn.ms_per_image, drawn.latency_ms
    cost.nfe_by_network = drawn.nfe_by_network
    cost.nfe = sum(drawn.nfe_by_network.values())
    cost.sample_flops_per_image = drawn.flops_per_image


def evaluate(cell: Cell, images: Any, labels: Any) -> None:
    """Measure the samples and the denoiser; the last point of the curves is of them too."""
    cell.progress("evaluating", fraction=0.0)
    cost, tell = cell.record.cost, cell.progress.of("evaluating")
    with cell.ledger.part("evaluate"):
        # Features are kept in the folder.
        cell.record.metrics = cell.evaluator.measure(
            images, labels, jackknife=True, folder=cell.folder,
            provenance=cell.built.provenance(cost.nfe), progress=share_of(tell, 0, 2),
        )  # fmt: skip
        cell.record.metrics |= diagnose(cell, share_of(tell, 1, 2))
        # The curves' last point, of as many samples as the points before it.
        few = cell.evaluation.snapshot_samples
        last = cell.evaluator.measure_for_curve(images[:few]) if few < len(images) else {}
    place: dict[str, Any] = {"images": cost.images_seen, "step": cost.steps}
    place |= {"seconds": round(cell.ledger.elapsed("train"), 3), "stage": "final"}
    values = {name: value.value for name, value in (last | cell.record.metrics).items()}
    cell.add_point({**place, "values": values})


def diagnose(cell: Cell, progress: Progress = unheard) -> dict[str, Value]:
    """Measure the denoiser itself, where there is one."""
    n, source = cell.evaluation.diagnostic_samples, cell.built.source("diagnostics")
    generator = torch.Generator(cell.device)
    generator.manual_seed(derive(cell.config.seed, "diagnostics"))
    return metrics.diagnose(
        cell.built.method, cell.dataset, data_spec(cell.dataset),
        n=n, labels=lambda: source.labels(n, 0), generator=generator,
        levels=cell.evaluation.violation_levels, progress=progress,
    )  # fmt: skip
