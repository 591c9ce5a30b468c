"""``bench data``: images of one's own made ready ahead of a run."""

from bench.commands.data.options import PrepareOptions

__all__ = ["PrepareOptions"]
