"""Independent streams of randomness from one seed, by numpy's SeedSequence."""

import zlib

import numpy as np


def derive(seed: int, stream: str, index: int = 0) -> int:
    """Return a 63-bit seed for a named stream, such as the ``index``-th batch of samples."""
    words = np.random.SeedSequence([seed, zlib.crc32(stream.encode()), index]).generate_state(2)
    return int(words[0]) << 31 | int(words[1]) >> 1
