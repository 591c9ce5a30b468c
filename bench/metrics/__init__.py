"""Image quality from the features of a fixed network; nothing here is imported by a method.

``extractors.load`` gives the network, ``extract`` its features, ``reference`` the training
split's statistics, ``evaluate`` the metrics of samples and ``anchors`` those of noise and of
held-out real images. Values compare only where ``PROTOCOL``, n, extractor and data are the same;
each carries all of these in its provenance.
"""

from bench.metrics import extractors
from bench.metrics.evaluation import (
    HELD_OUT,
    NOISE,
    PROTOCOL,
    Features,
    Reference,
    anchors,
    evaluate,
    extract,
    metric_names,
    reference,
)
from bench.metrics.known_answers import self_test

__all__ = [
    "HELD_OUT",
    "NOISE",
    "PROTOCOL",
    "Features",
    "Reference",
    "anchors",
    "evaluate",
    "extract",
    "extractors",
    "metric_names",
    "reference",
    "self_test",
]
