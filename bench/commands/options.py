"""What the commands' options have in common: how values are typed, and what makes sense."""

# No annotations as text here: cyclopts reads those of a base class in its subclass's module.

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from numbers import Integral
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from cyclopts import Group, Parameter, Token
from pydantic import ByteSize, TypeAdapter, ValidationError

from bench.config import UserError, number_typed
from bench.config.schema import MOST
from bench.records import find_study

SMALLEST_MEMORY, LARGEST_MEMORY = 2**26, 2**60
"""Bytes below and above which a limit of memory must be a slip of the pen."""
MOST_SEEDS, LONGEST = 10**4, 1e9
"""Seeds and seconds beyond which a number must be one."""
_WHOLE = "[0-9]{1,18}"
PLACES = Group("Results", sort_key=9)
"""The options that say where results go; they stand last in the help of a command."""


def split(text: str) -> tuple[str, ...]:
    """Split a comma-separated list."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def parse_seeds(text: str) -> tuple[int, ...]:
    """Parse ``0,1,2`` or ``0-2``; UserError if it is neither, or more than ``MOST_SEEDS``."""
    seeds: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(rf"\s*({_WHOLE})(?:-({_WHOLE}))?\s*", part)
        if not found:
            raise UserError(f"--seeds '{text[:80]}': write seeds as 0,1,2 or 0-2")
        more = range(int(found[1]), int(found[2] or found[1]) + 1)
        check_number("seeds", len(seeds) + len(more), 0, "seeds", MOST_SEEDS)
        seeds += more
    return tuple(seeds)


def parse_nfe(text: str) -> tuple[int, ...]:
    """Parse ``5,10,20``; UserError if it is no list of whole numbers."""
    return _whole_numbers(text, f"--nfe '{text[:80]}': write network evaluations as 5,10,20")


def parse_classes(text: str) -> tuple[int, ...]:
    """Parse ``3,3,7``; UserError if it is no list of whole numbers."""
    return _whole_numbers(text, f"--labels '{text[:80]}': write numbers of classes as 3,3,7")


def _whole_numbers(text: str, advice: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch(_WHOLE, part) for part in parts):
        raise UserError(advice)
    return tuple(map(int, parts))


def parse_whole(token: Token) -> int:
    """Parse a whole number; UserError for anything that would have to be rounded."""
    if not re.fullmatch(f"[-+]?{_WHOLE}", token.value):
        raise UserError(f"{token.keyword} '{token.value[:80]}': write a whole number, as 10")
    return int(token.value)


def parse_size(text: str) -> int:
    """Parse ``8GiB``, ``500MB`` or ``8g`` into bytes; UserError if it is no size or too small."""
    try:
        size = TypeAdapter(ByteSize).validate_python(text)
    except ValidationError:
        size = ByteSize(0)
    if not SMALLEST_MEMORY <= size <= LARGEST_MEMORY:
        raise UserError(
            f"--memory '{text[:80]}': write a size of {SMALLEST_MEMORY >> 20} MiB or more, as 8GiB "
            "or 500MB"
        )
    return int(size)


class Sweep(NamedTuple):
    """A setting, as ``guidance`` or ``sampler.s_churn``, and the values that it takes in turn."""

    setting: str
    values: tuple[float, ...]

    def __str__(self) -> str:
        return f"{self.setting}={comma_separated(self.values)}"


def parse_sweep(text: str) -> Sweep:
    """Parse ``guidance=0,1,2``; UserError if it is no setting with numbers, each once."""
    setting, equals, values = (part.strip() for part in text.partition("="))
    parts = [part.strip() for part in values.split(",")]
    numbers = [number_typed(part) for part in parts]
    if not equals or not all(setting.split(".")) or None in numbers or len({*numbers}) < len(parts):
        raise UserError(
            f"--sweep '{text[:80]}': write a setting and numbers, each once, as guidance=0,1,2,5"
        )
    return Sweep(setting, tuple(number for number in numbers if number is not None))


def comma_separated(values: Sequence[object]) -> str:
    """Write a list as it is typed."""
    return ",".join(map(str, values))


def _listed(parse: Callable[[str], Any], metavar: str, **more: Any) -> Parameter:
    """Describe an option that may be repeated and is parsed as one list."""

    def convert(kind: Any, tokens: Sequence[Token]) -> Any:
        return parse(comma_separated([token.value for token in tokens]))

    return Parameter(converter=convert, negative="", metavar=metavar, **more)


Names = Annotated[tuple[str, ...], _listed(split, "NAMES")]
Seeds = Annotated[tuple[int, ...], _listed(parse_seeds, "SEEDS", show_default=comma_separated)]
ImageSeeds = Annotated[tuple[int, ...], _listed(parse_seeds, "SEEDS")]
Evaluations = Annotated[tuple[int, ...], _listed(parse_nfe, "NUMBERS")]
Classes = Annotated[tuple[int, ...], _listed(parse_classes, "NUMBERS")]
Swept = Annotated[Sweep, _listed(parse_sweep, "KEY=NUMBERS", n_tokens=1, accepts_keys=False)]
Whole = Annotated[int, Parameter(converter=lambda kind, tokens: parse_whole(tokens[-1]))]
Size = Annotated[
    int, Parameter(converter=lambda kind, tokens: parse_size(tokens[-1].value), metavar="SIZE")
]
Weights = Annotated[
    tuple[str, ...], Parameter(negative="", metavar="[NAME=]FILE", show_default=False)
]
Flag = Annotated[bool, Parameter(negative="", show_default=False)]
"""What is off unless it is asked for."""
Results = Annotated[Path, Parameter(group=PLACES)]
Tracking = Annotated[bool, Parameter(group=PLACES)]


def check_each_once(option: str, values: Sequence[object] | None) -> None:
    """UserError if a list is empty or has something twice; ``None`` is none."""
    if values is not None and (not values or len(set(values)) < len(values)):
        given = comma_separated(values)
        raise UserError(f"--{option} '{given}': name at least one, and each once")


def check_number(option: str, number: int | None, least: int, what: str, most: int = MOST) -> None:
    """UserError if a number that is given is too small, or so large that it is a slip."""
    if number is not None and not least <= number <= most:
        side = f"at least {least}" if number < least else f"at most {most}"
        raise UserError(f"--{option} {str(number)[:40]}: give a number of {what}, {side}")


def check_seeds(seeds: Sequence[int]) -> None:
    """UserError unless there are seeds, not too many, each once and a whole number from 0."""
    check_number("seeds", len(seeds), 0, "seeds", MOST_SEEDS)
    check_each_once("seeds", seeds)
    for seed in seeds:
        if not isinstance(seed, Integral) or not 0 <= seed < 2**63:
            raise UserError(f"seed {str(seed)[:40]}: give a whole number, 0 to 2^63 - 1")


def check_limits(jobs: int | None, timeout: float | None) -> None:
    """UserError if a number of cells or of seconds makes no sense."""
    if timeout is not None and not 0 < timeout <= LONGEST:
        raise UserError(
            f"--timeout {timeout:g}: give a positive number of seconds, at most {LONGEST:g}"
        )
    check_number("jobs", jobs, 1, "cells")


@Parameter(name="*")
@dataclass(frozen=True)
class StudyOptions:
    """Which study a command is about."""

    study: str | None = None
    """Name of a study under the results folder. Default: the latest."""
    _: KW_ONLY
    results: Results = Path("results")
    """Folder of all results."""

    @property
    def folder(self) -> Path:
        """The study's folder; UserError if there is none."""
        return study_folder(self.results, self.study)


def study_folder(results: Path, name: str | None) -> Path:
    """Find a study; the latest where none is named, which is then said on standard error."""
    folder = find_study(results, name)
    if name is None:
        print(f"study '{folder.name}', the latest; name another to have that", file=sys.stderr)
    return folder
