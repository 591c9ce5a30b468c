"""``bench methods`` and ``bench datasets``: list what there is to run."""

from bench.config import one_line, presets


def methods() -> int:
    """List the methods there are, built in and from plug-ins."""
    from bench.commands.method_labels import plugin_faults
    from bench.records.plugins import method_class
    from methods import registry

    faults = plugin_faults()
    for name in registry.names():
        if name in faults and name not in registry.BUILTIN:
            continue
        try:
            kind = method_class(name)
            summary = [*(kind.__doc__ or "").strip().splitlines(), kind.__name__][0]
            variants = ", ".join(f"{name}:{variant}" for variant in sorted(kind.variants))
        except Exception as error:  # Of whatever kind a plug-in's own are.
            summary, variants = f"BROKEN: {one_line(error)}", ""
        print(f"{name:<8} {summary}  [{registry.source(name)}]")
        if variants:
            print(f"{'':<8} variants: {variants}")
    for name, reason in faults.items():
        print(f"{name:<8} BROKEN: {one_line(reason)}")
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
