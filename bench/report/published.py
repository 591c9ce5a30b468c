"""Published values beside ours: whether they may be compared, and whether ours is as expected.

They lie in ``configs/published/DATASET.yaml``. One applies only where data, preset, settings,
metric and number of samples are those that it was measured with. Too good is as suspicious as too
bad: a value is flagged on either side of its band.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from bench.config import UserError, config_folder, one_line
from bench.records import Status, read_curves
from bench.records.metric_names import direction
from bench.report.frame import Cells, flatten, read_config
from bench.report.summary import TableRow, mean_interval

Provenance = Mapping[str, Mapping[str, Any]]
"""What each metric's values were made with."""


class Published(BaseModel, frozen=True, extra="forbid"):
    """One value from a paper."""

    rows: tuple[str, ...] = Field(min_length=1)
    """Labels of the methods, or names of the anchors, that it is of."""
    metric: str
    value: float
    band: tuple[float, float]
    """Where ours is expected."""
    why: str
    """The reason for the band's width."""
    source: str
    checked: str = ""
    """What the value was held against; nothing where nobody has."""
    rule: Literal["end", "best_snapshot"] = "end"
    """``best_snapshot``: the best of the end and of the snapshots measured alike, as theirs is."""
    setting: dict[str, Any] = {}
    """What the cell's ``config.yaml`` must hold, by dotted path; null: null, or nothing."""
    provenance: dict[str, Any] = {}
    """What our value's provenance must hold."""

    @model_validator(mode="after")
    def _band_holds_the_value(self) -> "Published":
        if not self.band[0] <= self.value <= self.band[1]:
            raise ValueError(f"band {self.band} does not hold {self.value}")
        return self


class _File(BaseModel, extra="forbid"):
    settings: dict[str, dict[str, Any]] = {}
    """Blocks that the values share; nothing is read from here."""
    values: tuple[Published, ...]


@dataclass(frozen=True)
class Beside:
    """A row's value beside a published one that applies to it."""

    row: str
    mean: float
    half: float
    """Half-width of the 95 % t interval over seeds; NaN with one."""
    error: float
    """Standard error within the one seed; NaN with several or none."""
    published: Published

    @property
    def verdict(self) -> str:
        """Where our mean stands: ``inside``, ``below band`` or ``above band``."""
        low, high = self.published.band
        return "below band" if self.mean < low else "inside" if self.mean <= high else "above band"


@dataclass(frozen=True)
class PublishedBeside:
    """All that is published of a study's rows."""

    beside: list[Beside]
    reasons: dict[str, list[str]]
    """Why nothing published applies, and to which rows."""


def read_published(dataset: str) -> tuple[Published, ...]:
    """Read a data set's published values, if there is a file; UserError if it is not readable."""
    path = config_folder() / "published" / f"{dataset}.yaml"
    if not path.exists():
        return ()
    try:
        return _File.model_validate(yaml.safe_load(path.read_bytes())).values
    except (yaml.YAMLError, ValidationError) as error:
        raise UserError(f"{path}: {one_line(error)[:300]}; install scorebench anew") from error


def put_beside(
    cells: Cells, provenance: Provenance, methods: Sequence[TableRow], anchors: Sequence[TableRow]
) -> PublishedBeside:
    """Put published values beside those of a study's methods and anchors."""
    datasets = dict.fromkeys(record.dataset for _, record in cells)
    known = [value for dataset in datasets for value in read_published(dataset)]
    done = [(folder, record) for folder, record in cells if record.status == Status.FINISHED]
    found = PublishedBeside([], {})
    for row in methods:
        own = [folder for folder, record in done if record.method == row["method"]]
        beside, reason = _of_row(row, known, provenance, own)
        found.beside.extend(beside)
        if not beside:
            found.reasons.setdefault(reason, []).append(row["method"])
    for row in anchors:
        found.beside.extend(_of_row(row, known, provenance, ())[0])
    return found


def _of_row(
    row: TableRow, known: Sequence[Published], provenance: Provenance, cells: Sequence[Path]
) -> tuple[list[Beside], str]:
    """Return what applies to a row, and why something does not: the last reason found."""
    found, reason = [], "none is known of these data"
    for published in known:
        if row["method"] not in published.rows:
            continue
        if told := _mismatch(row, published, provenance, cells):
            reason = f"{told} ({published.metric} {published.value:g}, {published.source})"
        else:
            found.append(_beside(row, published, cells))
    return found, reason


def _beside(row: TableRow, published: Published, cells: Sequence[Path]) -> Beside:
    name = f"metrics.{published.metric}"
    mean, half = float(row[name]), float(row.get(f"{name}:half", math.nan))
    alone = row.get(f"{name}:n", 1) <= 1
    error = float(row.get(f"{name}.error", math.nan)) if alone else math.nan
    if published.rule == "best_snapshot":
        best = [_best(cell, published.metric) for cell in cells]
        if best and not any(map(math.isnan, best)):
            mean, half, _ = mean_interval(best)
    return Beside(str(row["method"]), mean, half, error, published)


def _best(cell: Path, metric: str) -> float:
    """Return the best value of a metric on a cell's curves, whose last point is the end's."""
    values = [point["values"].get(metric, math.nan) for point in read_curves(cell)]
    known = [value for value in values if not math.isnan(value)]
    best = max if direction(metric) == "↑" else min
    return best(known, default=math.nan)


def _mismatch(
    row: TableRow, published: Published, provenance: Provenance, cells: Sequence[Path]
) -> str:
    """Say why a published value does not apply to a row, or nothing."""
    if math.isnan(row.get(f"metrics.{published.metric}", math.nan)):
        return f"{published.metric} was not measured"
    told = _differs(published.provenance, flatten("", provenance.get(published.metric, {})))
    for cell in cells:
        told = told or _differs(published.setting, read_config(cell))
    return told


def _differs(expected: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """Say in what the found values depart from the expected ones, or nothing."""
    for key, value in expected.items():
        if found.get(key) != value:
            published = "nothing" if value is None else value
            return f"{key} is {found.get(key, 'not said')}, published with {published}"
    return ""
