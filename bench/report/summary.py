"""The rows of tables and plots: means and intervals over a method's seeds, and its timings."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import stdtrit  # type: ignore[import-untyped, unused-ignore]

from bench.records import Status
from bench.report.frame import TEXT

Array = NDArray[np.float64]

TableRow = dict[str, Any]
"""One method, set of foreign samples or anchor: numbers by the frame's names, and beside them."""


def aggregate(rows: pd.DataFrame) -> pd.DataFrame:
    """Reduce rows of one kind to one per method, sorted by its name.

    For every number ``X``: ``X`` is the mean over the finished seeds, ``X:half`` the half-width
    of its 95 % t interval (only with two seeds or more), ``X:n`` the seeds that had it.
    ``seeds`` and ``seeds_total`` count finished and planned cells, ``unfinished`` names the
    others with status and reason. A method without a finished cell keeps its row.
    """
    numbers = [column for column in rows.columns if column not in TEXT]
    values = rows[numbers].to_numpy(dtype=float)
    done = (rows["status"] == str(Status.FINISHED)).to_numpy()
    found = []
    for method, chosen in sorted(rows.groupby("method").indices.items()):
        places = np.asarray(chosen)
        mean, half, count = mean_intervals(values[places[done[places]]].T)
        rest = rows.take(places[~done[places]])[["cell", "status", "reason"]]
        unfinished = "; ".join(
            f"{cell}: {status}" + (f" ({reason})" if reason else "")
            for cell, status, reason in rest.itertuples(index=False)
        )
        row = {"method": str(method), "seeds": int(done[places].sum())}
        row |= {"seeds_total": len(places), "unfinished": unfinished}
        told = zip(numbers, mean.tolist(), half.tolist(), count.tolist(), strict=True)
        for name, middle, width, seeds in told:
            row |= {name: middle, f"{name}:half": width, f"{name}:n": seeds}
        found.append(row)
    return pd.DataFrame(found)


@np.errstate(over="ignore", invalid="ignore")  # What is beyond any number is told as infinite.
def mean_intervals(values: Array) -> tuple[Array, Array, NDArray[np.int64]]:
    """Return mean, half-width of the 95 % t interval and count of each row of (numbers, seeds).

    NaN does not count. The half-width is NaN under two values and of a mean that is not finite.
    """
    there = ~np.isnan(values)
    count = there.sum(axis=1)
    mean, half = np.full((2, len(values)), np.nan)
    # Rows with the same seeds are reduced together, along a contiguous axis: the same bits as one
    # by one.
    for pattern in {row.tobytes(): row for row in there}.values():
        seeds = int(pattern.sum())
        if seeds:
            alike = np.flatnonzero((there == pattern).all(axis=1))
            chosen = np.ascontiguousarray(values[alike][:, pattern])
            mean[alike] = chosen.mean(axis=1)
            finite = np.isfinite(mean[alike])
            if seeds > 1:
                error = chosen[finite].std(axis=1, ddof=1) / seeds**0.5
                half[alike[finite]] = float(stdtrit(seeds - 1, 0.975)) * error
    return mean, half, count


def mean_interval(values: list[float]) -> tuple[float, float, int]:
    """Return mean, half-width of the 95 % t interval (NaN under two values) and count."""
    mean, half, count = mean_intervals(np.array([values], dtype=float))
    return float(mean[0]), float(half[0]), int(count[0])


def times(finished: pd.DataFrame) -> dict[str, TableRow]:
    """Return each method's timings over its finished cells, as ``time.<field>.<part>``.

    Over seeds, the median of the medians and the widest interval; and whether the machine was
    unfit for any (``time.unfit``), or a ledger misses the wall clock (``ledger.unbalanced``).
    """
    groups = finished.groupby("method")
    found = {"time.unfit": groups["unfit"].any(), "ledger.unbalanced": groups["imbalance"].any()}
    fields = [x for x in ("ms_per_image", "latency_ms") if f"cost.{x}.median" in finished.columns]
    for field in fields:
        for part, of in (("median", "median"), ("low", "min"), ("high", "max")):
            found[f"time.{field}.{part}"] = groups[f"cost.{field}.{part}"].agg(of)
    return pd.DataFrame(found).to_dict("index")  # type: ignore[return-value]
