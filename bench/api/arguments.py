"""What the functions take, in the form that the command's options have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Names = str | Sequence[str]
"""One name, several separated by commas, or a sequence of names."""


def names_in(given: Names) -> tuple[str, ...]:
    """Return names as the command's options have them."""
    parts = given.split(",") if isinstance(given, str) else given
    return tuple(part.strip() for part in parts if part.strip())


def seeds_in(given: int | str | Sequence[int]) -> tuple[int, ...]:
    """Return seeds as the command's options have them."""
    from bench.commands.options import parse_seeds

    if isinstance(given, str):
        return parse_seeds(given)
    return (given,) if isinstance(given, int) else tuple(given)


def overrides_in(given: Mapping[str, object] | Sequence[str]) -> tuple[str, ...]:
    """Return overridden values as the command's ``--set`` has them."""
    import json

    if isinstance(given, str):
        return (given,)
    if not isinstance(given, Mapping):
        return tuple(given)
    # A string is written bare, as it is typed; all else as JSON, which YAML reads alike.
    return tuple(
        f"{key}={value if isinstance(value, str) else json.dumps(value)}"
        for key, value in given.items()
    )


def as_typed(name: str, value: Any) -> Any:
    """Return a further option as the command's options have it: paths, and tuples for lists."""
    if name in {"data", "reference", "results"} and value is not None:
        return Path(value)
    if name in {"weights", "rerun", "extractor", "metrics"} and value is not None:
        return names_in(value) if name != "weights" or not isinstance(value, str) else (value,)
    return value
