"""What cannot be printed ends nothing: other encodings, closed pipes, full disks behind a pipe."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from bench.cli import screen
from bench.commands import lifecycle
from bench.commands.show import command
from bench.report.table import formats

from .conftest import Bench
from .fake_study import write_study

BENCH = Path(screen.__file__).parents[1]
Outlet = Callable[[io.TextIOWrapper], None]
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": ""}


def printed(path: Path, line: str, encoding: str = "utf-8") -> str:
    """What arrives of a line that is printed to a file."""
    with path.open("w", encoding=encoding) as file:
        print(line, file=screen.steady(file), flush=True)
    return path.read_text(encoding)


@pytest.fixture
def outlet(monkeypatch: pytest.MonkeyPatch) -> Iterator[Outlet]:
    """Make an open file the standard output, steadily."""
    with ExitStack() as stack:

        def use(file: io.TextIOWrapper) -> None:
            monkeypatch.setattr(sys, "stdout", stack.enter_context(file))
            screen.open_screen()

        yield use
        monkeypatch.undo()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437"])
def test_what_an_encoding_lacks_is_written_in_plain_letters(tmp_path: Path, encoding: str) -> None:
    told = printed(tmp_path / "out", "0.66 ± 0.15 ↓ \udcc3 字", encoding)
    assert re.fullmatch(r"0.66 (±|\+-) 0.15 (↓|v) \? \?\n", told)


def test_a_utf_8_screen_shows_our_own_signs(tmp_path: Path) -> None:
    assert printed(tmp_path / "out", "± ↓") == "± ↓\n"


@pytest.mark.parametrize("kind", ["line_buffering", "write_through"])
def test_a_line_arrives_when_it_is_printed(tmp_path: Path, kind: str) -> None:
    """Standard error has the one, and all that is standard with PYTHONUNBUFFERED=1 the other."""
    file = io.TextIOWrapper((tmp_path / "out").open("wb"), **{kind: True})  # type: ignore[arg-type]
    with file, screen.steady(file) as steady:
        print("here", file=steady)
        assert (tmp_path / "out").read_bytes() == b"here\n"


def test_a_reader_that_has_gone_is_no_error(outlet: Outlet) -> None:
    reader, writer = os.pipe()
    outlet(os.fdopen(writer, "w"))
    os.close(reader)
    for _ in range(3):
        print("x" * 100_000, flush=True)
    assert screen.close_screen() == ""


def test_a_full_disk_behind_the_screen_is_told_at_the_end(outlet: Outlet) -> None:
    outlet(os.fdopen(os.open("/dev/full", os.O_WRONLY), "w"))
    print("x" * 100_000, flush=True)
    print("more")
    assert "No space left" in screen.close_screen()


@pytest.mark.parametrize("call", [lifecycle.finish, lambda folder: command.table(options(folder))])
def test_tables_are_written_before_anything_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: object
) -> None:
    """So that what ends the command while it prints costs nothing that took hours."""

    def fail(*given: object, **how: object) -> None:
        raise KeyboardInterrupt

    study = write_study(tmp_path / "s", ("sde",), (0,), failed=None)
    monkeypatch.setattr("builtins.print", fail)
    with pytest.raises(KeyboardInterrupt):
        call(study)  # type: ignore[operator]
    assert {name for name, _ in formats.FORMATS.values()} <= {path.name for path in study.iterdir()}


def options(folder: Path) -> command.TableOptions:
    return command.TableOptions(study=folder.name, results=folder.parent)


def test_text_is_read_and_written_in_utf_8_wherever_we_are() -> None:
    """The encoding of a terminal is no affair of files: each call names it, or is of bytes."""
    calls = r"\.(read_text\(\)|write_text\([^\"\n]+\)$|open\(\"[arw]\"\))"
    found = [
        f"{path.relative_to(BENCH)}: {line.strip()}"
        for path in sorted(BENCH.rglob("*.py"))
        for line in path.read_text("utf-8").splitlines()
        if re.search(calls, line) and "encoding" not in line
    ]
    # Of the kernel, of other programs, and of names: plain letters all.
    plain = (
        "costs/machine/",
        "executors/serve",
        "environment",
        "checkout",
        "store",
        "interleave",
        "json",
    )
    assert not [line for line in found if not any(each in line for each in plain)]


def test_a_terminal_of_plain_letters_has_its_table(run_bench: Bench, tmp_path: Path) -> None:
    write_study(tmp_path / "results" / "s", ("sde", "cdm"), failed=None)
    done = run_bench("table", env=ASCII)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False)
    assert "5.40 +- 0.40" in done.stdout
    assert "5.40 ± 0.40" in (tmp_path / "results" / "s" / "table.md").read_text("utf-8")
    refused = run_bench("table", "--results", "é", env=ASCII)
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert "PYTHONUTF8=1" in refused.stderr


@pytest.mark.usefixtures("processes")
@pytest.mark.parametrize("closed", ["1", "2"])
def test_a_closed_screen_is_no_other_file(tmp_path: Path, closed: str) -> None:
    """What is opened next would have its number, and get what is printed."""
    write_study(tmp_path / "results" / "s", ("sde",), (0,), failed=None)
    line = f"{sys.executable} -m bench table {closed}>&-"
    done = subprocess.run(
        line, shell=True, cwd=tmp_path, capture_output=True, check=True, text=True
    )
    assert (done.stdout if closed == "1" else done.stderr) == ""
    assert "the latest" not in done.stdout
    assert (tmp_path / "results" / "s" / "table.md").read_text("utf-8").startswith("| method")
