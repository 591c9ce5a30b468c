"""What MLflow's pages of an experiment show at first: a view that its UI shares by a tag."""

import json
from collections.abc import Sequence
from typing import Any

from bench.records import Record, Status, by_family, direction, headline
from bench.tracking.content import IMAGE

COLUMNS = ("Dataset", "User", "Source", "Version")
"""Columns of MLflow's own that stand behind method, seed and numbers."""
RUN, CREATED = "attributes.`Run Name`", "runDateAndNestInfo"
"""Columns that MLflow always shows."""
COSTS = ("cost/nfe", "timing/ms_per_image", "cost/train_flops")
GROUPS = ("quality", "cost", "timing", "train", "train/loss", "means")
"""Groups of metrics, in the order of their charts."""
ANSWER = "quality against cost"
SINCE = "since"
"""Key of a view, which MLflow leaves alone, with the start of the study's cells that it is of."""


def view_of(rows: Sequence[Record]) -> dict[str, Any]:
    """Return the view of a study's runs: charts of its leading metric, samples, the runs by it.

    Without a finished cell it shows the charts that MLflow makes by itself, of all runs. Only its
    own charts are told: MLflow takes no long tag, and adds those of other metrics.
    """
    view: dict[str, Any] = {"runsHiddenMode": "SHOW_ALL"}
    done = [row for row in rows if row.status == Status.FINISHED]
    names = headline(by_family({name: None for row in done for name in row.metrics}))
    if not names:
        return view
    lead, *others = names
    shown = f"quality/{lead}"
    wanted = [shown, f"{shown}_error", *(f"quality/{name}" for name in others[:1]), *COSTS]
    widths = {_key("tags", "method"): 90, _key("tags", "seed"): 60}
    widths |= {_key("metrics", name): 50 + 6 * len(name) for name in wanted}
    columns = [*widths, *(_key("attributes", name) for name in COLUMNS)]
    return view | {
        SINCE: max(row.started or "" for row in done),
        "selectedColumns": columns,
        "columnOrder": [RUN, *widths, CREATED, *columns],
        "columnWidths": widths | {RUN: 160, CREATED: 120},
        "orderByKey": _key("metrics", shown),
        "orderByAsc": direction(lead) != "↑",
        "compareRunCharts": [
            _scatter("cost/train_flops", shown, f"{lead} over FLOPs of training"),
            _scatter("timing/ms_per_image", shown, f"{lead} over ms per image"),
            _card("BAR", f"{lead} {direction(lead)}", metricKey=shown),
            _card(
                "IMAGE",
                "samples",
                imageKeys=[IMAGE],
                showRunParams=False,
                step=max(row.cost.images_seen for row in done),
            ),
        ],
        "compareRunSections": [
            {"uuid": name, "name": name, "display": name == ANSWER, "isReordered": False}
            for name in (ANSWER, *GROUPS)
        ],
        "isAccordionReordered": True,
    }


def is_newer(view: dict[str, Any], tag: str) -> bool:
    """Whether a view is to replace the one in a tag: another, and not of older cells."""
    try:
        old = json.loads(tag)
        return bool(old != view and view.get(SINCE, "") >= old.get(SINCE, ""))
    except (ValueError, AttributeError, TypeError):
        return True


def _key(kind: str, name: str) -> str:
    return f"{kind}.`{name}`"


def _scatter(x: str, y: str, title: str) -> dict[str, Any]:
    axes = {"xaxis": {"key": x, "type": "METRIC"}, "yaxis": {"key": y, "type": "METRIC"}}
    return _card("SCATTER", title, **axes)


def _card(kind: str, title: str, **more: Any) -> dict[str, Any]:
    return {
        "uuid": title, "type": kind, "displayName": title, "runsCountToCompare": 100,
        "metricSectionId": ANSWER, "deleted": False, "isGenerated": False,
    } | more  # fmt: skip
