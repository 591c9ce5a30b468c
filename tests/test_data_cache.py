"""The cache of decoded images: memory, several processes, kills; and the feed from a memory map."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from bench import data
from bench.cli import main
from bench.config.errors import UserError
from bench.data.dataset import Split, fingerprint
from bench.data.sources import image_cache
from bench.data.sources.image_cache import Recipe
from bench.data.sources.layout import Content, Entry, Part
from bench.data.sources.splits_and_labels import Labels
from bench.progress import display
from bench.training import Feed
from tests.conftest import Bench
from tests.pictures import encoded, pixels, png, write_folder

SIDE = 64


@contextmanager
def fake_source(count: int, kind: str) -> Iterator[Content]:
    """Images made as they are asked for, as files or as arrays, so that none are in memory."""

    def read(position: int) -> bytes | np.ndarray:
        array = np.full((SIDE, SIDE, 3), position % 251, dtype=np.uint8)
        return encoded(array) if kind == "files" else array.transpose(2, 0, 1)

    def entries() -> Generator[Entry, None, None]:
        for position in range(count):
            yield Entry(str(position), partial(read, position))

    yield Content(Path("fake"), "fake", count, entries)


def recipe(count: int, kind: str = "files", size: int | None = None) -> Recipe:
    return Recipe(
        name="fake",
        stamp=lambda: f"{count} {kind}",
        splits=lambda: ({"train": Part("fake", partial(fake_source, count, kind))}, []),
        label=lambda content, first: Labels(),
        size=size,
    )


# Memory


def peak_bytes(work: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.slow
@pytest.mark.parametrize("threaded", [True, False])
@pytest.mark.parametrize("size", [None, 32])
def test_memory_does_not_grow_with_the_number_of_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threaded: bool, size: int | None
) -> None:
    monkeypatch.setattr(image_cache, "SMALL", 0 if threaded else 2**30)
    monkeypatch.setattr(image_cache, "THREADS", 2)
    monkeypatch.setattr(image_cache, "WINDOW", 8)
    image = 3 * SIDE**2
    image_cache.prepare(recipe(8, size=size), cache=tmp_path)  # Imports are no images.
    few, many = (
        peak_bytes(lambda n=n: image_cache.prepare(recipe(n, size=size), cache=tmp_path))
        for n in (50, 500)
    )
    # 450 images more are 5.5 MB more, of which no more than a few images may be seen.
    assert many - few < 10 * image
    assert many < 40 * image


def test_the_window_is_bounded_and_order_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_cache, "THREADS", 4)
    monkeypatch.setattr(image_cache, "WINDOW", 6)
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        while taken < 40:
            taken += 1
            yield taken

    def slow(item: int) -> int:
        time.sleep(0.005 * (item % 3))
        return item

    for position, found in enumerate(image_cache.in_order(slow, items()), start=1):
        assert found == position
        assert taken - position < 6


def test_a_failure_among_threads_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_cache, "THREADS", 4)
    seen = []

    def work(item: int) -> int:
        seen.append(item)
        if item == 3:
            raise UserError("three")
        return item

    with pytest.raises(UserError, match="three"):
        list(image_cache.in_order(work, range(10_000)))
    assert len(seen) < 10 + 2 * image_cache.WINDOW


@pytest.mark.parametrize("kind", ["files", "arrays"])
def test_what_is_stored_is_hashed_as_it_is_written(tmp_path: Path, kind: str) -> None:
    told: list[float] = []
    stored = image_cache.prepare(recipe(20, kind), cache=tmp_path, progress=told.append)
    assert stored.facts.sha256 == fingerprint(stored.train, None)
    assert isinstance(stored.train.images, np.memmap)
    assert (stored.train.images[:, 0, 0, 0] == np.arange(20)).all()
    assert told == [(k + 1) / 20 for k in range(20)]


def test_hashing_in_blocks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(0).integers(0, 256, (50, 3, 8, 8), dtype=np.uint8)
    split = Split(images, np.arange(50))
    whole = fingerprint(split, split)
    monkeypatch.setattr("bench.data.dataset._BLOCK", 1000)
    assert fingerprint(split, split) == whole


def test_a_file_that_changes_while_it_is_read(tmp_path: Path) -> None:
    stamps = iter(["before", "after"])
    changing = Recipe(**{**vars(recipe(2)), "stamp": lambda: next(stamps)})
    with pytest.raises(UserError, match="changed while they were read"):
        image_cache.prepare(changing, cache=tmp_path)
    assert [path.suffix for path in (tmp_path / "prepared").iterdir()] == [".lock"]


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(image_cache, "synced", full)
    with pytest.raises(UserError, match="No space left on device"):
        image_cache.prepare(recipe(2), cache=tmp_path)
    assert [path.suffix for path in (tmp_path / "prepared").iterdir()] == [".lock"]


# Several processes

CHILD = """
import sys, time
from pathlib import Path
from bench import data
from bench.data.sources import image_file
original, calls = image_file.decode, []
def slow(*arguments, **options):
    calls.append(1)
    time.sleep(float(sys.argv[2]))
    return original(*arguments, **options)
image_file.decode = slow
path = Path(sys.argv[1])
found = data.load("own", path=path, cache=path.parent / "cache")
print(found.sha256, len(found.train), len(calls))
"""


def start(path: Path, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CHILD, str(path), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def wait_for(pattern: str, cache: Path) -> Path:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for found in cache.glob(pattern):
            return found
        time.sleep(0.01)
    raise AssertionError(f"no {pattern} in {cache}")


@pytest.mark.usefixtures("processes")
def test_one_process_decodes_and_the_other_waits(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "own", {f"{k}.png": png(k) for k in range(20)})
    said = [child.communicate(timeout=60)[0].split() for child in [start(path, 0.03) for _ in "ab"]]
    assert said[0][:2] == said[1][:2]
    assert sorted(int(calls) for _, _, calls in said) == [0, 20]


@pytest.mark.usefixtures("processes")
def test_a_kill_half_way_leaves_no_data_set(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "own", {f"{k}.png": png(k) for k in range(20)})
    cache = tmp_path / "cache" / "prepared"
    child = start(path, 0.2)
    wait_for(".*.tmp-*/train-images.npy", cache)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert {entry.name[0] for entry in cache.iterdir() if entry.is_dir()} == {"."}
    dataset = data.load("own", path=path, cache=tmp_path / "cache")
    assert len(dataset.train) == 20
    assert dataset.sha256 == fingerprint(dataset.train, None)
    assert not list(cache.glob(".*"))


def test_what_is_left_of_other_data_is_removed_too(tmp_path: Path) -> None:
    from filelock import FileLock

    cache = tmp_path / "prepared"
    dead, alive = cache / ".dead.tmp-x", cache / ".alive.tmp-x"
    for folder in (dead, alive):
        folder.mkdir(parents=True)
        (folder / "train-images.npy").write_bytes(b"")
    with FileLock(cache / "alive.lock"):
        image_cache.prepare(recipe(2), cache=tmp_path)
    assert (dead.exists(), alive.exists()) == (False, True)


@pytest.mark.parametrize("damage", ["shorter", "missing", "facts", "pixels"])
def test_a_cache_that_is_not_whole_is_made_again(tmp_path: Path, damage: str) -> None:
    first = image_cache.prepare(recipe(3), cache=tmp_path)
    file = first.folder / "train-images.npy"
    if damage == "shorter":
        os.truncate(file, file.stat().st_size - 1)
    elif damage == "missing":
        file.unlink()
    elif damage == "pixels":
        with file.open("r+b") as content:
            content.seek(-1, os.SEEK_END)
            content.write(b"\x07")
    else:
        (first.folder / "facts.json").write_text("[]")
    again = image_cache.prepare(recipe(3), cache=tmp_path)
    assert fingerprint(again.train, None) == first.facts.sha256


DOWNLOAD = """
import sys, time
from pathlib import Path
from bench import data
from bench.data.sources import mnist_and_cifar
sys.path.insert(0, sys.argv[3])
from tests.pictures import write_idx
cache, seconds = Path(sys.argv[1]), float(sys.argv[2])
def fake(root, train, download):
    print("fetching", flush=True)
    folder = write_idx(root / "MNIST" / "raw")
    (folder / "t10k-labels-idx1-ubyte").unlink()
    time.sleep(seconds)
    write_idx(folder)
mnist_and_cifar._torchvision_class = lambda name: fake
print(data.load("mnist", cache=cache).sha256)
"""


def fetch(cache: Path, seconds: float) -> subprocess.Popen[str]:
    root = str(Path(__file__).parent.parent)
    command = [sys.executable, "-c", DOWNLOAD, str(cache), str(seconds), root]
    environment = {k: v for k, v in os.environ.items() if k != data.ROOT_VARIABLE}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


@pytest.mark.usefixtures("processes")
def test_downloads_of_two_processes_and_a_killed_one(tmp_path: Path) -> None:
    killed = fetch(tmp_path, 60)
    half = wait_for(".mnist.tmp-*/MNIST/raw/train-images-idx3-ubyte", tmp_path / "downloads")
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert half.exists()
    said = [
        child.communicate(timeout=60)[0].split() for child in [fetch(tmp_path, 0.2) for _ in "ab"]
    ]
    assert sum(words.count("fetching") for words in said) == 1
    assert said[0][-1] == said[1][-1]
    left = {path.name for path in (tmp_path / "downloads").iterdir()}
    assert left == {".mnist.lock", "MNIST"}


# The feed

IMAGES = np.random.default_rng(0).integers(0, 256, (37, 3, 4, 4), dtype=np.uint8)


@pytest.fixture
def on_disk(tmp_path: Path) -> np.ndarray:
    np.save(tmp_path / "images.npy", IMAGES)
    mapped: np.ndarray = np.load(tmp_path / "images.npy", mmap_mode="r")
    return mapped


def batches(feed: Feed, count: int = 12) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
    generator = torch.Generator().manual_seed(0)
    found = [feed.next(generator) for _ in range(count)]
    return [(batch.x, batch.labels) for batch in found]


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("labelled", [True, False])
def test_batches_are_the_same_from_disk(on_disk: np.ndarray, flip: bool, labelled: bool) -> None:
    labels = np.arange(37) if labelled else None
    kinds = [
        Feed(
            torch.from_numpy(IMAGES),
            None if labels is None else torch.from_numpy(labels),
            batch=10,
            flip=flip,
            seed=0,
        ),
        Feed(on_disk, labels, batch=10, flip=flip, seed=0),
        Feed(on_disk, labels, batch=10, flip=flip, seed=0, resident=on_disk.nbytes - 1),
    ]
    assert isinstance(kinds[1].images, torch.Tensor)
    assert isinstance(kinds[2].images, np.memmap)
    expected = batches(kinds[0])
    for feed in kinds[1:]:
        for (x, own), (other, theirs) in zip(expected, batches(feed), strict=True):
            assert torch.equal(x, other)
            assert (own is None) == (theirs is None)
            assert own is None or torch.equal(own, theirs)


def test_the_feed_loads_no_more_than_a_batch(tmp_path: Path) -> None:
    shape = (2000, 3, 32, 32)
    np.lib.format.open_memmap(tmp_path / "x.npy", mode="w+", dtype=np.uint8, shape=shape).flush()
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    feed = Feed(mapped, None, batch=10, flip=False, seed=0, resident=0)
    generator = torch.Generator()
    feed.next(generator)
    assert peak_bytes(lambda: [feed.next(generator) for _ in range(20)]) < 10 * 3 * 32 * 32 * 4


# Progress


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_plain_lines_are_rare(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, said = Clock(), io.StringIO()
    monkeypatch.setattr(display.time, "monotonic", clock)
    with display.passing("reading [x]", Console(file=said, width=200)) as tell:
        for second in range(1, 41):
            clock.now = float(second)
            tell(second / 40)
    lines = said.getvalue().splitlines()
    assert lines[0] == "reading [x]:  25%  150 %/min  0:30 left"
    assert len(lines) == 4


def test_a_pass_without_news_says_nothing() -> None:
    for terminal in (False, True):
        said = io.StringIO()
        with display.passing("reading", Console(file=said, force_terminal=terminal)):
            pass
        assert "reading" not in said.getvalue()


def test_a_terminal_shows_a_bar() -> None:
    said = io.StringIO()
    with display.passing("reading", Console(file=said, force_terminal=True, width=90)) as tell:
        tell(0.0)
        tell(0.5)
    assert "reading" in said.getvalue()
    assert "50 %" in said.getvalue()


# The command


def test_bench_data_prepare(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("bench.commands.lifecycle.heed_signals", lambda: None)
    files = {"a/0.png": png(0, 80), "b/1.jpg": encoded(pixels(1, 70), "JPEG"), "README": b""}
    write_folder(tmp_path / "own", files)
    asked = ["data", "prepare", "--dataset", "images64", "--data"]
    assert main([*asked, "own", "--preset", "smoke"]) == 0
    done = capsys.readouterr()
    said = dict(line.split(maxsplit=1) for line in done.out.splitlines())
    assert said["images"] == "2, 64x64, 3 channel(s)"
    assert said["classes"] == "2"
    assert said["data"].startswith("images64-jpeg")
    stored = np.load(tmp_path / said["cache"] / "train-images.npy", mmap_mode="r")
    assert stored.shape == (2, 3, 64, 64)
    for note in ("1 file is no image", "1 of 2 images went through JPEG", "70x70 to 80x80"):
        assert note in done.out
    assert main([*asked, "nowhere"]) == 2
    assert capsys.readouterr().err == "bench: --data nowhere: no such file or folder\n"


def test_help_of_bench_data(call_bench: Bench) -> None:
    said = call_bench("data", "--help").stdout
    assert "prepare" in said
    assert "ahead of a run" in said
