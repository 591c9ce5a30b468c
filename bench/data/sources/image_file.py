"""One image file, read safely: what is decoded, what is converted and what is refused.

PNG, JPEG and WebP of 8-bit grey or RGB are read; the format is told by content, not by name. Two
kinds are converted, because nothing is lost: a palette without transparency becomes RGB, and fewer
bits of grey become eight. Refused are transparency in any form, CMYK, 16 bits and animations.
Images are turned as their orientation tag (EXIF) says, as every viewer shows them; colour profiles
and gamma are not applied, as in torchvision, but told.
"""

import io
import struct
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from bench.config import UserError, one_line

SUFFIXES = {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp"}
FORMATS = ("PNG", "JPEG", "WEBP")
_UNREAD = "apng avif bmp dib exr gif heic heif jp2 jxl pbm pcx pgm pnm ppm svg tga tif tiff"
UNREAD = {f".{suffix}" for suffix in _UNREAD.split()}
"""Images too, which are refused rather than taken for something else and left out."""
LARGEST_FILE = 64 * 2**20
LARGEST_SIDE = 1024
"""Side in pixels beyond which an image is refused unread, unless it is to be resized."""
MOST_PIXELS = 2**26
"""Pixels beyond which an image is refused unread even then."""
FILTER = "Lanczos"

MARKS = {
    "palette": "were RGB palettes and became RGB",
    "1-bit": "had one bit of grey and became 8-bit",
    "turned": "were turned or mirrored as their orientation tag says",
    "profile": "have a colour profile or gamma that is not sRGB's and was not applied",
    "grey": "were grey among coloured ones and got three equal channels",
    "copies": "had three equal channels and became grey",
}
"""What may be done to an image, or left undone, and how it is told."""
_CHANNELS = {"L": 1, "RGB": 3}
_LOSSLESS = {"P": "RGB", "1": "L"}
"""Modes that are converted, and to what."""


@dataclass(frozen=True)
class Picture:
    """One decoded image: pixels uint8 (C, H, W), and what became of it.

    ``size`` is the width and height that it came with, ``lossy`` the lossy format that it went
    through or empty, and ``marks`` are what was done to it, of ``MARKS``.
    """

    pixels: NDArray[np.uint8]
    size: tuple[int, int]
    lossy: str = ""
    marks: tuple[str, ...] = ()


def shown(name: str) -> str:
    """Return a file's name fit for one line: unprintable characters escaped, long ones cut."""
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name)
    return text if len(text) <= 200 else f"{text[:100]}...{text[-90:]}"


def has_suffix(name: str, suffixes: Collection[str] = SUFFIXES) -> bool:
    """Whether a file's name ends as an image's that is read, or with another of ``suffixes``."""
    return PurePosixPath(name).suffix.lower() in suffixes


def is_hidden(name: str) -> bool:
    """Whether a file or one of its folders is hidden, or one of macOS's twins."""
    # macOS adds a hidden "._" twin to each file, in a folder of its own.
    return any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(name).parts)


def is_hidden_image(name: str) -> bool:
    """Whether a file is an image that its own hidden name leaves out; macOS's twins are none."""
    own = PurePosixPath(name)
    hidden = own.name.startswith(".") and not own.name.startswith("._")
    return hidden and has_suffix(name) and not is_hidden(str(own.parent))


def decode(content: bytes, path: Path, name: str, *, resized: bool) -> Picture:
    """Decode one file's bytes to the size that it has; ``name`` is its name within ``path``.

    The size is checked before the pixels are read: against ``MOST_PIXELS`` if the image is to be
    ``resized`` later, else against ``LARGEST_SIDE``. Raises UserError, which names the file.
    """
    where = f"{path}: '{shown(name)}'"
    if not content:
        raise UserError(f"{where} is empty, 0 bytes; fetch or make it again")
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            _check(image, content, where, resized=resized)
            image.load()
            # Where a chunk follows the pixels, only reading them brings it up.
            if "transparency" in image.info:
                raise UserError(f"{where} has transparency (mode {image.mode}); flatten it first")
            return _picture(image, content)
    except (UserError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UserError(f"{where} has more than {MOST_PIXELS} pixels: {said_by(error)}") from error
    except Exception as error:
        # Pillow promises no list of what damaged files make it raise.
        raise UserError(
            f"{where} is corrupt or no PNG, JPEG or WebP ({said_by(error)}); fetch or make it again"
        ) from error


def said_by(error: BaseException) -> str:
    """What an error says, in one line that may be shown; its name where it says nothing."""
    return shown(one_line(error)) or type(error).__name__


def _check(image: Image.Image, content: bytes, where: str, *, resized: bool) -> None:
    width, height = image.size
    if resized and width * height > MOST_PIXELS:
        raise UserError(f"{where} is {width}x{height}, the limit is {MOST_PIXELS} pixels")
    if not resized and max(width, height) > LARGEST_SIDE:
        raise UserError(f"{where} is {width}x{height}, the limit is {LARGEST_SIDE}")
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        raise UserError(f"{where} holds {frames} pictures (animated); give single images")
    if image.format == "PNG":
        if content[12:16] != b"IHDR":
            raise ValueError("its header is not at its beginning")
        # Pillow reads 16 bits a channel as 8 without a word.
        if content[24] > 8:
            raise UserError(f"{where} has {content[24]} bits a channel; only 8-bit images are read")
    if image.mode not in _CHANNELS and image.mode not in _LOSSLESS:
        raise UserError(f"{where} has mode {image.mode}; only 8-bit grey and RGB are read")


def _picture(image: Image.Image, content: bytes) -> Picture:
    lossy = "JPEG" if image.format in {"JPEG", "MPO"} else ""
    lossy = _lossy_webp(content) if image.format == "WEBP" else lossy
    marks = [mark for mode, mark in (("P", "palette"), ("1", "1-bit")) if image.mode == mode]
    flat = image.convert(_LOSSLESS[image.mode]) if marks else image
    # A profile's name is in it as ASCII or as UTF-16; a PNG's gamma is one over that of sRGB.
    profile = (image.info.get("icc_profile") or b"sRGB").replace(b"\0", b"")
    if b"sRGB" not in profile or not 0.45 < image.info.get("gamma", 1 / 2.2) < 0.46:
        marks.append("profile")
    if _orientation(image) in range(2, 9):
        flat = ImageOps.exif_transpose(flat)
        marks.append("turned")
    pixels = np.asarray(flat).reshape(flat.height, flat.width, -1).transpose(2, 0, 1)
    return Picture(pixels, flat.size, lossy, tuple(marks))


def _orientation(image: Image.Image) -> object:
    """Return the tag that tells how an image is to be turned; 1, not at all, where none is read."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except (SyntaxError, ValueError, TypeError, struct.error):
        return 1  # Every viewer passes over a tag that is damaged.


def _lossy_webp(content: bytes) -> str:
    """Return ``WebP`` unless the file's image chunk is the lossless one."""
    position = 12
    while position + 8 <= len(content):
        tag, size = struct.unpack_from("<4sI", content, position)
        if tag in (b"VP8 ", b"VP8L"):
            return "WebP" if tag == b"VP8 " else ""
        position += 8 + size + size % 2
    return "WebP"


def fit(picture: Picture, size: int) -> Picture:
    """Crop the largest centred square and resize it to ``size``, with antialiasing.

    What has that size already is returned as it is. Source: EDM's ``dataset_tool.py``, transform
    ``center-crop``; Pillow's Lanczos filter widens with the reduction, which antialiases.
    """
    width, height = picture.size
    if (width, height) == (size, size):
        return picture
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    square = picture.pixels[:, top : top + side, left : left + side]
    grey = len(square) == 1
    image = Image.fromarray(square[0] if grey else np.ascontiguousarray(square.transpose(1, 2, 0)))
    small = np.asarray(image.resize((size, size), Image.Resampling.LANCZOS))
    return replace(picture, pixels=small.reshape(size, size, -1).transpose(2, 0, 1))


def in_colour(picture: Picture) -> Picture:
    """Give a grey picture three equal channels; one in colour is returned as it is."""
    if len(picture.pixels) == 3:
        return picture
    return replace(picture, pixels=picture.pixels.repeat(3, axis=0), marks=(*picture.marks, "grey"))


def in_grey(picture: Picture) -> Picture:
    """Give a picture of three equal channels one; any other is returned as it is."""
    if len(picture.pixels) != 3 or (picture.pixels != picture.pixels[:1]).any():
        return picture
    return replace(picture, pixels=picture.pixels[:1], marks=(*picture.marks, "copies"))


def text(shape: tuple[int, ...]) -> str:
    """Write (C, H, W) as ``WxHxC``."""
    return "x".join(map(str, reversed(shape)))
