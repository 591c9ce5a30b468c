"""``bench sensitivity``: what each metric sees of known damage to real images."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from bench.commands.evaluate import MeasureOptions
from bench.commands.options import PLACES, check_number


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class SensitivityOptions(MeasureOptions):
    """Whose images to damage, how many, and where to write what was seen of it."""

    dataset: str
    """Data set of images; see `bench datasets`."""
    samples: int | None = None
    """Images of each set, at most half the held-out ones. Default: these, up to 5000."""
    into: Annotated[Path | None, Parameter(group=PLACES)] = None
    """Folder to write. Default: RESULTS/DATASET-sensitivity."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("samples", self.samples, 2, "images")
