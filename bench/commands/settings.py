"""From a preset and what was asked for to the settings that all cells of a study share."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from bench.config import Preset, Settings, UserError, build


def resolve_settings(
    dataset: str,
    name: str,
    preset: Preset,
    *,
    device: str,
    data: Path | None,
    weights: Sequence[str],
    reference: Path | None,
    budget: str | None = None,
) -> Settings:
    """Resolve what all cells of a study share; UserError if a value is not allowed."""
    own = ("size", "threads", "training", "sampling", "evaluation")
    values = {part: getattr(preset, part) for part in own} | {
        "dataset": dataset,
        "preset": name,
        "data": None if data is None else data.resolve(),
        "reference": None if reference is None else reference.resolve(),
        "device": device,
        "budget": budget or preset.budget,
    }
    settings = cast("Settings", build(Settings, values, f"preset {name} of {dataset}"))
    files = parse_weights(weights, settings.evaluation.model_dump())
    return settings.model_copy(update={"weights": files})


def parse_weights(texts: Sequence[str], evaluation: Mapping[str, Any]) -> dict[str, Path]:
    """Parse ``FILE``, for the extractor that leads, or ``NAME=FILE``; UserError if neither is."""
    files: dict[str, Path] = {}
    used = [str(evaluation.get("extractor")), *map(str, evaluation.get("also", ()))]
    for text in texts:
        name, equals, file = text.partition("=")
        if not equals or Path(text).exists():
            name, file = str(evaluation.get("extractor")), text
        if name in files:
            raise UserError(f"--weights names a file for '{name}' twice; give each one file")
        if not Path(file).exists():
            raise UserError(f"--weights {text}: no such file; write NAME=FILE or FILE")
        if name not in {*used, "inception"}:
            raise UserError(
                f"--weights {text}: extractor '{name}' is not in use, only {', '.join(used)}; add "
                f"it with --set 'evaluation.also=[{name}]', or --extractor for `bench evaluate`"
            )
        files[name] = Path(file).resolve()
    return files


def default_device() -> str:
    """``cuda`` if there is one, else ``cpu``."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def default_jobs(settings: Settings) -> int:
    """One cell at a time on an accelerator; on a CPU as many as its cores carry."""
    if settings.device != "cpu" or settings.threads is None:
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, (cores or 1) // settings.threads)
