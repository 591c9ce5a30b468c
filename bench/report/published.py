"""Published values beside ours: whether they may be compared, and whether ours is as expected.

They lie in ``configs/published/DATASET.yaml``. One applies only where data, preset, settings,
metric and number of samples are those that it was measured with. Too good is as suspicious as too
bad: a value is flagged on either side of its band.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from bench.config import UserError, config_folder, one_line
from bench.records import Status
from bench.report.frame import Cells, flatten, read_config
from bench.report.summary import TableRow

FOLDER = "published"
Provenance = Mapping[str, Mapping[str, Any]]
"""What each metric's values were made with."""


class Published(BaseModel):
    """One value from a paper."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: tuple[str, ...] = Field(min_length=1)
    """Labels of the methods, or names of the anchors, that it is of."""
    metric: str
    value: float
    band: tuple[float, float]
    """Where ours is expected."""
    why: str
    """The reason for the band's width."""
    source: str
    setting: dict[str, Any] = {}
    """What the cell's ``config.yaml`` must hold, by dotted path."""
    provenance: dict[str, Any] = {}
    """What our value's provenance must hold."""

    @model_validator(mode="after")
    def _band_holds_the_value(self) -> "Published":
        if not self.band[0] <= self.value <= self.band[1]:
            raise ValueError(f"band {self.band} does not hold {self.value}")
        return self


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

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
        inside = low <= self.mean <= high
        return "inside" if inside else "below band" if self.mean < low else "above band"


@dataclass(frozen=True)
class PublishedBeside:
    """All that is published of a study's rows."""

    beside: tuple[Beside, ...]
    reasons: dict[str, tuple[str, ...]]
    """Why nothing published applies, and to which rows."""


def read_published(dataset: str) -> tuple[Published, ...]:
    """Read the published values of a data set; none where there is no file.

    Raises:
        UserError: the file is not what it should be.
    """
    path = config_folder() / FOLDER / f"{dataset}.yaml"
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
    beside: list[Beside] = []
    reasons: dict[str, tuple[str, ...]] = {}
    for row in methods:
        own = [folder for folder, record in done if record.method == row["method"]]
        found, reason = _of_row(row, known, provenance, own)
        beside += found
        if reason:
            reasons[reason] = (*reasons.get(reason, ()), row["method"])
    for row in anchors:
        beside += _of_row(row, known, provenance, ())[0]
    return PublishedBeside(tuple(beside), reasons)


def _of_row(
    row: TableRow, known: Sequence[Published], provenance: Provenance, cells: Sequence[Path]
) -> tuple[list[Beside], str]:
    """Return what applies to a row, and if nothing does, why: the last reason found."""
    found, reason = [], "none is known of these data"
    for published in known:
        if row["method"] not in published.rows:
            continue
        told = _mismatch(row, published, provenance, cells)
        if told:
            reason = f"{told} ({published.metric} {published.value:g}, {published.source})"
        else:
            found.append(_beside(row, published))
    return found, "" if found else reason


def _beside(row: TableRow, published: Published) -> Beside:
    name = f"metrics.{published.metric}"
    several = row.get(f"{name}:n", 1) > 1
    half, error = (float(row.get(key, math.nan)) for key in (f"{name}:half", f"{name}.error"))
    error = math.nan if several else error
    return Beside(str(row["method"]), float(row[name]), half, error, published)


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
        if key not in found or found[key] != value:
            return f"{key} is {found.get(key, 'not said')}, published with {value}"
    return ""
