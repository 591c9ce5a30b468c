"""Known faults put into real images, to learn which of them a metric sees.

Each fault stands for one of generative models: noise left over by a sampler that stops early,
details that a denoiser smoothed away, artefacts of a codec, washed-out contrast, classes that are
never drawn, images drawn again and again, a class other than the one asked for, and training
images given back. Noise, blur and classes left out are the faults by which Heusel et al. 2017,
Sajjadi et al. 2018 and Naeem et al. 2020 looked at theirs; JPEG is that of Parmar et al. 2022.

All of it is the same under every version of numpy; only JPEG depends on Pillow's library.
"""

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from bench.data.dataset import Dataset, Split
from bench.metrics.frechet_distance import permutation
from bench.metrics.references import selected_rows

Images = NDArray[np.uint8]
Pixels = NDArray[np.float64]

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


def noised(images: Images, sigma: float) -> Images:
    """Add Gaussian noise of ``sigma``, of 255, to uint8 images (N, C, H, W); rounded, clipped."""
    random = np.random.RandomState(_SEED)
    # The stream of numbers does not depend on the blocks.
    return _in_blocks(images, lambda block: block + sigma * random.standard_normal(block.shape))


def blurred(images: Images, width: float) -> Images:
    """Smooth each channel with a Gaussian of ``width`` pixels, mirrored at the borders."""
    widths = (0, 0, width, width)
    return _in_blocks(images, lambda block: gaussian_filter(block, widths, mode="reflect"))


def washed_out(images: Images, rest: float) -> Images:
    """Leave ``rest`` of each pixel's distance from the mean of its image."""

    def change(block: Pixels) -> Pixels:
        means: Pixels = block.mean(axis=(1, 2, 3), keepdims=True)
        return means + rest * (block - means)

    return _in_blocks(images, change)


def _in_blocks(images: Images, change: Callable[[Pixels], Pixels]) -> Images:
    """Change images as floats, a block at a time; rounded and clipped."""
    made = np.empty_like(images)
    for start in range(0, len(images), _BLOCK):
        block = slice(start, start + _BLOCK)
        made[block] = np.rint(change(images[block].astype(np.float64))).clip(0, 255)
    return made


def compressed(images: Images, quality: int) -> Images:
    """Send each image through JPEG at Pillow's ``quality``, its colours at half the resolution."""
    made = np.empty_like(images)
    grey = images.shape[1] == 1
    # 4:2:0 by name: the default is the library's own affair.
    subsampling = {} if grey else {"subsampling": "4:2:0"}
    for place, image in enumerate(images):
        file = io.BytesIO()
        pixels = np.ascontiguousarray(image[0] if grey else image.transpose(1, 2, 0))
        Image.fromarray(pixels).save(file, format="JPEG", quality=quality, **subsampling)
        with Image.open(file) as opened:
            found = np.asarray(opened)
        made[place] = found if grey else found.transpose(2, 0, 1)
    return made


def mirrored(images: Images) -> Images:
    """Exchange left and right."""
    return np.ascontiguousarray(images[..., ::-1])


def duplicated(split: Split, copies: int) -> Split:
    """Put each of the first images there ``copies`` times, as many images in all as before."""
    return _rows_of(split, np.repeat(np.arange(len(split)), copies)[: len(split)])


def mislabelled(split: Split) -> Split:
    """Deal the labels out anew, each class as often and mostly wrong; LeftOut without labels."""
    if split.labels is None:
        raise LeftOut("the images have no labels")
    return Split(split.images, split.labels[permutation(len(split), _SEED)])


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
        lack = f"only {len(rest)} held-out images are not among the {self.n}"
        return self._take(self._test, rest, lack)

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
        lack = f"only {len(left)} held-out images are of the other classes"
        return self._take(self._test, left, lack)

    def memorised(self) -> Split:
        """Return n of the reference's training images; LeftOut where it has not so many."""
        rows = selected_rows(len(self.dataset.train), self.limit)
        lack = f"the reference has only {len(rows)} images"
        return self._take(self.dataset.train, rows[permutation(len(rows))], lack)

    def _take(self, split: Split, rows: NDArray[np.int64], lack: str) -> Split:
        """Return the first n of the rows; LeftOut where there are not so many."""
        if len(rows) < self.n:
            raise LeftOut(lack)
        return _rows_of(split, rows[: self.n])


def _rows_of(split: Split, rows: NDArray[np.integer]) -> Split:
    return Split(split.images[rows], None if split.labels is None else split.labels[rows])


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
    of_pixels = (
        ("noise", "noise {:g}/255", NOISE, noised),
        ("blur", "blur {:g} px", BLUR, blurred),
        ("JPEG", "JPEG quality {:g}", JPEG, compressed),
        ("contrast", "contrast {:.0%}", CONTRAST, washed_out),
    )
    return [
        Damage("other held-out images", "control", None, Real.others),
        *(
            Damage(name.format(strength), kind, strength, _to_pixels(change, strength))
            for kind, name, strengths, change in of_pixels
            for strength in strengths
        ),
        Damage("mirrored", "mirrored", None, _to_pixels(mirrored)),
        *_of_classes(dataset),
        *(Damage(f"every image {n} times", "copies", n, _copied(n)) for n in COPIES),
        Damage("labels shuffled", "labels", None, lambda real: mislabelled(real.clean)),
        Damage("training images", "training images", None, Real.memorised),
    ]


def _copied(times: int) -> Callable[[Real], Split]:
    return lambda real: duplicated(real.clean, times)


def _to_pixels(change: Callable[..., Images], *strength: float) -> Callable[[Real], Split]:
    return lambda real: Split(
        change(np.asarray(real.clean.images, np.uint8), *strength), real.clean.labels
    )


def _of_classes(dataset: Dataset) -> Iterator[Damage]:
    """Yield the last class missing and, of four or more, the last half of them."""
    count = len(dataset.classes)
    last = f"class {dataset.classes[-1]}" if count else "a class"
    for missing in [1] + [count // 2] * (count > 3):
        what = last if missing == 1 else f"{missing} of {count} classes"
        make = partial(Real.without, missing=range(count - missing, count))
        yield Damage(f"{what} missing", "classes", missing, make)
