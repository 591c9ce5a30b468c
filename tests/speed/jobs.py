"""One check: measure both trees, what the base runs by its own definition, and red ones twice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.speed.interleave import Code, Measured, Tell, collect, measure
from tests.speed.verdicts import FLOOR, Job, suspects

DEFINITIONS = Path("tests/speed/test_speed.py")


@dataclass(frozen=True)
class Settings:
    """How a check is made."""

    seconds: float = 2.0
    """CPU time of each process for each benchmark."""
    floor: float = FLOOR


def quiet(line: str) -> None:
    """Tell nothing."""


def compare_trees(
    base: Path,
    current: Path,
    select: Callable[[str], bool],
    settings: Settings,
    *,
    folder: Path,
    tell: Tell = quiet,
) -> Job:
    """Measure the benchmarks of the current tree on the code of both.

    What the base cannot run so is measured by its own definition, where it has one.
    """

    def timed(base_definitions: Path, chosen: Callable[[str], bool], name: str) -> Measured:
        sides = {
            "base": Code(base, base_definitions / DEFINITIONS),
            "current": Code(current, current / DEFINITIONS),
        }
        return measure(sides, chosen, seconds=settings.seconds, folder=folder / name, tell=tell)

    own = _own(base, folder / "own-names", select)
    first = timed(current, select, "first")
    by_own = _unrun(first) & own
    if by_own:
        tell(f"{len(by_own)} of the base's benchmarks run by its own definitions")
        by_own = _take(first, timed(base, by_own.__contains__, "own"))
    slower = suspects(first, settings.floor)
    again = Measured()
    for names, definitions in ((slower - by_own, current), (slower & by_own, base)):
        if names:
            tell(f"once more: {', '.join(sorted(names))}")
            _take(again, timed(definitions, names.__contains__, f"again-{definitions.name}"))
    return Job(first, again, frozenset(own), frozenset(by_own))


def _own(base: Path, folder: Path, select: Callable[[str], bool]) -> set[str]:
    """Names of the benchmarks that the base itself has."""
    definitions = base / DEFINITIONS
    if not definitions.exists():
        return set()
    return set(filter(select, collect(Code(base, definitions), folder)))


def _unrun(measured: Measured) -> set[str]:
    """What the current tree ran, or would have run, and the base did not."""
    failed = {name for name, errors in measured.errors.items() if list(errors) == ["base"]}
    return failed | {name for name, times in measured.times.items() if "base" not in times}


def _take(result: Measured, more: Measured) -> set[str]:
    """Take over what both sides could be timed for; return its names."""
    taken = {name for name, times in more.times.items() if len(times) == 2}
    for name in taken:
        result.times[name] = more.times[name]
        result.counts[name] = more.counts[name]
        result.errors.pop(name, None)
    return taken
