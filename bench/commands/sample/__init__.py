"""``bench sample``: finished cells sampled again, for the curve of quality against NFE."""

from bench.commands.sample.options import SampleOptions

__all__ = ["SampleOptions"]
