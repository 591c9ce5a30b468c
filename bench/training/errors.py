"""How training ends before its budget does."""

from __future__ import annotations


class DivergedError(Exception):
    """A loss or a sample is not finite; the message says which and when."""


class InterruptedTrainingError(Exception):
    """The run was asked to stop; its checkpoint has been written."""
