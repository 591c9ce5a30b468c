"""The check checked: a tree against itself stays green, slowed parts turn red and no others."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.speed.jobs import Settings, compare_trees
from tests.speed.revisions import copy
from tests.speed.verdicts import Row, Verdict, judge

SLOWDOWN = 0.3
"""Of the planted faults: this much of a call's CPU time is burnt after it."""
FAULTS = {
    "test_training_step[sde-score]": ("bench/training/trainer.py", "Trainer._step"),
    "test_sampling_pass[smm]": ("methods/smm.py", "SMM.sample"),
}
"""By benchmark, the file and what in it is slowed."""
UNTOUCHED = ("test_features_of_2000_images",)
BURNING = """

def _slowed(function):
    import functools
    from time import process_time

    @functools.wraps(function)
    def slow(*args, **kwargs):
        started = process_time()
        result = function(*args, **kwargs)
        now = process_time()
        until = now + {slowdown} * (now - started)
        while process_time() < until:
            pass
        return result

    return slow


{target} = _slowed({target})
"""


def slow_down(tree: Path, faults: Mapping[str, tuple[str, str]], slowdown: float) -> None:
    """Make parts of a tree's code slower by a fraction of what they take."""
    for path, target in faults.values():
        with (tree / path).open("a") as file:
            file.write(BURNING.format(slowdown=slowdown, target=target))


@dataclass(frozen=True)
class Trees:
    """Three copies of one tree, the last of which is slowed."""

    one: Path
    same: Path
    slow: Path


def prepare(root: Path, folder: Path, slowdown: float) -> Trees:
    trees = Trees(*(copy(root, folder / name) for name in ("one", "same", "slow")))
    slow_down(trees.slow, FAULTS, slowdown)
    return trees


def self_test(
    root: Path, folder: Path, *, tries: int, settings: Settings, tell: Callable[[str], None]
) -> bool:
    """Compare a tree with a slowed copy, and ``tries`` times with an equal one; tell, and judge."""
    trees = prepare(root, folder, SLOWDOWN)
    tell(f"# {SLOWDOWN:.0%} more CPU time planted in {len(FAULTS)} of {len(_names())} benchmarks")
    red = {row.name for row in _rows(trees.one, trees.slow, folder / "slow-job", settings, tell)}
    found = red == set(FAULTS)
    tell(f"planted faults: red {sorted(red)}: {'right' if found else f'not {sorted(FAULTS)}'}")
    green, started = 0, time.monotonic()
    for number in range(1, tries + 1):
        job = folder / f"same-job-{number}"
        green += not _rows(trees.one, trees.same, job, settings, tell)
        seconds = (time.monotonic() - started) / number
        tell(f"the same tree: green in {green} of {number} tries, {seconds:.0f} s a try")
    return found and green == tries


def _names() -> Sequence[str]:
    return [*FAULTS, *UNTOUCHED]


def _rows(
    base: Path, current: Path, folder: Path, settings: Settings, tell: Callable[[str], None]
) -> list[Row]:
    """Run one check, tell its ratios, and return what is red or was not compared."""
    job = compare_trees(base, current, _names().__contains__, settings, folder=folder)
    rows = judge(job, floor=settings.floor)
    assert len(rows) == len(_names()), job.first.uncollected
    for row in rows:
        found = [c for c in (row.first, row.again) if c is not None]
        ratios = ", then ".join(f"{c.ratio:.3f} of {c.threshold:.3f}" for c in found)
        tell(f"  {row.name}: {ratios} {row.verdict} {' '.join(row.notes)}".rstrip())
    return [row for row in rows if row.red or row.verdict is Verdict.INCOMPARABLE]
