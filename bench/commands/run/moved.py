"""A study whose data, weights or statistics lie elsewhere now, found by their content."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from bench.commands.run import RunOptions
from bench.config import Settings, UserError
from bench.progress.display import passing
from bench.records import STUDY, check_content, is_study, read_study


def find(
    options: RunOptions, settings: Settings, naming: Callable[[RunOptions], str]
) -> tuple[str, str]:
    """Return the name of the study, or that of one with the same files elsewhere; and ``asked``.

    ``naming`` makes a name of options, in which places are. Files are read only where no study has
    that name, and one was asked for alike but for places.
    """
    if options.study is not None:
        return naming(options), ""
    name = naming(options)
    asked = naming(replace(options, data=None, weights=(), reference=None))
    if name == asked or is_study(options.results / name):
        return name, asked
    found = cache(lambda: content(settings, options.results.resolve() / "cache"))
    for path in sorted(options.results.glob(f"{settings.dataset}-{settings.preset}-*/{STUDY}")):
        try:
            there = read_study(path.parent)
            told = there.asked or naming(as_there(options, there.settings))
            if told in {asked, path.parent.name}:
                check_content(path.parent, settings, found())
                return path.parent.name, asked
        except UserError:
            continue  # It holds something else; what cannot be read is told when it is needed.
    return name, asked


def as_there(options: RunOptions, there: Settings) -> RunOptions:
    """Return the options as they would have been with the files of other settings."""
    lead = any("=" not in text for text in options.weights) and there.evaluation.extractor
    files = there.weights.items()
    weights = tuple(str(file) if name == lead else f"{name}={file}" for name, file in files)
    return replace(options, data=there.data, weights=weights, reference=there.reference)


def content(settings: Settings, place: Path) -> dict[str, Any]:
    """Return the hashes of data, weights and statistics; images are decoded into the cache."""
    from bench import metrics
    from bench.data import load

    with passing("reading the data, of which there may be a study") as progress:
        dataset = load(
            settings.dataset, path=settings.data, cache=place, size=settings.size, progress=progress
        )
    return metrics.identity(settings) | {"data_sha256": dataset.sha256}
