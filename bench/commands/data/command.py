"""``bench data prepare``: decode a data set into the cache, and say what it is."""

from __future__ import annotations

from bench.commands.data.options import PrepareOptions
from bench.commands.settings import default_device
from bench.commands.shared import check_writable, heed_signals
from bench.config.presets import choose_preset
from bench.data import load
from bench.progress.display import passing


def prepare_data(options: PrepareOptions) -> int:
    """Decode a data set into the cache as ``bench run`` would, and print what it is."""
    dataset = options.dataset
    name, chosen = choose_preset(dataset, options.preset, default_device())
    check_writable(options.results)
    heed_signals()
    with passing(f"preparing {dataset}") as progress:
        found = load(
            dataset,
            path=options.data,
            cache=options.results / "cache",
            size=chosen.size,
            progress=progress,
        )
    held_out = f" + {len(found.test)} held out" if found.test else ""
    channels, height, width = found.shape
    classes = f"{len(found.classes)}" if found.train.labels is not None else "no labels"
    print(f"data     {found.variant}, for preset {name} of {dataset}")
    print(f"source   {found.source}")
    print(f"images   {len(found.train)}{held_out}, {width}x{height}, {channels} channel(s)")
    print(f"classes  {classes}")
    print(f"sha256   {found.sha256}")
    print(f"cache    {found.stored or 'none: read in place'}")
    for note in found.notes:
        print(f"note     {note}")
    return 0
