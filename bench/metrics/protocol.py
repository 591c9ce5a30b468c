"""What all values share: the protocol's version, how samples became images, metrics' names."""

from __future__ import annotations

import sys
from collections.abc import Callable

PROTOCOL = "1"
"""Version of all that a value depends on beside its provenance; raised when any of it changes."""
QUANTISATION = "uint8: x * 127.5 + 128, clipped, fraction dropped"
UNQUANTISED = "none: float32 points"

Say = Callable[[str], object]

_THOUSAND = 1000
_FULL = 50_000
"""The number of samples that needs no mention in a metric's name."""


def to_stderr(line: str) -> None:
    """Print a note where a cell's log takes it up."""
    print(line, file=sys.stderr)


def metric_names(extractor: str, n: int) -> dict[str, str]:
    """Return the full names of what is measured by an extractor, which tell extractor and n.

    ``fd``, ``is``, ``accuracy``, ``fdc`` (class-wise) and, for points, ``sw2`` and ``modes``.
    Inception alone may be called ``fid``, ``fidc`` and ``is``; 50,000 samples add no suffix.
    """
    # The two modes of the 2015 Inception: the clean resize needs no word, the graph's own does.
    own = {"inception": "", "inception-legacy": "_legacy"}.get(extractor, f"_{extractor}")
    distance = "fid" if extractor.startswith("inception") else "fd"
    names = {"fd": distance, "is": "is", "accuracy": "accuracy", "fdc": f"{distance}c"}
    names |= {"sw2": "sw2", "modes": "modes"}
    return {key: f"{name}{own}{suffix(n)}" for key, name in names.items()}


def cas_name(dataset: str, n: int) -> str:
    """Return the name of the classification accuracy score, which no extractor takes part in."""
    return f"cas_{dataset}{suffix(n)}"


def suffix(n: int) -> str:
    """Return what n samples add to a metric's name: ``_500``, ``_2k``, nothing for 50,000."""
    if n == _FULL:
        return ""
    return f"_{n}" if n % _THOUSAND else f"_{n // _THOUSAND}k"
