"""Studies: run, opened, shown as frames, tables and plots; and samples drawn from their cells."""

from __future__ import annotations

import base64
import html
import io
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.api.arguments import Names, options_of
from bench.config import UserError, unknown
from bench.records import Record, Status

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import torch
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from bench.commands.compare.comparison import Comparison
    from bench.report.study_report import StudyReport
    from bench.worker import Trained


class FailedCellsError(RuntimeError):
    """Cells of a study have no result; ``study`` has the others, and a row for each failure."""

    def __init__(self, message: str, study: Study) -> None:
        super().__init__(message)
        self.study = study


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
    from bench.commands.lifecycle import check_writable, tracked
    from bench.commands.run import RunOptions
    from bench.commands.run.request import resolve
    from bench.progress.display import Display
    from bench.report.table.formats import write_tables

    given = {"methods": methods, "dataset": dataset, "seeds": seeds, "budget": budget}
    chosen = options_of(RunOptions, given | {"overrides": set} | options)
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
    done = {folder for folder, row in made.report.cells if row.status == Status.FINISHED}
    failed = [cell.folder for cell in planned if cell.broken or cell.folder not in done]
    if failed:
        logs = ", ".join(str(folder) for folder in failed)
        raise FailedCellsError(f"{len(failed)} cell(s) have no result; see {logs}", made)
    return made


def open_study(path: str | Path) -> Study:
    """Open a study by its folder, or by its name under ``results``.

    Raises:
        UserError: there is none, a record cannot be read, or values were not measured alike.
    """
    from bench.records import study_at

    study = Study(study_at(Path("results"), str(path)))
    assert study.report.cells
    return study


def as_study(given: Study | str | Path) -> Study:
    """Return a study that is given as such, or by its folder or name."""
    return given if isinstance(given, Study) else open_study(given)


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
        from bench.sampling.source import draw_batches
        from bench.training.checkpoint import generators_kept

        if n < 1:
            raise UserError(f"{n} samples: draw at least one")
        with generators_kept():
            built = self._trained.build()
            source, batch = built.source("samples"), built.config.settings.sampling.batch
            if labels is not None:
                classes = source.frequencies
                if classes is None:
                    raise UserError(f"'{self.record.method}' draws without labels; leave them out")
                given = given_labels(labels, n, len(classes), batch, built.device)
                source.labels = given  # type: ignore[method-assign]
            return draw_batches(source, n, batch)[0]

    @cached_property
    def _trained(self) -> Trained:
        from bench.commands.finished_cells import open_cell

        return open_cell(self.folder, self.record)


def given_labels(labels: Any, n: int, classes: int, batch: int, device: torch.device) -> Any:
    """Return what gives a source its batches' labels: one for all, or n, (n,), the last repeated.

    Raises UserError where they do not fit.
    """
    import numpy as np
    import torch

    found = np.asarray(labels)
    if found.dtype.kind not in "iu" or found.shape not in {(), (n,)}:
        raise UserError(f"labels: give one class, or {n} of them, as whole numbers")
    if not 0 <= found.min() <= found.max() < classes:
        raise UserError(f"labels: classes are 0 to {classes - 1}")
    every = np.broadcast_to(found, (n,)).astype(np.int64)
    filled = torch.from_numpy(np.pad(every, (0, -n % batch), mode="edge"))
    return lambda size, index: filled[index * size : (index + 1) * size].to(device)


class Study:
    """A study on disk, read once; open it again to see what was added since."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def __repr__(self) -> str:
        return f"Study({str(self.folder)!r})"

    @cached_property
    def report(self) -> StudyReport:
        """The records, and what tables and plots are made of; its frames are not to be changed."""
        from bench.report.study_report import StudyReport

        return StudyReport.read(self.folder)

    def frame(self) -> pd.DataFrame:
        """Return a row per cell (``kind="cell"``), set of foreign samples and anchor.

        Columns: ``metrics.<name>`` with ``.spread``, ``.error`` and ``.corrected``,
        ``cost.<field>``, ``ledger.<part>``; units are the records': seconds, milliseconds, bytes,
        FLOPs.
        """
        return self.report.frame.copy()

    def curves(self) -> pd.DataFrame:
        """Return a row per logged point: method, seed, stage, images, seconds, flops, name, value.

        ``flops`` is what training had spent by then, NaN where the record does not tell.
        """
        return self.report.curves.copy()

    def table(self, format: str = "md") -> str:
        """Return the table as ``md``, ``csv``, ``latex`` or ``json``; UserError otherwise."""
        from bench.report.table.formats import render_table

        return render_table(self.report, format)

    def plot(self, metric: str, x: str = "train_flops", ax: Axes | None = None) -> Axes:
        """Draw a point per method: a metric against a cost, or side by side at equal costs.

        Bars are 95 % intervals over seeds, or of one seed ± 1.96 standard errors within it.

        Args:
            metric: the metric's name, as in the table.
            x: ``ms_per_image``, ``train_flops``, ``train_seconds`` or ``nfe``.
            ax: matplotlib's axes to draw into; of a new figure of pyplot's by default.

        Raises:
            UserError: the metric or the cost is unknown, or no method has both.
        """
        from matplotlib import rc_context

        from bench.report.plots.drawing import STYLE, PlottedStudy, Skipped, wrapped
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
                told = draw_quality(ax, PlottedStudy.of(self.report), metric, COSTS[x])
            except Skipped as reason:
                raise UserError(str(reason)) from reason
            inches = ax.get_window_extent().width / ax.figure.dpi
            ax.set_title(wrapped(inches, told), fontsize=8, color="#444444")
            ax.legend()
        return ax

    def cell(self, label: str, seed: int = 0) -> StudyCell:
        """Return the cell of a method or variant with a seed; UserError if there is none."""
        cells = {(row.method, row.seed): (folder, row) for folder, row in self.report.cells}
        if (label, seed) not in cells:
            named = [f"{method} with seed {known}" for method, known in cells]
            raise unknown("cell", f"{label} with seed {seed}", named)
        return StudyCell(*cells[label, seed])

    def compare(self, other: Study | str | Path) -> Comparison:
        """Say what moved from this study to another beyond noise; UserError for the same study."""
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
