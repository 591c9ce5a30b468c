"""A study from its request to its cells' ends."""

from collections.abc import Sequence
from typing import Any

from bench import records
from bench.progress.display import Display
from bench.records import RECORD, RESERVE, is_running, readable
from bench.study.cells import CellWork
from bench.study.plan import Planned, plan
from bench.study.preparation import make_ready
from bench.study.request import Request
from bench.study.runner import Runner


def execute(request: Request, tracker_factory: Any, display: Display) -> list[Planned]:
    """Prepare, plan and run a study; returns its cells. Raises UserError before any training.

    Other commands may run the same study at the same time; each cell is run by one of them.
    """
    with records.in_use(request.folder):
        return _execute(request, tracker_factory, display)


def _execute(request: Request, tracker_factory: Any, display: Display) -> list[Planned]:
    told = f"another command is preparing study '{request.name}'; waiting for it"
    with (
        records.only_command(request.folder, lambda: display.say(told)),
        display.preparation(f"study {request.name}"),
    ):
        prepared, tracker = make_ready(request, tracker_factory, display)
    records.settle_study(request.folder)
    records.keep_reserve(request.folder)
    planned = plan(request, prepared)
    display.say(f"data: {prepared['data_source']} ({prepared['data_variant']})")
    for note in prepared["notes"]:
        display.say(f"note: {note}")
    for cell in planned:
        display.say(f"plan: {cell.folder.name}: {cell.action} ({cell.why})")
    with display:
        Runner(CellWork(request, prepared, tracker, display), request.jobs, display).run(planned)
    if not any(is_running(path.parent) for path in request.folder.glob(f"*-seed*/{RECORD}")):
        # No other command has cells running that may need the room.
        (request.folder / RESERVE).unlink(missing_ok=True)
    say_tracking(tracker, planned, display)
    return planned


def say_tracking(tracker: Any, planned: Sequence[Planned], display: Display) -> None:
    """Say what MLflow cost beside the training of the cells that ran."""
    ran = [readable(cell.folder) for cell in planned if not cell.is_idle]
    training = sum(record.ledger.get("train", 0.0) for record in ran if record is not None)
    seconds = tracker.seconds
    if training and seconds > 0.01 and tracker.trouble is None:
        told = f"{seconds:.1f} s of logging beside {training:.0f} s of training"
        display.say(f"MLflow: {told} ({seconds / training:.2%})")
