"""Feature extractors by name, one file a network; importing this reads no weights."""

from bench.metrics.extractors.loading import (
    SHA256,
    Extractor,
    check_name,
    exact,
    is_here,
    load,
    names,
    sha256_of,
)

__all__ = ["SHA256", "Extractor", "check_name", "exact", "is_here", "load", "names", "sha256_of"]
