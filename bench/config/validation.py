"""Validates settings and says in one line what is wrong with them."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from bench.config.errors import UserError
from bench.config.names import nearest
from bench.config.text import one_line


def build(kind: type[Any], values: Mapping[str, Any], where: str) -> Any:
    """Validate ``values`` as ``kind``; UserError names the key, the value and what is allowed.

    No number may be infinite: in a record it would be null.
    """
    try:
        found = kind.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{where}: {explain(error, kind)}") from error
    for path, number in _floats(found.model_dump()):
        if not math.isfinite(number):
            raise UserError(f"{where}: {path} = {number}: give a finite number")
    return found


def _floats(value: Any, path: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(value, float):
        yield path, value
    if isinstance(value, (list, tuple)):
        value = dict(enumerate(value))
    for key, inner in value.items() if isinstance(value, Mapping) else ():
        yield from _floats(inner, f"{path}.{key}".lstrip("."))


def explain(error: ValidationError, kind: type[BaseModel]) -> str:
    """Say in one line what the first problem is, and how many more there are."""
    first = error.errors()[0]
    path, holder = _walk(kind, first["loc"])
    if first["type"] == "extra_forbidden":
        allowed = sorted(holder.model_fields) if holder else []
        given = str(first["loc"][-1])
        text = f"unknown key '{path}'{nearest(given, allowed)}; choose from: {', '.join(allowed)}"
    elif first["type"] == "union_tag_invalid":
        tag = first["ctx"]["tag"]
        allowed = first["ctx"]["expected_tags"].replace("'", "").split(", ")
        text = f"{path}.kind = '{tag}'{nearest(tag, allowed)}; choose from: {', '.join(allowed)}"
    else:
        given = first["input"]
        # What is wrong with a whole block, its message says better than its content.
        shown = "" if isinstance(given, Mapping) else f" = {json.dumps(given, default=str)}"
        reason = first["msg"].removeprefix("Value error, ")
        text = f"{path}{shown}: {reason}" if path else reason
    more = error.error_count() - 1
    return one_line(text) + (f" (and {more} more)" if more else "")


def _walk(
    kind: type[BaseModel], location: Sequence[int | str]
) -> tuple[str, type[BaseModel] | None]:
    """Return an error's dotted path, without the tags of unions, and the model that it is in."""
    parts: list[str] = []
    holder: type[BaseModel] | None = kind
    choices: dict[str, type[BaseModel]] = {}
    for index, part in enumerate(map(str, location)):
        if part in choices:
            holder, choices = choices[part], {}
            continue
        parts.append(part)
        field = holder.model_fields.get(part) if holder else None
        if field is not None and index < len(location) - 1:
            choices = {}
            for model in _models(field.annotation):
                tag = model.model_fields.get("kind")
                choices[str(tag.default) if tag else model.__name__] = model
            holder = next(iter(choices.values()), None)
            choices = choices if len(choices) > 1 else {}
    return ".".join(parts), holder


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]
