"""``bench check``: methods held against the interface."""

from dataclasses import KW_ONLY, dataclass

from cyclopts import Parameter

from bench.commands.options import Names


@Parameter(name="*")
@dataclass(frozen=True)
class CheckOptions:
    """Which methods to check, and on the shapes and sizes of what."""

    methods: Names
    """Methods or variants, comma-separated; all; or a Python file with one."""
    _: KW_ONLY
    dataset: str = "digits"
    """Data set whose shape is taken."""
    preset: str = "smoke"
    """Preset whose sizes are taken."""
