"""The page of numbers: tables, a heat map and examples of what each metric sees and misses.

A change is seen where it is larger than ``SPREADS`` standard deviations of the difference between
two sets of clean images, and in the direction that the metric calls worse. In the other
direction the metric finds damaged images better than clean ones.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.records import direction, write_atomically, write_text
from bench.records.grid import grid_image, scale_for
from bench.report.plots.drawing import DPI, STYLE, new_figure, save
from bench.report.table import markdown_table
from bench.report.table.numbers import NOTHING, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from bench.commands.sensitivity.measure import DamageRow, Page, Panel

SPREADS = 3.0
"""Standard deviations beyond which a change is not luck: one clean set in 400 lies there."""
STEPS = (3, 10, 30, 100)
"""Where the heat map's colours change, in standard deviations."""
ROW, COLUMN = 0.235, 0.74
"""Inches of a field of the heat map."""
SCALE = 0.16
"""Inches of the scale's height."""
CONTROL = "control"
MARKS = {"missed": " ≈", "reversed": " !"}


class Verdict(StrEnum):
    """What a metric makes of damaged images."""

    SEEN = "seen"
    MISSED = "missed"
    REVERSED = "reversed"


@dataclass(frozen=True)
class Judged:
    """A metric's value of damaged images beside that of clean ones."""

    family: str
    value: float
    clean: float
    spread: float

    @property
    def worse(self) -> float:
        """How much worse than clean, in standard deviations between clean sets; below 0: better."""
        change = self.value - self.clean
        if change == 0:
            return 0.0
        sign = 1.0 if direction(self.family) == "↓" else -1.0
        return sign * change / self.spread if self.spread > 0 else sign * math.copysign(1e9, change)

    @property
    def verdict(self) -> Verdict:
        """Whether the change is beyond luck, and points the right way."""
        if abs(self.worse) <= SPREADS:
            return Verdict.MISSED
        return Verdict.SEEN if self.worse > 0 else Verdict.REVERSED


def judge(panel: Panel, row: DamageRow, family: str) -> Judged | None:
    """Hold a row's value against the clean one; ``None`` where one of them is missing."""
    if family not in row.values or family not in panel.spread:
        return None
    clean = panel.clean.values[family].value
    return Judged(family, row.values[family].value, clean, panel.spread[family])


def write_page(page: Page, folder: Path, environment: Mapping[str, Any]) -> list[Path]:
    """Write ``sensitivity.md``, ``.csv``, ``.png`` and ``.pdf`` and ``damages.png`` to a folder.

    ``environment`` is what ``bench.records.environment.describe`` says of this process.
    """
    from matplotlib import rc_context

    texts = {"sensitivity.md": markdown(page, environment), "sensitivity.csv": table(page)}
    for name, text in texts.items():
        write_text(folder / name, text)
    with rc_context(STYLE):
        charts, drawn = save(heat_map(page), folder / "sensitivity"), examples(page)
        strip = folder / "damages.png"
        write_atomically(strip, lambda file: drawn.savefig(file, format="png", dpi=DPI))
    return [*(folder / name for name in texts), *charts, strip]


COLUMNS = (
    "dataset", "data", "data_sha256", "extractor", "extractor_sha256", "protocol", "n",
    "reference_n", "images", "kind", "strength", "metric", "family", "value", "clean", "spread",
    "worse", "verdict",
)  # fmt: skip


def table(page: Page) -> str:
    """Return all numbers as CSV, one metric of one set of images a line, in full precision."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for panel in page.panels:
        for row in (panel.clean, *panel.rows):
            own = {"dataset": page.dataset.name, "images": row.name, "kind": row.kind}
            own["strength"] = "" if row.strength is None else f"{row.strength:g}"
            writer.writerows(own | line for line in _lines(panel, row))
    return text.getvalue()


def _lines(panel: Panel, row: DamageRow) -> Iterator[dict[str, object]]:
    for family, value in row.values.items():
        line = {key: value.provenance[key] for key in COLUMNS if key in value.provenance}
        line |= {"metric": panel.names[family], "family": family, "value": value.value}
        judged = judge(panel, row, family)
        if judged is not None:
            line |= {"clean": judged.clean, "spread": judged.spread}
            if row is not panel.clean:
                line |= {"worse": judged.worse, "verdict": str(judged.verdict)}
        yield line


def markdown(page: Page, environment: Mapping[str, Any]) -> str:
    """Write the page for people: a table and its meaning in words for each extractor."""
    parts = [f"# What each metric sees: {page.dataset.name}\n", _introduction(page)]
    for panel in page.panels:
        parts += [f"## {panel.extractor}\n", _table_of(panel)]
        sentences = [*(_sentence(panel, family) for family in panel.spread), _control(panel)]
        parts.append("\n".join(f"- {line}" for line in sentences) + "\n")
    parts += ["## How it was made\n", "\n".join(f"- {line}" for line in _made(page, environment))]
    return "\n".join(parts) + "\n"


def _introduction(page: Page) -> str:
    return (
        f"{page.n} held-out images of {page.dataset.name} (variant {page.dataset.variant}), as "
        "they are and damaged, against the training split. `±` is the standard deviation of the "
        f"difference between two sets of {page.n} clean images. A value without a mark is seen: "
        f"worse than clean by more than {SPREADS:g} standard deviations. `≈` is missed: within "
        f"{SPREADS:g} of the clean value. `!` is the wrong way round: better than clean images by "
        "more than that.\n\n"
        "![metrics by damages](sensitivity.png)\n\n![examples of each set](damages.png)\n"
    )


def _table_of(panel: Panel) -> str:
    families = list(panel.clean.values)
    head = ["images", *(f"{family} {direction(family)}" for family in families)]
    clean = [_shown(panel, panel.clean, name, 4) for name in families]
    spread = [number(panel.spread.get(name, math.nan), 2) for name in families]
    rows = [[row.name, *(_cell(panel, row, name) for name in families)] for row in panel.rows]
    return markdown_table(head, [[panel.clean.name, *clean], ["±", *spread], *rows])


def _cell(panel: Panel, row: DamageRow, family: str) -> str:
    judged = judge(panel, row, family)
    return _shown(panel, row, family, 4) + MARKS.get(judged.verdict, "") if judged else NOTHING


def _shown(panel: Panel, row: DamageRow, family: str, digits: int) -> str:
    """Write a value with so many digits, and none below the second of the yardstick's."""
    value, spread = row.values[family].value, panel.spread.get(family, 0.0)
    if value == 0 or spread == 0:
        return number(value, digits)
    own = digits - 1 - math.floor(math.log10(abs(value)))
    decimals = max(0, min(own, 1 - math.floor(math.log10(spread))))
    return f"{round(value, decimals) + 0.0:.{decimals}f}"


def _sentence(panel: Panel, family: str) -> str:
    """Say what a metric sees, misses and finds better than clean."""
    said = {verdict: ", ".join(_named(panel, family, verdict)) or "nothing" for verdict in Verdict}
    text = f"**{panel.names[family]}** sees {said[Verdict.SEEN]}. Misses {said[Verdict.MISSED]}."
    if said[Verdict.REVERSED] != "nothing":
        text += f" Better than clean: {said[Verdict.REVERSED]}."
    return text


def _named(panel: Panel, family: str, verdict: Verdict) -> Iterator[str]:
    """Yield the damages of a verdict; the weakest or the strongest of a kind in a word."""
    told = [row for row in panel.rows if row.kind != CONTROL]
    for _, group in groupby(told, key=lambda row: row.kind):
        rows = list(group)
        judged = [(row, judge(panel, row, family)) for row in rows]
        found = [row for row, one in judged if one is not None and one.verdict == verdict]
        if len(found) > 1 and found == rows[-len(found) :]:
            yield f"{found[0].name} and beyond"
        elif len(found) > 1 and found == rows[: len(found)]:
            yield f"{found[-1].name} and below"
        else:
            yield from (row.name for row in found)


def _control(panel: Panel) -> str:
    # Half of the held-out images are left for it.
    control = next(row for row in panel.rows if row.kind == CONTROL)
    beyond = [
        f"{panel.names[one.family]} ({abs(one.worse):.1f})"
        for one in (judge(panel, control, family) for family in panel.spread)
        if one is not None and one.verdict != Verdict.MISSED
    ]
    told = f"beyond {SPREADS:g} standard deviations in {', '.join(beyond)}"
    told = told if beyond else "within the yardstick in every metric"
    return f"Control: {control.name} are {told}."


def _made(page: Page, environment: Mapping[str, Any]) -> Iterator[str]:
    dataset = page.dataset
    held_out = 0 if dataset.test is None else len(dataset.test)
    yield (
        f"Data: {dataset.name}, variant {dataset.variant}, sha256 {dataset.sha256}; "
        f"{len(dataset.train)} training and {held_out} held-out images."
    )
    yield from (f"Data: {note}." for note in dataset.notes)
    if dataset.variant.endswith("-jpeg"):
        yield (
            "The images went through JPEG before they came here: no published value compares, the "
            "JPEG rows are of a second compression, and clean is not free of it."
        )
    yield from map(_extractor, page.panels)
    yield from (f"{line[0].upper()}{line[1:]}." for line in page.left_out)
    changes = " with changes" if environment["dirty"] else ""
    yield f"Command: `{environment['command']}`, commit {environment['commit']}{changes}."
    yield f"Device: {environment['device']}, {environment['threads']} thread(s)."


def _extractor(panel: Panel) -> str:
    facts = next(iter(panel.clean.values.values())).provenance
    libraries = ", ".join(f"{name} {version}" for name, version in facts["libraries"].items())
    return (
        f"{panel.extractor}: sha256 {facts['extractor_sha256']}, resize {facts['resize']}, "
        f"reference of {facts['reference_n']} training images, protocol {facts['protocol']}; "
        f"{libraries}."
    )


def heat_map(page: Page) -> Figure:
    """Draw a panel for each extractor: damages down, metrics across, coloured by what is seen."""
    heights = [ROW * (len(panel.rows) + 2) for panel in page.panels]
    widest = max(len(panel.clean.values) for panel in page.panels)
    figure, axes = new_figure(
        1.8 + COLUMN * widest,
        sum(heights) + 0.62 * len(heights) + 0.85,
        rows=len(heights) + 1,
        gridspec_kw={"height_ratios": [*heights, SCALE]},
    )
    for panel, place in zip(page.panels, axes, strict=False):
        _fields(place, panel, widest)
        place.set_title(f"{page.dataset.variant} by {panel.extractor}, n = {page.n}", loc="left")
    _scale(figure, axes[-1])
    return figure


def _fields(axes: Axes, panel: Panel, widest: int) -> None:
    from matplotlib.patches import Rectangle

    families = list(panel.clean.values)
    colours, norm = _colours()
    for column, family in enumerate(families):
        spread = number(panel.spread.get(family, math.nan), 2)
        _write(axes, column, 0, _shown(panel, panel.clean, family, 3), weight="bold")
        _write(axes, column, 1, f"± {spread}", color="#444444")
        for place, row in enumerate(panel.rows, start=2):
            judged = judge(panel, row, family)
            if judged is None:
                _write(axes, column, place, NOTHING, color="#777777")
                continue
            colour = red, green, blue, _ = colours(norm(judged.worse))
            ink = "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "white"
            field = Rectangle((column - 0.5, place - 0.5), 1, 1, facecolor=colour)
            field.set(edgecolor="#d0d0d0", linewidth=0.5)
            axes.add_patch(field)
            _write(axes, column, place, _shown(panel, row, family, 3), color=ink)
    _labels(axes, panel, families, widest)


def _write(axes: Axes, column: int, row: int, text: str, **look: Any) -> None:
    axes.text(column, row, text, ha="center", va="center", fontsize=8, **look)


def _labels(axes: Axes, panel: Panel, families: Sequence[str], widest: int) -> None:
    rows = [panel.clean, *panel.rows]
    names = [rows[0].name, "± between clean sets", *(row.name for row in rows[1:])]
    right = len(families) - 0.5
    axes.set_xlim(-0.5, widest - 0.5)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xticks(range(len(families)), [f"{name} {direction(name)}" for name in families])
    axes.set_yticks(range(len(names)), names)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    for place, (before, after) in enumerate(zip(panel.rows, panel.rows[1:], strict=False)):
        if before.kind != after.kind:
            axes.hlines(place + 2.5, -0.5, right, color="#555555", linewidth=0.6)
    axes.hlines(1.5, -0.5, right, color="black", linewidth=1.0)


def _colours() -> tuple[Any, Any]:
    """Return colours that the colour-blind tell apart: purple better, white alike, orange worse."""
    from matplotlib import colormaps
    from matplotlib.colors import BoundaryNorm, ListedColormap

    edges = [*(-step for step in reversed(STEPS)), *STEPS]
    picked = colormaps["PuOr_r"](np.linspace(0, 1, len(edges) + 1))
    picked[len(edges) // 2] = 1.0
    return ListedColormap(picked), BoundaryNorm(edges, len(picked), extend="both")


def _scale(figure: Figure, axes: Axes) -> None:
    from matplotlib.cm import ScalarMappable

    colours, norm = _colours()
    bar = figure.colorbar(
        ScalarMappable(norm, colours), cax=axes, orientation="horizontal", spacing="uniform",
        extendfrac="auto", drawedges=True,
    )  # fmt: skip
    bar.set_label(
        "distance from the clean value in standard deviations between clean sets\n"
        f"purple: better than clean    white: not told from clean (within {SPREADS:g})    "
        "orange: worse, as it should be"
    )
    bar.ax.tick_params(length=0)


def examples(page: Page) -> Figure:
    """Draw a strip of images of each set; those with the clean set's own pixels are left out."""
    clean = next(iter(page.examples.values()))
    shown = {
        name: images
        for name, images in page.examples.items()
        if images is clean or not (images == clean).all()
    }
    rows = -(-len(shown) // 2)
    figure, axes = new_figure(9.0, 0.57 * rows, 2, rows)
    for place, (name, images) in enumerate(shown.items()):
        # Down the first column, then the second.
        own = axes[place % rows * 2 + place // rows]
        strip = grid_image(images, len(images), scale=scale_for(min(images.shape[2:])), gap=3)
        own.imshow(strip, interpolation="none")
        own.set_title(name, fontsize=8, loc="left", pad=2)
    for own in axes:
        own.set_axis_off()
    return figure
