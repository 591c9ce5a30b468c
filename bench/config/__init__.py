"""Settings: their schema, the presets, ``--set``, seeds, and errors that are the user's to mend."""

# A face, as dense as its ``__all__``.
# fmt: off
# isort: off
from bench.config.errors import MissingDataError, UserError
from bench.config.names import check_name, unknown
from bench.config.overrides import SECTIONS, apply_overrides, parse_set, resolve_method
from bench.config.presets import choose_preset, config_folder, datasets
from bench.config.schema import (
    WHEREABOUTS, Budget, CellConfig, Preset, Sampling, Settings, Training, read_cell,
)
from bench.config.text import bench_command, digest, one_line, to_yaml, without_secrets
from bench.config.validation import build

__all__ = [
    "SECTIONS", "WHEREABOUTS", "Budget", "CellConfig", "MissingDataError", "Preset", "Sampling",
    "Settings", "Training", "UserError", "apply_overrides", "bench_command", "build", "check_name",
    "choose_preset", "config_folder", "datasets", "digest", "one_line", "parse_set", "read_cell",
    "resolve_method", "to_yaml", "unknown", "without_secrets",
]
