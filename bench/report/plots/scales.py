"""Axes of quantities: their scale from the data, round ticks that stand apart, anchors as lines."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import cycle
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, Locator, MaxNLocator, NullFormatter, NullLocator

from bench.records import direction
from bench.report.table.numbers import number, scaled

ANCHOR_STYLES = ("--", ":", "-.")
WIDE = 12
"""Quotient of positive values from which an axis may be logarithmic by itself."""
REACH = 0.4
"""An anchor is drawn as a line where it widens the methods' range by no more than this share."""
DECADES = 2
"""Least values, in powers of ten below the largest, that an axis through 0 tells from 0."""
LINEAR = 0.5
"""Length of its linear part on each side of 0, in that of a power of ten."""
Ends = tuple[float, float, float]
"""A value with the lower and the upper end of its bar: (low, value, high)."""


def plain(value: float) -> str:
    """Write a tick's value shortly: 0.02, 5, 200, 20 k, 12 T."""
    if value == 0:
        return "0"
    text = scaled(value, "") if abs(value) >= 1000 else number(value)
    digits, _, prefix = text.partition(" ")
    digits = digits.rstrip("0").rstrip(".") if "." in digits else digits
    return f"{digits} {prefix}".strip()


class RoundTicks(Locator):
    """Round values, as many as have labels that differ and stand apart, on any scale."""

    def __init__(self, size: float = 9.0) -> None:
        self.size = size
        """Of the labels, in points."""
        self.known: dict[tuple[float, ...], Sequence[float]] = {}
        """Ticks by the ends and the size of the axis, of which a picture asks many times."""

    def __call__(self) -> Sequence[float]:
        """Return the ticks of the axis as it is seen."""
        low, high = sorted(self.axis.get_view_interval())  # type: ignore[union-attr]
        axes: Any = self.axis.axes  # type: ignore[union-attr]
        seen = (low, high, *(axes.bbox.size / axes.figure.dpi))
        if seen not in self.known:
            self.known[seen] = self.tick_values(low, high)
        return self.known[seen]

    def tick_values(self, vmin: float, vmax: float) -> Sequence[float]:
        """Return ticks between two ends."""
        found = [tick for tick in self._candidates(vmin, vmax) if self._fit(tick)]
        return max(found, key=len, default=[])

    def _candidates(self, low: float, high: float) -> Iterator[list[float]]:
        scale = self.axis.get_scale()  # type: ignore[union-attr]
        if scale in ("log", "symlog"):
            for factors in ((1.0, 2.0, 5.0), (1.0, 3.0), (1.0,)):
                yield round_values(low, high, factors, self._linear_part(scale))
            yield from (
                round_values(low, high, (1.0,), self._linear_part(scale))[::n] for n in (2, 3)
            )
        if scale != "symlog" and (scale != "log" or high < 10 * low):
            for most in range(7, 1, -1):
                evenly = MaxNLocator(most, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
                yield [float(x) for x in evenly if low <= x <= high]

    def _linear_part(self, scale: str) -> float:
        transform: Any = self.axis.get_transform()  # type: ignore[union-attr]
        return float(transform.linthresh) if scale == "symlog" else 0.0

    def _fit(self, ticks: Sequence[float]) -> bool:
        """Whether the labels differ and no two touch."""
        labels = [plain(tick) for tick in ticks]
        if len({*labels}) < len(labels):
            return False
        axes: Any = self.axis.axes  # type: ignore[union-attr]
        level = self.axis.axis_name == "x"  # type: ignore[union-attr]
        place = axes.transData.transform([(x, x) for x in ticks] or np.empty((0, 2)))
        points = np.sort(place[:, 0 if level else 1]) * 72 / axes.figure.dpi
        wide = max(map(len, labels), default=0) * 0.62 + 0.8 if level else 1.5
        return bool((np.diff(points) >= wide * self.size).all())


def round_values(
    low: float, high: float, factors: Sequence[float], threshold: float = 0.0
) -> list[float]:
    """Return factors of powers of ten within two ends, below 0 too, and 0, beyond a threshold."""
    size = max(abs(low), abs(high))
    least = threshold or low
    if not least > 0:
        return []
    powers = range(math.floor(math.log10(least)), math.floor(math.log10(size)) + 1)
    sizes = [factor * 10.0**power for power in powers for factor in factors]
    sizes = [value for value in sizes if value >= least * (1 - 1e-9)]
    both = [*(-value for value in reversed(sizes)), 0.0, *sizes] if threshold else sizes
    return [value for value in both if low <= value <= high]


class Scale(NamedTuple):
    """How values become places along an axis, and back."""

    name: str
    place: Callable[[float], float]
    value: Callable[[float], float]
    options: dict[str, Any]
    least: float
    """The smallest range of places that is shown."""


def linear(values: Iterable[float]) -> Scale:
    """Return the scale of values as they are."""
    largest = max((abs(value) for value in values), default=1.0)
    return Scale("linear", float, float, {}, 0.1 * largest or 1.0)


def logarithmic() -> Scale:
    """Return the scale of positive values; at least a factor of 2 is shown."""
    return Scale("log", math.log10, lambda place: 10**place, {}, math.log10(2))


def through_zero(values: Iterable[float]) -> Scale:
    """Return a scale that is logarithmic on both sides of 0, and linear where values end."""
    sizes = [abs(value) for value in values if value != 0] or [1.0]
    smallest = max(min(sizes), max(sizes) / 10**DECADES)
    threshold = float(f"{10 ** math.floor(math.log10(smallest)):.0e}")

    def place(value: float) -> float:
        size = abs(value) / threshold
        return math.copysign(LINEAR * size if size <= 1 else LINEAR + math.log10(size), value)

    def value(place: float) -> float:
        size = abs(place)
        large = size > LINEAR
        return math.copysign(threshold * (10 ** (size - LINEAR) if large else size / LINEAR), place)

    options = {"linthresh": threshold, "linscale": 0.9 * LINEAR}  # Matplotlib divides by 0.9.
    return Scale("symlog", place, value, options, 1.0)


def quality_scale(metric: str, ends: Sequence[Ends], levels: Iterable[float]) -> Scale:
    """Choose the scale of a metric: distances by their logarithm, through 0 where they reach it.

    They do where a method's value is not positive, or an anchor's whose size is among the methods'.
    """
    values = [value for _, value, _ in ends]
    if direction(metric) != "↓":
        return linear(values)
    sizes = [abs(value) for value in values]
    beyond = [level for level in levels if level <= 0 and min(sizes) <= -level <= max(sizes)]
    if min(values + beyond) > 0:
        return logarithmic()
    return through_zero([*values, *beyond])


def set_scale(axes: Axes, axis: str, scale: Scale, low: float, high: float) -> None:
    """Give an axis a scale, ends (places) and ticks with plain numbers."""
    part = axes.xaxis if axis == "x" else axes.yaxis
    getattr(axes, f"set_{axis}scale")(scale.name, **scale.options)
    axes.set(**{f"{axis}lim": (scale.value(low), scale.value(high))})
    round_ticks(part)


def round_ticks(part: Any) -> None:
    """Give an axis round ticks whose labels stand apart."""
    part.set_major_locator(RoundTicks())
    part.set_major_formatter(FuncFormatter(lambda value, _: plain(value)))
    part.set_minor_locator(NullLocator())
    part.set_minor_formatter(NullFormatter())


def cost_axis(axes: Axes, axis: str, ends: Sequence[Ends]) -> None:
    """Make an axis of positive costs logarithmic, with room at both ends."""
    lows = [low if low > 0 else value for low, value, _ in ends]
    _fit(axes, axis, logarithmic(), [*lows, *(high for *_, high in ends)])


def _fit(axes: Axes, axis: str, scale: Scale, values: Iterable[float]) -> None:
    places = [scale.place(value) for value in values]
    middle, width = (min(places) + max(places)) / 2, max(max(places) - min(places), scale.least)
    set_scale(axes, axis, scale, middle - 0.62 * width, middle + 0.62 * width)


def log_if_wide(axes: Axes, values: Iterable[float]) -> None:
    """Make the upright axis logarithmic where positive values differ much."""
    finite = [value for value in values if math.isfinite(value)]
    if finite and min(finite) > 0 and max(finite) / min(finite) > WIDE:
        _fit(axes, "y", logarithmic(), finite)
    else:
        round_ticks(axes.yaxis)


def quality_axis(
    axes: Axes, metric: str, ends: Sequence[Ends], levels: Mapping[str, float], *, told: bool = True
) -> None:
    """Fit the upright axis to the methods, then draw the anchors that lie near, and name all.

    What lies further away would press the methods together: its value stands at the edge with an
    arrow. ``told`` False leaves the names to another panel of the same axis.
    """
    scale = quality_scale(metric, ends, levels.values())
    places = [scale.place(value) for value in _reached(scale, ends)]
    low, high = min(places), max(places)
    widened = max(0.0, scale.least - (high - low)) / 2
    low, high = low - widened, high + widened
    room, bottom, top = REACH * (high - low), low, high
    near = {}
    for name, level in levels.items():
        if scale.name == "log" and level <= 0:
            continue
        place = scale.place(level)
        is_small = scale.name == "symlog" and abs(level) <= scale.value(high)
        if is_small or low - room <= place <= high + room:
            near[name], bottom, top = place, min(bottom, place), max(top, place)
    margin = 0.08 * (top - bottom)
    bottom, top = bottom - margin, top + margin
    set_scale(axes, "y", scale, bottom, top)
    labels: list[tuple[float, str, str]] = []
    for (name, level), style in zip(levels.items(), cycle(ANCHOR_STYLES), strict=False):
        text = f"{name}: {number(level)}"
        if name in near:
            axes.axhline(level, color="#555555", linestyle=style, linewidth=1.1, zorder=1)
            labels.append(((near[name] - bottom) / (top - bottom), text, ""))
        else:
            is_above = level > ends[0][1]
            labels.append((float(is_above), text, "^" if is_above else "v"))
    if told:
        label_at_edge(axes, labels)


def _reached(scale: Scale, ends: Sequence[Ends]) -> list[float]:
    """Return values and ends of bars; no bar widens a logarithmic axis by more than a factor 3."""
    values = [value for _, value, _ in ends]
    if scale.name != "log":
        return values + [end for low, _, high in ends for end in (low, high)]
    low, high = min(values) / 3, max(values) * 3
    return values + [min(max(end, low), high) for e in ends for end in (e[0], e[2])]


def label_at_edge(axes: Axes, labels: Sequence[tuple[float, str, str]]) -> None:
    """Write labels right of the axes at their heights (0 to 1), apart from one another.

    The third part is the marker of an arrow's head, for what lies beyond the axis.
    """
    figure: Any = axes.figure
    height = 1.35 * 8 / 72 / max(1.0, 0.6 * figure.get_figheight())
    ordered = sorted(labels)
    places = apart([place for place, *_ in ordered], height)
    line = {"arrowstyle": "-", "color": "#888888", "linewidth": 0.6, "shrinkA": 0, "shrinkB": 0}
    for (wanted, text, arrow), place in zip(ordered, places, strict=True):
        axes.annotate(
            text, (1.0, wanted), (1.04, place), xycoords="axes fraction", va="center", ha="left",
            textcoords="axes fraction", fontsize=8, color="#444444", annotation_clip=False,
            arrowprops=None if arrow else line,
        )  # fmt: skip
        if arrow:
            axes.plot(
                [1.02], [place], arrow, color="#444444", markersize=4, clip_on=False,
                transform=axes.transAxes,
            )  # fmt: skip


def apart(places: Sequence[float], gap: float) -> list[float]:
    """Move sorted places as little as needed for a gap between neighbours, within 0 and 1."""
    moved: list[float] = []
    for place in places:
        moved.append(max(place, moved[-1] + gap) if moved else place)
    ceiling = 1.0
    for index in range(len(moved) - 1, -1, -1):
        moved[index] = min(moved[index], ceiling)
        ceiling = moved[index] - gap
    return moved
