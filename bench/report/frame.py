"""A study's folders as one data frame: a row per cell and per anchor, a column per number.

Columns are flat, with the record's part as prefix: ``metrics.<name>``, with its ``.spread``,
``.error`` and ``.corrected``, ``cost.<field>`` (``cost.ms_per_image.median``), ``ledger.<part>``.
They keep the record's units: seconds, milliseconds, bytes, FLOPs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from bench import records
from bench.config import UserError, digest, one_line
from bench.records import Anchors, Record, Status, Value, interleaved, record
from bench.report.training_flops import training_flops

if TYPE_CHECKING:
    import pandas as pd

RUN_AGAIN = "remove it and run the study again"
Cells = list[tuple[Path, Record]]
"""Records with the folders that they lie in."""
BESIDE = ("spread", "error", "corrected")
"""What a metric's value can have beside it: ``metrics.<name>.spread``; see ``Value``."""
COMPARABLE = ("protocol", "extractor", "reference", "resize", "quantis", "data")
"""Beginnings of the provenance keys that, with ``n``, two values must share to be compared."""
USUAL: dict[str, Any] = {"splits": 10, "levels": [0.1, 0.2, 0.4, 0.8, 1.6, 3.2]}
"""What must be shared too, and goes without saying where it is this."""
HASHED = {"data": "data_sha256", "reference_file": "reference_sha256"}
"""Names of files, or of how they were kept, and the hashes that count in their place."""
NO_NUMBERS = {"peak_memory_kind", "timing", "unfit"}
"""Parts of a cost that have no column of numbers."""
TOGETHER = "interleaved"
"""How a cell was timed whose times are of `bench time`; the others were timed ``alone``."""
TEXT: tuple[str, ...] = (
    "kind", "study", "cell", "method", "seed", "status", "reason", "dataset", "data_variant",
    "preset", "key", "started", "ended", "device", "commit", "dirty", "log",
    "shared", "timed", "unfit", "imbalance", "source",
)  # fmt: skip


def metric_names(frame: pd.DataFrame) -> list[str]:
    """Return the metrics with at least one number, distances first, then scores.

    Of one family the order is the records', whose first are of the extractor that leads.
    """
    names = [
        column.removeprefix("metrics.")
        for column in frame.columns[frame.notna().any()]
        if column.startswith("metrics.") and not column.endswith(tuple(f".{x}" for x in BESIDE))
    ]
    return records.by_family(names)


def make_frame(
    study: str, cells: Cells, anchors: Anchors, timing: interleaved.Timing | None = None
) -> pd.DataFrame:
    """Put a study's records into one row per cell (``kind="cell"``) and per anchor.

    Samples that were made elsewhere have a row of ``kind="foreign"`` without costs. Times taken of
    several cells in turn (`bench time`) stand in place of a cell's own, and ``timed`` says which;
    ``unfit`` says why the machine was not fit for those that stand. A cell that did not finish
    keeps its row, with its status and reason, whatever it measured.
    """
    import pandas as pd

    rows = [_cell_row(folder, row, timing) for folder, row in cells]
    for name, values in anchors.rows.items():
        named = {"kind": "anchor", "study": study, "cell": name, "method": name, "reason": ""}
        rows.append(named | _metrics(values))
    frame = pd.DataFrame([dict.fromkeys(TEXT) | row for row in rows])
    numbers = [column for column in frame.columns if column not in TEXT]
    frame[numbers] = frame[numbers].apply(pd.to_numeric)
    frame["seed"] = frame["seed"].astype("Int64")
    return frame[[*TEXT, *numbers]]


def make_curves(cells: Cells) -> pd.DataFrame:
    """Read cells' curves, a row a logged point; of one logged again after a resumption the last.

    ``flops`` is the training's own up to there, NaN where it is not known; see ``training_flops``.
    """
    import pandas as pd

    names = ["method", "seed", "stage", "images", "seconds", "flops", "name", "value"]
    rows = []
    for folder, row in cells:
        lines = record.read_curves(folder)
        for line, flops in zip(lines, training_flops(row, lines), strict=True):
            at = (row.method, row.seed, line.get("stage"), line["images"], line["seconds"], flops)
            rows += [(*at, name, value) for name, value in line["values"].items()]
    curves = pd.DataFrame(rows, columns=names)
    last = curves.drop_duplicates(["method", "seed", "name", "images"], keep="last")
    return last.sort_values(["method", "seed", "name", "images"], ignore_index=True)


def read_records(study: Path) -> tuple[Cells, Anchors]:
    """Read a study's cells and anchors; UserError where there are none or one is unreadable."""
    cells = read_cells(study)
    path = study / record.ANCHORS
    anchors = records.read_json(path, Anchors, RUN_AGAIN) if path.exists() else Anchors()
    if not cells:
        raise UserError(f"no cells in '{study}'; give a study's folder, or see: bench run --help")
    places: dict[tuple[str, int], Path] = {}
    for folder, row in cells:
        if (first := places.setdefault((row.method, row.seed), folder)) is not folder:
            raise UserError(f"'{first}' and '{folder}' are the same cell; remove the copy")
    return cells, anchors


def read_cells(folder: Path) -> Cells:
    """Read the records of a study, or of what it has from elsewhere, ``study / FOREIGN``."""
    found = sorted(folder.glob(f"*/{record.RECORD}"))
    return [(path.parent, records.read_json(path, Record, RUN_AGAIN)) for path in found]


def read_config(cell: Path) -> dict[str, Any]:
    """Read a cell's configuration as ``prefix.key`` names, nothing where there is none."""
    path = cell / records.CONFIG
    try:
        tree = yaml.safe_load(path.read_bytes()) if path.exists() else {}
        return flatten("", tree)
    except (yaml.YAMLError, AttributeError) as error:
        raise UserError(
            f"'{path}' cannot be read ({one_line(error)[:200]}); {RUN_AGAIN}"
        ) from error


def _cell_row(folder: Path, row: Record, timing: interleaved.Timing | None) -> dict[str, Any]:
    together = timing and timing.of(row)
    unfit = interleaved.reasons(timing, together) if timing and together else row.cost.unfit
    named = row.model_dump(include=set(TEXT)) | {
        "kind": row.origin,
        "status": str(row.status),
        "device": device(row.environment),
        "commit": row.environment.get("commit"),
        "dirty": row.environment.get("dirty"),
        "log": f"{folder.name}/{records.LOG}",
        "shared": "; ".join(f"stage {x} from {by.cell}" for x, by in row.shared_stages.items()),
        "timed": "" if row.cost.ms_per_image is None else TOGETHER if together else "alone",
        "unfit": "; ".join(unfit),
        "source": digest(files)[:12] if (files := row.identity.get("source")) else "",
        "imbalance": "" if row.is_balanced else f"{row.imbalance:.1%}",
    }
    # What was made elsewhere has a cost, but not one that is known here.
    made_here = row.origin == "cell"
    costs = row.cost.model_dump(exclude=NO_NUMBERS, exclude_none=True) if made_here else {}
    if together:
        costs |= together.model_dump(include={"ms_per_image", "latency_ms"})
    numbers = _metrics(row.metrics) | flatten("cost", costs) | flatten("ledger", row.ledger)
    return named | numbers


def device(environment: Mapping[str, Any]) -> str | None:
    """The device, and on a CPU how much of it a cell had: timings depend on both."""
    name: str | None = environment.get("device")
    if name is None or environment.get("device_type") != "cpu":
        return name
    threads, at_once = environment.get("threads"), environment.get("cells_at_once")
    return f"{name}, {threads} thread(s) a cell, {at_once} cell(s) at once"


def is_altered(dataset: str, variant: str) -> bool:
    """Whether data are not those that published values are of."""
    return variant != dataset or "jpeg" in variant.lower()


def of_one_source(cells: pd.DataFrame) -> pd.Series[bool]:
    """Whether a cell's method has all its cells of one source: a stale one may have been kept."""
    return cells.groupby("method")["source"].transform("nunique") <= 1


def _metrics(values: Mapping[str, Value]) -> dict[str, float]:
    row = {f"metrics.{name}": found.value for name, found in values.items()}
    return row | {
        f"metrics.{name}.{part}": number
        for name, found in values.items()
        for part in BESIDE
        if (number := getattr(found, part)) is not None
    }


def flatten(prefix: str, tree: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten a nested mapping into ``prefix.key.key`` names, leaving lists as they are."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        flat |= flatten(name, value) if isinstance(value, Mapping) else {name: value}
    return flat


def shared_provenance(cells: Cells, anchors: Anchors) -> dict[str, dict[str, Any]]:
    """Return each metric's provenance; UserError unless all its values were measured alike."""
    first: dict[str, tuple[str, dict[str, Any]]] = {}
    told: dict[str, dict[str, str]] = {}
    finished = [(row.cell, row.metrics) for _, row in cells if row.status == Status.FINISHED]
    for owner, values in [*finished, *anchors.rows.items()]:
        for name, value in values.items():
            decisive, place = comparable(value.provenance), (owner, value.provenance)
            if told.setdefault(name, decisive) != decisive:
                refuse_difference(name, first[name], place)
            first.setdefault(name, place)
    return {name: provenance for name, (_, provenance) in first.items()}


def refuse_difference(
    name: str, one: tuple[str, dict[str, Any]], other: tuple[str, dict[str, Any]]
) -> None:
    """Raise UserError unless two values of a metric, with their owners, may be compared."""
    if told := difference(one[1], other[1]):
        raise UserError(
            f"'{name}' of {one[0]} and {other[0]} were not measured alike: {told}"
            "; run the older again, or put them into two studies"
        )


def difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """Say in what two provenances differ that must be shared, or nothing."""
    left, right = comparable(one), comparable(other)
    differing = sorted(key for key in left | right if left.get(key) != right.get(key))
    if not differing:
        return ""
    key, *others = differing
    more = f" (and {', '.join(others)} differ)" if others else ""
    return f"{key} is {_short(left.get(key))} and {_short(right.get(key))}{more}"


def is_comparable(key: str, value: Any = None) -> bool:
    """Whether two values must share this part of their provenance to be compared."""
    if key in USUAL:
        return bool(value != USUAL[key])
    return key == "n" or key.startswith(COMPARABLE)


def comparable(provenance: Mapping[str, Any]) -> dict[str, str]:
    """Return the part of a provenance which two values must share to be compared."""
    # Filtered before it is flattened, for speed, and after: ``n`` is compared, ``n.x`` is not.
    names = {name for name, sha256 in HASHED.items() if sha256 in provenance}
    told = {k: v for k, v in provenance.items() if is_comparable(k, v) and k not in names}
    return {
        key: json.dumps(value, default=str, sort_keys=True)
        for key, value in flatten("", told).items()
        if is_comparable(key, value)
    }


def _short(value: str | None) -> str:
    text = "not said" if value is None else value.strip('"')
    return text if len(text) <= 24 else f"{text[:12]}…"  # say a hash
