"""What is printed and pasted: the table on a terminal, the LaTeX of a paper, names of metrics."""

from __future__ import annotations

import pytest

from bench.metrics.protocol import FAMILIES, metric_names
from bench.report.titles import metric_title, metric_words


@pytest.mark.parametrize(
    ("name", "title", "words"),
    [
        ("fd_digits_500", "FD (digits, 500)", "Fréchet distance (digits, 500 samples)"),
        ("fid", "FID", "Fréchet Inception distance"),
        ("fid_legacy_10k", "FID (legacy resize, 10k)",
         "Fréchet Inception distance (legacy resize, 10,000 samples)"),
        ("is_2k", "IS (2k)", "Inception Score (2,000 samples)"),
        ("kd_fashion-mnist_1k", "KD (Fashion-MNIST, 1k)",
         "kernel distance (Fashion-MNIST, 1,000 samples)"),
        ("recall_cifar-resnet20", "recall (CIFAR-10 ResNet-20)", "recall (CIFAR-10 ResNet-20)"),
        ("fd_my_net_2_500", "FD (my_net_2, 500)", "Fréchet distance (my_net_2, 500 samples)"),
        ("score_error_class", "score error (given the class)", "score error (given the class)"),
        ("violation", "martingale violation", "martingale violation"),
        ("of_a_plugin", "of a plugin", "of a plugin"),
    ],
)  # fmt: skip
def test_metrics_have_a_papers_names(name: str, title: str, words: str) -> None:
    assert (metric_title(name), metric_words(name)) == (title, words)


@pytest.mark.parametrize("extractor", ["inception", "inception-legacy", "digits", "mine_2"])
def test_no_two_metrics_have_the_same_name(extractor: str) -> None:
    names = [name for n in (500, 5000, 50_000) for name in metric_names(extractor, n).values()]
    assert len(names) == 3 * (len(FAMILIES) - 1)
    for write in (metric_title, metric_words):
        assert len({write(name) for name in names}) == len(names)
