"""``bench sensitivity``: what each metric sees of known damage to real images."""

from bench.commands.sensitivity.options import SensitivityOptions

__all__ = ["SensitivityOptions"]
