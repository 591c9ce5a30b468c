"""The cell that a process works on: what it is made of, and the record of how it goes."""

import json
import os
import socket
import time
from typing import Any

import torch

from bench import metrics
from bench.costs.flops import peak_memory
from bench.costs.ledger import Ledger
from bench.executors import Job
from bench.records import Attempt, Status, note_death, placed_config, remove_unfinished
from bench.records import record as records
from bench.records.environment import note
from bench.records.files import write_archive
from bench.records.source_code import check_source
from bench.training import State
from bench.worker.build import build_cell, device_for, load_data, read_checkpoint
from bench.worker.partial_samples import Parts, last_part
from bench.worker.progress_and_stop import Progress, Stop, leave


class Cell:
    """One method with one seed, and its folder, of which a job is done in this process."""

    ledger: Ledger

    def __init__(self, job: Job) -> None:
        record = records.load(job.folder)
        assert record is not None, f"{job.folder} has no record"
        self.job, self.folder, self.record = job, job.folder, record
        self.config = placed_config(job.folder)
        self.settings = self.config.settings
        self.training = self.config.training
        self.evaluation = self.settings.evaluation
        self.begun = job.begun()
        self.stop, self.progress = Stop(self.give_up), Progress(job)
        self.curves = job.folder / records.CURVES
        seconds = self.training.checkpoint_seconds
        self.parts = Parts(job.folder, record.key, lambda: self.ledger, seconds)

    def open(self) -> State | None:
        """Note that this process works on the cell now, and load all that it is made of.

        Returns the state of the checkpoint that it goes on from, if there is one.
        """
        self._begin()
        self.progress("starting", fraction=0.0)
        check_source(self.config.method, self.record.key, self.record.identity.get("source", {}))
        self.device = device_for(self.config)
        state = read_checkpoint(self.folder, self.record.key, self.device)
        self._open_ledger(state)
        job, study = self.job, self.folder.parent
        note(self.record, study, self.device, command=job.command, jobs=job.jobs)
        self.save()
        self.dataset = load_data(self.settings, job.cache)
        self.record.data = self.dataset.facts()
        with self.ledger.part("evaluate"):
            self.evaluator = metrics.Evaluator.open(
                self.settings, self.dataset, device=self.device, cache=job.cache
            )
        self.built = build_cell(self.config, self.dataset, self.device)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        return state

    def _begin(self) -> None:
        remove_unfinished(self.folder)
        note_death(self.record, self.folder)
        host, pid = socket.gethostname(), os.getpid()
        self.record.status, self.record.reason = Status.RUNNING, ""
        began = records.stamp(time.time() - (time.perf_counter() - self.begun))
        self.record.started = self.record.started or began
        self.record.environment |= {"host": host, "pid": pid}
        self.record.attempts.append(Attempt(started=began, pid=pid, host=host))
        self.save()

    def _open_ledger(self, state: State | None) -> None:
        """Go on with the ledger where the latest of the cell's files leaves it."""
        done = self.record.ledger if records.is_sampled(self.record, self.folder) else None
        part = last_part(self.folder, self.record.key)
        known = [done, part and part["ledger"], state and state["ledger"]]
        carried = max(filter(None, known), key=lambda totals: totals["wall"], default=None)
        before = self.record.attempts[:-1]
        kept = carried["wall"] - carried.get("charged", 0.0) if carried else 0.0
        if before and kept > self.record.spent:
            # Its last sign of life was before its last checkpoint.
            before[-1].seconds = (before[-1].seconds or 0.0) + kept - self.record.spent
        spent = self.record.spent
        self.ledger = Ledger(self.device, started=self.begun, carried=carried, spent=spent)
        if before:
            told = sum(attempt.lost or 0.0 for attempt in before[:-1])
            lost = self.ledger.totals()["lost"] - told
            before[-1].lost = round(max(0.0, lost), 3)

    def save(self) -> None:
        """Write the record."""
        records.save(self.record, self.folder)

    def add_point(self, point: dict[str, Any]) -> None:
        """Add a point to the curves, which are cut back to a checkpoint when a run goes on."""
        with self.curves.open("a", encoding="utf-8") as file:
            file.write(json.dumps(point) + "\n")

    def write_checkpoint(self, trainer: State) -> None:
        """Keep what training needs to go on from here."""
        state: State = {"key": self.record.key, "trainer": trainer, "ledger": self.ledger.totals()}
        state["curve_bytes"] = self.curves.stat().st_size if self.curves.exists() else 0
        write_archive(self.folder / records.CHECKPOINT, lambda file: torch.save(state, file))

    def note_peak_memory(self) -> int:
        """Keep and return the peak of training and sampling; the extractor's must not count."""
        cost = self.record.cost
        peak, cost.peak_memory_kind = peak_memory(self.device)
        cost.peak_memory_bytes = max(peak, cost.peak_memory_bytes or 0)
        return cost.peak_memory_bytes

    def close(self, status: Status, reason: str) -> None:
        """Write the record's end."""
        self.record.status, self.record.reason, self.record.ended = status, reason, records.now()
        if hasattr(self, "ledger"):
            self.record.ledger = self.ledger.totals()
        if self.record.attempts:
            attempt = self.record.attempts[-1]
            attempt.seconds, attempt.ended = time.perf_counter() - self.begun, status
        self.save()
        self.job.sign.unlink(missing_ok=True)

    def give_up(self) -> None:
        """End this process at once: a request to stop was not heeded in time."""
        self.close(Status.INTERRUPTED, "stopped within a step; goes on from the last checkpoint")
        leave()
