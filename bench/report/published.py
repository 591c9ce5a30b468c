"""Published values beside ours: whether they may be compared, and whether ours is as expected.

They lie in ``configs/published/DATASET.yaml``. One applies only where data, preset, settings,
metric and number of samples are those that it was measured with. Too good is as suspicious as too
bad: a value is flagged on either side of its band.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from bench.config import UserError, config_folder, one_line
from bench.records import CONFIG
from bench.report.frame import flatten
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

    def verdict(self, value: float) -> str:
        """Return ``inside``, ``below band`` or ``above band`` for a value of ours."""
        low, high = self.band
        if low <= value <= high:
            return "inside"
        return "below band" if value < low else "above band"


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
        """Where our mean stands."""
        return self.published.verdict(self.mean)


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
        return _File.model_validate(yaml.safe_load(path.read_text())).values
    except (yaml.YAMLError, ValidationError) as error:
        raise UserError(f"{path}: {one_line(error)[:300]}; install scorebench anew") from error


def put_beside(
    datasets: Iterable[str],
    provenance: Provenance,
    rows: Sequence[tuple[str, TableRow]],
    folders: Mapping[str, Sequence[Path]],
) -> PublishedBeside:
    """Put published values beside those of a study's rows.

    Args:
        datasets: those of the study's cells.
        provenance: what each metric's values were made with.
        rows: methods and anchors, each with its kind, ``cell`` or ``anchor``.
        folders: of each method, those of its finished cells.
    """
    known = [value for dataset in datasets for value in read_published(dataset)]
    beside: list[Beside] = []
    reasons: dict[str, tuple[str, ...]] = {}
    for kind, row in rows:
        named = [value for value in known if row["method"] in value.rows]
        cells = folders.get(row["method"], ()) if kind == "cell" else ()
        found, reason = _of_row(row, named, provenance, cells)
        beside += found
        if reason and kind == "cell":
            reasons[reason] = (*reasons.get(reason, ()), row["method"])
    return PublishedBeside(tuple(beside), reasons)


def _of_row(
    row: TableRow, known: Sequence[Published], provenance: Provenance, cells: Sequence[Path]
) -> tuple[list[Beside], str]:
    """Return what applies to a row, and if nothing does, why: the last reason found."""
    found, reason = [], "none is known of these data"
    for published in known:
        told = _mismatch(row, published, provenance, cells)
        if told:
            reason = f"{told} ({published.metric} {published.value:g}, {published.source})"
        else:
            found.append(_beside(row, published))
    return found, "" if found else reason


def _beside(row: TableRow, published: Published) -> Beside:
    name = f"metrics.{published.metric}"
    several = row.get(f"{name}:n", 1) > 1
    return Beside(
        row=str(row["method"]),
        mean=float(row[name]),
        half=float(row.get(f"{name}:half", math.nan)),
        error=math.nan if several else float(row.get(f"{name}.error", math.nan)),
        published=published,
    )


def _mismatch(
    row: TableRow, published: Published, provenance: Provenance, cells: Sequence[Path]
) -> str:
    """Say why a published value does not apply to a row, or nothing."""
    if math.isnan(row.get(f"metrics.{published.metric}", math.nan)):
        return f"{published.metric} was not measured"
    told = _differs(published.provenance, flatten("", provenance.get(published.metric, {})))
    for cell in cells:
        path = cell / CONFIG
        found = flatten("", yaml.safe_load(path.read_text())) if path.exists() else {}
        told = told or _differs(published.setting, found)
    return told


def _differs(expected: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """Say in what the found values depart from the expected ones, or nothing."""
    for key, value in expected.items():
        if key not in found or found[key] != value:
            return f"{key} is {found.get(key, 'not said')}, published with {value}"
    return ""
