"""The commands that take up again what a run has left: its networks, samples and records."""

from __future__ import annotations

from bench.cli.app import AGAIN, app
from bench.commands.evaluate import EvaluateOptions, ReferenceOptions
from bench.commands.reproduce import ReproduceOptions
from bench.commands.sample import SampleOptions
from bench.commands.sensitivity import SensitivityOptions
from bench.commands.time import TimeOptions


@app.command(group=AGAIN)
def sample(options: SampleOptions = SampleOptions()) -> int:
    """Sample finished cells again: quality against NFE for several samplers; trains nothing."""
    from bench.commands.sample.command import sample

    return sample(options)


@app.command(group=AGAIN)
def time(options: TimeOptions = TimeOptions()) -> int:
    """Time finished cells together, in turn: ms/image, latency and ratios; trains nothing."""
    from bench.commands.time.command import time_together

    return time_together(options)


@app.command(group=AGAIN)
def evaluate(options: EvaluateOptions) -> int:
    """Measure finished cells again, or images made elsewhere; trains and draws nothing."""
    from bench.commands.evaluate.command import evaluate

    return evaluate(options)


@app.command(group=AGAIN)
def reference(options: ReferenceOptions) -> int:
    """Export a data set's reference statistics, as EDM and clean-fid read them."""
    from bench.commands.evaluate.reference import export_reference

    return export_reference(options)


@app.command(group=AGAIN)
def sensitivity(options: SensitivityOptions) -> int:
    """Show what each metric sees of known damage to real images, and what it misses."""
    from bench.commands.sensitivity.command import sensitivity

    return sensitivity(options)


@app.command(group=AGAIN)
def reproduce(options: ReproduceOptions) -> int:
    """Make a finished cell again, and say whether it is bit-equal (CPU) or within its interval."""
    from bench.commands.reproduce.command import reproduce

    return reproduce(options)


# What `reproduce` was called until 0.2.
app.command(reproduce, name="rerun", show=False)
