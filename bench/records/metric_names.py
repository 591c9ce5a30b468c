"""What a metric's name says: its family, which way is better, what stands beside the costs."""

from collections.abc import Iterable, Sequence

HEADLINE = ("sw2", "fid", "fd", "is", "accuracy")
"""Families of metrics that stand beside the costs; the others have a table of their own."""
LOWER_IS_BETTER = ("sw2", "fid", "fd", "kid", "kd", "fidc", "fdc", "score", "violation")
ON_A_SCALE = ("sw2", "fid", "fd", "kid", "kd", "fidc", "fdc", "score")
"""Distances and errors, which spread in proportion to their level: compared by their logarithms."""
HIGHER_IS_BETTER = (
    "is", "accuracy", "cas", "modes", "precision", "recall", "density", "coverage",
    "precisionc", "recallc", "densityc", "coveragec",
)  # fmt: skip


def metric_family(name: str) -> str:
    """Return what a metric measures: ``fd`` for ``fd_digits_500``."""
    return name.split("_", 1)[0]


def direction(name: str) -> str:
    """Return the arrow that says which way a metric is better, or nothing where unknown."""
    family = metric_family(name)
    if family in LOWER_IS_BETTER:
        return "↓"
    return "↑" if family in HIGHER_IS_BETTER else ""


def by_family(names: Iterable[str]) -> list[str]:
    """Sort metrics, distances first, then scores; of one family they stay as they stand."""
    places = {name: place for place, name in enumerate((*LOWER_IS_BETTER, *HIGHER_IS_BETTER))}
    return sorted(names, key=lambda name: places.get(metric_family(name), len(places)))


def headline(names: Sequence[str]) -> list[str]:
    """Return the metrics that stand beside the costs; all of them where none would."""
    return [name for name in names if metric_family(name) in HEADLINE] or list(names)
