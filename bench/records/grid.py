"""Images side by side, pixel by pixel, and points as a scatter plot; without matplotlib."""

import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from bench.config import UserError, one_line
from bench.records.files import write_atomically

TILE = 32
"""Smallest side of an image in a written grid, in pixels; smaller ones are repeated up to it."""
GAP = 6
BACKGROUND = 255
# Okabe and Ito's palette without yellow, which is too light for lines on white.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")

SIDE = 512
"""Width and height of a scatter plot, in pixels."""
WINDOW = 1.25
"""A scatter plot shows -WINDOW to WINDOW in both coordinates, whatever the points."""
MOST_POINTS = 2000
"""Points beyond this many are not drawn: they would hide one another."""
MASSES = (0.5, 0.8, 0.95, 0.99)
"""Shares of a density's mass within the bands that it is drawn in, the darkest first."""
_BANDS = ("#b5b5b5", "#cccccc", "#dedede", "#ececec")
_DOT = 2.2
_SMOOTHING = 4
_LINE, _TEXT = "#d8d8d8", "#606060"


class ScatterLook(NamedTuple):
    """How a scatter plot looks: what lies behind the dots, those without a class, size of text."""

    density: NDArray[np.floating] | None = None
    """The true density on a grid of the window, (K, K), the second coordinate upwards."""
    unlabelled: str = PALETTE[0]
    text: int | None = None
    """Pixels of the marks' height; pillow's own by default."""


AS_KEPT = ScatterLook()
"""The look of the grids that cells keep."""


def by_class(labels: NDArray[np.integer], count: int) -> NDArray[np.int64]:
    """Return the places of the first ``count`` images, taken from the classes in turn, by class."""
    order, sizes = np.argsort(labels, kind="stable"), np.bincount(labels)
    rank = np.empty(len(labels), np.int64)
    rank[order] = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    chosen = np.lexsort((labels, rank))[:count]
    return chosen[np.lexsort((rank[chosen], labels[chosen]))]


def read_samples(path: Path) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Read kept samples, uint8 images (N, C, H, W) or float32 points, and their classes, if any.

    UserError if the file cannot be read, or holds something else.
    """
    try:
        with path.open("rb") as file, np.load(file) as content:
            images, labels = content["images"], content.get("labels")
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        why = one_line(error)[:100]
        raise UserError(f"'{path}' cannot be read ({why}); run the cell again") from error
    fits = images.ndim == 4 and str(images.dtype) in {"uint8", "float32"}
    if not fits or (labels is not None and labels.shape != images.shape[:1]):
        what = " and ".join(f"{x.shape} {x.dtype}" for x in (images, labels) if x is not None)
        raise UserError(f"'{path}' holds {what}, which are no samples; run the cell again")
    return images, labels


def grid_image(
    images: NDArray[Any], columns: int, *, scale: int = 1, gap: int = GAP
) -> NDArray[np.uint8]:
    """Put images into rows, each pixel a square of ``scale`` pixels, white lines between.

    Args:
        images: uint8, (N, C, H, W) with one or three channels, N from 1; else ValueError.
        columns: images in a row; the last row may stay partly white.
        scale: whole number by which pixels are repeated (nearest neighbour).
        gap: width of the lines between images, in pixels of the result.

    Returns:
        uint8, (height, width, 3).
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        found = f"{images.dtype} {images.shape}"
        raise ValueError(f"a grid takes uint8 images (N, 1 or 3, H, W), not {found}")
    if len(images) == 0 or columns < 1 or scale < 1:
        found = f"{len(images)}, {columns}, {scale}"
        raise ValueError(f"a grid takes images, columns and a scale from 1 up, not {found}")
    count, _, height, width = images.shape
    rows, columns = -(-count // columns), min(columns, count)
    cell_height, cell_width = height * scale + gap, width * scale + gap
    grid = np.full((rows * cell_height - gap, columns * cell_width - gap, 3), BACKGROUND, np.uint8)
    large = images.transpose(0, 2, 3, 1).repeat(scale, axis=1).repeat(scale, axis=2)
    for place, image in enumerate(large):
        top, left = place // columns * cell_height, place % columns * cell_width
        grid[top : top + height * scale, left : left + width * scale] = image
    return grid


def scale_for(side: int, tile: int = TILE) -> int:
    """Return the whole factor that brings an image's side to at least ``tile`` pixels."""
    return max(1, -(-tile // side))


def is_points(images: NDArray[Any]) -> bool:
    """Whether an array holds points of the plane, floats (N, 2, 1, 1), rather than images."""
    return images.dtype.kind == "f" and images.shape[1:] == (2, 1, 1)


def scatter_image(
    points: NDArray[Any],
    labels: NDArray[np.integer] | None = None,
    look: ScatterLook = AS_KEPT,
) -> NDArray[np.uint8]:
    """Draw points of the plane in a fixed window; a corner says how many lie outside.

    Args:
        points: floats (N, 2, 1, 1) with N from 1, else ValueError; ``MOST_POINTS`` are drawn.
        labels: class indices (N,); classes share a colour from the eighth on.
        look: of what lies behind the dots, and of dots without a class.

    Returns:
        uint8, (``SIDE``, ``SIDE``, 3).
    """
    if not is_points(points) or len(points) == 0:
        raise ValueError(f"a plot takes points, floats (N, 2, 1, 1), not {points.shape}")
    drawn = points[:MOST_POINTS].reshape(-1, 2).astype(np.float64)
    inside = (np.abs(drawn) <= WINDOW).all(axis=1)
    large = _background(look.density)
    pen = ImageDraw.Draw(large)
    side = large.width
    for place, _ in _pixels(np.array([[value, 0.0] for value in (-1, 0, 1)]), side):
        pen.line((place, 0, place, side), fill=_LINE, width=_SMOOTHING)
        pen.line((0, place, side, place), fill=_LINE, width=_SMOOTHING)
    pen.rectangle((0, 0, side - 1, side - 1), outline=_TEXT, width=_SMOOTHING)
    colours = [look.unlabelled] * len(drawn)
    if labels is not None:
        colours = [PALETTE[int(label) % len(PALETTE)] for label in labels[: len(drawn)]]
    for (x, y), index in zip(_pixels(drawn[inside], side), np.flatnonzero(inside), strict=True):
        pen.circle((x, y), _DOT * _SMOOTHING, fill=colours[index])
    picture = large.resize((SIDE, SIDE), Image.Resampling.BOX)
    _write_marks(ImageDraw.Draw(picture), int((~inside).sum()), len(drawn), look.text)
    return np.asarray(picture)


def _background(density: NDArray[np.floating] | None) -> Image.Image:
    """Return what lies behind the dots: white, or bands that hold ``MASSES`` of a density."""
    size = (SIDE * _SMOOTHING, SIDE * _SMOOTHING)
    large = Image.new("RGB", size, "white")
    if density is not None:
        ordered = np.sort(density.ravel())[::-1]
        held = np.cumsum(ordered) / ordered.sum()
        coarse = Image.fromarray(density.astype(np.float32))
        smooth = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC))
        pixels = np.array(large)
        for mass, grey in reversed([*zip(MASSES, _BANDS, strict=True)]):
            level = ordered[np.searchsorted(held, mass)]
            pixels[smooth >= level] = int(grey[1:3], 16)
        large = Image.fromarray(pixels)
    return large


def _pixels(points: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """Map coordinates to pixels, the second one upwards."""
    return (points * [1, -1] + WINDOW) / (2 * WINDOW) * side


def _write_marks(pen: ImageDraw.ImageDraw, outside: int, drawn: int, size: int | None) -> None:
    for value in (-1, 0, 1):
        ((x, y),) = _pixels(np.array([[value, value]], np.float64), SIDE)
        pen.text((x + 3, SIDE - (size or 10) - 4), f"{value}", fill=_TEXT, font_size=size)
        pen.text((4, y + 1), f"{value}", fill=_TEXT, font_size=size)
    if outside:
        told, corner = f"{outside} of {drawn} outside", (SIDE - 6, 4)
        # On white, since dots may lie there.
        box = pen.textbbox(corner, told, anchor="ra", font_size=size)
        pen.rectangle(box, fill="white")
        pen.text(corner, told, fill=_TEXT, anchor="ra", font_size=size)


def write_grid(
    path: Path, images: NDArray[Any], *, columns: int = 8, labels: NDArray[np.integer] | None = None
) -> None:
    """Write images (uint8, (N, C, H, W)) as one PNG, whole or not at all; small ones enlarged.

    Points (floats, (N, 2, 1, 1)) become a scatter plot, coloured by ``labels`` if given.
    """
    if is_points(images):
        pixels = scatter_image(images, labels)
    else:
        pixels = grid_image(images, columns, scale=scale_for(min(images.shape[2:])))
    picture = Image.fromarray(pixels)
    write_atomically(path, lambda file: picture.save(file, format="PNG"))
