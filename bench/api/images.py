"""Images that were made elsewhere, measured."""

from __future__ import annotations

import tempfile
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.api.arguments import Names, options_of
from bench.config import UserError
from bench.records import Value

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def evaluate(
    images: str | Path | NDArray[np.uint8],
    dataset: str,
    *,
    labels: NDArray[np.integer] | None = None,
    samples: int | None = None,
    metrics: Names | None = None,
    **options: Any,
) -> dict[str, Value]:
    """Measure images made elsewhere, as ``bench evaluate PATH --dataset ...`` does.

    Args:
        images: a folder, zip or ``.npz`` of images, or uint8 (N, C, H, W) or (N, H, W, C).
        dataset: the data set that they are compared with.
        labels: with an array of images, the class that each was asked for, (N,).
        samples: images to take, a fixed random part; all by default.
        metrics: what to measure: ``fd``, ``kd``, ``is``, ``precision``, ...; all by default.
        options: further fields of ``bench.commands.evaluate.EvaluateOptions``: ``extractor``,
            ``preset``, ``data``, ``weights``, ``device``, ``results``, ``reference``.

    Returns:
        For each metric's name its ``value``, what stands beside it (``spread``, ``error``,
        ``corrected``), and its ``provenance``: extractor, reference, protocol, number of images.

    Raises:
        UserError: no images of the data set's shape, too few, or an unknown name.
        TypeError: an option is unknown.
    """
    import numpy as np

    from bench.commands.evaluate import EvaluateOptions
    from bench.commands.evaluate.measuring import evaluate_samples, request_of, resolve_measuring
    from bench.training.checkpoint import generators_kept

    if labels is not None and isinstance(images, (str, Path)):
        raise UserError("labels: images in a file or folder have their own; leave them out")
    path = str(images) if isinstance(images, (str, Path)) else "images"
    given = {"path": path, "dataset": dataset, "samples": samples, "metrics": metrics}
    chosen = options_of(EvaluateOptions, given | options)
    settings = resolve_measuring(chosen, dataset, chosen.reference)
    request = request_of(settings, chosen, chosen.metrics)
    silent = replace(request, passing=lambda title: nullcontext(lambda fraction: None))
    with generators_kept(), tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "images.npz"
        if isinstance(images, (str, Path)):
            place = Path(images)
        elif labels is None:
            np.savez(place, images=np.ascontiguousarray(images))
        else:
            np.savez(place, images=np.ascontiguousarray(images), labels=np.asarray(labels))
        return dict(evaluate_samples(place, silent, wanted=samples).values)
