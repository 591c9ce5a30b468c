"""``bench studies``: print one line for each study of a results folder."""

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from cyclopts import Parameter

from bench.commands.options import Results


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class StudiesOptions:
    """Whose studies to list."""

    results: Results = Path("results")
    """Folder of all results."""


def studies(options: StudiesOptions = StudiesOptions()) -> int:
    """List the studies there are: what is in each, how it stands, its size and when it ran."""
    from bench.commands.studies.listing import describe, lay_out
    from bench.records import study_folders

    folders = study_folders(options.results)
    if not folders:
        print(f"no study under '{options.results}'; run one: bench run --help")
        return 0
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    print("\n".join(lay_out([describe(folder) for folder in folders], width)))
    return 0
