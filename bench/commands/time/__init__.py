"""``bench time``: finished cells timed together, in turn."""

from bench.commands.time.options import TimeOptions

__all__ = ["TimeOptions"]
