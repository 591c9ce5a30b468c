"""``bench reproduce``: make a finished cell again, and say whether it gave the same."""

from __future__ import annotations

import sys

from bench import rerun, study
from bench.commands.reproduce.options import ReproduceOptions
from bench.commands.shared import check_writable, heed_signals, show_in_store
from bench.progress import Display
from bench.record import Status


def reproduce(options: ReproduceOptions) -> int:
    """Make a finished cell again, and print whether it gave the same; 1 if it did not."""
    folder = rerun.find(options.record, options.results)
    check_writable(options.results)
    heed_signals()
    again = rerun.execute(folder, options.results, options.data, Display())
    if rerun.read(again).status != Status.FINISHED:
        log = again / study.LOG
        print(f"bench: the cell did not finish this time; see {log}", file=sys.stderr)
        return 1
    page, holds = rerun.report(folder, again)
    print(page, end="")
    if options.tracking:
        show_in_store(again.parent)
    return 0 if holds else 1
