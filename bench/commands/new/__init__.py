"""``bench new``: a method of one's own to start from."""

from bench.commands.new.options import NewOptions

__all__ = ["NewOptions"]
