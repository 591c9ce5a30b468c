"""What differs between two studies beside their results: settings, code, machine and data."""

import math
from collections.abc import Iterator
from typing import Any

from bench.report.frame import Cells, device, difference, read_config
from bench.report.study_report import StudyReport

NO_SETTINGS = ("seed", "settings.device")
"""Parts of a cell's configuration that are told of elsewhere."""
ROUNDING = 1e-9
"""Yardsticks within this fraction are equal; they are computed anew, not copied."""
LONGEST = 160


def differences(one: StudyReport, other: StudyReport) -> list[str]:
    """Say in lines what differs between two studies; none where nothing does."""
    return [*_facts(one, other), *_settings(one, other), *_yardsticks(one, other)]


def _facts(one: StudyReport, other: StudyReport) -> Iterator[str]:
    left, right = _told(one.cells), _told(other.cells)
    for name in left | right:
        texts = ["; ".join(sorted(side.get(name, set()))) or "not said" for side in (left, right)]
        if texts[0] != texts[1]:
            yield f"{name}: {_short(texts[0])} and {_short(texts[1])}"


def _told(cells: Cells) -> dict[str, set[str]]:
    """Return each fact of a study's cells that have run, with all the values that it has there."""
    facts: dict[str, set[str]] = {}
    for row in (row for _, row in cells if row.environment):
        environment = row.environment
        dirty = " with changes" if environment.get("dirty") else ""
        told = {
            "data set": f"{row.dataset} ({row.data_variant})",
            "sha256 of the data": row.data.get("sha256"),
            "preset": row.preset,
            "commit": f"{str(environment.get('commit'))[:12]}{dirty}",
            "device": device(environment),
            **{f"version of {k}": v for k, v in (environment.get("packages") or {}).items()},
        }
        for name, value in told.items():
            facts.setdefault(name, set()).add("none" if value is None else str(value))
    return facts


def _settings(one: StudyReport, other: StudyReport) -> Iterator[str]:
    """Yield each setting in which cells of one method differ, with the methods."""
    left, right = _configurations(one), _configurations(other)
    groups: dict[str, list[str]] = {}
    for method in sorted(left.keys() & right.keys()):
        for key in sorted(left[method].keys() | right[method].keys()):
            mine, theirs = (side[method].get(key, "not there") for side in (left, right))
            if mine != theirs:
                told = f"{key}: {_short(str(mine))} and {_short(str(theirs))}"
                groups.setdefault(told, []).append(method)
    yield from (f"{told} ({', '.join(methods)})" for told, methods in groups.items())


def _configurations(side: StudyReport) -> dict[str, dict[str, Any]]:
    """Return the flat configuration of each method's first cell that has one."""
    found: dict[str, dict[str, Any]] = {}
    for folder, row in side.cells:
        if row.method not in found and (flat := read_config(folder)):
            found[row.method] = {k: v for k, v in flat.items() if k not in NO_SETTINGS}
    return found


def _yardsticks(one: StudyReport, other: StudyReport) -> Iterator[str]:
    """Yield the anchors that have moved: they are the same images, so the measuring has changed."""
    left, right = (_anchors(side) for side in (one, other))
    for name, metric in sorted(left.keys() & right.keys()):
        mine, theirs = (side[name, metric] for side in (left, right))
        alike = not difference(*(side.provenance.get(metric, {}) for side in (one, other)))
        if alike and abs(mine - theirs) > ROUNDING * max(abs(mine), abs(theirs)):
            yield f"{metric} of the same yardstick, {name}: {mine:.6g} and {theirs:.6g}"


def _anchors(report: StudyReport) -> dict[tuple[str, str], float]:
    return {
        (name, metric): values[metric].value
        for name, values in report.anchors.rows.items()
        for metric in report.provenance
        if metric in values and not math.isnan(values[metric].value)
    }


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
