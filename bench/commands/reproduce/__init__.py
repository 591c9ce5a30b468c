"""``bench reproduce``: a finished cell made again from its folder alone."""

from bench.commands.reproduce.options import ReproduceOptions

__all__ = ["ReproduceOptions"]
