"""The training of a cell, and what it leaves on the way: checkpoints, curves, shared stages."""

import time
from contextlib import nullcontext
from typing import Any

import torch

from bench.sampling.source import draw_batches
from bench.training import Feed, Hooks, InterruptedTrainingError, State, Trainer
from bench.worker.build import Built
from bench.worker.cell import Cell
from bench.worker.shared_stages import StagePlace


def train(cell: Cell, state: State | None) -> None:
    """Train a cell's method, from ``state`` on if there is one; its record tells the cost.

    InterruptedTrainingError where it was asked to stop; a checkpoint has been written.
    """
    shares = cell.training.share_stages
    hooks = Hooks(
        log=cell.curves.append,
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
    cell.curves.cut(state["curve_bytes"] if state else 0)
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
            note_first_step(self.cell)
        images, began = self.first
        rate = (place["images"] - images) / (moment - began) if moment > began else 0.0
        self.cell.progress("training", rate=rate, **place)


def note_first_step(cell: Cell) -> None:
    """Note how long it took until a cell's first step, unless an earlier process has."""
    environment, job = cell.record.environment, cell.job
    if "seconds_to_first_step" in environment:
        return
    seconds = time.perf_counter() - cell.begun
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
        values = cell.evaluator.measure_for_curve(images)
    if cell.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(cell.device)
    cell.curves.append({**place, "values": {name: v.value for name, v in values.items()}})
