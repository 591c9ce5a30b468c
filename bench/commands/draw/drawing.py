"""Drawing a cell's images by their seeds, and writing them as PNGs or as one grid."""

import io
import json
import tempfile
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
from bench.training import DivergedError
from bench.training.checkpoint import generators_kept

Drawn = tuple[NDArray[Any], NDArray[np.int64] | None]
INDEX = "dataset.json"
GRID, ARCHIVE = ".png", ".zip"
PICTURES = {".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".npz", ".npy", ".pdf"}
"""Suffixes that nobody gives a folder."""
MOST_IN_A_GRID = 4096


def draw_to(
    out: Path, folder: Path, seeds: Sequence[int], labels: Sequence[int] | None, progress: Progress
) -> int:
    """Draw an image for each seed from the cell in a folder and write them; return how many.

    UserError where ``out`` is there already, the cell cannot be drawn from, or labels do not fit.
    """
    check_out(out, len(seeds))
    with generators_kept():
        trained = open_cell(folder, read_record(folder))
        built = trained.build()
        source = built.source("draw")
        if kind_of(out) != GRID and not source.quantise:
            raise UserError(f"'{out}': points make no images; give a FILE.png, a plot of all")
        asked = check_labels(source, labels, len(seeds), built.config.method)
        check_names(seeds, asked)
        batches = draw_images(source, seeds, built.config.settings.sampling.batch, asked)
        try:
            _write(out, seeds, told(batches, len(seeds), progress))
        except OSError as error:
            raise UserError(f"'{out}' cannot be written: {error.strerror}") from error
        except DivergedError as error:
            raise UserError(f"{folder.name}: {error}; nothing was written") from error
    return len(seeds)


def kind_of(out: Path) -> str:
    """What is written to a path, by its suffix: one grid, an archive, or a folder."""
    return out.suffix.lower() if out.suffix.lower() in {GRID, ARCHIVE} else ""


def check_out(out: Path, n: int) -> None:
    """UserError where nothing can be written to a path, before anything is drawn."""
    if out.exists():
        raise UserError(f"'{out}' is there already; remove it, or give another --out")
    if out.suffix.lower() in PICTURES:
        raise UserError(f"'{out}': give a folder, a FILE.zip, or a FILE.png for a grid")
    if kind_of(out) == GRID and n > MOST_IN_A_GRID:
        raise UserError(
            f"'{out}': a grid holds {MOST_IN_A_GRID} images; give a folder or FILE.zip for {n}"
        )


def check_names(seeds: Sequence[int], labels: Sequence[int] | None) -> None:
    """UserError where two images would be the same."""
    images = list(zip(seeds, labels, strict=True)) if labels else list(seeds)
    if len({*images}) < len(images):
        raise UserError("--seeds name an image twice; give each seed, or each of a class, once")


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
    if kind_of(out) == GRID:
        images, labels = zip(*batches, strict=True)
        known = None if labels[0] is None else np.concatenate(labels)
        columns = min(16, round(len(seeds) ** 0.5 + 0.499))
        write_grid(out, np.concatenate(images), columns=columns, labels=known)
    elif kind_of(out) == ARCHIVE:
        write_atomically(out, lambda file: _write_zip(file, seeds, batches))
    else:
        # Whole or not at all, as a file is: what was stopped half-way looks like nothing.
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as place:
            made = Path(place) / out.name
            made.mkdir()
            _write_each(seeds, batches, lambda name, content: (made / name).write_bytes(content))
            made.rename(out)


def _write_zip(file: IO[bytes], seeds: Sequence[int], batches: Iterator[Drawn]) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        _write_each(
            seeds, batches, lambda name, body: archive.writestr(zipfile.ZipInfo(name), body)
        )


def _write_each(
    seeds: Sequence[int], batches: Iterator[Drawn], keep: Callable[[str, bytes], object]
) -> None:
    """Keep a PNG for each seed, and the index of their classes as EDM and StyleGAN have it."""
    index: list[tuple[str, int]] = []
    rest = iter(seeds)
    for images, labels in batches:
        for place, image in enumerate(images):
            name, content = f"seed{next(rest):06d}", io.BytesIO()
            name += ".png" if labels is None else f"-class{labels[place]}.png"
            pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
            Image.fromarray(pixels).save(content, format="PNG")
            keep(name, content.getvalue())
            if labels is not None:
                index.append((name, int(labels[place])))
    keep(INDEX, json.dumps({"labels": index or None}).encode())
