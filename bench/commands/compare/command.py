"""``bench compare``: print what moved between two studies."""

from dataclasses import KW_ONLY, dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from cyclopts import Parameter

from bench.commands.options import Results
from bench.records import opened_study
from bench.records.archive import SUFFIX


@Parameter(name="*")
@dataclass(frozen=True)
class CompareOptions:
    """Which two studies to compare."""

    one: str
    """Study to compare with, by name, as folder or as FILE.zip of bench export."""
    other: str
    """Study that is compared, given likewise."""
    _: KW_ONLY
    format: Literal["md", "json", "csv"] = "md"
    """Format to print."""
    results: Results = Path("results")
    """Folder of all results."""


def compare(options: CompareOptions) -> int:
    """Say what moved beyond noise between two studies, and what else differs."""
    from bench.commands.compare.formats import render_comparison

    opened = partial(opened_study, options.results)
    names = [options.one, options.other]
    with opened(options.one) as one, opened(options.other) as other:
        found = (one, other)
        named = [n if n.endswith(SUFFIX) else f for n, f in zip(names, found, strict=True)]
        print(render_comparison(one, other, options.format, named), end="")
    return 0
