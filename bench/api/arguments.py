"""What the functions take, in the form that the command's options have."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
Names = str | Sequence[str]
"""One name, several separated by commas, or a sequence of names."""


def options_of(kind: Callable[..., T], given: Mapping[str, Any]) -> T:
    """Make a command's options of what a function was given; TypeError where one is unknown."""
    return kind(**{k: None if value is None else typed(k, value) for k, value in given.items()})


def typed(name: str, value: Any) -> object:
    """Return what was given for an option in the type that the option has."""
    match name:
        case "data" | "reference" | "results":
            return Path(value)
        case "methods" | "rerun" | "extractor" | "metrics":
            parts = value.split(",") if isinstance(value, str) else value
            return tuple(part.strip() for part in parts if part.strip())
        case "seeds":
            from bench.commands.options import parse_seeds

            seeds = parse_seeds(value) if isinstance(value, str) else value
            return (seeds,) if isinstance(seeds, int) else tuple(seeds)
        case "overrides" if isinstance(value, Mapping):
            # A string is written bare, as it is typed; all else as JSON, which YAML reads alike.
            texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in value.items()}
            return tuple(f"{key}={text}" for key, text in texts.items())
        case "overrides" | "weights":
            # A file's name may have commas.
            return (value,) if isinstance(value, str) else tuple(value)
    return value
