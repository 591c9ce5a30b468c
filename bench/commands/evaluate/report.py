"""The values of one set of samples, for people and for programs."""

import json
from collections.abc import Mapping

from bench.records import Value, direction
from bench.report.table import markdown_table
from bench.report.table.notes import measured
from bench.report.table.numbers import number


def render_values(values: Mapping[str, Value], format: str) -> str:
    """Write values as ``md``, with how they were measured below, or as ``json`` with all of it."""
    if format == "json":
        body = {name: value.model_dump() for name, value in values.items()}
        return json.dumps(body, indent=2, ensure_ascii=False) + "\n"
    rows = [
        [f"{name} {direction(name)}".rstrip(), number(value.value, 5), _spread(value)]
        for name, value in values.items()
    ]
    return "\n".join([markdown_table(["metric", "value", "beside it"], rows), *_how(values)]) + "\n"


def _spread(value: Value) -> str:
    told = [
        (value.spread, "over its splits"),
        (value.error, "standard error, by a jackknife over blocks of images"),
        (value.corrected, "is the value less the jackknife's term in 1/n"),
    ]
    return "; ".join(f"{number(part)} {what}" for part, what in told if part is not None)


def _how(values: Mapping[str, Value]) -> list[str]:
    """Return a line for each way of measuring, with the metrics that were measured so."""
    groups: dict[str, list[str]] = {}
    for name, value in values.items():
        groups.setdefault(measured(value.provenance), []).append(name)
    return [f"- {', '.join(names)}: {told}" for told, names in groups.items()]
