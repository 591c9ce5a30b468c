"""What the functions take, in the form that the command's options have."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
Names = str | Sequence[str]
"""One name, several separated by commas, or a sequence of names."""


def names_in(given: Names) -> tuple[str, ...]:
    """Return names as the command's options have them."""
    parts = given.split(",") if isinstance(given, str) else given
    return tuple(part.strip() for part in parts if part.strip())


def files_in(given: Names) -> tuple[str, ...]:
    """Return files, whose names may have commas."""
    return (given,) if isinstance(given, str) else names_in(given)


def seeds_in(given: int | str | Sequence[int]) -> tuple[int, ...]:
    """Return seeds as the command's options have them."""
    from bench.commands.options import parse_seeds

    if isinstance(given, str):
        return parse_seeds(given)
    return (given,) if isinstance(given, int) else tuple(given)


def overrides_in(given: Mapping[str, object] | Sequence[str]) -> tuple[str, ...]:
    """Return overridden values as the command's ``--set`` has them."""
    if not isinstance(given, Mapping):
        return (given,) if isinstance(given, str) else tuple(given)
    # A string is written bare, as it is typed; all else as JSON, which YAML reads alike.
    return tuple(
        f"{key}={value if isinstance(value, str) else json.dumps(value)}"
        for key, value in given.items()
    )


TYPED: Mapping[str, Callable[[Any], object]] = {
    **dict.fromkeys(("data", "reference", "results"), Path),
    **dict.fromkeys(("methods", "rerun", "extractor", "metrics"), names_in),
    "weights": files_in,
    "seeds": seeds_in,
    "overrides": overrides_in,
}


def options_of(kind: Callable[..., T], given: Mapping[str, Any]) -> T:
    """Make a command's options of what a function was given; TypeError where one is unknown."""

    def typed(name: str, value: Any) -> object:
        return TYPED[name](value) if name in TYPED and value is not None else value

    return kind(**{name: typed(name, value) for name, value in given.items()})
