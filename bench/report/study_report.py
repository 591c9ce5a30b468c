"""A study read once, and each thing that follows computed once, for tables, notes and plots."""

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import pandas as pd

from bench.records import Anchors, Status, direction, interleaved
from bench.records.record import FOREIGN
from bench.report import frame as frames
from bench.report import published, ranking
from bench.report.frame import Cells
from bench.report.summary import TableRow, aggregate, times


@dataclass(frozen=True, eq=False)
class StudyReport:
    """A study's records, and what tables and plots are made of."""

    folder: Path
    cells: Cells
    """The records of all cells, whatever their status, with their folders."""
    foreign: Cells
    """The records of samples that were made elsewhere."""
    anchors: Anchors
    timing: interleaved.Timing | None
    """Times taken of several cells in turn, where there are any."""
    provenance: dict[str, dict[str, Any]]
    """For each metric what its values were made with, as far as all share it: the first's."""

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read a folder; UserError: no cells, not readable, or a metric not measured alike."""
        cells, anchors = frames.read_records(folder)
        foreign, timing = frames.read_cells(folder / FOREIGN), interleaved.read(folder)
        provenance = frames.shared_provenance([*cells, *foreign], anchors)
        return cls(folder, cells, foreign, anchors, timing, provenance)

    @cached_property
    def frame(self) -> pd.DataFrame:
        """A row per cell, set of foreign samples and anchor; see ``make_frame``."""
        rows = [*self.cells, *self.foreign]
        return frames.make_frame(self.folder.name, rows, self.anchors, self.timing)

    @cached_property
    def metrics(self) -> list[str]:
        """The metrics with at least one number, distances first, then scores."""
        return frames.metric_names(self.frame)

    @cached_property
    def cell_frame(self) -> pd.DataFrame:
        """The frame's rows of cells, whatever their status."""
        return self.of_kind("cell")

    @cached_property
    def finished(self) -> pd.DataFrame:
        """The cells whose numbers may be compared."""
        return self.cell_frame[self.cell_frame["status"] == str(Status.FINISHED)]

    @cached_property
    def curves(self) -> pd.DataFrame:
        """The cells' curves of training, a row per logged point; see ``make_curves``."""
        return frames.make_curves(self.cells)

    @cached_property
    def by_method(self) -> dict[str, pd.DataFrame]:
        """The finished cells of each method that has any, methods by name."""
        return {str(name): rows for name, rows in self.finished.groupby("method")}

    @cached_property
    def summary(self) -> pd.DataFrame:
        """One row per method: means and intervals over its finished seeds; see ``aggregate``."""
        return aggregate(self.cell_frame)

    @cached_property
    def method_rows(self) -> list[TableRow]:
        """One mapping per method: its row of the summary, and its timings; see ``times``."""
        measured = times(self.finished)
        untimed = {"time.unfit": False, "ledger.unbalanced": False}
        rows: list[TableRow] = self.summary.to_dict("records")  # type: ignore[assignment]
        return [row | measured.get(row["method"], untimed) for row in rows]

    @cached_property
    def foreign_rows(self) -> list[TableRow]:
        """One mapping per set of foreign samples, by its name; they carry metrics and no cost."""
        return aggregate(self.of_kind("foreign")).to_dict("records")  # type: ignore[return-value]

    @cached_property
    def anchor_rows(self) -> list[TableRow]:
        """One mapping per anchor; they carry metrics and no cost."""
        return self.of_kind("anchor").to_dict("records")  # type: ignore[return-value]

    @cached_property
    def rankings(self) -> list[ranking.Ranking]:
        """What may be said of the order of methods, for each metric that ranks."""
        return ranking.rankings(self.frame, self.metrics)

    @cached_property
    def published(self) -> published.PublishedBeside:
        """All that is published of the study's methods and anchors."""
        methods = [row for row in self.method_rows if row["seeds"]]
        return published.put_beside(self.cells, self.provenance, methods, self.anchor_rows)

    def best(self, metric: str) -> frozenset[str]:
        """The methods than which none was found better; where none is ranked, the best mean's."""
        found = next((one for one in self.rankings if one.metric == metric), None)
        if found is None:
            return frozenset()
        if found.ranks:
            return frozenset(name for name, (first, _) in found.ranks.items() if first == 1)
        means = {row["method"]: row[f"metrics.{metric}"] for row in self.method_rows}
        known = [mean for mean in means.values() if math.isfinite(mean)]
        top = (min if direction(metric) == "↓" else max)(known, default=None)
        return frozenset(name for name, mean in means.items() if mean == top)

    def of_kind(self, kind: str) -> pd.DataFrame:
        """Return the frame's rows of a kind: ``cell``, ``foreign`` or ``anchor``."""
        return self.frame[self.frame["kind"] == kind]

    def levels(self, metric: str) -> dict[str, float]:
        """Return a metric's values of anchors and foreign samples, which have no cost, by name."""
        column = f"metrics.{metric}"
        if column not in self.frame.columns:
            return {}
        rows = self.frame[self.frame["kind"].isin(["anchor", "foreign"])].dropna(subset=column)
        means = rows.groupby("method", sort=False)[column].mean()
        return {str(name): float(level) for name, level in means.items()}
