"""``bench compare``: print what moved between two studies."""

from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Literal

from cyclopts import Parameter

from bench.commands.options import Results
from bench.records import study_at


@Parameter(name="*")
@dataclass(frozen=True)
class CompareOptions:
    """Which two studies to compare."""

    one: str
    """Study to compare with, by name or folder."""
    other: str
    """Study that is compared, by name or folder."""
    _: KW_ONLY
    format: Literal["md", "json", "csv"] = "md"
    """Format to print."""
    results: Results = Path("results")
    """Folder of all results."""


def compare(options: CompareOptions) -> int:
    """Say what moved beyond noise between two studies, and what else differs."""
    from bench.commands.compare.formats import render_comparison

    one, other = (study_at(options.results, name) for name in (options.one, options.other))
    print(render_comparison(one, other, options.format), end="")
    return 0
