"""Holds a method, built in or from a plug-in, against the interface of :mod:`methods.base`.

``check`` applies every rule of :mod:`bench.check.rules` and :mod:`bench.check.sampling_rules` to
the method at a preset's size, on made-up images of two shapes, on the CPU. Training, sampling and
counting are those of :mod:`bench.training`, :mod:`bench.sampling` and :mod:`bench.cost`; nothing is
learned and no data are read. A rule that depends on another is skipped where that one fails: one
fault, one line.
"""

from bench.check.running import Finding, check, load_file

__all__ = ["Finding", "check", "load_file"]
