"""What the commands do that measure what is there already: cells, images, statistics, damage."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.commands import check_writable, finish, heed_signals, show_in_store
from bench.config import Settings
from bench.errors import UserError
from bench.locks import hold, only_command
from bench.options import (
    AskedEvaluation,
    default_device,
    parse_families,
    resolve_evaluation,
    study_settings,
)
from bench.record import RECORD, Status, cells
from bench.study_file import is_study, read_study
from methods import registry


def evaluate(asked: AskedEvaluation, format: str) -> int:
    """Measure finished cells again, or images from elsewhere; print what was found."""
    heed_signals()
    found = find_cells(asked.path, asked.results)
    if found is not None:
        return evaluate_cells(*found, asked)
    if not Path(asked.path).exists():
        raise UserError(
            f"'{asked.path}' is no study or cell under '{asked.results}' and no folder or file; "
            "give one of these"
        )
    if asked.name is not None:
        return evaluate_as(asked)
    return evaluate_images(asked, format)


def find_cells(path: str, results: Path) -> tuple[Path, list[Path]] | None:
    """Return a study's folder and the cells meant, its finished ones for a study; else ``None``."""
    for place in (Path(path), results / path):
        if (place / RECORD).exists() and is_study(place.parent):
            return place.parent, [place]
        if is_study(place):
            done = [f for f, row in cells(place) if row.status == Status.FINISHED]
            if not done:
                raise UserError(f"study '{place.name}' has no finished cell to measure")
            return place, done
    return None


def evaluate_cells(folder: Path, chosen: Sequence[Path], asked: AskedEvaluation) -> int:
    """Measure cells of a study again, add to their records, and print its table."""
    from bench import evaluate as room

    for option, value in (("--as", asked.name), ("--samples", asked.samples)):
        if value is not None:
            raise UserError(f"{option} is for images made elsewhere; leave it out for cells")
    with only_command(folder), hold(chosen):
        room.evaluate_cells(folder, chosen, wish_in(folder, asked))
        finish(folder, [])
        show_in_store(folder)
    return 0


def evaluate_as(asked: AskedEvaluation) -> int:
    """Add images from elsewhere to a study's tables and plots by a name."""
    from bench import evaluate as room
    from bench.metrics import HELD_OUT, NOISE

    folder, name = asked.study, str(asked.name)
    assert folder is not None
    taken = {row.method for _, row in cells(folder)} | {*registry.names(), NOISE, HELD_OUT}
    if name in taken or not name.replace("-", "").replace("_", "").replace(".", "").isalnum():
        raise UserError(
            f"--as '{name}': use letters, digits, '-', '_' and '.', and no method's name, nor "
            f"an anchor's ({', '.join(sorted(taken))})"
        )
    if asked.samples is not None:
        raise UserError("--samples is the study's own number with --as; leave it out")
    with only_command(folder):
        wish = wish_in(folder, asked)
        measured = room.add_foreign(folder, Path(asked.path), wish, name=name, seed=asked.seed)
        for note in measured.notes:
            print(f"note: {note}", file=sys.stderr)
        finish(folder, [])
        show_in_store(folder)
    return 0


def evaluate_images(asked: AskedEvaluation, format: str) -> int:
    """Measure images from elsewhere and print their values with how they were measured."""
    from bench import evaluate as room
    from bench.report.values import render_values

    settings = resolve_evaluation(asked)
    wish = wish_of(settings, asked)
    measured = room.evaluate_samples(Path(asked.path), wish, wanted=asked.samples)
    for note in measured.notes:
        print(f"note: {note}", file=sys.stderr)
    print(render_values(measured.values, format), end="")
    return 0


def export_reference(file: Path, asked: AskedEvaluation) -> int:
    """Write a data set's reference statistics to a file."""
    from bench.metrics.references import export

    if file.suffix != ".npz":
        raise UserError(f"'{file}': statistics are written as .npz; give such a name")
    heed_signals()
    settings = resolve_evaluation(asked)
    if asked.extractor is not None and settings.evaluation.also:
        raise UserError(
            f"--extractor {asked.extractor}: a file holds the statistics of one; name one"
        )
    alone = settings.evaluation.model_copy(update={"also": ()})
    wish = wish_of(settings.model_copy(update={"evaluation": alone}), asked)
    extractor, found = wish.open().pairs[0]
    export(file, found, extractor)
    print(f"{file}: mu and sigma of {found.n} {found.variant} images by {extractor.name}")
    return 0


def sensitivity(asked: AskedEvaluation, into: Path | None) -> int:
    """Measure damaged real images, write the page of numbers and name its files."""
    from bench.environment import describe as surroundings
    from bench.metrics import sensitivity as measured
    from bench.report.sensitivity import write_page

    settings = resolve_evaluation(asked)
    folder = into or asked.results / f"{settings.dataset}-sensitivity"
    check_writable(folder.parent)
    heed_signals()
    wish = wish_of(settings, asked)
    evaluator = wish.open(lambda dataset: measured.check(dataset, asked.samples))
    # Now, since the checkout may be another when the page is done.
    environment = surroundings(evaluator.pairs[0][0].device)
    with wish.passing("clean and damaged images") as progress:
        page = measured.page(
            evaluator,
            asked.samples,
            limit=settings.evaluation.reference_images,
            cache=wish.cache,
            progress=progress,
        )
    paths = write_page(page, folder, environment)
    print((folder / "sensitivity.md").read_text())
    for path in paths:
        print(path)
    return 0


def wish_in(folder: Path, asked: AskedEvaluation) -> Any:
    """Put together what is to be measured within a study: on its data, and on its device."""
    stored = read_study(folder)
    wish = wish_of(
        study_settings(folder, stored.settings, asked),
        replace(asked, device=asked.device or stored.settings.device),
    )
    return replace(wish, data_sha256=stored.prepared.data_sha256)


def wish_of(settings: Settings, asked: AskedEvaluation) -> Any:
    """Put together what ``bench.evaluate`` wants to know."""
    from bench import evaluate as room
    from bench.progress import passing

    return room.Wish(
        settings=settings,
        cache=asked.results.resolve() / "cache",
        families=parse_families(asked.metrics),
        device=asked.device or default_device(),
        passing=passing,
    )
