"""Data sets as images or points and labels; importing this loads nothing heavy.

``load`` reads a data set of ``KNOWN``, ``sources.given.load_samples`` images that other code has
drawn. Images are uint8 arrays (N, C, H, W), 0 to 255; methods see them as floats in [-1, 1], and
``to_uint8`` is the one way back. Points of a known density are float32 arrays (N, 2, 1, 1).
"""

from bench.data.catalogue import KNOWN, ROOT_VARIABLE
from bench.data.dataset import Dataset, Split, to_uint8
from bench.data.loading import load
