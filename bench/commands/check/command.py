"""``bench check``: print what every rule found of methods, variants or a file."""

import sys
import time
from collections import Counter
from pathlib import Path

from bench.commands.check import CheckOptions
from bench.commands.method_labels import check_labels, check_variant
from bench.config import choose_preset, one_line
from methods import registry


def check_methods(options: CheckOptions) -> int:
    """Print what every rule found; 1 if a method breaks one, or is a plug-in that is broken."""
    choose_preset(options.dataset, options.preset, "cpu")
    failed = [label for label in labels_of(options) if not check_one(label, options)]
    if failed:
        print(f"bench: {', '.join(failed)} failed", file=sys.stderr)
    return 1 if failed else 0


def labels_of(options: CheckOptions) -> list[str]:
    """Return the methods, variants or the file that are meant; UserError if there is no such."""
    if options.methods == ("all",):
        return list(registry.names())
    if len(options.methods) == 1 and options.methods[0].endswith(".py"):
        return [*options.methods]
    return check_labels(options.methods)


def check_one(label: str, options: CheckOptions) -> bool:
    """Print what every rule found for a method, a variant or a file; whether all hold."""
    from bench.commands.check.running import check, load_file

    started = time.perf_counter()
    shape = {"dataset": options.dataset, "preset": options.preset}
    try:
        if label.endswith(".py"):
            findings = check(load_file(Path(label)), **shape)
        else:
            check_variant(label)
            findings = check(label, **shape)
    except registry.BrokenMethodError as error:
        print(f"{label}\nFAIL  {one_line(error)}")
        return False
    print(label, *findings, sep="\n")
    counts = Counter(finding.outcome for finding in findings)
    said = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
    print(f"{said}; {time.perf_counter() - started:.0f} s")
    return not counts["FAIL"]
