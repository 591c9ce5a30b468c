"""Removing a study: its runs in MLflow are marked first, then its folder goes at once."""

import shutil
import tempfile
from pathlib import Path

from bench.config import UserError, one_line
from bench.records import RECORD, hold, in_use, only_command
from bench.tracking import NullTracker, Tracker, has_store


def remove_study(folder: Path) -> int:
    """Remove a study; return how many runs of it MLflow has marked as deleted.

    UserError, and nothing is removed, where a command works on it or the store does not answer.
    """
    if folder.is_symlink():
        raise UserError(f"'{folder}' is a link to '{folder.resolve()}'; remove it by hand")
    cells = [path.parent for path in sorted(folder.glob(f"*/{RECORD}"))]
    with only_command(folder), in_use(folder, alone=True), hold(cells):
        marked = _mark(folder)
        # Out of sight at once: a half removed study would look like one.
        place = Path(tempfile.mkdtemp(prefix=".removed-", dir=folder.parent))
        folder.rename(place / folder.name)
    shutil.rmtree(place)
    return marked


def _mark(folder: Path) -> int:
    """Mark a study's runs; UserError if there is a store and it does not let us."""
    if not has_store(folder.parent):
        return 0
    tracker = Tracker.open(folder.parent, warn=lambda line: None)
    try:
        if isinstance(tracker, NullTracker):
            raise UserError(str(tracker.trouble))
        return tracker.delete_runs(folder.name)
    except Exception as error:  # Whatever a store, or what lies before it, answers.
        why = one_line(error)[:200]
        raise UserError(
            f"MLflow cannot mark the runs of '{folder.name}' ({why}); nothing was removed"
        ) from error
