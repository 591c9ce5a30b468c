"""``bench compare``: print what moved between two studies."""

from __future__ import annotations

from bench.commands.compare.options import CompareOptions
from bench.records.study_file import study_at


def compare(options: CompareOptions) -> int:
    """Print what moved beyond noise between two studies, and what else differs."""
    from bench.commands.compare.formats import render_comparison

    one, other = (study_at(options.results, name) for name in (options.one, options.other))
    print(render_comparison(one, other, options.format), end="")
    return 0
