"""The Python interface: run studies, read them, draw from what they trained, measure images.

What is wrong with a value raises ``bench.errors.UserError``, as one line; nothing exits.

    study = bench.run(methods=["sde", "cdm"], dataset="digits", seeds=[0, 1, 2])
    study = bench.open_study("results/digits-quick")
    study.frame()                                   # a row per cell, as a pandas DataFrame
    study.plot("fd_digits_500", x="train_flops")
    study.cell("sde", 0).samples(16)                # uint8 (16, 1, 8, 8)
"""

from __future__ import annotations

import base64
import html
import io
import random
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.config.errors import UserError, unknown
from bench.records.record import Record, Status, Value
from bench.report.study_report import StudyReport

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from bench.commands.compare.comparison import Comparison
    from bench.worker import Trained

Names = str | Sequence[str]
"""One name, several separated by commas, or a sequence of names."""


class FailedCellsError(RuntimeError):
    """Cells of a study have no result; ``study`` has the others, and a row for each failure."""

    def __init__(self, message: str, study: Study) -> None:
        super().__init__(message)
        self.study = study


# Studies ------------------------------------------------------------------------------------------


def run(
    methods: Names | None = None,
    dataset: str = "digits",
    *,
    seeds: int | str | Sequence[int] = 0,
    budget: str | None = None,
    set: Mapping[str, object] | Sequence[str] = (),
    progress: bool = False,
    **options: Any,
) -> Study:
    """Run a study as ``bench run`` does, and write its tables; finished cells are reused.

    Args:
        methods: labels of methods and variants, ``cdm:semi``; all built-in methods by default.
        dataset: the data set; see ``bench datasets``.
        seeds: a seed, several, or ``"0-2"``.
        budget: training of each method, ``"50kimg"``, ``"600s"`` or ``"1e15flop"``; the preset's
            by default.
        set: values in place of the preset's, ``{"training.batch": 64}`` or
            ``["training.batch=64"]``.
        progress: whether to show on standard error how it goes on.
        options: further fields of ``bench.commands.run.RunOptions``: ``preset``, ``results``,
            ``study``, ``device``, ``jobs``, ``timeout``, ``memory`` (bytes), ``data``,
            ``weights``, ``reference``, ``rerun``, ``tracking``.

    Raises:
        UserError: a value makes no sense; nothing has been trained.
        FailedCellsError: cells failed; the others have their results.
        TypeError: an option is unknown.
    """
    from rich.console import Console

    from bench import study
    from bench.commands.run import RunOptions
    from bench.commands.run.request import resolve
    from bench.commands.shared import check_writable
    from bench.progress.display import Display
    from bench.report.table import write_tables

    chosen = RunOptions(
        methods=None if methods is None else names_in(methods),
        dataset=dataset,
        seeds=seeds_in(seeds),
        budget=budget,
        overrides=overrides_in(set),
        **{name: as_typed(name, value) for name, value in options.items()},
    )
    if chosen.curve or chosen.dry_run:
        raise UserError("curve and dry_run are for the command line: bench run")
    request = replace(resolve(chosen), command_started=time.time())
    check_writable(request.results)
    display = Display() if progress else Display(Console(quiet=True))
    with tracked(request.results, chosen.tracking) as (open_tracker, sync):
        planned = study.execute(request, open_tracker, display)
        made = Study(request.folder)
        write_tables(made.report)
        sync(request.folder)
    failed = [cell.folder for cell in planned if cell.broken or not made.has_result(cell.folder)]
    if failed:
        logs = ", ".join(str(folder) for folder in failed)
        raise FailedCellsError(f"{len(failed)} cell(s) have no result; see {logs}", made)
    return made


@contextmanager
def tracked(results: Path, wanted: bool) -> Iterator[tuple[Any, Any]]:
    """Yield what opens MLflow's tracker and what brings it up to date; dropped after an error."""
    from functools import partial

    from bench.tracking import Background, NullTracker, Tracker

    trackers: list[Background | NullTracker] = []

    def open_tracker() -> Background | NullTracker:
        tracker = Background(partial(Tracker.open, results)) if wanted else NullTracker()
        trackers.append(tracker)
        return tracker

    def sync(folder: Path) -> None:
        for tracker in trackers:
            tracker.sync_study(folder)
            tracker.close()

    try:
        yield open_tracker, sync
    except BaseException:
        for tracker in trackers:
            tracker.drop()
        raise


def names_in(given: Names) -> tuple[str, ...]:
    """Return names as the command's options have them."""
    parts = given.split(",") if isinstance(given, str) else given
    return tuple(part.strip() for part in parts if part.strip())


def seeds_in(given: int | str | Sequence[int]) -> tuple[int, ...]:
    """Return seeds as the command's options have them."""
    from bench.commands.options import parse_seeds

    if isinstance(given, str):
        return parse_seeds(given)
    return (given,) if isinstance(given, int) else tuple(given)


def overrides_in(given: Mapping[str, object] | Sequence[str]) -> tuple[str, ...]:
    """Return overridden values as the command's ``--set`` has them."""
    import json

    if isinstance(given, str):
        return (given,)
    if not isinstance(given, Mapping):
        return tuple(given)
    # A string is written bare, as it is typed; all else as JSON, which YAML reads alike.
    return tuple(
        f"{key}={value if isinstance(value, str) else json.dumps(value)}"
        for key, value in given.items()
    )


def as_typed(name: str, value: Any) -> Any:
    """Return a further option as the command's options have it: paths, and tuples for lists."""
    if name in {"data", "reference", "results"} and value is not None:
        return Path(value)
    if name in {"weights", "rerun", "extractor", "metrics"} and value is not None:
        return names_in(value) if name != "weights" or not isinstance(value, str) else (value,)
    return value


def open_study(path: str | Path) -> Study:
    """Open a study by its folder, or by its name under ``results``.

    Raises:
        UserError: there is none, a record cannot be read, or values were not measured alike.
    """
    from bench.records.studies import study_at

    study = Study(study_at(Path("results"), str(path)))
    assert study.report.cells
    return study


def as_study(given: Study | str | Path) -> Study:
    """Return a study that is given as such, or by its folder or name."""
    return given if isinstance(given, Study) else open_study(given)


class Study:
    """A study on disk, read once; open it again to see what was added since."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def __repr__(self) -> str:
        return f"Study({str(self.folder)!r})"

    @cached_property
    def report(self) -> StudyReport:
        """The records, and what tables and plots are made of; its frames are not to be changed."""
        return StudyReport.read(self.folder)

    def frame(self) -> pd.DataFrame:
        """Return a row per cell (``kind="cell"``), set of foreign samples and anchor.

        Columns: ``metrics.<name>`` with ``.spread``, ``.error`` and ``.corrected``,
        ``cost.<field>``, ``ledger.<part>``; units are the records': seconds, milliseconds, bytes,
        FLOPs.
        """
        return self.report.frame.copy()

    def curves(self) -> pd.DataFrame:
        """Return a row per logged point: method, seed, images, seconds, name, value."""
        return self.report.curves.copy()

    def table(self, format: str = "md") -> str:
        """Return the table as ``md``, ``csv``, ``latex`` or ``json``; UserError otherwise."""
        from bench.report.table import render_table

        return render_table(self.report, format)

    def plot(self, metric: str, x: str = "train_flops", ax: Axes | None = None) -> Axes:
        """Draw a point per method: a metric against a cost, 95 % intervals over seeds as bars.

        Args:
            metric: the metric's name, as in the table.
            x: ``ms_per_image``, ``train_flops``, ``train_seconds`` or ``nfe``.
            ax: matplotlib's axes to draw into; of a new figure of pyplot's by default.

        Raises:
            UserError: the metric or the cost is unknown, or no method has both.
        """
        from matplotlib import rc_context

        from bench.report.plots.content import PlottedStudy
        from bench.report.plots.drawing import STYLE, Skipped
        from bench.report.plots.quality import COSTS, draw_quality

        if metric not in self.report.metrics:
            raise unknown("metric", metric, self.report.metrics)
        if x not in COSTS:
            raise unknown("cost", x, COSTS)
        with rc_context(STYLE):
            if ax is None:
                from matplotlib import pyplot

                ax = pyplot.subplots(layout="constrained")[1]
            try:
                draw_quality(ax, PlottedStudy.of(self.report), metric, COSTS[x])
            except Skipped as reason:
                raise UserError(str(reason)) from reason
            ax.legend()
        return ax

    def cell(self, label: str, seed: int = 0) -> StudyCell:
        """Return the cell of a method or variant with a seed; UserError if there is none."""
        cells = {(row.method, row.seed): (folder, row) for folder, row in self.report.cells}
        if (label, seed) not in cells:
            named = [f"{method} with seed {known}" for method, known in cells]
            raise unknown("cell", f"{label} with seed {seed}", named)
        return StudyCell(*cells[label, seed])

    def has_result(self, folder: Path) -> bool:
        """Whether the cell in a folder is finished."""
        return any(f == folder and row.status == Status.FINISHED for f, row in self.report.cells)

    def compare(self, other: Study | str | Path) -> Comparison:
        """Say what moved from this study to another beyond noise.

        Raises:
            UserError: it is the same study, or there is none.
        """
        from bench.commands.compare.comparison import compare

        return compare(self.folder, as_study(other).folder)

    def comparison_table(self, other: Study | str | Path, format: str = "md") -> str:
        """Write what ``compare`` finds as ``md``, ``json`` or ``csv``; UserError otherwise."""
        from bench.commands.compare.formats import render_comparison

        return render_comparison(self.folder, as_study(other).folder, format)

    def _repr_html_(self) -> str:
        """Show the table and the sample grid in a notebook."""
        return "\n".join([f"<h4>{html.escape(self.folder.name)}</h4>", self._html(), self._grid()])

    def _html(self) -> str:
        from bench.report.table.columns import columns
        from bench.report.table.rows import body

        chosen = columns(self.report)
        head = "".join(f"<th>{html.escape(column.title)}</th>" for column in chosen)
        rows = [row for part in body(self.report, chosen) for row in part]
        lines = ["".join(f"<td>{html.escape(text)}</td>" for text in row) for row in rows]
        inner = "\n".join(f"<tr>{line}</tr>" for line in [head, *lines])
        return f"<table>\n{inner}\n</table>"

    def _grid(self) -> str:
        """Return the methods' samples side by side as an image within the page; empty without."""
        from bench.report.plots.drawing import DPI
        from bench.report.plots.samples import sample_panels, side_by_side

        panels = sample_panels(self.report)
        if not panels:
            return ""
        file = io.BytesIO()
        side_by_side(panels).savefig(file, format="png", dpi=DPI)
        encoded = base64.b64encode(file.getvalue()).decode()
        return f'<img alt="samples" style="max-width: 100%" src="data:image/png;base64,{encoded}">'


# Cells --------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class StudyCell:
    """One method with one seed."""

    folder: Path
    record: Record
    """Status, metrics with provenance, costs, ledger and environment."""

    def samples(
        self, n: int, *, labels: int | Sequence[int] | NDArray[np.integer] | None = None
    ) -> NDArray[Any]:
        """Draw from the averaged networks of the cell's checkpoint, with its own sampler.

        Without ``labels`` the first ``n`` of the cell's own stream: on a CPU, those that it kept
        and was measured on, to the bit.

        Args:
            n: images to draw, at least one.
            labels: the class for all, or one for each, (n,), for methods that take classes; by
                default classes are drawn as often as they are in the data.

        Returns:
            uint8 images (n, C, H, W), or float points (n, 2, 1, 1).

        Raises:
            UserError: the cell is not finished, its checkpoint is gone, its method's source has
                changed since, its data are not there, or the labels do not fit.
        """
        from bench.sampling import draw_images

        if n < 1:
            raise UserError(f"{n} samples: draw at least one")
        with generators_kept():
            built = self._trained.build()
            source = built.source("samples")
            if labels is not None:
                classes = source.frequencies
                if classes is None:
                    raise UserError(f"'{self.record.method}' draws without labels; leave them out")
                given = labels_of(labels, n, len(classes))
                source.labels = given_labels(given, built)  # type: ignore[method-assign]
            return draw_images(source, n, built.config.settings.sampling.batch)

    @cached_property
    def _trained(self) -> Trained:
        from bench.commands.sample.sweep import refusal
        from bench.records.study_file import read_study
        from bench.worker import load_finished

        sha256 = read_study(self.folder.parent).prepared.data_sha256
        reason = refusal(self.folder, self.record, sha256)
        if reason is not None:
            raise UserError(f"{self.folder.name}: {reason}")
        cache = self.folder.parent.parent.resolve() / "cache"
        return load_finished(self.folder, cache, sha256)


def labels_of(labels: Any, n: int, classes: int) -> NDArray[np.int64]:
    """Return a class for each of n samples, (n,); UserError where they do not fit."""
    import numpy as np

    found = np.asarray(labels)
    if found.dtype.kind not in "iu" or found.shape not in {(), (n,)}:
        raise UserError(f"labels: give one class, or {n} of them, as whole numbers")
    if found.size and not 0 <= found.min() <= found.max() < classes:
        raise UserError(f"labels: classes are 0 to {classes - 1}")
    return np.broadcast_to(found, (n,)).astype(np.int64)


def given_labels(labels: NDArray[np.int64], built: Any) -> Any:
    """Return what gives a source its batches' labels; the last batch is filled with the last."""
    import numpy as np
    import torch

    def batch(size: int, index: int) -> torch.Tensor:
        part = labels[index * size : (index + 1) * size]
        filled = np.pad(part, (0, size - len(part)), mode="edge")
        return torch.from_numpy(filled).to(built.device)

    return batch


@contextmanager
def generators_kept() -> Iterator[None]:
    """Leave the caller's global generators, threads and precision as they were."""
    import numpy as np
    import torch

    python, numpy = random.getstate(), np.random.get_state()
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    tf32 = torch.backends.cudnn.allow_tf32
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.allow_tf32 = tf32


# Images from elsewhere ----------------------------------------------------------------------------


def evaluate(
    images: str | Path | NDArray[np.uint8],
    dataset: str,
    *,
    labels: NDArray[np.integer] | None = None,
    samples: int | None = None,
    metrics: Names | None = None,
    **options: Any,
) -> dict[str, Value]:
    """Measure images made elsewhere, as ``bench evaluate PATH --dataset ...`` does.

    Args:
        images: a folder, zip or ``.npz`` of images, or uint8 (N, C, H, W) or (N, H, W, C).
        dataset: the data set that they are compared with.
        labels: with an array of images, the class that each was asked for, (N,).
        samples: images to take, a fixed random part; all by default.
        metrics: what to measure: ``fd``, ``kd``, ``is``, ``precision``, ...; all by default.
        options: further fields of ``bench.commands.evaluate.EvaluateOptions``: ``extractor``,
            ``preset``, ``data``, ``weights``, ``device``, ``results``, ``reference``.

    Returns:
        For each metric's name its ``value``, what stands beside it (``spread``, ``error``,
        ``corrected``), and its ``provenance``: extractor, reference, protocol, number of images.

    Raises:
        UserError: no images of the data set's shape, too few, or an unknown name.
        TypeError: an option is unknown.
    """
    from bench.commands.evaluate import EvaluateOptions
    from bench.commands.evaluate.request import request_of, resolve_measuring
    from bench.commands.evaluate.stored import evaluate_samples

    if labels is not None and isinstance(images, (str, Path)):
        raise UserError("labels: images in a file or folder have their own; leave them out")
    chosen = EvaluateOptions(
        path=str(images) if isinstance(images, (str, Path)) else "images",
        dataset=dataset,
        samples=samples,
        metrics=as_typed("metrics", metrics),
        **{name: as_typed(name, value) for name, value in options.items()},
    )
    settings = resolve_measuring(chosen, dataset, chosen.reference)
    request = replace(request_of(settings, chosen, chosen.metrics), passing=silent)
    with generators_kept(), as_file(images, labels) as path:
        return dict(evaluate_samples(path, request, wanted=samples).values)


def silent(title: str) -> Any:
    """Show nothing of a long pass."""
    return nullcontext(lambda fraction: None)


@contextmanager
def as_file(
    images: str | Path | NDArray[np.uint8], labels: NDArray[np.integer] | None
) -> Iterator[Path]:
    """Yield where images lie: as given, or an array in a file that is gone afterwards."""
    import numpy as np

    if isinstance(images, (str, Path)):
        yield Path(images)
        return
    held: dict[str, Any] = {"images": np.ascontiguousarray(images)}
    if labels is not None:
        held["labels"] = np.asarray(labels)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.npz"
        np.savez(path, **held)
        yield path
