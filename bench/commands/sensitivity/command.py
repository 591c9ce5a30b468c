"""``bench sensitivity``: measure damaged real images, and write the page."""

from bench.commands.evaluate.request import request_of, resolve_measuring
from bench.commands.sensitivity import SensitivityOptions
from bench.commands.shared import check_writable, heed_signals


def sensitivity(options: SensitivityOptions) -> int:
    """Measure damaged real images, write the page of numbers and name its files."""
    from bench.commands.sensitivity import measure as measured
    from bench.commands.sensitivity.report import write_page
    from bench.records.environment import describe as surroundings

    settings = resolve_measuring(options, options.dataset)
    folder = options.into or options.results / f"{settings.dataset}-sensitivity"
    check_writable(folder.parent)
    heed_signals()
    request = request_of(settings, options)
    evaluator = request.open(lambda dataset: measured.check(dataset, options.samples))
    # Now, since the checkout may be another when the page is done.
    environment = surroundings(evaluator.pairs[0][0].device)
    with request.passing("clean and damaged images") as progress:
        page = measured.page(
            evaluator,
            options.samples,
            limit=settings.evaluation.reference_images,
            cache=request.cache,
            progress=progress,
        )
    paths = write_page(page, folder, environment)
    print((folder / "sensitivity.md").read_text())
    for path in paths:
        print(path)
    return 0
