"""``bench check``: print what every rule found of methods, variants or a file."""

import sys
import time
from collections import Counter
from dataclasses import KW_ONLY, dataclass
from pathlib import Path

from cyclopts import Parameter

from bench.commands.options import Names
from bench.config import choose_preset, one_line
from methods import registry


@Parameter(name="*")
@dataclass(frozen=True)
class CheckOptions:
    """Which methods to check, and on the shapes and sizes of what."""

    methods: Names
    """Methods or variants, comma-separated; all; or a Python file with one."""
    _: KW_ONLY
    dataset: str = "digits"
    """Data set whose shape is taken."""
    preset: str = "smoke"
    """Preset whose sizes are taken."""


def check(options: CheckOptions) -> int:
    """Hold methods against the interface, on the CPU; 1 if one breaks a rule."""
    from bench.commands.method_labels import check_labels

    choose_preset(options.dataset, options.preset, "cpu")
    labels = options.methods
    if labels == ("all",):
        labels = tuple(registry.names())
    elif len(labels) != 1 or not labels[0].endswith(".py"):
        labels = tuple(check_labels(labels))
    failed = [label for label in labels if not check_one(label, options)]
    if failed:
        print(f"bench: {', '.join(failed)} failed", file=sys.stderr)
    return 1 if failed else 0


def check_one(label: str, options: CheckOptions) -> bool:
    """Print what every rule found for a method, a variant or a file; whether all hold."""
    from bench.commands.check import running
    from bench.commands.method_labels import check_variant, plugin_faults

    started = time.perf_counter()
    is_file = label.endswith(".py")
    try:
        if label in (faults := plugin_faults()) and label not in registry.BUILTIN:
            raise registry.BrokenMethodError(faults[label])
        if not is_file:
            check_variant(label)
        method = running.load_file(Path(label)) if is_file else label
        findings = running.check(method, dataset=options.dataset, preset=options.preset)
    except registry.BrokenMethodError as error:
        print(f"{label}\nFAIL  {one_line(error)}")
        return False
    print(label, *findings, sep="\n")
    counts = Counter(finding.outcome for finding in findings)
    said = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
    print(f"{said}; {time.perf_counter() - started:.0f} s")
    return not counts["FAIL"]
