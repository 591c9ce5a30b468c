"""Image quality from the features of a fixed network; nothing here is imported by a method.

``extractors.load`` gives the network, ``extract`` its features, ``reference`` the training
split's statistics and ``evaluate`` the metrics of samples; an ``Evaluator`` is all of these for a
study. Values compare only where ``PROTOCOL``, n, extractor and data are the same; each carries all
of these in its provenance.
"""

from bench.metrics import extractors
from bench.metrics.anchors import HELD_OUT, NOISE, anchor_notes, measure_anchors
from bench.metrics.classification_score import cas
from bench.metrics.denoisers import diagnose
from bench.metrics.evaluation import Evaluator, evaluate, identity
from bench.metrics.features import Features, extract
from bench.metrics.known_answers import self_test
from bench.metrics.protocol import BY_DEFAULT, FAMILIES, PROTOCOL, metric_names, to_stderr
from bench.metrics.references import Reference, reference
