"""``bench sensitivity``: measure damaged real images, and write the page."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from bench.commands.evaluate import MeasureOptions
from bench.commands.options import PLACES, Whole, check_number
from bench.config import UserError
from bench.records import is_study


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class SensitivityOptions(MeasureOptions):
    """Whose images to damage, how many, and where to write what was seen of it."""

    dataset: str
    """Data set of images; see `bench datasets`."""
    samples: Whole | None = None
    """Images of each set, at most half the held-out ones. Default: these, up to 5000."""
    into: Annotated[Path | None, Parameter(group=PLACES)] = None
    """Folder to write. Default: RESULTS/DATASET-sensitivity."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("samples", self.samples, 2, "images")


def sensitivity(options: SensitivityOptions) -> int:
    """Show what each metric sees of known damage to real images, and what it misses."""
    from bench.commands.evaluate.measuring import request_of, resolve_measuring
    from bench.commands.lifecycle import check_writable, heed_signals
    from bench.commands.sensitivity import measure
    from bench.commands.sensitivity.report import write_page
    from bench.records.environment import describe

    settings = resolve_measuring(options, options.dataset)
    folder = options.into or options.results / f"{settings.dataset}-sensitivity"
    if is_study(folder):
        raise UserError(f"'{folder}' is a study's folder; give another one with --into")
    check_writable(folder.parent)
    heed_signals()
    request, n = request_of(settings, options), options.samples
    evaluator = request.open(lambda dataset: measure.check(dataset, n))
    # Now, since the checkout may be another when the page is done.
    environment = describe(evaluator.pairs[0][0].device)
    limit = settings.evaluation.reference_images
    with request.passing("clean and damaged images") as progress:
        page = measure.page(evaluator, n, limit=limit, cache=request.cache, progress=progress)
    paths = write_page(page, folder, environment)
    print((folder / "sensitivity.md").read_text("utf-8"))
    for path in paths:
        print(path)
    return 0
