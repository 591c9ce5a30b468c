"""``study.yaml``, typed: what a study was asked for, what its preparation found; and finding it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from bench.config import CellConfig, Settings, UserError, build, one_line, read_cell, unknown
from bench.records.files import write_text
from bench.records.record import CONFIG, RECORD, readable

STUDY = "study.yaml"
CONTENT = {"data": "data_sha256", "weights": "extractors", "reference": "reference_sha256"}
"""Which hashes tell whether files are the same, by the setting that says where they lie."""
REPRODUCED = "rerun.md"
"""What came of a reproduction, in its study's folder."""
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Prepared(BaseModel, frozen=True, extra="ignore"):
    """What preparing a study has found; older versions have told less of it, and other things."""

    data_variant: str = ""
    data_sha256: str
    data_source: str = ""
    notes: list[str] = []
    """What a reader of the study's numbers must know of its data."""
    extractors: dict[str, str] = {}
    """SHA-256 of each extractor, by its name."""
    reference_sha256: str | None = None
    """Of reference statistics made elsewhere."""
    protocol: str = ""
    stages: dict[str, str | None] = {}
    """What identifies each method's first stage, its seed apart; ``None``: it shares none."""


class StudyFile(BaseModel, frozen=True, extra="ignore"):
    """The file ``study.yaml`` in a study's folder."""

    name: str
    settings: Settings
    """What all cells share; what an older version did not know has its default."""
    prepared: Prepared
    commanded: str = ""
    """When a command last set out to run it, UTC, ISO 8601; older versions did not say."""
    reproduces: str = ""
    """The cell that it repeats, STUDY/CELL, where it is a reproduction."""
    asked: str = ""
    """What it would be called were no places in its name; older versions did not say."""
    overrides: list[str] = []
    """What was set otherwise than the preset has it, as typed; older versions did not say."""


def is_study(folder: Path) -> bool:
    """Whether a folder is a study's."""
    return (folder / STUDY).exists()


def read_study(folder: Path) -> StudyFile:
    """Read a study's file; UserError if it is not readable or of a version with other settings."""
    path = folder / STUDY
    try:
        body = yaml.safe_load(path.read_bytes())
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        raise UserError(f"'{path}' cannot be read: {one_line(error)}") from error
    found: StudyFile = build(StudyFile, body, str(path))
    return found


def check_content(folder: Path, settings: Settings, found: Mapping[str, Any]) -> None:
    """UserError if files lie at other places than a study had them and have not its hashes."""
    if not is_study(folder):
        return
    study = read_study(folder)
    for place, part in CONTENT.items():
        before, now = getattr(study.settings, place), getattr(settings, place)
        had = getattr(study.prepared, part)
        # An older version did not tell of extractors.
        if before != now and had != found[part] and had != {}:
            raise UserError(
                f"study '{folder.name}' was run with {place} = {before}, not {now}, which is not "
                "the same; give another --study name (its results stay as they are)"
            )


def placed_config(folder: Path) -> CellConfig:
    """Read a cell's configuration, with its files at the places where its study had them last."""
    config = read_cell(folder / CONFIG)
    try:
        settings = read_study(folder.parent).settings
    except UserError:
        return config  # A cell is read without its study too.
    places = {name: getattr(settings, name) for name in CONTENT}
    return config.model_copy(update={"settings": config.settings.model_copy(update=places)})


def write_study(study: StudyFile, folder: Path) -> None:
    """Write a study's file, whole or not at all."""
    write_text(folder / STUDY, yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False))


def study_folders(results: Path) -> list[Path]:
    """Return the folders of studies under a results folder, by name; there may be none."""
    return sorted(path.parent for path in results.glob(f"*/{STUDY}"))


def studies(results: Path) -> list[Path]:
    """Return the studies under a results folder, by name; UserError if there is none."""
    found = study_folders(results)
    if not found:
        raise UserError(f"no study under '{results}'; run one first: bench run --help")
    return found


def find_study(results: Path, name: str | None) -> Path:
    """Return the folder of a study by name, or of the latest; UserError if there is none."""
    found = {folder.name: folder for folder in studies(results)}
    if name is None:
        return latest(list(found.values()))
    if name not in found:
        raise unknown("study", name, list(found))
    return found[name]


def latest(folders: Sequence[Path]) -> Path:
    """Return the study that was run last by what it tells itself, of two the last by name.

    Files' own times say nothing, for copies have others. Reproductions do not count.
    """
    told = {}
    for folder in folders:
        try:
            content = yaml.load((folder / STUDY).read_bytes(), LOADER)
        except (OSError, yaml.YAMLError):
            content = None
        facts = content if isinstance(content, dict) else {}
        if not (facts.get("reproduces") or (folder / REPRODUCED).exists()):
            # An older version's study tells it by its cells alone.
            records = (readable(path.parent) for path in folder.glob(f"*/{RECORD}"))
            starts = (record.started or "" for record in records if record)
            told[folder] = str(facts.get("commanded") or max(starts, default=""))
    if not told:
        names = ", ".join(folder.name for folder in folders)
        raise UserError(f"there are only reproductions, which are never the latest: name {names}")
    return max(told, key=lambda folder: (told[folder], folder.name))


def study_at(results: Path, given: str) -> Path:
    """Return a study's folder, given as such or by name; UserError if there is none."""
    folder = Path(given)
    return folder if is_study(folder) else find_study(results, given)
