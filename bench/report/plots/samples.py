"""The methods' samples side by side, pixel by pixel."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bench.records import record, write_atomically
from bench.records.grid import grid_image, is_points, read_samples, scale_for, scatter_image
from bench.report.plots.drawing import DPI, Skipped
from bench.report.study_report import StudyReport
from bench.report.table.numbers import number

SAMPLES = 64


class SamplePanel(NamedTuple):
    """One method's samples with their title."""

    title: str
    image: NDArray[np.uint8]


def samples(report: StudyReport, path: Path) -> Path:
    """Draw each method's first 64 samples of the same seed, and real images where stored.

    Every pixel of a sample is a square of whole pixels in the file: nothing is interpolated. Points
    are drawn as scatter plots, up to 2000 of them.
    """
    panels = sample_panels(report)
    if not panels:
        raise Skipped("no finished cell has kept its samples")
    target = path.with_name(f"{path.name}.png")
    figure = side_by_side(panels)
    write_atomically(target, lambda file: figure.savefig(file, format="png", dpi=DPI))
    return target


def sample_panels(report: StudyReport) -> list[SamplePanel]:
    """Return a panel for each method that has kept its samples, of one seed, then the real ones."""
    cells = report.finished
    logs = zip(cells["cell"], cells["log"], strict=True)
    kept = {cell: (report.folder / log).with_name(record.SAMPLES) for cell, log in logs}
    cells = cells[[kept[cell].exists() for cell in cells["cell"]]]
    if cells.empty:
        return []
    # The seed that most methods have; of several such, the first.
    seed = cells["seed"].value_counts().sort_index().idxmax()
    metric = next(iter(report.metrics), None)
    panels = []
    for _, row in cells[cells["seed"] == seed].sort_values("method").iterrows():
        value = row[f"metrics.{metric}"] if metric else math.nan
        told = f"{metric} {number(value)}" if math.isfinite(value) else ""
        title = f"{row['method']}, seed {row['seed']}\n{told}"
        panels.append(SamplePanel(title, _tiles(kept[row["cell"]])))
    if (real := report.folder / "real.npz").exists():
        panels.append(SamplePanel("real\n", _tiles(real)))
    return panels


def _tiles(path: Path) -> NDArray[np.uint8]:
    images, labels = read_samples(path)
    if is_points(images):
        return scatter_image(images, labels)
    return grid_image(images[:SAMPLES], 8, scale=scale_for(min(images.shape[2:]), tile=64))


def side_by_side(panels: Sequence[SamplePanel], columns: int = 4) -> Figure:
    """Put panels into rows on a canvas counted in pixels, so that none is resampled."""
    height, width = (max(panel.image.shape[axis] for panel in panels) for axis in (0, 1))
    margin, head = 36, 96
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    total = (columns * (width + margin) + margin, rows * (height + head + margin))
    figure = Figure(figsize=(total[0] / DPI, total[1] / DPI), dpi=DPI, facecolor="white")
    for place, panel in enumerate(panels):
        left = margin + place % columns * (width + margin)
        top = total[1] - place // columns * (height + head + margin) - head
        figure.figimage(panel.image, left, top - panel.image.shape[0])
        figure.text(
            (left + panel.image.shape[1] / 2) / total[0], (top + 10) / total[1], panel.title,
            ha="center", va="bottom", fontsize=9,
        )  # fmt: skip
    return figure
