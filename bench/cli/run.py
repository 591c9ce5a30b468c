"""``bench run``."""

from __future__ import annotations

from bench.cli.app import RUN, app
from bench.commands.run import RunOptions


@app.command(group=RUN)
def run(options: RunOptions = RunOptions()) -> int:
    """Train, sample, evaluate and compare methods; continues what was interrupted."""
    if options.dry_run:
        from bench.commands.dry_run.command import dry_run

        return dry_run(options)
    from bench.commands.run.command import run

    return run(options)
