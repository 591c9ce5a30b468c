"""Settings: their schema, the presets, ``--set``, seeds, and errors that are the user's to mend."""

# fmt: off
# isort: off
from bench.config.errors import MissingDataError, UserError
from bench.config.names import check_name, unknown
from bench.config.overrides import (
    SECTIONS,
    apply_overrides,
    blocks,
    heads,
    parse_set,
    put_setting,
    resolve_method,
)
from bench.config.presets import choose_preset, config_folder, datasets
from bench.config.schema import (
    WHEREABOUTS, Budget, CellConfig, Preset, Sampling, Settings, Training, read_cell,
)
from bench.config.text import (
    bench_command, digest, number_typed, one_line, to_yaml, without_secrets,
)
from bench.config.validation import build
