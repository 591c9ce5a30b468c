"""Sampling a finished cell again, in a process of its own.

The cell's final weights are drawn from with other settings of sampling, and the samples measured as
the cell's own were. Each point is kept as soon as it is there; nothing is ever trained. Exit
codes: 0 done, 1 a point failed (its reason is in the file), 75 interrupted.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bench import metrics
from bench.costs.flops import count_calls
from bench.costs.intervals import interval
from bench.costs.machine.fitness import Watch
from bench.executors import DONE, FAILED, Job, serve
from bench.records import load, nfe_curve
from bench.records.environment import describe
from bench.records.nfe_curve import Point
from bench.sampling.source import draw_batches
from bench.worker import Progress, excused, load_finished, stoppable

WITHOUT_TRAINING = tuple(family for family in metrics.BY_DEFAULT if family != "cas")
"""What is measured at each point: all but the score that takes a training of its own."""


class Resampling:
    """A finished cell that is sampled again; nothing of it but the curve's points is written."""

    def __init__(self, job: Job) -> None:
        self.job, self.folder = job, Path(job.request["cell"])
        record = load(self.folder)
        assert record is not None, f"{self.folder} has no record"
        self.progress, self.curve = Progress(job), nfe_curve.read(self.folder, record)
        self.is_warm, self.failed = False, 0

    def draw(self, wanted: Sequence[Point]) -> None:
        """Draw the points that are wanted and keep each at once, or why it failed."""
        with excused(partial(self._lose, wanted)):
            cache = self.job.cache
            self.cell = load_finished(self.folder, cache, self.job.request["data_sha256"])
            settings, data, device = self.cell.config.settings, self.cell.dataset, self.cell.device
            self.evaluator = metrics.Evaluator.open(settings, data, device=device, cache=cache)
        if self.failed:
            return
        for at, point in enumerate(wanted):
            with excused(partial(self._lose, [point])):
                self.progress("sampling", fraction=at / len(wanted), stage=point.title)
                self._keep(point.model_copy(update=self._measure(point)))

    def _lose(self, points: Sequence[Point], reason: str) -> None:
        self.failed += len(points)
        for point in points:
            self._keep(point.model_copy(update={"reason": reason}))

    def _keep(self, point: Point) -> None:
        self.curve.put(point)
        nfe_curve.save(self.curve, self.folder)

    def _measure(self, point: Point) -> dict[str, Any]:
        """Draw a point's samples; return what is measured of them and what they cost.

        They are of the cell's own stream: equal settings give equal samples.
        """
        built = self.cell.with_settings(point.swept, point.sampler).build()
        size = built.config.settings.sampling.batch
        with Watch(built.device, least=0.0) as watch:
            source = built.source("samples")
            if not self.is_warm:
                source.batch(size, 0)
                self.is_warm = True
            with count_calls(built.method.networks) as calls:
                images, labels, times = draw_batches(source, point.samples, size)
        here = describe(built.device, command=self.job.command, jobs=self.job.jobs)
        counted = {name: count / (size * len(times)) for name, count in calls.items()}
        nfe = sum(counted.values())
        values = self.evaluator.measure(
            images, labels, families=WITHOUT_TRAINING, jackknife=True,
            provenance=built.provenance(nfe), progress=self.progress.of("evaluating"),
        )  # fmt: skip
        environment = {key: here[key] for key in nfe_curve.ENVIRONMENT}
        environment |= {"timing": watch.facts(), "unfit": watch.unfit()}
        return {
            "nfe": nfe, "nfe_by_network": counted, "ms_per_image": interval(times, batch=size),
            "environment": environment, "metrics": values, "reason": "",
        }  # fmt: skip


@stoppable
def resample(job: Job) -> int:
    """Draw the points that a job asks for."""
    work = Resampling(job)
    work.draw([Point.model_validate(body) for body in job.request["points"]])
    return FAILED if work.failed else DONE


if __name__ == "__main__":
    serve(resample)
