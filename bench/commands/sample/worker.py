"""Sampling a finished cell again, in a process of its own.

The cell's final weights are drawn from with other sampler settings, and the samples measured as
the cell's own were. Each point is kept as soon as it is there; nothing is ever trained. Exit
codes: 0 done, 1 a point failed (its reason is in the file), 75 interrupted.
"""

import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench import metrics
from bench.costs.flops import count_calls
from bench.costs.intervals import interval
from bench.costs.machine.fitness import Watch
from bench.executors import DONE, FAILED, INTERRUPTED, Job, serve
from bench.records import load, nfe_curve
from bench.records.environment import describe
from bench.records.nfe_curve import Curve, Point
from bench.sampling.source import draw_batches
from bench.training import InterruptedTrainingError
from bench.worker import Built, Progress, Stop, explain, load_finished

WITHOUT_TRAINING = tuple(family for family in metrics.FAMILIES if family != "cas")
"""What is measured at each point: all but the score that takes a training of its own."""


class Resampling:
    """A finished cell that is sampled again; nothing of it but the curve's points is written."""

    def __init__(self, job: Job) -> None:
        self.job, self.folder = job, Path(job.request["cell"])
        record = load(self.folder)
        assert record is not None, f"{self.folder} has no record"
        self.progress = Progress(job)
        self.curve: Curve = nfe_curve.read(self.folder, record)
        self.is_warm = False

    def draw(self, wanted: list[Point]) -> int:
        """Draw the points that are wanted, keep each at once, and return how many failed."""
        if self._fails(wanted, self._open):
            return len(wanted)
        return sum(
            self._fails([point], partial(self._draw, point, at / len(wanted)))
            for at, point in enumerate(wanted)
        )

    def _fails(self, points: list[Point], action: Callable[[], None]) -> bool:
        """Do something for points; whether it went wrong, which is kept as their reason."""
        try:
            action()
        except InterruptedTrainingError:
            raise
        except Exception as error:
            traceback.print_exception(error)
            for point in points:
                self._keep(point.model_copy(update={"reason": explain(error, 300)}))
            return True
        return False

    def _keep(self, point: Point) -> None:
        self.curve.put(point)
        nfe_curve.save(self.curve, self.folder)

    def _open(self) -> None:
        cache = self.job.cache
        self.cell = load_finished(self.folder, cache, self.job.request["data_sha256"])
        self.settings = self.cell.config.settings
        self.evaluator = metrics.Evaluator.open(
            self.settings, self.cell.dataset, device=self.cell.device, cache=cache
        )

    def _draw(self, point: Point, fraction: float) -> None:
        what = f"{point.sampler['name']}, {point.sampler['steps']} steps"
        self.progress("sampling", fraction=fraction, stage=what)
        self._keep(self._point(point))

    def _point(self, point: Point) -> Point:
        built = self.cell.with_sampler(point.sampler).build()
        with Watch(built.device, least=0.0) as watch:
            images, labels, calls, times = self._images(built, point.samples)
        here = describe(built.device, command=self.job.command, jobs=self.job.jobs)
        nfe = sum(calls.values())
        return point.model_copy(
            update={
                "nfe": nfe,
                "nfe_by_network": calls,
                "ms_per_image": interval(times, batch=self.settings.sampling.batch),
                "environment": {key: here[key] for key in nfe_curve.ENVIRONMENT}
                | {"timing": watch.facts(), "unfit": watch.unfit()},
                "metrics": self.evaluator.measure(
                    images,
                    labels,
                    families=WITHOUT_TRAINING,
                    jackknife=True,
                    provenance=built.provenance(nfe),
                    progress=self.progress.of("evaluating"),
                ),
                "reason": "",
            }
        )

    def _images(
        self, built: Built, n: int
    ) -> tuple[NDArray[Any], NDArray[np.int64] | None, dict[str, float], list[float]]:
        """Draw n samples from the cell's own stream: equal settings give equal samples.

        Returns images, labels asked for, counted evaluations an image and milliseconds an image.
        """
        source, size = built.source("samples"), self.settings.sampling.batch
        if not self.is_warm:
            source.batch(size, 0)
            self.is_warm = True
        with count_calls(built.method.networks) as calls:
            images, labels, times = draw_batches(source, n, size)
        counted = {name: count / (size * len(times)) for name, count in calls.items()}
        return images, labels, counted, times


def resample(job: Job) -> int:
    """Draw the points that a job asks for."""
    wanted = [Point.model_validate(body) for body in job.request["points"]]
    Stop()
    try:
        return FAILED if Resampling(job).draw(wanted) else DONE
    except InterruptedTrainingError:
        return INTERRUPTED


if __name__ == "__main__":
    serve(resample)
