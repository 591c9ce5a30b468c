"""Answers known in closed form, to be checked in under a second before anything is measured."""

import math

import numpy as np

from bench.metrics.frechet_distance import frechet_between, frechet_distance, frechet_to_features
from bench.metrics.inception_score_and_accuracy import accuracy, inception_score
from bench.metrics.kernel_and_precision_recall import kernel_distance, overlap

_TOLERANCE = 1e-8


def self_test() -> list[tuple[str, float, float]]:
    """Check the metrics against closed forms; returns (what, got, expected) for each.

    Raises RuntimeError where an answer is wrong, as with a broken linear algebra library.
    """
    answers = [*_frechet_answers(), *_score_answers(), *_pair_answers()]
    for what, got, expected in answers:
        if not math.isclose(got, expected, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE):
            raise RuntimeError(f"self-test failed: {what} is {got}, should be {expected}")
    return answers


def _frechet_answers() -> list[tuple[str, float, float]]:
    size, scale = 32, 1.5
    random = np.random.RandomState(0)
    zero, eye = np.zeros(size), np.eye(size)
    shift = random.standard_normal(size)
    a, b = random.uniform(0, 4, size), random.uniform(0, 4, size)
    basis = np.linalg.qr(random.standard_normal((size, size)))[0]
    few = random.standard_normal((size // 2, size))
    cov = np.cov(few, rowvar=False)
    moved = float(shift @ shift)
    scaled = moved + size * (1 - scale) ** 2
    wide = frechet_distance(zero, eye, shift, scale**2 * eye)
    commuting = float(((np.sqrt(a) - np.sqrt(b)) ** 2).sum())
    turned = frechet_distance(zero, (basis * a) @ basis.T, zero, (basis * b) @ basis.T)
    gram = frechet_to_features(few + shift, few.mean(axis=0), cov)
    return [
        ("FD of a Gaussian and itself", frechet_distance(shift, cov, shift, cov), 0.0),
        ("FD of N(0, I) and N(m, s^2 I)", wide, scaled),
        ("FD of commuting covariances", turned, commuting),
        ("FD of x and x + m, fewer than d", gram, moved),
        ("FD of few x and x + m", frechet_between(few + shift, few), moved),
    ]


def _score_answers() -> list[tuple[str, float, float]]:
    classes, splits = 10, 10
    uniform = np.tile(np.eye(classes), (splits * classes, 1))
    single = np.tile(np.eye(classes)[:1], (splits * classes, 1))
    whole = inception_score(uniform, splits=1)[0]
    labels = np.arange(len(uniform)) % classes
    return [
        ("IS of one class", inception_score(single, splits)[0], 1.0),
        ("IS of K equal classes", whole, float(classes)),
        ("accuracy of right answers", accuracy(uniform, labels), 1.0),
        ("accuracy of wrong answers", accuracy(uniform, (labels + 1) % classes), 0.0),
    ]


def _pair_answers() -> list[tuple[str, float, float]]:
    """Answers of what looks at all pairs: points on a line, a unit apart, and the same far away."""
    near = np.arange(12.0)[:, None]
    same, apart = overlap(near, near), overlap(near, near + 100)
    # (x y + 1)^3 of x = 0, 1 with each other is 1; of either with y = 2, 3: 1, 1, 27 and 64.
    kernel = kernel_distance(np.array([[0.0], [1.0]]), np.array([[2.0], [3.0]]))
    return [
        ("KID of {0, 1} and {2, 3}", kernel, 1.0 + 7.0**3 - 2 * (1 + 1 + 27 + 64) / 4),
        *((f"{what} of points far away", share, 0.0) for what, share in vars(apart).items()),
        ("precision of the same points", same.precision, 1.0),
        ("recall of the same points", same.recall, 1.0),
        ("coverage of the same points", same.coverage, 1.0),
    ]
