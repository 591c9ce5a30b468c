"""A job: what an executor starts, written as a file that the job's process reads.

Nothing else is handed over: no open file, no variable and no clock of another process.
"""

import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from bench.records import LOG, SIGN, given_command, write_anyhow


def packages() -> dict[str, str]:
    """The files that this process has our own packages from, by the packages' names."""
    found = {name: find_spec(name) for name in ("bench", "methods")}
    return {name: str(Path(str(spec.origin)).resolve()) for name, spec in found.items() if spec}


class Limits(BaseModel, frozen=True, extra="forbid"):
    """What a job's processes may take; ``None``: as much as there is."""

    timeout: float | None = None
    """Seconds that they may work; waiting for another cell's stage does not count."""
    memory: int | None = None
    """Bytes of the host's memory, all in all."""


class Job(BaseModel, frozen=True, extra="forbid"):
    """What a process is to do, and with what."""

    task: str
    """The module that does it: ``python -m TASK JOB.json``."""
    folder: Path
    """Where it works: its files are there, this one, its signs of life, and what it leaves."""
    cache: Path
    """Decoded data, downloads and reference statistics, shared by all studies."""
    request: dict[str, Any] = Field(default_factory=dict)
    """What the task alone has to know."""
    log: Path = Path(LOG)
    """What the process prints is added to it; in ``folder``, unless it is absolute."""
    command: str = Field(default_factory=given_command)
    """The command line that it is part of."""
    command_started: float | None = None
    """When that command was started, in seconds since 1970."""
    threads: int | None = None
    """Of the processor, that its libraries take; ``None``: what they take by themselves."""
    jobs: int = 1
    """Jobs of the command that run at the same time."""
    limits: Limits = Limits()
    packages: dict[str, str] = Field(default_factory=packages)
    """What :func:`packages` gives where the job is made; its process must find the same."""
    started: float = Field(default_factory=time.time)
    """When its process was started, in seconds since 1970."""

    @property
    def path(self) -> Path:
        """The file that the job is written in."""
        return self.folder / "job.json"

    @property
    def mark(self) -> str:
        """What tells this start of the job from any other, be it of the same file."""
        return f"{self.path} {self.started!r}"

    @property
    def sign(self) -> Path:
        """The file that its process tells its progress in."""
        return self.folder / SIGN

    @property
    def answer(self) -> Path:
        """The file for what a task found that leaves nothing else."""
        return self.folder / "answer.json"

    @property
    def log_path(self) -> Path:
        """The file that what it prints is added to."""
        return self.folder / self.log

    def begun(self) -> float:
        """The ``perf_counter`` reading of its start, in whatever process asks.

        A wall clock that was set back meanwhile makes that the present moment at the latest.
        """
        return time.perf_counter() - max(0.0, time.time() - self.started)

    def write(self) -> None:
        """Write the job's file."""
        write_anyhow(self.path, self.model_dump_json(indent=2) + "\n")

    @classmethod
    def read(cls, path: Path) -> "Job":
        """Read a job's file."""
        return cls.model_validate_json(path.read_bytes())
