"""``bench check``: methods held against the interface."""

from bench.commands.check.options import CheckOptions

__all__ = ["CheckOptions"]
