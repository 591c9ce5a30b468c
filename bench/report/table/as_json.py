"""The table for programs: strict JSON with everything that is known of a study."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from bench.report.frame import TEXT
from bench.report.published import Beside
from bench.report.ranking import Ranking
from bench.report.study_report import StudyReport
from bench.report.table.notes import notes

if TYPE_CHECKING:
    import pandas as pd


def to_json(report: StudyReport) -> str:
    """Write cells, anchors, the aggregate per method, provenance and notes; no NaN in it."""
    content = {
        "cells": _plain(report.cell_frame),
        "foreign": _plain(report.of_kind("foreign")),
        "anchors": _plain(report.of_kind("anchor")),
        "methods": _plain(report.summary),
        "rankings": [_ranking(one) for one in report.rankings],
        "published": [_published(one) for one in report.published.beside],
        "provenance": report.provenance,
        "notes": notes(report),
    }
    return json.dumps(_strict(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _strict(value: Any) -> Any:
    """Return a value as strict JSON has it: no NaN, and infinity as a text."""
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    if isinstance(value, dict):
        return {key: _strict(part) for key, part in value.items()}
    return [_strict(part) for part in value] if isinstance(value, list | tuple) else value


def _ranking(one: Ranking) -> dict[str, Any]:
    pairs = [
        {
            "methods": [pair.one, pair.other],
            "seeds": pair.test.count,
            **_known(difference=pair.test.mean, half=pair.test.half),
            **_known(p=pair.test.p, p_holm=pair.adjusted),
            "apart": pair.is_apart,
        }
        for pair in one.pairs
    ]
    return {"metric": one.metric, "ranks": one.ranks, "unranked": one.unranked, "pairs": pairs}


def _published(one: Beside) -> dict[str, Any]:
    named = {"row": one.row, **one.published.model_dump(exclude={"rows"}), "verdict": one.verdict}
    return named | {"ours": one.mean} | _known(half=one.half, error=one.error)


def _known(**numbers: float) -> dict[str, float]:
    """Return the numbers that are there."""
    return {name: value for name, value in numbers.items() if math.isfinite(value)}


def _plain(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return rows of Python's own types; what is missing is left out, but for text columns."""
    objects = frame.astype(object).where(frame.notna(), None)
    columns = [objects[name].tolist() for name in frame.columns]
    return [
        {
            str(name): value
            for name, value in zip(frame.columns, row, strict=True)
            if value is not None or name in TEXT
        }
        for row in zip(*columns, strict=True)
    ]
