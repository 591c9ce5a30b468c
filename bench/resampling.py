"""Sampling a finished cell again, in a process of its own: ``python -m bench.resampling REQUEST``.

The cell's final weights are drawn from with other sampler settings, and the samples measured as
the cell's own were. Each point is kept as soon as it is there; nothing is ever trained. Exit
codes: 0 done, 1 a point failed (its reason is in the file), 75 interrupted.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench import curve, metrics
from bench.config import one_line
from bench.cost import Ledger, count_calls, interval
from bench.curve import Curve, Point
from bench.environment import describe
from bench.errors import UserError
from bench.machine import Watch
from bench.sampling import draw_batches
from bench.training import InterruptedTrainingError
from bench.worker import FAILED, INTERRUPTED, Cell, die_with_parent, open_device
from methods.base import Method

WITHOUT_TRAINING = tuple(family for family in metrics.FAMILIES if family != "cas")
"""What is measured at each point: all but the score that takes a training of its own."""


class Finished(Cell):
    """A finished cell whose final weights are drawn from; its record is never written."""

    def give_up(self) -> None:
        """End this process at once; what is there is kept."""
        os._exit(INTERRUPTED)

    def open(self, data_sha256: str) -> None:
        """Load what is needed, and the final weights; UserError if these are not the cell's."""
        settings = self.settings
        self.device = open_device(settings.device, settings.threads, self.training.precision)
        self.ledger = Ledger(self.device)
        self._load()
        if self.dataset.sha256 != data_sha256:
            raise UserError(f"the images at {self.dataset.source} are not those it was trained on")
        state = self._read_checkpoint()
        stages = len(self.method.stages())
        if state is None or state["trainer"]["stage_index"] < stages:
            raise UserError("its checkpoint is not of its finished training; run it again")
        self.weights = state["trainer"]["networks"]

    def _trained(self) -> Method:
        """Build the method with the final weights."""
        method = self._build()
        for name, network in method.networks.items():
            network.load_state_dict(self.weights[name])
            network.eval().requires_grad_(False)
        return method


class Resampling(Finished):
    """A finished cell that is sampled again; its record is read and never written."""

    def __init__(self, folder: Path, cache: Path) -> None:
        super().__init__(folder, cache)
        self.curve: Curve = curve.read(folder, self.record)
        self.is_warm = False

    def draw(self, wanted: list[Point], data_sha256: str) -> int:
        """Draw the points that are wanted, keep each at once, and return how many failed."""
        try:
            self.open(data_sha256)
        except InterruptedTrainingError:
            raise
        except Exception as error:
            for point in wanted:
                self._fail(point, error)
            return len(wanted)
        return sum(self._attempt(point, at / len(wanted)) for at, point in enumerate(wanted))

    def _attempt(self, point: Point, fraction: float) -> bool:
        """Draw one point; whatever goes wrong is kept as its reason. Return whether it failed."""
        what = f"{point.sampler['name']}, {point.sampler['steps']} steps"
        self.progress("sampling", fraction=fraction, stage=what)
        try:
            done = self._point(point)
        except InterruptedTrainingError:
            raise
        except Exception as error:
            self._fail(point, error)
            return True
        self.curve.put(done)
        curve.save(self.curve, self.folder)
        return False

    def _fail(self, point: Point, error: Exception) -> None:
        traceback.print_exception(error)
        told = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        self.curve.put(point.model_copy(update={"reason": one_line(told)[:300]}))
        curve.save(self.curve, self.folder)

    def _point(self, point: Point) -> Point:
        body = self.config.method_config | {"sampler": point.sampler}
        self.config = self.config.model_copy(update={"method_config": body})
        self.method = self._trained()
        with Watch(self.device, least=0.0) as watch:
            images, labels, calls, times = self._images(point.samples)
        here = describe(self.device)
        # Provenance is taken from the record in memory, which is not written back.
        self.record.cost.nfe = sum(calls.values())
        return point.model_copy(
            update={
                "nfe": self.record.cost.nfe,
                "nfe_by_network": calls,
                "ms_per_image": interval(times, batch=self.settings.sampling.batch),
                "environment": {key: here[key] for key in curve.ENVIRONMENT}
                | {"timing": watch.facts(), "unfit": watch.unfit()},
                "metrics": self._measure(images, labels, families=WITHOUT_TRAINING),
                "reason": "",
            }
        )

    def _images(
        self, n: int
    ) -> tuple[NDArray[Any], NDArray[np.int64] | None, dict[str, float], list[float]]:
        """Draw n samples from the cell's own stream: equal settings give equal samples.

        Returns images, labels asked for, counted evaluations an image and milliseconds an image.
        """
        source, size = self._source("samples"), self.settings.sampling.batch
        if not self.is_warm:
            source.batch(size, 0)
            self.is_warm = True
        with count_calls(self.method.networks) as calls:
            images, labels, times = draw_batches(source, n, size)
        counted = {name: count / (size * len(times)) for name, count in calls.items()}
        return images, labels, counted, times


def main(path: Path) -> int:
    """Draw what the request asks for."""
    die_with_parent()
    request = json.loads(path.read_text())
    wanted = [Point.model_validate(body) for body in request["points"]]
    try:
        cell = Resampling(Path(request["cell"]), Path(os.environ["SCOREBENCH_CACHE"]))
        return FAILED if cell.draw(wanted, request["data_sha256"]) else 0
    except InterruptedTrainingError:
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
