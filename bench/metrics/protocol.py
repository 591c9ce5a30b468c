"""What all values share: the protocol's version, how samples became images, metrics' names."""

import sys
from collections.abc import Callable
from functools import cache
from importlib import metadata

PROTOCOL = "1"
"""Version of all that a value depends on beside its provenance; raised when any of it changes."""
QUANTISATION = "uint8: x * 127.5 + 128, clipped, fraction dropped"
UNQUANTISED = "none: float32 points"
LIBRARIES = (
    "torch", "torchvision", "numpy", "scipy", "pillow", "clean-fid", "efficientnet-lite-pytorch",
)  # fmt: skip
"""Packages whose code or rounding is in a value."""

Say = Callable[[str], object]

_FULL = 50_000
"""The number of samples that needs no mention in a metric's name."""


@cache
def libraries() -> tuple[tuple[str, str], ...]:
    """Return the versions of the libraries that compute a value, name by name."""
    return tuple((name, metadata.version(name)) for name in LIBRARIES)


def to_stderr(line: str) -> None:
    """Print a note where a cell's log takes it up."""
    print(line, file=sys.stderr)


FAMILIES = {
    "fd": "Fréchet distance",
    "kd": "kernel distance",
    "is": "Inception Score",
    "precision": "precision, k = 3",
    "recall": "recall, k = 3",
    "density": "density, k = 5",
    "coverage": "coverage, k = 5",
    "accuracy": "share of samples seen as the class asked for",
    "fdc": "Fréchet distance of each class, averaged",
    "precisionc": "precision of each class, averaged",
    "recallc": "recall of each class, averaged",
    "densityc": "density of each class, averaged",
    "coveragec": "coverage of each class, averaged",
    "cas": "classification accuracy score",
    "sw2": "sliced Wasserstein distance, of points",
    "modes": "share of the components found, of points",
}
"""What can be measured of samples, by the word that ``--metrics`` takes."""
CLASS_WISE = ("precisionc", "recallc", "densityc", "coveragec")
"""What is measured where it is asked for alone (Chao et al. 2022 report them)."""
BY_DEFAULT = tuple(family for family in FAMILIES if family not in CLASS_WISE)
"""What is measured where nothing is asked for."""

_INCEPTION_SAYS = {"fd": "fid", "kd": "kid", "fdc": "fidc"}
"""The names that the 2015 Inception alone may bear."""


def metric_names(extractor: str, n: int) -> dict[str, str]:
    """Return the full names of what is measured by an extractor, which tell extractor and n.

    Inception alone may be called ``fid``, ``kid``, ``fidc`` and ``is``; 50,000 samples add no
    suffix.
    """
    # The two modes of the 2015 Inception: the clean resize needs no word, the graph's own does.
    own = {"inception": "", "inception-legacy": "_legacy"}.get(extractor, f"_{extractor}")
    said = _INCEPTION_SAYS if extractor.startswith("inception") else {}
    names = {family: f"{said.get(family, family)}{own}" for family in FAMILIES}
    return {family: f"{name}{suffix(n)}" for family, name in names.items() if family != "cas"}


def cas_name(dataset: str, n: int) -> str:
    """Return the name of the classification accuracy score, which no extractor takes part in."""
    return f"cas_{dataset}{suffix(n)}"


def suffix(n: int) -> str:
    """Return what n samples add to a metric's name: ``_500``, ``_2k``, nothing for 50,000."""
    if n == _FULL:
        return ""
    return f"_{n}" if n % 1000 else f"_{n // 1000}k"
