"""``bench data prepare``: decode a data set into the cache, and say what it is."""

from dataclasses import dataclass
from pathlib import Path

from cyclopts import Parameter

from bench.commands.options import Results


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class PrepareOptions:
    """Which images to prepare, and for which preset."""

    dataset: str
    """Data set whose preset says the size: images64."""
    data: Path | None = None
    """Where the images are: a zip file (EDM, StyleGAN), a folder of class folders or of images, an
    .npz file (guided-diffusion) or an lmdb folder (LSUN)."""
    preset: str | None = None
    """Preset of the data set. Default: quick on a CPU, gpu on CUDA."""
    results: Results = Path("results")
    """Folder of all results."""


def prepare(options: PrepareOptions) -> int:
    """Decode images, crop and resize them if the preset has a size, and keep them in the cache.

    Runs on the same data then start at once, and need no more memory than a batch.
    """
    from bench.commands.lifecycle import check_writable, heed_signals
    from bench.commands.settings import default_device
    from bench.config import choose_preset
    from bench.data import load
    from bench.progress.display import passing

    name, chosen = choose_preset(options.dataset, options.preset, default_device())
    check_writable(options.results)
    heed_signals()
    with passing(f"preparing {options.dataset}") as progress:
        found = load(
            options.dataset, path=options.data, cache=options.results / "cache", size=chosen.size,
            progress=progress,
        )  # fmt: skip
    held_out = f" + {len(found.test)} held out" if found.test else ""
    channels, height, width = found.shape
    classes = f"{len(found.classes)}" if found.train.labels is not None else "no labels"
    print(f"data     {found.variant}, for preset {name} of {options.dataset}")
    print(f"source   {found.source}")
    print(f"images   {len(found.train)}{held_out}, {width}x{height}, {channels} channel(s)")
    print(f"classes  {classes}")
    print(f"sha256   {found.sha256}")
    print(f"cache    {found.stored or 'none: read in place'}")
    for note in found.notes:
        print(f"note     {note}")
    return 0
