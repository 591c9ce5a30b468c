"""The page of numbers: tables, a heat map and examples of what each metric sees and misses.

A change is seen where it is larger than ``SPREADS`` standard deviations of the difference between
two sets of clean images, and in the direction that the metric calls worse. In the other
direction the metric finds damaged images better than clean ones.
"""

import csv
import io
import math
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from bench.commands.sensitivity.damage import Damage
from bench.commands.sensitivity.measure import CLEAN, Measurement, Page, Panel
from bench.records import direction, write_atomically, write_text
from bench.records.grid import grid_image, scale_for
from bench.report.plots.drawing import DPI, STYLE, new_figure, save
from bench.report.table.formats import markdown_table
from bench.report.table.numbers import NOTHING, number

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


def judge(one: Measurement) -> Verdict:
    """Whether the change is beyond luck, and points the right way."""
    if abs(one.worse) <= SPREADS:
        return Verdict.MISSED
    return Verdict.SEEN if one.worse > 0 else Verdict.REVERSED


def write_page(page: Page, folder: Path, environment: Mapping[str, Any]) -> list[Path]:
    """Write ``sensitivity.md``, ``.csv``, ``.png`` and ``.pdf`` and ``damages.png`` to a folder.

    ``environment`` is what ``bench.records.environment.describe`` says of this process.
    """
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
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for panel in page.panels:
        for damage, measured in panel.measured.items():
            strength = "" if damage.strength is None else f"{damage.strength:g}"
            own = {"dataset": page.dataset.name, "images": damage.name, "kind": damage.kind}
            for one in measured.values():
                line = one.value.provenance | own | {"strength": strength, "metric": one.metric}
                line |= {"family": one.family, "value": one.value.value}
                if not math.isnan(one.spread):
                    line |= {"clean": one.clean, "spread": one.spread}
                    if damage.name != CLEAN:
                        line |= {"worse": one.worse, "verdict": str(judge(one))}
                writer.writerow(line)
    return text.getvalue()


def markdown(page: Page, environment: Mapping[str, Any]) -> str:
    """Write the page for people: a table and its meaning in words for each extractor."""
    parts = [
        f"# What each metric sees: {page.dataset.name}\n",
        f"{page.n} held-out images of {page.dataset.name} (variant {page.dataset.variant}), as "
        "they are and damaged, against the training split. `±` is the standard deviation of the "
        f"difference between two sets of {page.n} clean images. A value without a mark is seen: "
        f"worse than clean by more than {SPREADS:g} standard deviations. `≈` is missed: within "
        f"{SPREADS:g} of the clean value. `!` is the wrong way round: better than clean images by "
        "more than that.\n\n"
        "![metrics by damages](sensitivity.png)\n\n![examples of each set](damages.png)\n",
    ]
    for panel in page.panels:
        judged = [one for one in panel.clean if not math.isnan(one.spread)]
        sentences = [*(_sentence(panel, one) for one in judged), _control(panel)]
        parts += [f"## {panel.extractor}\n", _table_of(panel), _listed(sentences)]
    return "\n".join([*parts, "## How it was made\n", _listed(_made(page, environment))])


def _listed(lines: Iterable[str]) -> str:
    return "".join(f"- {line}\n" for line in lines)


def _table_of(panel: Panel) -> str:
    head = ["images", *(f"{one.family} {direction(one.family)}" for one in panel.clean)]
    rows = [[CLEAN, *(_shown(one, 4) for one in panel.clean)]]
    rows.append(["±", *(number(one.spread, 2) for one in panel.clean)])
    for damage in panel.damages:
        beside = (_judged(panel, damage, clean.family) for clean in panel.clean)
        texts = (_shown(one, 4) + MARKS.get(judge(one), "") if one else NOTHING for one in beside)
        rows.append([damage.name, *texts])
    return markdown_table(head, rows)


def _judged(panel: Panel, damage: Damage, family: str) -> Measurement | None:
    """Find what can be held against clean images; ``None`` where value or yardstick is missing."""
    found = panel.measured[damage].get(family)
    return None if found is None or math.isnan(found.spread) else found


def _shown(one: Measurement, digits: int) -> str:
    """Write a value with so many digits, and none below the second of the yardstick's."""
    value = one.value.value
    if value == 0 or not one.spread > 0:
        return number(value, digits)
    own = digits - 1 - math.floor(math.log10(abs(value)))
    decimals = max(0, min(own, 1 - math.floor(math.log10(one.spread))))
    return f"{round(value, decimals) + 0.0:.{decimals}f}"


def _sentence(panel: Panel, clean: Measurement) -> str:
    """Say what a metric sees, misses and finds better than clean."""
    said = {kind: ", ".join(_named(panel, clean.family, kind)) or "nothing" for kind in Verdict}
    text = f"**{clean.metric}** sees {said[Verdict.SEEN]}. Misses {said[Verdict.MISSED]}."
    if said[Verdict.REVERSED] != "nothing":
        text += f" Better than clean: {said[Verdict.REVERSED]}."
    return text


def _named(panel: Panel, family: str, wanted: Verdict) -> Iterator[str]:
    """Yield the damages of a verdict; the weakest or the strongest of a kind in a word."""
    told = [damage for damage in panel.damages if damage.kind != CONTROL]
    for _, group in groupby(told, key=lambda damage: damage.kind):
        names, found = [], []
        for damage in group:
            names.append(damage.name)
            one = _judged(panel, damage, family)
            found += [damage.name] * (one is not None and judge(one) == wanted)
        if len(found) > 1 and found == names[-len(found) :]:
            yield f"{found[0]} and beyond"
        elif len(found) > 1 and found == names[: len(found)]:
            yield f"{found[-1]} and below"
        else:
            yield from found


def _control(panel: Panel) -> str:
    # Half of the held-out images are left for it.
    control = next(damage for damage in panel.damages if damage.kind == CONTROL)
    beside = (_judged(panel, control, clean.family) for clean in panel.clean)
    beyond = [
        f"{one.metric} ({abs(one.worse):.1f})"
        for one in beside
        if one is not None and judge(one) != Verdict.MISSED
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
    for panel in page.panels:
        facts = panel.clean[0].value.provenance
        libraries = ", ".join(f"{name} {version}" for name, version in facts["libraries"].items())
        yield (
            f"{panel.extractor}: sha256 {facts['extractor_sha256']}, resize {facts['resize']}, "
            f"reference of {facts['reference_n']} training images, protocol {facts['protocol']}; "
            f"{libraries}."
        )
    yield from (f"{line[0].upper()}{line[1:]}." for line in page.left_out)
    changes = " with changes" if environment["dirty"] else ""
    yield f"Command: `{environment['command']}`, commit {environment['commit']}{changes}."
    yield f"Device: {environment['device']}, {environment['threads']} thread(s)."


def heat_map(page: Page) -> Figure:
    """Draw a panel for each extractor: damages down, metrics across, coloured by what is seen."""
    heights = [ROW * (len(panel.damages) + 2) for panel in page.panels]
    widest = max(len(panel.clean) for panel in page.panels)
    figure, axes = new_figure(
        1.8 + COLUMN * widest,
        sum(heights) + 0.62 * len(heights) + 0.85,
        rows=len(heights) + 1,
        gridspec_kw={"height_ratios": [*heights, SCALE]},
    )
    for panel, place in zip(page.panels, axes, strict=False):
        _fields(place, panel)
        _labels(place, panel, widest)
        place.set_title(f"{page.dataset.variant} by {panel.extractor}, n = {page.n}", loc="left")
    _scale(figure, axes[-1])
    return figure


def _fields(axes: Axes, panel: Panel) -> None:
    def write(row: int, text: str, **look: Any) -> None:
        axes.text(column, row, text, ha="center", va="center", fontsize=8, **look)

    colours, norm = _colours()
    for column, clean in enumerate(panel.clean):
        write(0, _shown(clean, 3), weight="bold")
        write(1, f"± {number(clean.spread, 2)}", color="#444444")
        for row, damage in enumerate(panel.damages, start=2):
            one = _judged(panel, damage, clean.family)
            if one is None:
                write(row, NOTHING, color="#777777")
                continue
            colour = red, green, blue, _ = colours(norm(one.worse))
            ink = "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "white"
            look = {"facecolor": colour, "edgecolor": "#d0d0d0", "linewidth": 0.5}
            axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, **look))
            write(row, _shown(one, 3), color=ink)


def _labels(axes: Axes, panel: Panel, widest: int) -> None:
    families = [one.family for one in panel.clean]
    names = [CLEAN, "± between clean sets", *(damage.name for damage in panel.damages)]
    axes.set_xlim(-0.5, widest - 0.5)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xticks(range(len(families)), [f"{name} {direction(name)}" for name in families])
    axes.set_yticks(range(len(names)), names)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    right = len(families) - 0.5
    for place, (before, after) in enumerate(pairwise(panel.damages)):
        if before.kind != after.kind:
            axes.hlines(place + 2.5, -0.5, right, color="#555555", linewidth=0.6)
    axes.hlines(1.5, -0.5, right, color="black", linewidth=1.0)


def _colours() -> tuple[Any, Any]:
    """Return colours that the colour-blind tell apart: purple better, white alike, orange worse."""
    edges = [*(-step for step in reversed(STEPS)), *STEPS]
    picked = colormaps["PuOr_r"](np.linspace(0, 1, len(edges) + 1))
    picked[len(edges) // 2] = 1.0
    return ListedColormap(picked), BoundaryNorm(edges, len(picked), extend="both")


def _scale(figure: Figure, axes: Axes) -> None:
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
    clean, sets = page.examples[CLEAN], page.examples.items()
    shown = {name: images for name, images in sets if name == CLEAN or (images != clean).any()}
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
