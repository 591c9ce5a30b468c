"""Feature extractors by name, one file a network; importing this reads no weights."""

# A face, as dense as its ``__all__``.
# isort: off
from bench.metrics.extractors.loading import (
    SHA256, Extractor, check_name, exact, is_here, load, names, sha256_of,
)  # fmt: skip
