"""The options of ``bench data prepare``."""

from __future__ import annotations

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
