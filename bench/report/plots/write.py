"""Which pictures a study has the numbers for: as PNG and PDF, the samples as PNG alone."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from bench.config import UserError
from bench.records import direction
from bench.report.plots.drawing import STYLE, PlottedStudy, Skipped, save
from bench.report.plots.fidelity import fidelity, pairs
from bench.report.plots.ledger import ledger
from bench.report.plots.quality import FLOPS, TIME, quality
from bench.report.plots.samples import samples
from bench.report.plots.training_curves import losses, metric_curve
from bench.report.study_report import StudyReport


def write_plots(report: StudyReport, say: Callable[[str], object] | None = None) -> list[Path]:
    """Draw every picture the study has the numbers for into ``plots/``; return the files.

    ``say`` is called with a line for each picture left out; it goes to stderr by default.
    """
    say = say or (lambda line: print(line, file=sys.stderr))
    paths: list[Path] = []
    with rc_context(STYLE):
        for name, draw in pictures(PlottedStudy.of(report)):
            try:
                paths += draw(report.folder / "plots" / name)
            except (Skipped, UserError) as reason:
                say(f"plot '{name}' left out: {reason}")
    return paths


def pictures(content: PlottedStudy) -> Iterator[tuple[str, Callable[[Path], list[Path]]]]:
    """Yield each picture's name and the function that writes it to that path without ending."""
    names = content.report.metrics
    for metric in [name for name in names if direction(name) == "↓"] or names[:1]:
        for cost in (TIME, FLOPS):
            yield f"{metric}-{cost.name}", _chart(quality, content, metric, cost)
    for precision, recall in pairs(names):
        yield f"{precision}-recall", _chart(fidelity, content, precision, recall)
    yield "losses", _chart(losses, content)
    points = content.report.curves.groupby(["name", "method", "seed"]).size().groupby("name").max()
    # The metrics that some cell has taken more than once in training.
    taken = sorted(name for name in points[points > 1].index if direction(name))
    for metric in taken or names[:1]:
        yield f"curve-{metric}", _chart(metric_curve, content, metric)
    yield "ledger", _chart(ledger, content)
    yield "samples", lambda path: [samples(content.report, path)]


def _chart(draw: Callable[..., Figure], *arguments: Any) -> Callable[[Path], list[Path]]:
    return lambda path: save(draw(*arguments), path)
