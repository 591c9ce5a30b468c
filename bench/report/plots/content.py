"""What the pictures of a study are drawn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench.records.grid import PALETTE
from bench.report.plots.drawing import MARKERS
from bench.report.study_report import StudyReport

LINES = ("-", "--", ":", "-.", (0, (3, 1, 1, 1, 1, 1)), (0, (6, 1)), (0, (1, 2.5)))


@dataclass(frozen=True)
class PlottedStudy:
    """A study's report, and how each of its methods looks in every picture."""

    report: StudyReport
    colours: dict[str, str]
    markers: dict[str, str]
    lines: dict[str, Any]

    @classmethod
    def of(cls, report: StudyReport) -> PlottedStudy:
        """Give each method its colour, marker and line."""
        return cls(report, *appearances(sorted(report.cell_frame["method"].unique())))


def appearances(methods: Sequence[str]) -> tuple[dict[str, str], dict[str, str], dict[str, Any]]:
    """Give each method a colour, a marker and a line; variants share their method's colour."""
    families: dict[str, list[str]] = {}
    for method in methods:
        families.setdefault(method.split(":")[0], []).append(method)
    apart = len(families) == len(methods)
    colours, markers, lines = {}, {}, {}
    for place, family in enumerate(families.values()):
        for index, method in enumerate(family):
            colours[method] = PALETTE[place % len(PALETTE)]
            markers[method] = MARKERS[(place if apart else index) % len(MARKERS)]
            lines[method] = LINES[index % len(LINES)]
    return colours, markers, lines
