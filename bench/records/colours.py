"""A colour for each method of a study, the same in all pictures and in MLflow."""

from collections.abc import Iterable

from bench.records.grid import PALETTE

TONES = (0.0, -0.4, 0.4, 0.58, -0.6, 0.22, -0.2, 0.5)
"""Shades of a family's colour, neighbours far apart: towards white above 0, black below."""


def method_colours(methods: Iterable[str]) -> dict[str, str]:
    """Give each of a study's methods its colour: one a family, shades of it for variants.

    Where all are of one family, each has a colour of its own.
    """
    families: dict[str, list[str]] = {}
    for method in sorted(set(methods)):
        families.setdefault(method.split(":")[0], []).append(method)
    colours = {}
    for place, family in enumerate(families.values()):
        for index, method in enumerate(family):
            turn, hue = divmod(index, len(PALETTE))
            if len(families) == 1:
                colours[method] = shade(PALETTE[hue], min(0.8, 0.45 * turn))
            else:
                tone = TONES[index % len(TONES)]
                colours[method] = shade(PALETTE[place % len(PALETTE)], tone)
    return colours


def shade(colour: str, towards: float) -> str:
    """Mix a colour, ``#rrggbb``, with white (up to 1) or with black (down to -1)."""
    end = 255 if towards > 0 else 0
    parts = [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
    mixed = [round(part + (end - part) * abs(towards)) for part in parts]
    return "#" + "".join(f"{part:02x}" for part in mixed)
