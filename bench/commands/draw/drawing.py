"""Drawing a cell's images by their seeds, and writing them as PNGs or as one grid."""

import io
import json
import zipfile
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.commands.finished_cells import open_cell, read_record
from bench.config import UserError
from bench.data.dataset import Progress
from bench.records import write_atomically
from bench.records.grid import write_grid
from bench.sampling.image_seeds import draw_images
from bench.sampling.source import Source
from bench.training.checkpoint import generators_kept

Drawn = tuple[NDArray[Any], NDArray[np.int64] | None]
INDEX = "dataset.json"
ALWAYS = (1980, 1, 1, 0, 0, 0)


def draw_to(
    out: Path, folder: Path, seeds: Sequence[int], labels: Sequence[int] | None, progress: Progress
) -> int:
    """Draw an image for each seed from the cell in a folder and write them; return how many.

    UserError where ``out`` is there already, the cell cannot be drawn from, or labels do not fit.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"'{out}' is there already; remove it, or give another --out")
    with generators_kept():
        trained = open_cell(folder, read_record(folder))
        built = trained.build()
        source = built.source("draw")
        if out.suffix != ".png" and not source.quantise:
            raise UserError(f"'{out}': points make no images; give a FILE.png, a plot of all")
        asked = check_labels(source, labels, len(seeds), built.config.method)
        batches = draw_images(source, seeds, built.config.settings.sampling.batch, asked)
        try:
            _write(out, seeds, told(batches, len(seeds), progress))
        except OSError as error:
            raise UserError(f"'{out}' cannot be written: {error.strerror}") from error
    return len(seeds)


def check_labels(
    source: Source, labels: Sequence[int] | None, n: int, method: str
) -> list[int] | None:
    """Return a class for each image, the given ones in turn; UserError where there are no such."""
    if labels is None:
        return None
    if source.frequencies is None:
        raise UserError(f"'{method}' draws without labels; leave --labels out")
    if max(labels) >= (classes := len(source.frequencies)):
        raise UserError(f"--labels {max(labels)}: classes are 0 to {classes - 1}")
    return list(islice(cycle(labels), n))


def told(batches: Iterator[Drawn], n: int, progress: Progress) -> Iterator[Drawn]:
    """Hand batches on and tell how far they are."""
    done = 0
    for images, labels in batches:
        done += len(images)
        progress(done / n)
        yield images, labels


def _write(out: Path, seeds: Sequence[int], batches: Iterator[Drawn]) -> None:
    if out.suffix == ".png":
        images, labels = zip(*batches, strict=True)
        known = None if labels[0] is None else np.concatenate(labels)
        columns = min(16, round(len(seeds) ** 0.5 + 0.499))
        write_grid(out, np.concatenate(images), columns=columns, labels=known)
    elif out.suffix == ".zip":
        write_atomically(out, lambda file: _write_zip(file, seeds, batches))
    else:
        out.mkdir(parents=True, exist_ok=True)
        _write_each(seeds, batches, lambda name, content: (out / name).write_bytes(content))


def _write_zip(file: IO[bytes], seeds: Sequence[int], batches: Iterator[Drawn]) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        _write_each(
            seeds, batches, lambda name, body: archive.writestr(zipfile.ZipInfo(name, ALWAYS), body)
        )


def _write_each(
    seeds: Sequence[int], batches: Iterator[Drawn], keep: Callable[[str, bytes], object]
) -> None:
    """Keep a PNG for each seed, and the index of their classes as EDM and StyleGAN have it."""
    index: list[tuple[str, int]] = []
    names = [f"seed{seed:06d}.png" for seed in seeds]
    rest = iter(names)
    for images, labels in batches:
        for place, image in enumerate(images):
            name, content = next(rest), io.BytesIO()
            pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
            Image.fromarray(pixels).save(content, format="PNG")
            keep(name, content.getvalue())
            if labels is not None:
                index.append((name, int(labels[place])))
    keep(INDEX, json.dumps({"labels": index or None}).encode())
