"""``bench reproduce``: make a finished cell again, and say whether it gave the same."""

from __future__ import annotations

import sys

from bench import study
from bench.commands.reproduce import repeat
from bench.commands.reproduce.options import ReproduceOptions
from bench.commands.shared import check_writable, heed_signals, show_in_store
from bench.progress.display import Display
from bench.records.record import Status


def reproduce(options: ReproduceOptions) -> int:
    """Make a finished cell again, and print whether it gave the same; 1 if it did not."""
    folder = repeat.find(options.record, options.results)
    check_writable(options.results)
    heed_signals()
    again = repeat.execute(folder, options.results, options.data, Display())
    if repeat.read(again).status != Status.FINISHED:
        log = again / study.LOG
        print(f"bench: the cell did not finish this time; see {log}", file=sys.stderr)
        return 1
    page, holds = repeat.report(folder, again)
    print(page, end="")
    if options.tracking:
        show_in_store(again.parent)
    return 0 if holds else 1
