"""What a method costs for which no finished cell tells it: counted, and timed on the device."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from bench.config.text import digest
from bench.estimate import draws, judging
from bench.estimate.attempts import Attempts
from bench.estimate.draws import Pass
from bench.estimate.steps import (
    BY_FLOPS,
    Update,
    Updates,
    cost_of_stage,
    cost_of_update,
    count_update,
    known_sum,
)
from bench.estimate.subject import Subject
from bench.estimate.whole import Whole
from methods.base import Method, Objective, Stage

COUNTING_SECONDS = 20.0
TIMING_SECONDS = 4.0
"""For the measurements of one method; what is not known by then stays open."""
HOPELESS_SECONDS = 3.0
"""What drawing an image by one evaluation may take to be tried."""


@dataclass(frozen=True)
class Speed:
    """How fast a method's forward pass is on this device."""

    flops: float
    """A second."""
    size: float
    """FLOPs of one evaluation for one image."""
    of: str
    """The method."""


@dataclass
class Known:
    """What the measurements of a study's methods have in common."""

    startup: float = 0.0
    """Seconds until a cell's process has loaded its data."""
    extracting: dict[str, float] = field(default_factory=dict)
    """Seconds an image of each extractor."""
    cas: float | None = None
    """Seconds of the classification accuracy score."""
    shared: dict[str, Updates] = field(default_factory=dict)
    """The updates of first stages that several methods have, by the stages' keys."""
    speed: Speed | None = None
    """Of the largest network that was timed."""


def measure(subject: Subject, known: Known) -> Whole:
    """The cost of a cell from its beginning to its end, as far as it can be told."""
    found = Measurement(subject, known)
    found.count()
    found.time()
    found.note_sampling()
    found.note_evaluation()
    return found.whole


class Measurement:
    """One method being measured: first what needs no device, then what takes time on it."""

    def __init__(self, subject: Subject, known: Known) -> None:
        self.subject, self.known = subject, known
        self.whole = Whole()
        self.stages = list(subject.on_meta().stages())
        self.counts: list[dict[str, float | None]] = []
        """FLOPs of an update by each objective of each stage."""
        self.drawn: Pass | None = None
        self.diagnostics: float | None = None
        """FLOPs of the diagnostics."""

    # -- FLOPs ----------------------------------------------------------------------------------

    def count(self) -> None:
        """Count FLOPs, none of which are done."""
        attempt, subject = Attempts(COUNTING_SECONDS, self.whole.troubles), self.subject
        flops = attempt("FLOPs of sampling", lambda: draws.count_on_meta(subject))
        self.drawn = None if flops is None else Pass(flops)
        self.diagnostics = attempt("diagnostics", lambda: diagnostic_flops(subject))
        self.counts = [self.count_stage(index, attempt) for index in range(len(self.stages))]

    def count_stage(self, index: int, attempt: Attempts) -> dict[str, float | None]:
        """Count a stage's updates, where another method's are not the same."""
        if self.key(index) in self.known.shared:
            return {}
        method = self.subject.on_meta()
        stage = method.stages()[index]

        def count(objective: Objective) -> float | None:
            return attempt(
                f"FLOPs of '{objective.label}'",
                lambda: count_update(self.subject, method, stage, objective),
            )

        return {objective.label: count(objective) for objective in stage.objectives}

    def key(self, index: int) -> str | None:
        """What identifies the updates of a stage that other methods may have: of a first one."""
        identity = self.stages[0].identity
        if index or identity is None:
            return None
        return digest([dict(identity), self.subject.training.model_dump(mode="json")])

    # -- seconds --------------------------------------------------------------------------------

    def time(self) -> None:
        """Time draws and steps, and note what the whole training costs."""
        attempt = Attempts(TIMING_SECONDS, self.whole.troubles)
        self.whole.other_seconds = self.known.startup
        method = None
        if self.is_hopeless():
            self.by_flops()
        else:
            began = time.perf_counter()
            method = attempt("building", self.subject.shortened().on_device)
            self.whole.other_seconds += time.perf_counter() - began
            self.draw(method, attempt)
        self.note_training(method, attempt)

    def draw(self, method: Method | None, attempt: Attempts) -> None:
        """Time draws, and remember the speed of the largest network seen."""
        flops = self.drawn.flops if self.drawn else None
        if method is None:
            return
        timed = attempt("sampling", lambda: draws.time_pass(self.subject, method, flops))
        if timed is None:
            self.by_flops()
            return
        self.drawn = timed
        size = timed.flops / self.subject.nfe
        if timed.speed and (self.known.speed is None or size > self.known.speed.size):
            self.known.speed = Speed(timed.speed, size, self.subject.label)

    def is_hopeless(self) -> bool:
        """Whether drawing one image of a step takes too long, by the speed of another method."""
        if self.drawn is None or self.known.speed is None or self.subject.device.type != "cpu":
            return False
        return self.drawn.flops / self.subject.nfe / self.known.speed.flops > HOPELESS_SECONDS

    def by_flops(self) -> None:
        """Take the time of draws from their FLOPs and another method's speed, if that is known."""
        if self.drawn is None or self.known.speed is None:
            return
        seconds = self.drawn.flops / self.known.speed.flops
        told = f"draws by FLOPs at the speed of {self.known.speed.of}"
        self.drawn = Pass(self.drawn.flops, seconds, seconds, told)

    def note_training(self, method: Method | None, attempt: Attempts) -> None:
        """Note FLOPs and seconds of all stages; without times if ``method`` is ``None``."""
        planning = method or self.subject.on_meta()
        costs = []
        for index, stage in enumerate(planning.stages()):
            updates = self.updates(index, stage, method, attempt)
            costs.append(cost_of_stage(self.subject, planning, stage, updates))
        if self.stages[0].identity is not None:
            self.whole.first_stage_seconds = costs[0].seconds or 0.0
        self.whole.train_flops = known_sum(cost.flops for cost in costs)
        self.whole.train_seconds = known_sum(cost.seconds for cost in costs)
        told = dict.fromkeys(part for cost in costs for part in cost.told.split("; "))
        self.whole.sources.append(f"training: {'; '.join(told)}")

    def updates(
        self, index: int, stage: Stage, method: Method | None, attempt: Attempts
    ) -> Updates:
        """What the updates of a stage cost, those of a shared stage measured once."""
        key = self.key(index)
        if key in self.known.shared:
            return self.known.shared[key]
        found: Mapping[str, Update] = {
            objective.label: self.update(index, objective, method, attempt)
            for objective in stage.objectives
        }
        if key is not None and all(update.seconds is not None for update in found.values()):
            self.known.shared[key] = found
        return found

    def update(
        self, index: int, objective: Objective, method: Method | None, attempt: Attempts
    ) -> Update:
        """What an update costs; without its time if that cannot be had."""
        flops, found = self.counts[index][objective.label], None
        speed = self.drawn.speed if self.drawn else None
        if method is not None:
            found = attempt(
                f"steps of '{objective.label}'",
                lambda: cost_of_update(self.subject, method, objective, flops, speed),
            )
        if found is None and flops is not None and speed is not None:
            found = Update(flops, flops / speed, BY_FLOPS)
        return found or Update(flops, None, "FLOPs counted, steps not timed")

    # -- what follows from them -----------------------------------------------------------------

    def note_sampling(self) -> None:
        """Note what all the images cost that a cell draws, those of the diagnostics as FLOPs."""
        drawn, whole = self.drawn, self.whole
        if drawn is None:
            return
        count = draws.draws_of(self.subject.settings)
        batch = None if drawn.seconds is None else drawn.seconds * count.size
        images = count.images(batch, drawn.single_seconds)
        whole.sample_flops_per_image = drawn.flops
        whole.sample_flops = drawn.flops * images + (self.diagnostics or 0.0)
        if drawn.seconds is not None and drawn.single_seconds is not None:
            alone = count.alone(drawn.single_seconds)
            whole.sample_seconds = drawn.seconds * (images - alone) + drawn.single_seconds * alone
            whole.sources.append(f"sampling: {drawn.told}")

    def note_evaluation(self) -> None:
        """Note the seconds of extractors, diagnostics and, of labelled samples, the CAS."""
        speed = self.drawn.speed if self.drawn else None
        diagnosing = None
        if self.diagnostics == 0:
            diagnosing = 0.0
        elif self.diagnostics is not None and speed:
            diagnosing = self.diagnostics / speed
        labelled = self.subject.on_meta().needs_labels
        self.whole.evaluate_seconds = known_sum(
            [
                judging.extraction_seconds(self.subject.settings, self.known.extracting),
                diagnosing,
                self.known.cas if labelled else 0.0,
            ]
        )


def diagnostic_flops(subject: Subject) -> float:
    """FLOPs of all that the diagnostics evaluate; 0 for a method without a denoiser."""
    each = draws.count_denoiser(subject)
    if not each:
        return 0.0
    n = subject.settings.evaluation.diagnostic_samples
    return each * n * draws.diagnostic_evaluations(subject)
