"""Image quality from the features of a fixed network; nothing here is imported by a method.

``extractors.load`` gives the network, ``extract`` its features, ``reference`` the training
split's statistics, ``evaluate`` the metrics of samples and ``anchors`` those of noise and of
held-out real images; an ``Evaluator`` is all of these for a study. ``cas`` alone needs no features:
it trains a classifier on labelled samples.
Values compare only where ``PROTOCOL``, n, extractor and data are the same;
each carries all of these in its provenance.
"""

from bench.metrics import extractors
from bench.metrics.classification_score import cas
from bench.metrics.denoisers import diagnose
from bench.metrics.evaluation import evaluate, identity
from bench.metrics.evaluator import CURVE, Evaluator
from bench.metrics.features import Features, extract
from bench.metrics.known_answers import self_test
from bench.metrics.protocol import FAMILIES, PROTOCOL, metric_names, to_stderr
from bench.metrics.references import Reference, reference
from bench.metrics.yardsticks import HELD_OUT, NOISE, anchor_notes, anchors

__all__ = [
    "CURVE", "FAMILIES", "HELD_OUT", "NOISE", "PROTOCOL", "Evaluator", "Features", "Reference",
    "anchor_notes", "anchors", "cas", "diagnose", "evaluate", "extract", "extractors", "identity",
    "metric_names", "reference", "self_test", "to_stderr",
]  # fmt: skip
