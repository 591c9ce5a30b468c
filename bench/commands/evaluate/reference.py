"""``bench reference``: a data set's statistics, as others read them."""

from __future__ import annotations

from bench.commands.evaluate.options import ReferenceOptions
from bench.commands.evaluate.request import request_of, resolve_measuring
from bench.commands.shared import heed_signals
from bench.config.errors import UserError


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
