"""Quality against a setting of sampling, of finished cells sampled again: a table a setting."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from bench.records import direction, write_text
from bench.report.frame import metric_names, read_config
from bench.report.nfe_table import AS_RUN, drawn_again, point_row
from bench.report.study_report import StudyReport
from bench.report.summary import mean_interval
from bench.report.table.formats import markdown_table
from bench.report.table.numbers import plus_minus


@dataclass(frozen=True)
class SweptSetting:
    """The points of one setting, and the report of the cells' own records."""

    setting: str
    points: pd.DataFrame
    """One row a point, as a curve's (``point_row``), with ``value``, the setting's; of the cells
    that were drawn again the own record is a point as well."""
    report: StudyReport

    @property
    def metrics(self) -> list[str]:
        """The metrics that were measured on the points."""
        return metric_names(self.points[~self.points["own"]])

    @property
    def name(self) -> str:
        """What its files are called, without ending."""
        return f"sweep-{self.setting}"


def swept_settings(report: StudyReport) -> list[SweptSetting]:
    """Read what was swept of a study's finished cells, by the settings' names."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for folder, record, stored in drawn_again(report):
        settings = dict.fromkeys(key for point in stored.points for key in point.swept)
        config = read_config(folder) if settings else {}
        for setting in settings:
            own = {"value": config.get(f"method_config.{setting}", math.nan)}
            rows.setdefault(setting, []).append(point_row(folder, record, None) | own)
        for point in stored.points:
            for setting, value in point.swept.items():
                rows[setting].append(point_row(folder, record, point) | {"value": value})
    return [SweptSetting(name, pd.DataFrame(found), report) for name, found in sorted(rows.items())]


def markdown(content: SweptSetting) -> str:
    """Write a row a method and value, a column a metric; failures, and what it means."""
    titles = [f"{name} {direction(name)}".rstrip() for name in content.metrics]
    drawn = content.points[content.points["reason"] == ""]
    groups = drawn.groupby(["method", "value", "own"])
    rows = [_row(key, points, content.metrics) for key, points in groups]
    parts = [markdown_table(["method", content.setting, *titles, "seeds"], rows)]
    failed = content.points[content.points["reason"] != ""]
    if len(failed):
        head = ["cell", "value", "reason"]
        parts += ["Failed:\n", markdown_table(head, failed[head].map(str).to_numpy().tolist())]
    return "\n".join([*parts, "\n".join(f"- {note}" for note in notes(content)) + "\n"])


def _row(key: Any, points: pd.DataFrame, metrics: Sequence[str]) -> list[str]:
    method, value, own = key
    means = (mean_interval(points[f"metrics.{name}"].dropna().tolist()) for name in metrics)
    filled = [plus_minus(mean, half) if count else "" for mean, half, count in means]
    told = f"{value:g} ({AS_RUN})" if own else f"{value:g}"
    return [str(method), told, *filled, str(points["seed"].nunique())]


def notes(content: SweptSetting) -> list[str]:
    """Return the sentences under the table."""
    spread = "; ± is the half-width of the 95 % t interval over them"
    more = spread if content.points["seed"].nunique() > 1 else ""
    return [
        f"Study: {content.report.folder.name}. {content.setting} acts when samples are drawn and "
        "in no loss: the networks are the cells' own, trained once.",
        f"{AS_RUN}: the cells' own records. All other settings are theirs; equal seeds draw from "
        "equal noise at every value.",
        f"seeds: how many were drawn{more}.",
        "Nothing was trained again, so metrics that train a network or look at the denoiser are "
        "left out. The best of many values on one set of samples looks better than it is: compare "
        "it again on other seeds.",
    ]


def render_sweep(report: StudyReport, setting: str) -> str:
    """Write the table of one setting as Markdown; empty where it was not swept."""
    return "".join(markdown(found) for found in swept_settings(report) if found.setting == setting)


def write_sweep_tables(report: StudyReport) -> list[Path]:
    """Write a table a swept setting into the study, Markdown and CSV, each atomically."""
    paths = []
    for content in swept_settings(report):
        path = report.folder / f"{content.name}.md"
        write_text(path, markdown(content))
        raw = content.points.drop(columns="asked").rename(columns={"value": content.setting})
        write_text(csv := report.folder / f"{content.name}.csv", raw.to_csv(index=False))
        paths += [path, csv]
    return paths
