"""``bench evaluate`` and ``bench reference``: what is there, measured; and what it is held to."""

from bench.commands.evaluate.options import EvaluateOptions, MeasureOptions, ReferenceOptions

__all__ = ["EvaluateOptions", "MeasureOptions", "ReferenceOptions"]
