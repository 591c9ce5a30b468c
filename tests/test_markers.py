"""The marker ``process``: a test that starts Python has it, or fails."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from .conftest import Bench

NOT_MARKED = "starts Python and is not marked so"


def test_a_test_without_the_marker_starts_no_python(request: pytest.FixtureRequest) -> None:
    assert request.node.get_closest_marker("process") is None
    with pytest.raises(pytest.fail.Exception, match=NOT_MARKED):
        subprocess.run([sys.executable, "-c", ""], check=True)


def fork() -> None:
    if os.fork() == 0:
        os._exit(0)  # the child, where the guard is broken


def test_nor_does_it_fork() -> None:
    with pytest.raises(pytest.fail.Exception, match=NOT_MARKED):
        fork()


def test_other_programs_are_quick_and_free() -> None:
    program = shutil.which("true")
    assert program is not None
    subprocess.run([program], check=True)


@pytest.fixture
def indirect(run_bench: Bench) -> Bench:
    return run_bench


def test_fixtures_bring_the_marker(request: pytest.FixtureRequest, indirect: Bench) -> None:
    assert callable(indirect)
    assert request.node.get_closest_marker("process") is not None
    subprocess.run([sys.executable, "-c", ""], check=True)


@pytest.mark.usefixtures("processes")
def test_a_test_may_ask_for_it(request: pytest.FixtureRequest) -> None:
    assert request.node.get_closest_marker("process") is not None
