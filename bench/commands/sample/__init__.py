"""``bench sample``: finished cells sampled again, for the curve of quality against NFE."""

from dataclasses import dataclass

from cyclopts import Parameter

from bench.commands import options
from bench.config import UserError

NFE = (5, 10, 20, 35, 50, 100, 250)
"""Network evaluations an image where no others are asked for."""
MOST_NFE = 10**5


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class SampleOptions(options.StudyOptions):
    """Which cells to sample again, and how; UserError where a value makes no sense."""

    cells: options.Names | None = None
    """Cells, comma-separated: sde-seed0,cdm-seed0.
    Default: all finished ones whose method has a sampler."""
    samplers: options.Names | None = None
    """Samplers, as heun,dpmpp_3m. Default: one of each kind, seven."""
    nfe: options.Evaluations | None = None
    """Network evaluations an image, at most. Default: 5,10,20,35,50,100,250."""
    sweep: options.Swept | None = None
    """A setting that acts in sampling alone, and its values: guidance=0,1,2,5 for dlsm's alpha, or
    sampler.s_churn=0,10. All else is the cell's own; cells whose method lacks it are left out."""
    samples: options.Whole | None = None
    """Samples a point. Default: as many as the cell's own."""
    jobs: options.Whole | None = None
    """Cells at a time. Default: 1 on a GPU; on a CPU, cores / threads."""
    timeout: float | None = None
    """Seconds that a cell's points may take together."""
    tracking: options.Tracking = True
    """Log to MLflow."""

    def __post_init__(self) -> None:
        options.check_limits(self.jobs, self.timeout)
        options.check_each_once("cells", self.cells)
        options.check_each_once("samplers", self.samplers)
        if self.sweep and (self.samplers or self.nfe):
            raise UserError(
                "--sweep draws with each cell's own sampler; drop --samplers and --nfe, or sweep "
                "sampler.steps"
            )
        options.check_number("samples", self.samples, 2, "samples")
        if self.nfe is not None and not self.nfe:
            raise UserError("--nfe '': write network evaluations as 5,10,20")
        for number in self.nfe or ():
            options.check_number("nfe", number, 1, "network evaluations", MOST_NFE)
