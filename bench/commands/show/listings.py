"""``bench methods`` and ``bench datasets``: list what there is to run."""

from bench.config import one_line, presets


def methods() -> int:
    """List the methods there are, built in and from plug-ins."""
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


def datasets() -> int:
    """List the data sets there are, with their presets and where they are looked for."""
    from bench.data.catalogue import KNOWN

    own = "any images, cropped and resized to the presets' size; from --data PATH"
    for name in presets.datasets():
        told = str(KNOWN.get(name, own))
        print(f"{name:<14} {told}")
        for preset_name, preset in presets.presets(name).items():
            extractor = preset.evaluation.get("extractor")
            print(f"    {preset_name:<8} budget {preset.budget}, extractor {extractor}")
    print(f"presets in {presets.config_folder()}")
    return 0
