"""The pictures of a page: those of the plots, as text that stands in the page itself."""

import base64
import io
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from bench.config import UserError
from bench.records import direction, headline
from bench.report.nfe_table import load_points
from bench.report.plots import nfe_curve
from bench.report.plots.drawing import STYLE, PlottedStudy, Skipped
from bench.report.plots.ledger import ledger
from bench.report.plots.quality import FLOPS, quality
from bench.report.plots.samples import samples
from bench.report.plots.training_curves import losses, metric_curve
from bench.report.study_report import StudyReport
from bench.report.titles import metric_words

SVG: dict[Any, Any] = {**STYLE, "svg.hashsalt": "scorebench"}
"""The same figure gives the same text: ids are of what it shows, and no date stands in it."""
MOST_CURVES = 2
"""Metrics that are drawn over training."""


@dataclass(frozen=True)
class PagePicture:
    """An image of a page: the section that it stands in, its source and what it shows."""

    section: str
    source: str
    alt: str
    pixelated: bool = False


def pictures(report: StudyReport) -> Iterator[PagePicture]:
    """Yield a page's pictures; one that the study has no numbers for is left out."""
    content = PlottedStudy.of(report)
    with rc_context(SVG):
        for section, alt, draw in _charts(content):
            try:
                yield PagePicture(section, _svg(draw()), alt)
            except (Skipped, UserError):
                continue
    with tempfile.TemporaryDirectory() as place:
        try:
            drawn = samples(report, Path(place) / "samples")
        except (Skipped, UserError):
            return
        alt = "Samples of each method beside held-out images"
        yield PagePicture("samples", _uri("image/png", drawn.read_bytes()), alt, pixelated=True)


def _charts(content: PlottedStudy) -> Iterator[tuple[str, str, Callable[[], Figure]]]:
    report = content.report
    lead = next(iter(headline(report.metrics)), None)
    if lead:
        told = f"{metric_words(lead)} against training compute"
        yield "quality", told, partial(quality, content, lead, FLOPS)
    points = report.curves.groupby(["name", "method", "seed"]).size().groupby("name").max()
    taken = sorted(name for name in points[points > 1].index if direction(name))
    for name in headline(taken)[:MOST_CURVES]:
        told = f"{metric_words(name)} over training compute, time and images"
        yield "training", told, partial(metric_curve, content, name)
    yield "training", "Losses over training", partial(losses, content)
    if (drawn := load_points(report)) is not None:
        names = [name for name in drawn.metrics if direction(name) == "↓"] or drawn.metrics
        told = f"{metric_words(names[0])} against network evaluations"
        yield "nfe", told, partial(nfe_curve.draw, drawn, names[0])
    yield "costs", "Where each method's time went", partial(ledger, content)


def _svg(figure: Figure) -> str:
    written = io.BytesIO()
    figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None})
    return _uri("image/svg+xml", written.getvalue())


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
