"""Holds a method, built in or from a plug-in, against the interface of :mod:`methods.base`.

``check`` applies every rule of :mod:`bench.commands.check` to the method at a preset's size, on
made-up images of two shapes, on the CPU; nothing is learned and no data are read.
"""

from bench.commands.check.running import Finding, check, load_file

__all__ = ["Finding", "check", "load_file"]
