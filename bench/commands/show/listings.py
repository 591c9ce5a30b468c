"""``bench methods`` and ``bench datasets``: list what there is to run."""

from __future__ import annotations

from bench.config.presets import config_folder, datasets, presets
from bench.config.text import one_line


def list_methods() -> int:
    """Print each method, its one line of description and where it comes from."""
    from methods import registry

    for name in registry.names():
        try:
            summary = (registry.load(name).__doc__ or "").strip().splitlines()[0]
        except registry.BrokenMethodError as error:
            summary = f"BROKEN: {one_line(error)}"
            variants = []
        else:
            variants = sorted(registry.load(name).variants)
        print(f"{name:<8} {summary}  [{registry.source(name)}]")
        if variants:
            print(f"{'':<8} variants: {', '.join(f'{name}:{variant}' for variant in variants)}")
    return 0


def list_datasets() -> int:
    """Print each data set with its presets and where it is looked for."""
    from bench.data.catalogue import describe

    rows = {row.name: row for row in describe()}
    for name in datasets():
        row = rows.get(name)
        told = "any images, cropped and resized to the presets' size; from --data PATH"
        if row is not None:
            told = (
                f"{row.images} images, {row.size}, {row.channels} channel(s), "
                f"{row.classes} classes; from {row.source}"
            )
        print(f"{name:<14} {told}")
        for preset_name, preset in presets(name).items():
            extractor = preset.evaluation.get("extractor")
            print(f"    {preset_name:<8} budget {preset.budget}, extractor {extractor}")
    print(f"presets in {config_folder()}")
    return 0
