"""Benchmarks run on their own (``tox -e speed``), never among the tests."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave the benchmarks out unless ``--benchmark-only`` asks for them."""
    return None if config.getoption("benchmark_only", default=False) else True
