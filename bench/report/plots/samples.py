"""Held-out images and the methods' samples side by side, pixel by pixel."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bench.records import record, write_atomically
from bench.records.grid import (
    ScatterLook,
    by_class,
    grid_image,
    is_points,
    read_samples,
    scale_for,
    scatter_image,
)  # fmt: skip
from bench.report.plots.drawing import DPI, Skipped
from bench.report.study_report import StudyReport
from bench.report.table.numbers import number
from bench.report.titles import metric_title

SAMPLES = 64
LOOK = ScatterLook(unlabelled="#444444", text=20)
"""Dots without a class are grey: in a class's colour they would seem to be of it."""


class SamplePanel(NamedTuple):
    """One method's samples with their title."""

    title: str
    image: NDArray[np.uint8]


def samples(report: StudyReport, path: Path) -> Path:
    """Draw 64 held-out images, and of each method as many samples of the same seed.

    In the order of the classes where classes were asked for. Every pixel of a sample is a square
    of whole pixels in the file: nothing is interpolated. Points are drawn as scatter plots, up to
    2000 of them, over the true density.
    """
    panels = sample_panels(report)
    if not panels:
        raise Skipped("no finished cell has kept its samples")
    target = path.with_name(f"{path.name}.png")
    figure = side_by_side(panels)
    write_atomically(target, lambda file: figure.savefig(file, format="png", dpi=DPI))
    return target


def sample_panels(report: StudyReport) -> list[SamplePanel]:
    """Return real images, where stored, and a panel for each method that has kept its samples.

    All of one seed. None where no method has any.
    """
    cells = report.finished
    logs = zip(cells["cell"], cells["log"], strict=True)
    kept = {cell: (report.folder / log).with_name(record.SAMPLES) for cell, log in logs}
    cells = cells[[kept[cell].exists() for cell in cells["cell"]]]
    if cells.empty:
        return []
    # The seed that most methods have; of several such, the first.
    seed = cells["seed"].value_counts().sort_index().idxmax()
    metric = next(iter(report.metrics), None)
    real, panels, look = report.folder / record.REAL, [], LOOK
    if real.exists():
        look = LOOK._replace(density=_density(real))
        panels.append(SamplePanel("real (held-out)\n", _tiles(*read_samples(real), look)))
    for _, row in cells[cells["seed"] == seed].sort_values("method").iterrows():
        value = row[f"metrics.{metric}"] if metric else math.nan
        told = f"{metric_title(str(metric))} {number(value)}" if math.isfinite(value) else ""
        images, labels = read_samples(kept[row["cell"]])
        sorted_by = "" if labels is None or is_points(images) else ", by class"
        title = f"{row['method']}, seed {row['seed']}{sorted_by}\n{told}"
        panels.append(SamplePanel(title, _tiles(images, labels, look)))
    return panels


def _density(path: Path) -> NDArray[Any] | None:
    with np.load(path) as kept:
        density: NDArray[Any] | None = kept.get("density")
    return density


def _tiles(
    images: NDArray[Any], labels: NDArray[Any] | None, look: ScatterLook
) -> NDArray[np.uint8]:
    if is_points(images):
        return scatter_image(images, labels, look)
    chosen = images[:SAMPLES] if labels is None else images[by_class(labels, SAMPLES)]
    return grid_image(chosen, 8, scale=scale_for(min(images.shape[2:]), tile=64))


def side_by_side(panels: Sequence[SamplePanel], columns: int = 5) -> Figure:
    """Put panels into rows on a canvas counted in pixels, so that none is resampled."""
    height, width = (max(panel.image.shape[axis] for panel in panels) for axis in (0, 1))
    margin, head = 36, 96
    rows = -(-len(panels) // columns)
    columns = -(-len(panels) // rows)
    total = (columns * (width + margin) + margin, rows * (height + head + margin))
    figure = Figure(figsize=(total[0] / DPI, total[1] / DPI), dpi=DPI, facecolor="white")
    for place, panel in enumerate(panels):
        left = margin + place % columns * (width + margin)
        top = total[1] - place // columns * (height + head + margin) - head
        figure.figimage(panel.image, left, top - panel.image.shape[0])
        figure.text(
            (left + panel.image.shape[1] / 2) / total[0], (top + 10) / total[1], panel.title,
            ha="center", va="bottom", fontsize=fitting(panel),
        )  # fmt: skip
    return figure


def fitting(panel: SamplePanel) -> float:
    """Return the size of a title, in points, with which it is no wider than its panel."""
    longest = max(map(len, panel.title.splitlines()))
    wide: float = panel.image.shape[1] / DPI * 72
    return min(9.0, wide / (0.6 * max(1, longest)))
