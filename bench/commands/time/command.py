"""``bench time``: time finished cells in turn, and write what was found."""

from dataclasses import dataclass

from cyclopts import Parameter

from bench.commands import options
from bench.config import UserError
from bench.records.interleaved import FEWEST_ROUNDS, ROUNDS


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class TimeOptions(options.StudyOptions):
    """Which cells to time together, and how often; UserError where a value makes no sense."""

    cells: options.Names | None = None
    """Cells, comma-separated: sde-seed0,cdm-seed0. Default: all finished ones."""
    rounds: options.Whole = ROUNDS
    """Rounds there and back: A B C C B A times each cell twice. At least 6."""
    batch: options.Whole | None = None
    """Images a batch. Default: the protocol's, which the table's times are of."""
    tracking: options.Tracking = True
    """Log to MLflow."""

    def __post_init__(self) -> None:
        options.check_each_once("cells", self.cells)
        options.check_number("batch", self.batch, 1, "images")
        if self.rounds < FEWEST_ROUNDS:
            raise UserError(
                f"--rounds {self.rounds}: give at least {FEWEST_ROUNDS}; the median of fewer has "
                "no 95 % interval"
            )
        options.check_number("rounds", self.rounds, FEWEST_ROUNDS, "rounds")


def time(options: TimeOptions = TimeOptions()) -> int:
    """Time finished cells together, in turn: ms/image, latency and ratios; trains nothing."""
    from bench.commands.lifecycle import check_writable, heed_signals, report_lost, show_in_store
    from bench.commands.time.interleave import time_cells
    from bench.commands.time.report import PAGE, render_timing
    from bench.progress.display import Display
    from bench.records import write_text
    from bench.report.plots.write import write_plots
    from bench.report.study_report import StudyReport
    from bench.report.table.formats import write_tables

    folder = options.folder
    check_writable(folder.parent)
    heed_signals()
    found = time_cells(folder, options.cells, options.rounds, options.batch, Display())
    page = render_timing(found)
    write_text(folder / PAGE, page)
    report = StudyReport.read(folder)
    write_tables(report)
    write_plots(report)
    print(page)
    if options.tracking:
        show_in_store(folder)
    print(f"timing   {folder}/timing.md (.json), and the times of {folder}/table.md")
    return report_lost([f"{name}: {reason}" for name, reason in found.failed.items()])
