"""What a metric is called where people read: in tables for papers, on axes and on terminals.

Names such as ``fd_digits_500`` tell family, extractor and number of samples; they stand in files.
"""

import re

from bench.records import direction, metric_family

SHORT = {
    "fd": "FD", "kd": "KD", "fid": "FID", "kid": "KID", "is": "IS", "fdc": "class FD",
    "fidc": "class FID", "cas": "CAS", "sw2": "SW2", "modes": "modes found",
    "violation": "martingale violation", "score": "score error",
    "precisionc": "class precision", "recallc": "class recall", "densityc": "class density",
    "coveragec": "class coverage",
}  # fmt: skip
LONG = {
    "fd": "Fréchet distance", "kd": "kernel distance", "fid": "Fréchet Inception distance",
    "kid": "kernel Inception distance", "is": "Inception Score",
    "fdc": "class-wise Fréchet distance", "fidc": "class-wise Fréchet Inception distance",
    "cas": "classification accuracy score", "sw2": "sliced Wasserstein distance",
    "modes": "share of modes found", "precisionc": "class-wise precision",
    "recallc": "class-wise recall", "densityc": "class-wise density",
    "coveragec": "class-wise coverage",
}  # fmt: skip
"""Families in words, where these are not the short form's."""
BY = {
    "fashion-mnist": "Fashion-MNIST", "efflite0": "EfficientNet-Lite0", "legacy": "legacy resize",
    "cifar-resnet20": "CIFAR-10 ResNet-20", "cifar-resnet56": "CIFAR-10 ResNet-56",
    "gmm2d": "GMM", "cifar10": "CIFAR-10", "mnist": "MNIST",
}  # fmt: skip
"""Extractors and data sets as a paper writes them; any other is written as it is named."""


def metric_title(name: str) -> str:
    """Write a metric as a paper's table would: ``FD (digits, 500)``; 50,000 samples go unsaid."""
    family, by, count = _parts(name)
    return _put(SHORT.get(family, family), by, count)


def metric_words(name: str) -> str:
    """Write a metric in words, for an axis: ``Fréchet distance (digits, 500 samples)``."""
    family, by, count = _parts(name)
    words = LONG.get(family) or SHORT.get(family, family)
    return _put(words, by, f"{count.replace('k', ',000')} samples" if count else "")


def _parts(name: str) -> tuple[str, str, str]:
    """Split a name into family, what it was measured by, and number of samples."""
    family = metric_family(name)
    if not direction(name):  # None of ours, so that nobody knows what its words mean.
        return name.replace("_", " "), "", ""
    rest = name.removeprefix(family).removeprefix("_")
    if family == "score":
        return family, "given the class" if rest == "error_class" else "", ""
    found = re.fullmatch(r"(.*?)(?:_|^)(\d+k?)|(.*)", rest)
    assert found is not None
    by = found[1] or found[3] or ""
    return family, BY.get(by, by), found[2] or ""


def _put(words: str, *told: str) -> str:
    inside = ", ".join(filter(None, told))
    return f"{words} ({inside})" if inside else words
