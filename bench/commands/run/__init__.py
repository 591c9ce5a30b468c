"""``bench run``: train, sample, evaluate and compare."""

from bench.commands.run.options import RunOptions

__all__ = ["RunOptions"]
