"""Whether a cell that was run a second time gave the same: bit by bit, or within its interval."""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from scipy import stats

from bench.records import CHECKPOINT, SAMPLES, Record, Status, Value, cells, read_curves
from bench.report.frame import flatten

COUNTED = (
    "steps", "images_seen", "train_flops", "sample_flops_per_image", "nfe", "parameters",
)  # fmt: skip
"""Costs that are counted, so that they repeat."""
ARITHMETIC = {
    "device": "the device",
    "cpu_capability": "the processor's instructions",
    "threads": "the number of threads",
    "packages.torch": "torch",
}
"""What of a cell's surroundings decides the last bits, and what it is called."""
TIMES: dict[str, Callable[[Record], float | None]] = {
    "ms_per_image": lambda row: getattr(row.cost.ms_per_image, "median", None),
    "latency_ms": lambda row: getattr(row.cost.latency_ms, "median", None),
    "seconds of training": lambda row: row.ledger.get("train"),
    "seconds in all": lambda row: row.ledger.get("wall"),
    "peak_memory_bytes": lambda row: row.cost.peak_memory_bytes,
}
"""What took how long; a reproduction is not judged by it."""
CONFIDENCE = 0.95
"""Of all metrics' intervals together."""
FEWEST_SEEDS = 3


@dataclass(frozen=True)
class Row:
    """One thing that was compared."""

    what: str
    before: str
    now: str
    verdict: str
    fails: bool = False
    """Whether it says that the cell is not the same."""
    is_equal: bool = True
    """Whether it is the same to the bit; true of what is not compared."""


@dataclass(frozen=True)
class Reproduction:
    """A cell and its reproduction, compared."""

    rows: Sequence[Row]
    loose: Sequence[str]
    """Why the bits need not be the same; where there is nothing, they must."""

    @property
    def is_equal(self) -> bool:
        """Whether all is the same to the bit."""
        return all(row.is_equal for row in self.rows)

    @property
    def is_judged(self) -> bool:
        """Whether there is anything to judge by: bits, or an interval."""
        judged = any(row.verdict.startswith(("within", "outside")) for row in self.rows)
        return judged or not self.loose or self.is_equal

    @property
    def holds(self) -> bool:
        """Whether the cell was repeated: it is the same, or within its interval."""
        return self.is_judged and not any(row.fails for row in self.rows)

    @property
    def verdict(self) -> str:
        """The outcome in a line."""
        why = "; ".join(self.loose)
        if self.is_equal:
            gone = [row.what for row in self.rows if row.verdict == "not compared"]
            although = f", although {why}" if why else ""
            return f"bit-equal{although}" + (f"; not compared: {', '.join(gone)}" if gone else "")
        if not self.is_judged:
            return f"not to be judged: it need not be bit-equal ({why}), and no metric has an error"
        failed = [row.what for row in self.rows if row.fails]
        if not self.loose:
            return f"differs: {', '.join(failed)}"
        told = f"outside its interval: {', '.join(failed)}" if failed else "within its interval"
        return f"{told} ({CONFIDENCE:.0%} for all metrics together; not bit by bit, since {why})"


def compare(
    before: Path, now: Path, rows: tuple[Record, Record], *, by_the_clock: bool
) -> Reproduction:
    """Compare a cell's folder with that of its reproduction; both are finished.

    ``by_the_clock`` says that training was as long as its seconds, whatever steps that made.
    """
    loose = [*(["training was limited by seconds"] if by_the_clock else []), *reasons(*rows)]
    found = [
        *_readable("weights", _weights, before / CHECKPOINT, now / CHECKPOINT),
        *_readable("samples", _samples, before / SAMPLES, now / SAMPLES),
        *_curves(before, now),
    ]
    for name in COUNTED:
        old, new = (getattr(row.cost, name) for row in rows)
        found.append(_row(name, _number(old), _number(new), _is_same_number(old, new)))
    if loose:
        # They are told, and judged by the metrics.
        found = [
            row if row.is_equal else replace(row, verdict="differs, not judged", fails=False)
            for row in found
        ]
    found += _metrics(before, rows, bool(loose))
    for what, time_of in TIMES.items():
        # Another machine, or the same on another day, differs in it.
        old, new = map(time_of, rows)
        if old is not None or new is not None:
            found.append(Row(what, _number(old), _number(new), "not judged"))
    return Reproduction(found, loose)


def reasons(before: Record, now: Record) -> Iterator[str]:
    """Say why the second run need not give the first one's bits."""
    old, new = (flatten("", row.environment) for row in (before, now))
    kinds = {str(each.get("device_type", "an unknown device")) for each in (old, new)}
    for kind in sorted(kinds - {"cpu"}):
        yield f"it ran on {kind}"
    for name, told in ARITHMETIC.items():
        # What an older record does not tell is taken to be as it is now.
        if name in old and name in new and old[name] != new[name]:
            yield f"{told} changed"


def _row(what: str, before: str, now: str, is_equal: bool, told: str = "differs") -> Row:
    verdict = "equal" if is_equal else told
    return Row(what, before, now, verdict, fails=not is_equal, is_equal=is_equal)


def _readable(
    what: str, rows: Callable[[Path, Path], Iterator[Row]], before: Path, now: Path
) -> list[Row]:
    """Compare two files, if both are there; one that cannot be read is not the same."""
    old, new = ("there" if path.exists() else "gone" for path in (before, now))
    if "gone" in {old, new}:
        return [Row(what, old, new, "not compared")]
    try:
        return list(rows(before, now))
    except (OSError, EOFError, ValueError, KeyError, RuntimeError, UnpicklingError, BadZipFile):
        return [Row(what, old, new, "cannot be read", fails=True, is_equal=False)]


def _hash(arrays: Mapping[str, Any]) -> str:
    """Identify arrays or tensors by name, type, shape and bits."""
    found = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        if not isinstance(array, np.ndarray):
            tensor = torch.as_tensor(array).detach().cpu().contiguous()
            # numpy has no bfloat16: any view of the same bits will do.
            array = (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
        found.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    return found.hexdigest()[:12]


def _weights(before: Path, now: Path) -> Iterator[Row]:
    """Compare the final weights, and where training left its generators."""
    files = (torch.load(path, map_location="cpu", weights_only=True) for path in (before, now))
    states = [file["trainer"] for file in files]
    for name in sorted(states[0]["networks"].keys() | states[1]["networks"].keys()):
        yield _arrays(f"weights of {name}", *(state["networks"].get(name, {}) for state in states))
    # Of the same draws they are the same.
    generators = (
        {n: v for n, v in state.items() if n.endswith("generator") and v is not None}
        for state in states
    )
    yield _arrays("random generators", *generators)


def _arrays(what: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> Row:
    names = before.keys() | now.keys()
    shared = before.keys() & now.keys()
    equal = sum(_hash({"": before[name]}) == _hash({"": now[name]}) for name in shared)
    told = f"differs in {len(names) - equal} of {len(names)}"
    return _row(what, _hash(before), _hash(now), equal == len(names), told)


def _samples(before: Path, now: Path) -> Iterator[Row]:
    with np.load(before) as files, np.load(now) as again:
        for name in sorted({*files.files, *again.files}):
            old, new, told = files.get(name), again.get(name), "differs in shape"
            if old is None or new is None:
                one, other = ("none" if array is None else f"{len(array)}" for array in (old, new))
                yield _row(f"samples ({name})", one, other, is_equal=False)
                continue
            if old.shape == new.shape:
                count = int(np.any((old != new).reshape(len(old), -1), axis=1).sum())
                told = f"differs in {count} of {len(old)}"
            one, other = (_hash({"": array}) for array in (old, new))
            yield _row(f"samples ({name})", one, other, one == other, told)


def _curves(before: Path, now: Path) -> Iterator[Row]:
    """Compare the points of each curve by images seen and value; their seconds differ."""
    old, new, equal = _points(before), _points(now), 0
    for name in sorted({*old, *new}):
        one, other = (side.get(name, []) for side in (old, new))
        pairs = zip(one, other, strict=False)
        apart = (a[0] for a, b in pairs if a[0] != b[0] or not _is_same_number(a[1], b[1]))
        where = next(apart, None)
        if where is None and len(one) == len(other):
            equal += 1
            continue
        told = "differs" if where is None else f"differs from {where} images on"
        left, right = (
            f"{len(curve)} points, last {curve[-1][1]:.6g}" if curve else "none"
            for curve in (one, other)
        )
        yield _row(f"curve {name}", left, right, is_equal=False, told=told)
    if equal:
        yield _row("curves", f"{equal} curves", f"{equal} curves", is_equal=True)


def _points(folder: Path) -> dict[str, list[tuple[int, float]]]:
    found: dict[str, list[tuple[int, float]]] = {}
    for line in read_curves(folder):
        for name, value in line["values"].items():
            found.setdefault(name, []).append((int(line["images"]), float(value)))
    return found


def _is_same_number(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return one == other or (math.isnan(one) and math.isnan(other))


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.6g}"


def _metrics(before: Path, rows: tuple[Record, Record], is_loose: bool) -> Iterator[Row]:
    """Compare the metrics, by their intervals where the bits need not be the same."""
    old, new = rows[0].metrics, rows[1].metrics
    seeds: dict[str, list[float]] = {}
    for _, row in cells(before.parent):
        if (row.method, row.status) == (rows[0].method, Status.FINISHED):
            for name, value in row.metrics.items():
                seeds.setdefault(name, []).append(value.value)
    common = len(old.keys() & new.keys())
    for name in {**old, **new}:
        one, other = (_number(side[name].value) if name in side else "none" for side in (old, new))
        if name not in old or name not in new:
            yield _row(name, one, other, is_equal=False)
            continue
        if _is_same_number(old[name].value, new[name].value):
            yield _row(name, one, other, is_equal=True)
            continue
        verdict, is_in = "no interval to judge by", True
        if span := _span(old[name], new[name], seeds.get(name, ()), common):
            is_in = abs(new[name].value - old[name].value) <= span[0]
            verdict = f"{'within' if is_in else 'outside'} ±{span[0]:.3g} ({span[1]})"
        told = verdict if is_loose else f"differs, {verdict}"
        yield Row(name, one, other, told, fails=not (is_loose and is_in), is_equal=False)


def _span(old: Value, new: Value, seeds: Sequence[float], metrics: int) -> tuple[float, str] | None:
    """Return how far two runs of one seed may lie apart, and what by; ``None`` if unknown.

    By the spread over the study's seeds, as if the second run were of one more: a training that is
    not repeated to the bit ends in another network. Else by the standard errors within the seed,
    of both runs, which know of the samples alone. Bonferroni's bound makes the intervals hold
    together.
    """
    tail = 1 - (1 - CONFIDENCE) / (2 * metrics)
    if len(seeds) >= FEWEST_SEEDS:
        factor = float(stats.t.ppf(tail, len(seeds) - 1)) * math.sqrt(2)
        return factor * float(np.std(seeds, ddof=1)), f"{len(seeds)} seeds"
    if old.error is not None and new.error is not None:
        span = float(stats.norm.ppf(tail)) * math.hypot(old.error, new.error)
        return span, "jackknife, of the samples alone"
    return None
