"""``bench compare``: what moved between two studies."""

from bench.commands.compare.options import CompareOptions

__all__ = ["CompareOptions"]
