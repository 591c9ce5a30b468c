"""``bench reproduce``: make a finished cell again, and say whether it gave the same."""

import sys
from dataclasses import KW_ONLY, dataclass
from pathlib import Path

from cyclopts import Parameter

from bench.commands.options import Results, Tracking


@Parameter(name="*")
@dataclass(frozen=True)
class ReproduceOptions:
    """Which cell to make again."""

    record: str
    """A finished cell: STUDY/CELL, its folder, or its record.json."""
    _: KW_ONLY
    data: Path | None = None
    """Where the data set's images are, if not where they were."""
    results: Results = Path("results")
    """Folder of all results."""
    tracking: Tracking = True
    """Log to MLflow."""


def reproduce(options: ReproduceOptions) -> int:
    """Make a finished cell again, and say whether it is bit-equal (CPU) or within its interval."""
    from bench import study
    from bench.commands.finished_cells import find_cell, read_record
    from bench.commands.lifecycle import check_writable, heed_signals, show_in_store
    from bench.commands.reproduce import repeat
    from bench.progress.display import Display
    from bench.records import Status

    folder = find_cell(options.record, options.results)
    check_writable(options.results)
    heed_signals()
    again = repeat.execute(folder, options.results, options.data, Display())
    if read_record(again).status != Status.FINISHED:
        log = again / study.LOG
        print(f"bench: the cell did not finish this time; see {log}", file=sys.stderr)
        return 1
    page, holds = repeat.report(folder, again)
    print(page, end="")
    if options.tracking:
        show_in_store(again.parent)
    return 0 if holds else 1
