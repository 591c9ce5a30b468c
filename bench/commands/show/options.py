"""The options of ``bench table``, ``plot``, ``sync`` and ``ui``."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Literal

from cyclopts import Parameter

from bench.commands.options import Results, StudyOptions


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class TableOptions(StudyOptions):
    """Whose table to print, and how."""

    format: Literal["md", "csv", "latex", "json"] = "md"
    """Format to print."""


@Parameter(name="*")
@dataclass(frozen=True)
class PlotOptions(StudyOptions):
    """Whose plots to draw."""


@Parameter(name="*")
@dataclass(frozen=True)
class SyncOptions:
    """Which studies to bring into MLflow."""

    study: str | None = None
    """Name of a study. Default: all under the results folder."""
    _: KW_ONLY
    results: Results = Path("results")
    """Folder of all results."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class UiOptions:
    """What MLflow's pages are to show, and where."""

    port: int = 5000
    """Port on the loopback interface."""
    results: Results = Path("results")
    """Folder of all results."""
