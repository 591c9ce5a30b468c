"""What is asked of a study, and whether it may be."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.config import WHEREABOUTS, Settings, UserError
from bench.executors import Job, Limits
from bench.records import ANCHORS, REAL, RECORD, is_study, read_study
from bench.report.frame import flatten

RERUN = ("failed", "stale", "all", "none")
"""Which cells ``--rerun`` can choose."""


@dataclass(frozen=True)
class Request:
    """What the user asked for, resolved and validated."""

    name: str
    results: Path
    settings: Settings
    methods: Mapping[str, dict[str, Any]]
    """Each method's resolved settings."""
    seeds: Sequence[int]
    broken: Mapping[str, str] = field(default_factory=dict)
    """Methods that were asked for and cannot be loaded, each with the reason."""
    jobs: int = 1
    timeout: float | None = None
    """Seconds that a cell's process may work; waiting for another cell's stage does not count."""
    memory: int | None = None
    """Bytes of memory that a cell's processes may hold, all in all."""
    rerun: frozenset[str] = frozenset({"failed", "stale"})
    """Which cells with a result or a failure are run again, of ``RERUN``."""
    reproduces: str = ""
    """The cell that the study repeats, STUDY/CELL, if it does."""
    asked: str = ""
    """What the study would be called if no places of files were in its name; not with --study."""
    overrides: Sequence[str] = ()
    """What is set otherwise than the preset has it, as typed; resolved in the rest."""
    command_started: float | None = None
    """When the command was started, in seconds since 1970, if there is one."""

    @property
    def folder(self) -> Path:
        """The study's folder."""
        return self.results / self.name

    @property
    def cache(self) -> Path:
        """Decoded data, downloads and reference statistics, shared by all studies."""
        return self.results / "cache"

    def job(self, task: str, folder: Path, **more: Any) -> Job:
        """A job of this study in a folder; ``more`` of its fields."""
        return Job(
            task=task, folder=folder, cache=self.cache, command_started=self.command_started,
            threads=self.settings.threads, jobs=self.jobs, **more,
        )  # fmt: skip

    @property
    def limits(self) -> Limits:
        """What a cell's process may take."""
        return Limits(timeout=self.timeout, memory=self.memory)


def check_study(request: Request) -> None:
    """Refuse to mix settings in one study; UserError names the first that differs.

    Where files lie is no matter; whether they are the same, ``check_content`` sees when it is read.
    """
    other = "give another --study name (its results stay as they are)"
    if not is_study(request.folder):
        # A preparation that was broken off may have left what it made.
        shown = [path for path in request.folder.glob("[!.]*") if path.name not in (ANCHORS, REAL)]
        if shown and not any((path / RECORD).exists() for path in shown):
            raise UserError(f"'{request.folder}' is no study's folder and holds files; {other}")
        return
    try:
        settings = read_study(request.folder).settings
    except UserError as error:
        raise UserError(f"{error}; {other}") from error
    stored, asked = (
        flatten("", body.model_dump(mode="json", exclude=WHEREABOUTS))
        for body in (settings, request.settings)
    )
    for key in differing(stored, asked):
        raise UserError(
            f"study '{request.name}' was run with {key} = {stored.get(key)}, not "
            f"{asked.get(key)}; {other}"
        )


def differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The keys that have another value now, or only one of the two has, in order."""
    keys = before.keys() | now.keys()
    return sorted(key for key in keys if before.get(key) != now.get(key))


def request_of(folder: Path, jobs: int | None, timeout: float | None) -> Request:
    """Rebuild from its folder what a study was asked for, as far as its cells' later jobs need."""
    return Request(
        name=folder.name, results=folder.parent.resolve(), settings=read_study(folder).settings,
        methods={}, seeds=[], jobs=jobs or 1, timeout=timeout,
    )  # fmt: skip
