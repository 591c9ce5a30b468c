"""A machine in trouble: memory, disk and data that run out under a cell, and what is left of it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from bench.commands.options import parse_size
from bench.config.errors import UserError
from bench.executors import explain_end
from bench.records import record
from bench.records.files import write_text
from bench.records.record import RESERVE, Record, Status, keep_reserve

from . import forking
from .conftest import Bench
from .fake_study import make_record

SMOKE = ("--dataset", "digits", "--preset", "smoke", "--study", "s", "--no-tracking")
POINTS = ("--dataset", "gmm2d", *SMOKE[2:])
CGROUPS = Path("/sys/fs/cgroup")


def rows(results: Path) -> dict[str, Record]:
    return {row.method: row for _, row in record.cells(results / "s")}


# -- memory ---------------------------------------------------------------------------------------


@pytest.fixture
def small_group() -> Iterator[Callable[[], None]]:
    """Return what puts a process into a control group of little memory, where there are any."""
    name = f"scorebench-{os.getpid()}"
    for parent, limit, members in (
        (CGROUPS / "memory", "memory.limit_in_bytes", "tasks"),
        (CGROUPS, "memory.max", "cgroup.procs"),
    ):
        group = parent / name
        with contextlib.suppress(OSError):
            group.mkdir()
            if not (group / limit).exists():
                group.rmdir()
                continue
            (group / limit).write_text(str(2**31))
            yield partial(join, group / members)
            remove(group)
            return
    pytest.skip("no control group of memory can be made here")


def join(members: Path) -> None:
    members.write_text(str(os.getpid()))


def remove(group: Path) -> None:
    for _ in range(50):
        with contextlib.suppress(OSError):
            group.rmdir()
            return
        time.sleep(0.2)


@pytest.mark.usefixtures("processes", "faulty")
def test_the_kernel_ends_a_cell_for_lack_of_memory(
    tmp_path: Path, small_group: Callable[[], None]
) -> None:
    """The cell is ended and not the command; what comes after it finishes."""
    asked = ("run", "--methods", "hoards,smm", *POINTS, "--jobs", "1")
    with forking.command(tmp_path, *asked, begin=small_group) as process:
        _, errors = process.communicate(timeout=240)
    assert process.returncode == 1, errors
    found = rows(tmp_path / "results")
    assert found["hoards"].status == Status.MEMORY
    assert found["hoards"].reason.startswith(
        "its process was ended by the kernel for lack of memory"
    )
    assert found["smm"].status == Status.FINISHED


def test_a_kill_is_only_for_memory_where_the_kernel_counted_one() -> None:
    assert explain_end(-9, "log.txt", was_short=True)[0] == Status.MEMORY
    assert explain_end(-9, "log.txt", was_short=False)[0] == Status.KILLED
    assert explain_end(-11, "log.txt", was_short=True)[0] == Status.KILLED


@pytest.mark.parametrize(
    ("text", "size"),
    [("8GiB", 2**33), ("500MB", 5 * 10**8), ("1.5g", 15 * 10**8), ("2 gib", 2**31)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "8", "much", "8iB", "-1GiB", "8 apples", "1MiB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"--memory .* 8GiB"):
        parse_size(text)


# -- disk -----------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "results"
    place.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", "size=100m", "tmpfs", str(place)]
    if subprocess.run(mounting, check=False, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.usefixtures("forks", "faulty", "no_plots")
def test_a_full_disk_is_a_row(small_disk: Path, call_bench: Bench) -> None:
    """The cell that fills it fails for want of space, by its record; the next one finishes."""
    done = call_bench("run", "--methods", "fills,smm", *SMOKE, "--jobs", "1")
    assert done.returncode == 1, done.stderr
    found = rows(small_disk)
    assert found["fills"].status == Status.FAILED
    assert "No space left on device" in found["fills"].reason
    assert found["smm"].status == Status.FINISHED
    assert (small_disk / "s" / "table.md").read_text().count("No space left on device") == 1


def test_a_record_is_written_on_a_full_disk(small_disk: Path) -> None:
    cell = small_disk / "study" / "sde-seed0"
    cell.mkdir(parents=True)
    keep_reserve(cell.parent)
    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    row = make_record(cell.parent, "sde", 0)
    with pytest.raises(OSError, match="No space left"):
        write_text(cell / record.RECORD, row.model_dump_json())
    record.save(row, cell)
    assert record.load(cell) == row
    assert not (cell.parent / RESERVE).exists()
    filler.unlink()
    keep_reserve(cell.parent)
    assert (cell.parent / RESERVE).stat().st_size > 10**6


# -- data -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("forks", "no_plots", "faulty")
def test_data_that_cannot_be_read_half_way(tmp_path: Path, call_bench: Bench) -> None:
    """The mapped images are cut short under one cell; the next finds that and makes them anew."""
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "images.npz",
        arr_0=rng.integers(0, 256, (300, 28, 28, 1), dtype=np.uint8),
        arr_1=np.arange(300) % 10,
    )
    done = call_bench(
        "run", "--methods", "blind,smm", "--dataset", "fashion-mnist", "--preset", "smoke",
        "--data", "images.npz", "--study", "s", "--no-tracking", "--jobs", "1",
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    found = rows(tmp_path / "results")
    assert found["blind"].status == Status.KILLED
    assert "SIGBUS" in found["blind"].reason
    assert "was cut short or cannot be read" in found["blind"].reason
    assert found["smm"].status == Status.FINISHED, found["smm"].reason
