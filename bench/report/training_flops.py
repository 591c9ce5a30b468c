"""FLOPs along a training, from the totals of its record and the steps of its curve."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bench.records import Record

LOSS = "loss/"
FINAL = "final"
"""The stage of the points that are taken after training."""


def training_flops(row: Record, lines: Sequence[Mapping[str, Any]]) -> list[float]:
    """Return the FLOPs that a cell had spent at each of its curve's points.

    Each objective has the same FLOPs at each update, and belongs to the stage whose losses name
    it: so a stage's total is known, and within it FLOPs grow with the steps. Exact at the ends of
    stages; between them to within an update of an objective that is not trained at each step. NaN
    where the record does not tell the stages apart, or does not add up.
    """
    unknown = [math.nan] * len(lines)
    ends: dict[str, float] = {}
    labels: dict[str, set[str]] = {}
    for line in lines:
        name = str(line.get("stage"))
        if name == FINAL:
            continue
        if name in ends and name != next(reversed(ends)):
            return unknown  # A stage that comes back is two of one name.
        ends[name] = line.get("step", math.nan)
        losses = {key.removeprefix(LOSS) for key in line["values"] if key.startswith(LOSS)}
        labels.setdefault(name, set()).update(losses)
    totals, whole = row.cost.train_flops_by_objective, row.cost.train_flops
    spent = [sum(totals.get(label, 0.0) for label in labels[name]) for name in ends]
    if not whole or not math.isclose(sum(spent), whole, rel_tol=1e-9):
        return unknown
    steps = [line.get("step", math.nan) for line in lines]
    knots = np.cumsum([0.0, *spent])
    return [float(x) for x in np.interp(steps, [0.0, *ends.values()], knots)]
