"""Known faults put into real images, to learn which of them a metric sees.

Each fault stands for one of generative models: noise left over by a sampler that stops early,
details that a denoiser smoothed away, artefacts of a codec, washed-out contrast, classes that are
never drawn, images drawn again and again, a class other than the one asked for, and training
images given back. Noise, blur and classes left out are the faults by which Heusel et al. 2017,
Sajjadi et al. 2018 and Naeem et al. 2020 looked at theirs; JPEG is that of Parmar et al. 2022.

All of it is the same under every version of numpy; only JPEG depends on Pillow's library.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray

from bench.data.dataset import Dataset, Split
from bench.metrics.references import selected_rows
from bench.metrics.statistics import permutation

Images = NDArray[np.uint8]

NOISE = (4, 16, 64)
"""Standard deviations, of 255."""
BLUR = (0.5, 1.0, 2.0)
"""Standard deviations, in pixels."""
JPEG = (90, 50, 10)
"""Pillow's qualities."""
CONTRAST = (0.75, 0.5)
"""What is left of each pixel's distance from its image's mean."""
COPIES = (2, 10)
"""How often each image is there."""

_SEED = 7_041_776
_BLOCK = 1000
"""Images that are worked on in floats at a time."""


class LeftOut(Exception):
    """A damage that cannot be done to these data, with the reason."""


# Single images ------------------------------------------------------------------------------------


def noised(images: Images, sigma: float, seed: int = _SEED) -> Images:
    """Add Gaussian noise of ``sigma``, of 255, to uint8 images (N, C, H, W); rounded, clipped."""
    random = np.random.RandomState(seed)
    made = np.empty_like(images)
    for block in _blocks(images):
        # The stream of numbers does not depend on the blocks.
        made[block] = _rounded(images[block] + sigma * random.standard_normal(images[block].shape))
    return made


def blurred(images: Images, width: float) -> Images:
    """Smooth each channel with a Gaussian of ``width`` pixels, mirrored at the borders."""
    from scipy.ndimage import gaussian_filter

    made = np.empty_like(images)
    for block in _blocks(images):
        pixels = images[block].astype(np.float64)
        made[block] = _rounded(gaussian_filter(pixels, (0, 0, width, width), mode="reflect"))
    return made


def compressed(images: Images, quality: int) -> Images:
    """Send each image through JPEG at Pillow's ``quality``, its colours at half the resolution."""
    made = np.empty_like(images)
    for place, image in enumerate(images):
        made[place] = _through_jpeg(image, quality)
    return made


def _through_jpeg(image: Images, quality: int) -> Images:
    from PIL import Image

    grey = len(image) == 1
    file = io.BytesIO()
    pixels = image[0] if grey else image.transpose(1, 2, 0)
    # 4:2:0 by name: the default is the library's own affair.
    subsampling = {} if grey else {"subsampling": "4:2:0"}
    Image.fromarray(np.ascontiguousarray(pixels)).save(
        file, format="JPEG", quality=quality, **subsampling
    )
    with Image.open(file) as opened:
        found = np.asarray(opened)
    return found[None] if grey else found.transpose(2, 0, 1)


def washed_out(images: Images, rest: float) -> Images:
    """Leave ``rest`` of each pixel's distance from the mean of its image."""
    made = np.empty_like(images)
    for block in _blocks(images):
        pixels = images[block].astype(np.float64)
        means = pixels.mean(axis=(1, 2, 3), keepdims=True)
        made[block] = _rounded(means + rest * (pixels - means))
    return made


def mirrored(images: Images) -> Images:
    """Exchange left and right."""
    return np.ascontiguousarray(images[..., ::-1])


def _rounded(pixels: NDArray[np.float64]) -> Images:
    return np.rint(pixels).clip(0, 255).astype(np.uint8)


def _blocks(images: Images) -> Iterator[slice]:
    for start in range(0, len(images), _BLOCK):
        yield slice(start, start + _BLOCK)


# Whole sets ---------------------------------------------------------------------------------------


def duplicated(split: Split, copies: int) -> Split:
    """Put each of the first images there ``copies`` times, as many images in all as before."""
    rows = np.repeat(np.arange(-(-len(split) // copies)), copies)[: len(split)]
    return _rows_of(split, rows)


def mislabelled(split: Split, seed: int = _SEED) -> Split:
    """Deal the labels out anew among the images: each class as often, and mostly wrong.

    Raises LeftOut where there are no labels.
    """
    if split.labels is None:
        raise LeftOut("the images have no labels")
    return Split(split.images, split.labels[permutation(len(split), seed)])


@dataclass(frozen=True)
class Real:
    """The real images that damage is done to: n held-out ones, and what else there is.

    The n are the first of a fixed random order, the images of the anchor ``real (held-out)``.
    ``limit`` is the reference's.
    """

    dataset: Dataset
    n: int
    limit: int | None = None

    @property
    def _test(self) -> Split:
        assert self.dataset.test is not None, "checked by who asks for n images"
        return self.dataset.test

    @cached_property
    def clean(self) -> Split:
        """The images as they are."""
        return _rows_of(self._test, self._order[: self.n])

    @property
    def _order(self) -> NDArray[np.int64]:
        return permutation(len(self._test))

    def others(self) -> Split:
        """Return n further held-out images; LeftOut where there are not so many."""
        rest = self._order[self.n : 2 * self.n]
        if len(rest) < self.n:
            raise LeftOut(f"only {len(rest)} held-out images are not among the {self.n}")
        return _rows_of(self._test, rest)

    def pool(self, times: int) -> Split:
        """Return so many times n held-out images, the clean ones first, or as many as there are."""
        return _rows_of(self._test, self._order[: times * self.n])

    def without(self, missing: Sequence[int]) -> Split:
        """Return n held-out images of the other classes, as many of the clean ones as there are.

        Raises LeftOut where there are no labels or not so many images.
        """
        labels = self._test.labels
        if labels is None:
            raise LeftOut("the images have no labels")
        left = self._order[~np.isin(labels[self._order], missing)]
        if len(left) < self.n:
            raise LeftOut(f"only {len(left)} held-out images are of the other classes")
        return _rows_of(self._test, left[: self.n])

    def memorised(self) -> Split:
        """Return n training images: those that precision and recall are taken to.

        Raises LeftOut where the reference has not so many.
        """
        rows = selected_rows(len(self.dataset.train), self.limit)
        if len(rows) < self.n:
            raise LeftOut(f"the reference has only {len(rows)} images")
        return _rows_of(self.dataset.train, rows[permutation(len(rows))[: self.n]])


def _rows_of(split: Split, rows: NDArray[np.integer]) -> Split:
    return Split(split.images[rows], None if split.labels is None else split.labels[rows])


# What is done -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Damage:
    """A named change of real images; ``kind`` groups the strengths of one, the weakest first."""

    name: str
    kind: str
    strength: float | None
    make: Callable[[Real], Split]
    """Raises LeftOut where the data do not allow it."""


def damages(dataset: Dataset) -> list[Damage]:
    """Return all that is done to a data set's images, in the order of the page."""
    return [
        Damage("other held-out images", "control", None, Real.others),
        *_to_pixels("noise", "noise {:g}/255", NOISE, noised),
        *_to_pixels("blur", "blur {:g} px", BLUR, blurred),
        *_to_pixels("JPEG", "JPEG quality {:g}", JPEG, compressed),
        *_to_pixels("contrast", "contrast {:.0%}", CONTRAST, washed_out),
        Damage("mirrored", "mirrored", None, _on_images(mirrored)),
        *_of_classes(dataset),
        *(
            Damage(f"every image {n} times", "copies", n, partial(_copied, copies=n))
            for n in COPIES
        ),
        Damage("labels shuffled", "labels", None, lambda real: mislabelled(real.clean)),
        Damage("training images", "training images", None, Real.memorised),
    ]


def _copied(real: Real, copies: int) -> Split:
    return duplicated(real.clean, copies)


def _on_images(change: Callable[[Images], Images]) -> Callable[[Real], Split]:
    return lambda real: Split(change(np.asarray(real.clean.images, np.uint8)), real.clean.labels)


def _to_pixels(
    kind: str, name: str, strengths: Sequence[float], change: Callable[..., Images]
) -> Iterator[Damage]:
    for strength in strengths:

        def apply(images: Images, strength: float = strength) -> Images:
            return change(images, strength)

        yield Damage(name.format(strength), kind, strength, _on_images(apply))


def _of_classes(dataset: Dataset) -> Iterator[Damage]:
    """Yield the last class missing and, of four or more, the last half of them."""
    count = len(dataset.classes)
    for missing in [1] + [count // 2] * (count > 3):

        def apply(real: Real, missing: int = missing) -> Split:
            return real.without(range(count - missing, count))

        what = f"class {dataset.classes[-1]}" if count else "a class"
        what = what if missing == 1 else f"{missing} of {count} classes"
        yield Damage(f"{what} missing", "classes", missing, apply)
