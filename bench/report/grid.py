"""Images side by side, pixel by pixel.

Made with numpy and PIL only, so that a cell's worker can afford it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.record import write_atomically

TILE = 32
"""Smallest side of an image in a written grid, in pixels; smaller ones are repeated up to it."""
GAP = 6
BACKGROUND = 255


def grid_image(
    images: NDArray[Any], columns: int, *, scale: int = 1, gap: int = GAP
) -> NDArray[np.uint8]:
    """Put images into rows, each pixel a square of ``scale`` pixels, white lines between.

    Args:
        images: uint8, (N, C, H, W) with one or three channels; N may be any number from 1.
        columns: images in a row; the last row may stay partly white.
        scale: whole number by which pixels are repeated (nearest neighbour).
        gap: width of the lines between images, in pixels of the result.

    Returns:
        uint8, (height, width, 3).

    Raises:
        ValueError: the array is not of that type or shape, or there is no image.
    """
    _check(images, columns, scale)
    count, _, height, width = images.shape
    rows, columns = -(-count // columns), min(columns, count)
    cell_height, cell_width = height * scale + gap, width * scale + gap
    grid = np.full((rows * cell_height - gap, columns * cell_width - gap, 3), BACKGROUND, np.uint8)
    large = images.transpose(0, 2, 3, 1).repeat(scale, axis=1).repeat(scale, axis=2)
    for place, image in enumerate(large):
        top, left = place // columns * cell_height, place % columns * cell_width
        grid[top : top + height * scale, left : left + width * scale] = image
    return grid


def _check(images: NDArray[Any], columns: int, scale: int) -> None:
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(
            f"a grid takes uint8 images (N, 1 or 3, H, W), not {images.dtype} {images.shape}"
        )
    if len(images) == 0 or columns < 1 or scale < 1:
        raise ValueError(
            "a grid takes images, columns and a scale from 1 up, "
            f"not {len(images)}, {columns}, {scale}"
        )


def scale_for(side: int, tile: int = TILE) -> int:
    """Return the whole factor that brings an image's side to at least ``tile`` pixels."""
    return max(1, -(-tile // side))


def write_grid(path: Path, images: NDArray[Any], *, columns: int = 8) -> None:
    """Write images (uint8, (N, C, H, W)) as one PNG, whole or not at all; small ones enlarged."""
    from PIL import Image

    scale = scale_for(min(images.shape[2:]))
    picture = Image.fromarray(grid_image(images, columns, scale=scale))
    write_atomically(path, lambda file: picture.save(file, format="PNG"))
