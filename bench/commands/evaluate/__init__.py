"""``bench evaluate`` and ``bench reference``: their options, shared by all that measures images."""

# No annotations as text here: cyclopts reads those of a base class in its subclass's module.

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from bench.commands import options
from bench.commands.options import Names, Results, Weights


@dataclass(frozen=True, kw_only=True)
class MeasureOptions:
    """What images are measured with."""

    extractor: Names | None = None
    """Extractors, comma-separated. Default: the preset's, or those of the study; for its cells
    the ones named here are taken too."""
    preset: str | None = None
    """Preset whose extractors, reference and number of images are taken."""
    data: Path | None = None
    """Where the data set's images are, if not where they are looked for."""
    weights: Weights = ()
    """File of an extractor's weights: FILE for the preset's, NAME=FILE for another or for a
    TorchScript or torch.export file of your own, which is then called NAME. May be repeated."""
    device: str | None = None
    """cpu, cuda, cuda:1, ... Default: cuda if there is one."""
    results: Results = Path("results")
    """Folder of all results."""

    def __post_init__(self) -> None:
        options.check_each_once("extractor", self.extractor)


@dataclass(frozen=True)
class GivenPath:
    """What stands first on the command line of ``bench evaluate``."""

    path: str
    """A study or a finished cell, by folder or name (digits-quick, digits-quick/sde-seed0); or a
    folder, zip or .npz of images made elsewhere."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(MeasureOptions, GivenPath):
    """What to measure; UserError where a value makes no sense."""

    metrics: Names | None = None
    """What to measure: fd (fid), kd (kid), is, precision, recall, density, coverage, accuracy, fdc,
    cas, sw2, modes. Default: all of these. Of each class: precisionc, recallc, densityc,
    coveragec."""
    dataset: str | None = None
    """Data set that images made elsewhere are compared with."""
    samples: options.Whole | None = None
    """Images to take, a fixed random part of those there. Default: all."""
    name: Annotated[str | None, Parameter(name="--as")] = None
    """Add the images to --study's tables and plots by this name."""
    seed: options.Whole = 0
    """Seed that they were drawn with, for --as."""
    study: str | None = None
    """Study that --as adds to. Default: the latest."""
    reference: Path | None = None
    """Reference statistics made elsewhere (.npz with mu and sigma) for FID."""
    format: Literal["md", "json"] = "md"
    """Format to print the values of images in."""

    def __post_init__(self) -> None:
        super().__post_init__()
        options.check_each_once("metrics", self.metrics)
        options.check_number("samples", self.samples, 2, "images")
        options.check_seeds([self.seed])


@dataclass(frozen=True)
class GivenFile:
    """What stands first on the command line of ``bench reference``."""

    file: Path
    """File to write, .npz with mu and sigma."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ReferenceOptions(MeasureOptions, GivenFile):
    """Whose statistics to export, and where to."""

    dataset: str
    """Data set; see `bench datasets`."""
