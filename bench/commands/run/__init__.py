"""``bench run``: train, sample, evaluate and compare. Its options; what they ask for is beside."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from bench.commands import options


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What to compare, on what and for how long; UserError where a value makes no sense."""

    methods: options.Names | None = None
    """Methods and variants (cdm:semi), comma-separated; see `bench methods`.
    Default: all built-in methods."""
    dataset: str = "digits"
    """Data set; see `bench datasets`."""
    preset: str | None = None
    """Preset of the data set. Default: quick on a CPU, gpu on CUDA."""
    data: Path | None = None
    """Where the images are: a folder, a zip (EDM), an .npz or an lmdb folder."""
    seeds: options.Seeds = (0,)
    """Seeds: 0,1,2 or 0-2."""
    budget: str | None = None
    """Training of each method: 50kimg, 600s or 1e15flop. Default: the preset's."""
    overrides: Annotated[
        tuple[str, ...],
        Parameter(name="--set", negative="", metavar="KEY=VALUE", show_default=False),
    ] = ()
    """Override one value: smm.r1_gamma=0.1 or training.batch=64. May be repeated."""
    device: str | None = None
    """cpu, cuda, cuda:1, ... Default: cuda if there is one."""
    jobs: options.Whole | None = None
    """Cells at a time. Default: 1 on a GPU; on a CPU, cores / threads."""
    timeout: float | None = None
    """Seconds that a cell's process may work before it is stopped."""
    memory: options.Size | None = None
    """Memory of the host that a cell may take before it is ended: 8GiB."""
    weights: options.Weights = ()
    """File of an extractor's weights: FILE for the preset's, NAME=FILE for another or for a
    TorchScript or torch.export file of your own, which is then called NAME. May be repeated."""
    reference: Path | None = None
    """Reference statistics made elsewhere (.npz with mu and sigma) for FID."""
    rerun: Annotated[options.Names, Parameter(show_default=options.comma_separated)] = (
        "failed",
        "stale",
    )
    """Cells to run again: failed, stale (settings, data or source have changed), both, all (each
    time that the command is given) or none. Interrupted ones go on in any case."""
    curve: options.Flag = False
    """Then sample as `bench sample` does: quality against NFE."""
    dry_run: options.Flag = False
    """Print configuration, plan and what it will cost only."""
    study: Annotated[str | None, Parameter(group=options.PLACES)] = None
    """Name of the study. Default: made of data set and preset."""
    results: options.Results = Path("results")
    """Folder of all results."""
    tracking: options.Tracking = True
    """Log to MLflow."""

    def __post_init__(self) -> None:
        options.check_seeds(self.seeds)
        options.check_limits(self.jobs, self.timeout)
