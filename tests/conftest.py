"""What several test modules share: tiny methods, and the command run as a user runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch

from bench.config import Preset, choose_preset, resolve_method
from bench.tracking import Tracker
from bench.tracking.store import DATABASE
from methods import registry
from methods.base import DataSpec, Method

from .stores import copy_store

GREY = DataSpec(channels=1, size=8, classes=10)

Build = Callable[..., Method]
Bench = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def build() -> Build:
    """Build a method at the size of digits' smoke preset, with settings of one's own."""

    def make(name: str, *, data: DataSpec = GREY, seed: int = 0, **settings: object) -> Method:
        _, preset = choose_preset("digits", "smoke", "cpu")
        own = preset.methods.get(name, {})
        preset = Preset.model_validate(
            {**preset.model_dump(), "methods": {name: {**own, **settings}}}
        )
        kind = registry.load(name)
        torch.manual_seed(seed)
        return kind(kind.Config.model_validate(resolve_method(kind.Config, preset, name)), data)

    return make


@pytest.fixture
def run_bench(tmp_path: Path) -> Bench:
    """Run ``bench`` in a process of its own, in an empty folder."""

    def run(
        *arguments: str, env: Mapping[str, str] | None = None, timeout: float = 240
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "bench", *arguments],
            cwd=tmp_path,
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with its tables: slow to make, so made once."""
    results = tmp_path_factory.mktemp("store")
    tracker = Tracker.open(results)
    assert isinstance(tracker, Tracker), tracker.trouble
    return results / DATABASE


@pytest.fixture
def results(tmp_path: Path, empty_store: Path) -> Path:
    """A results folder with an empty store."""
    folder = tmp_path / "results"
    folder.mkdir()
    copy_store(empty_store, folder / DATABASE)
    return folder
