"""Reads the presets, ``configs/NAME.yaml``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from bench.config.errors import UserError
from bench.config.names import unknown
from bench.config.schema import Preset
from bench.config.text import StrictLoader, one_line
from bench.config.validation import explain

BENCH = Path(__file__).parents[1]
PLACES = (BENCH / "configs", BENCH.parent / "configs")
"""Where the presets are: inside the package when installed, beside it in a checkout."""


def config_folder() -> Path:
    """Return the folder of the presets."""
    for place in PLACES:
        if place.is_dir():
            return place
    raise UserError(f"no presets found at {' or '.join(map(str, PLACES))}; install scorebench anew")


def datasets() -> list[str]:
    """Return the names of the data sets that have presets."""
    return sorted(path.stem for path in config_folder().glob("*.yaml"))


def presets(dataset: str) -> dict[str, Preset]:
    """Read a data set's presets, with ``extends`` resolved."""
    if dataset not in datasets():
        raise unknown("data set", dataset, datasets())
    path = config_folder() / f"{dataset}.yaml"
    try:
        raw = yaml.load(path.read_bytes(), Loader=StrictLoader)
        written = {name: Preset.model_validate(body) for name, body in raw.items()}
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {one_line(error)}") from error
    except ValidationError as error:
        raise UserError(f"{path}: {explain(error, Preset)}") from error
    return {name: _resolve_extends(name, written) for name in written}


def _resolve_extends(name: str, written: Mapping[str, Preset]) -> Preset:
    preset = written[name]
    if preset.extends is None:
        return preset
    if preset.extends not in written:
        raise unknown("preset to extend", preset.extends, written)
    base = _resolve_extends(preset.extends, written).model_dump(exclude={"extends"})
    own = preset.model_dump(exclude={"extends"}, exclude_unset=True)
    return Preset.model_validate(merge(base, own))


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge nested mappings; ``over`` wins, lists are replaced whole.

    A block of another ``kind`` replaces the block instead: its keys mean something else.
    """
    if "kind" in over and over["kind"] != base.get("kind", over["kind"]):
        return dict(over)
    result = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merge(result[key], value) if both else value
    return result


def choose_preset(dataset: str, name: str | None, device: str) -> tuple[str, Preset]:
    """Return the preset asked for; by default ``quick`` on a CPU and ``gpu`` on CUDA."""
    available = presets(dataset)
    name = name or ("gpu" if device.startswith("cuda") else "quick")
    if name not in available:
        raise unknown(f"preset of {dataset}", name, available)
    return name, available[name]
