"""``bench draw``: draw images from a finished cell's averaged networks, and write them as files."""

from dataclasses import KW_ONLY, dataclass
from pathlib import Path

from cyclopts import Parameter

from bench.commands.options import Classes, ImageSeeds, Results, Whole, check_number
from bench.config import UserError

USUAL, MOST = 64, 10**6


@Parameter(name="*")
@dataclass(frozen=True)
class DrawOptions:
    """Which cell to draw from, what, and where to."""

    cell: str
    """A finished cell: STUDY/CELL, its folder, or its record.json."""
    _: KW_ONLY
    out: Path
    """A folder or FILE.zip for a PNG of each image, or FILE.png for a grid."""
    n: Whole | None = None
    """How many images, those of seeds 0 to N - 1; 64 by default."""
    seeds: ImageSeeds | None = None
    """Seeds of the images, in place of N: 0,3,8 or 0-15."""
    labels: Classes | None = None
    """Classes of the images, taken in turn; by default as often as in the data."""
    results: Results = Path("results")
    """Folder of all results."""

    def __post_init__(self) -> None:
        if self.n is not None:
            check_number("n", self.n, 1, "images", MOST)
        if self.n is not None and self.seeds is not None:
            raise UserError("--n and --seeds both say how many; give one of them")


def draw(options: DrawOptions) -> int:
    """Draw images from a finished cell: one for each seed, the same in any number and order."""
    from bench.commands.draw.drawing import draw_to
    from bench.commands.finished_cells import find_cell
    from bench.progress.display import passing

    folder = find_cell(options.cell, options.results)
    seeds = options.seeds or tuple(range(options.n or USUAL))
    with passing(f"drawing from {folder.name}") as progress:
        count = draw_to(options.out, folder, seeds, options.labels, progress)
    print(f"{options.out}: {count} images of {folder.parent.name}/{folder.name}")
    return 0
