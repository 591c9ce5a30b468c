"""``bench evaluate`` and ``bench reference``: measure cells again, or images from elsewhere."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.commands.evaluate import EvaluateOptions, ReferenceOptions, measuring
from bench.commands.evaluate.measuring import Measured, request_in, request_of, resolve_measuring
from bench.commands.lifecycle import finish, heed_signals, show_in_store
from bench.commands.options import study_folder
from bench.config import UserError, check_name, datasets
from bench.metrics import HELD_OUT, NOISE
from bench.records import RECORD, Status, Value, cells, direction, hold, is_study, only_command
from bench.report.table.formats import markdown_table
from bench.report.table.notes import measured as way_of
from bench.report.table.numbers import number
from methods import registry


def evaluate(options: EvaluateOptions) -> int:
    """Measure finished cells again, or images from elsewhere; print what was found."""
    heed_signals()
    found = find_cells(options.path, options.results)
    if found is not None:
        return evaluate_cells(*found, options)
    if not Path(options.path).exists():
        raise UserError(
            f"'{options.path}' is no study or cell under '{options.results}' and no folder or "
            "file; give one of these"
        )
    if options.name is not None:
        return evaluate_as(options, options.name)
    if options.study is not None:
        raise UserError("--study is where --as NAME adds images; give a name too, or leave it out")
    if options.dataset is None:
        raise UserError(
            f"'{options.path}': give the --dataset that the images are compared with; choose from: "
            f"{', '.join(datasets())}"
        )
    settings = resolve_measuring(options, options.dataset, options.reference)
    request = request_of(settings, options, options.metrics)
    measured = measuring.evaluate_samples(Path(options.path), request, wanted=options.samples)
    print_notes(measured)
    print(render_values(measured.values, options.format), end="")
    return 0


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


def evaluate_cells(folder: Path, chosen: Sequence[Path], options: EvaluateOptions) -> int:
    """Measure cells of a study again, add to their records, and print its table."""
    foreign = {"--as": options.name, "--samples": options.samples, "--study": options.study}
    for option, value in foreign.items():
        if value is not None:
            raise UserError(f"{option} is for images made elsewhere; leave it out for cells")
    with only_command(folder), hold(chosen):
        measuring.evaluate_cells(folder, chosen, request_in(folder, options))
        finish(folder)
        show_in_store(folder)
    return 0


def evaluate_as(options: EvaluateOptions, name: str) -> int:
    """Add images from elsewhere to a study's tables and plots by a name."""
    folder = study_folder(options.results, options.study)
    taken = {row.method for _, row in cells(folder)} | {*registry.names(), NOISE, HELD_OUT}
    check_name("--as", name)
    if name in taken:
        known = ", ".join(sorted(taken))
        raise UserError(f"--as '{name}': use no method's name, nor an anchor's ({known})")
    if options.samples is not None:
        raise UserError("--samples is the study's own number with --as; leave it out")
    with only_command(folder):
        request = request_in(folder, options)
        path = Path(options.path)
        print_notes(measuring.add_foreign(folder, path, request, name=name, seed=options.seed))
        finish(folder)
        show_in_store(folder)
    return 0


def print_notes(measured: Measured) -> None:
    """Say what a reader of the values must know of the images."""
    for note in measured.notes:
        print(f"note: {note}", file=sys.stderr)


def render_values(values: Mapping[str, Value], format: str) -> str:
    """Write values as ``md``, with how they were measured below, or as ``json`` with all of it."""
    if format == "json":
        body = {name: value.model_dump() for name, value in values.items()}
        return json.dumps(body, indent=2, ensure_ascii=False) + "\n"
    rows, groups = [], dict[str, list[str]]()
    for name, value in values.items():
        told = [
            (value.spread, "over its splits"),
            (value.error, "standard error, by a jackknife over blocks of images"),
            (value.corrected, "is the value less the jackknife's term in 1/n"),
        ]
        beside = "; ".join(f"{number(part)} {what}" for part, what in told if part is not None)
        rows.append([f"{name} {direction(name)}".rstrip(), number(value.value, 5), beside])
        groups.setdefault(way_of(value.provenance), []).append(name)
    ways = [f"- {', '.join(names)}: {told}" for told, names in groups.items()]
    return "\n".join([markdown_table(["metric", "value", "beside it"], rows), *ways]) + "\n"


def export_reference(options: ReferenceOptions) -> int:
    """Write a data set's reference statistics to a file."""
    from bench.metrics.references import export

    file = options.file
    if file.suffix != ".npz":
        raise UserError(f"'{file}': statistics are written as .npz; give such a name")
    heed_signals()
    settings = resolve_measuring(options, options.dataset)
    if options.extractor is not None and settings.evaluation.also:
        raise UserError(
            f"--extractor {','.join(options.extractor)}: a file holds the statistics of one; name "
            "one"
        )
    alone = settings.evaluation.model_copy(update={"also": ()})
    request = request_of(settings.model_copy(update={"evaluation": alone}), options)
    extractor, found = request.open().pairs[0]
    export(file, found, extractor)
    print(f"{file}: mu and sigma of {found.n} {found.variant} images by {extractor.name}")
    return 0
