"""What is seen while a study runs: bars, elapsed time, the whole and the time that is left."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console

from bench import metrics
from bench.cli import main
from bench.progress import display
from bench.progress.display import Display, describe
from bench.progress.whole import Whole
from methods.base import Method

from .fake_study import make_record
from .tiny import GREY

TRAINING = {
    "phase": "training", "stage": "adversarial", "fraction": 0.25, "images": 512_300.0,
    "rate": 1275.3, "loss": 71.0123,
}  # fmt: skip
Build = Callable[..., Method]


class Clock:
    """A clock that is set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(display.time, "monotonic", clock)
    return clock


def seen(shown: Display) -> list[str]:
    """Return the lines of the bars as a terminal has them now."""
    file = io.StringIO()
    Console(file=file, width=shown.console.width).print(shown.bars.progress.get_renderable())
    return [line.rstrip() for line in file.getvalue().splitlines() if line.strip()]


def on_terminal(width: int, clock: Clock) -> Display:
    """Make a display on a terminal of so many columns, which draws nothing by itself."""
    console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    shown = Display(console)
    shown.bars.progress.get_time = clock
    return shown


@pytest.mark.parametrize("width", [80, 100, 200])
def test_nothing_is_cut_at_any_width(width: int, clock: Clock) -> None:
    shown = on_terminal(width, clock)
    shown.expect(["smm-seed0", "dlsm:as_released-seed0", "sde-seed0"], 1, 2)
    for cell in ("smm-seed0", "dlsm:as_released-seed0"):
        shown.start(cell, "")
        shown.update(cell, TRAINING)
    clock.now = 3700.0
    for cell in ("smm-seed0", "dlsm:as_released-seed0"):
        shown.update(cell, TRAINING | {"fraction": 0.5})
    shown.close("smm-seed0", "finished")
    whole, line = seen(shown)
    assert len(line) <= width
    assert "…" not in whole + line
    assert " 50 % 1:01:40 adversarial" in line
    assert "all cells" in whole
    assert "2 of 4 cells" in whole
    assert "1:01:40 left" in whole
    # The rest as room allows, the loss last of all.
    there = [part in line for part in ("2:03:20 left", "512.3 kimg", "1275 img/s", "loss 71.01")]
    assert there == sorted(there, reverse=True)
    assert sum(there) == {80: 2, 100: 2, 200: 4}[width]


def test_elapsed_time_goes_on_where_a_bar_is_full(clock: Clock) -> None:
    shown = on_terminal(80, clock)
    shown.start("sde-seed0", "")
    clock.now = 10.0
    shown.update("sde-seed0", {"phase": "sampling", "fraction": 1.0})
    assert "100 %    0:10 sampling" in seen(shown)[0]
    clock.now = 25.0
    shown.update("sde-seed0", {"phase": "evaluating", "fraction": 0.5})
    assert " 50 %    0:25 evaluating" in seen(shown)[0]


def test_the_loss_gives_way_first_and_the_phase_never() -> None:
    whole = "adversarial  512.3 kimg  1275 img/s  loss 71.01  0:03 left"
    assert describe(TRAINING, left="0:03 left") == whole
    assert describe(TRAINING, 57, "0:03 left") == "adversarial  512.3 kimg  1275 img/s  0:03 left"
    assert describe(TRAINING, 34, "0:03 left") == "adversarial  512.3 kimg  0:03 left"
    assert describe(TRAINING, 25, "0:03 left") == "adversarial  0:03 left"
    assert describe(TRAINING, 5, "0:03 left") == "adversarial"


def test_the_time_left_is_that_of_the_cells_of_each_method() -> None:
    names = ["sde-seed0", "sde-seed1", "smm-seed0", "smm-seed1", "smm-seed2"]
    whole = Whole(names, done=3, jobs=2)
    assert whole.left(0.0) is None
    assert whole.text(0.0) == "3 of 8 cells"
    for name in names[:3:2]:
        whole.start(name, 0.0)
    whole.end("sde-seed0", 100.0)
    # As long as nothing is known of a method, as the others.
    assert whole.left(100.0) == (0 + 3 * 100) / 2
    whole.end("smm-seed0", 300.0)
    assert whole.text(300.0) == "5 of 8 cells  5:50 left"
    whole.start("smm-seed1", 300.0)
    whole.start("smm-seed2", 300.0)
    assert whole.left(400.0) == (200 + 200 + 100) / 2
    # No less than the longest, which nothing can share.
    whole.end("smm-seed2", 410.0)
    whole.waiting.clear()
    assert whole.left(410.0) == pytest.approx((300 + 110) / 2 - 110)
    whole.end("smm-seed1", 600.0)
    assert whole.left(600.0) == 0.0


def test_plain_lines_tell_of_the_whole(clock: Clock, tmp_path: Path) -> None:
    said = io.StringIO()
    shown = Display(Console(file=said, width=80))
    with shown.preparation("study s"):
        pass
    shown.expect(["sde-seed0", "sde-seed1"], 0, 1)
    shown.start("sde-seed0", "")
    clock.now = 60.0
    shown.end("sde-seed0", make_record(tmp_path, "sde", 0))
    # Nothing while it is prepared: what is wrong then is told in one line.
    assert said.getvalue().splitlines()[0] == "sde-seed0: started"
    assert "1 of 2 cells  1:00 left" in said.getvalue()


def test_one_cell_is_no_whole(clock: Clock) -> None:
    shown = on_terminal(80, clock)
    shown.expect(["sde-seed0"], 0, 1)
    shown.start("sde-seed0", "")
    assert len(seen(shown)) == 1


def test_a_preparation_is_a_bar_that_goes_away(clock: Clock) -> None:
    shown = on_terminal(80, clock)
    with shown.preparation("study s"):
        assert seen(shown)[0].endswith("study s")
        shown.preparing({"phase": "anchors", "fraction": 0.5})
        assert seen(shown)[0].endswith("50 %    0:00 anchors")
    assert seen(shown) == []


def test_a_terminal_is_told_at_once_what_is_prepared(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(options: Any) -> int:
        assert capsys.readouterr().err == "preparing sde, smm on digits\n" * is_terminal
        return 0

    monkeypatch.setattr("bench.commands.run.command.run", run)
    for is_terminal in (True, False):
        monkeypatch.setattr("sys.stderr.isatty", lambda is_terminal=is_terminal: is_terminal)
        assert main(["run", "--methods", "sde,smm"]) == 0


@pytest.mark.slow
def test_diagnosing_a_denoiser_tells_how_far_it_is(build: Build) -> None:
    data: Any = SimpleNamespace(variant="digits", sha256="0", truth=None)
    told: list[float] = []
    metrics.diagnose(
        build("sde"), data, GREY, n=2, labels=lambda: None, generator=torch.Generator(),
        progress=told.append,
    )  # fmt: skip
    assert told == sorted(told)
    assert len(told) > 50
    assert 0.8 < told[-2] < 1.0
