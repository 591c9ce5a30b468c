"""Classification accuracy score: how well a classifier learns from samples what real images are.

A small classifier is trained from scratch on samples with the classes that were asked for, and
tested on the real held-out images: it falls when samples are unlike the data, of the wrong class or
all alike, which a distance of whole distributions may not show. The recipe is the same for all.

Source: Ravuri and Vinyals 2019, "Classification Accuracy Score for Conditional Generative Models".
They train a ResNet-50 on as many samples as ImageNet has images, with flips and crops; ours is of
the size of the data, and trained without augmentation, since a flip is another digit.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from bench.data.dataset import Dataset, Pixels, Progress, Split, unheard
from bench.metrics.extractors import classifier
from bench.metrics.extractors.classifier import accuracy, logits, tensors
from bench.metrics.extractors.loading import exact
from bench.metrics.frechet_distance import permutation
from bench.metrics.inception_score_and_accuracy import count_classes
from bench.metrics.protocol import PROTOCOL, QUANTISATION, UNQUANTISED, Say, cas_name, to_stderr
from bench.records import Value

_WIDTHS = (32, 64, 128, 128)


@dataclass(frozen=True)
class ScoringRecipe:
    """How the classifier is trained; ``name`` carries a version, raised with any change.

    At least ``steps`` steps, and ``epochs`` passes where there are more samples than those show.
    """

    name: str
    steps: int
    epochs: int
    batch: int
    learning_rate: float
    weight_decay: float


RESNET = ScoringRecipe("resnet 1", 250, 10, batch=64, learning_rate=3e-3, weight_decay=0.02)
MLP = ScoringRecipe("mlp 2-128-128-K 1", 600, 10, batch=128, learning_rate=5e-3, weight_decay=1e-3)


def cas(
    images: Pixels, labels: NDArray[np.integer], dataset: Dataset, *,
    device: str | torch.device, seed: int = 0,
    extra_provenance: dict[str, Any] | None = None, say: Say = to_stderr,
    progress: Progress = unheard,
) -> dict[str, Value]:  # fmt: skip
    """Train on samples and return the accuracy on real held-out images, 0 to 1, under its name.

    Samples are uint8 (N, C, H, W) or float32 points, ``labels`` (N,) the classes that were asked
    for, ``seed`` that of the first weights and of the samples' order. On a CPU the same seed and
    number of threads give the same value bit for bit. ``say`` is told why there is none.
    """
    name = cas_name(dataset.name, len(images))
    gap = "a classifier needs two samples or more" if len(images) < 2 else missing(dataset)
    if gap:
        say(f"no {name}: {gap}")
        return {}
    expected, found = dataset.train.images, (images.dtype, images.shape[1:])
    if found != (expected.dtype, expected.shape[1:]):
        raise ValueError(
            f"samples are {found[0]} {found[1]}, the data {expected.dtype} {expected.shape[1:]}"
        )
    count_classes(labels, len(images), len(dataset.classes))
    assert dataset.test is not None
    recipe = recipe_for(dataset)
    right = train_and_test(Split(images, labels.astype(np.int64)), dataset, device, seed, progress)
    provenance = {
        "protocol": PROTOCOL, "protocol_cas": recipe.name, "n": len(images),
        "reference_split": "test", "reference_n": len(dataset.test),
        "data": dataset.variant, "data_sha256": dataset.sha256,
        "quantisation": UNQUANTISED if dataset.is_points else QUANTISATION, "cas_seed": seed,
    }  # fmt: skip
    return {name: Value(value=right, provenance=provenance | (extra_provenance or {}))}


def missing(dataset: Dataset) -> str | None:
    """Say why a data set can have no score, or nothing."""
    if dataset.test is None:
        return "the data have no held-out split to test on"
    return "the held-out split has no labels" if dataset.test.labels is None else None


def recipe_for(dataset: Dataset) -> ScoringRecipe:
    """Return how classifiers of this data set are trained."""
    return MLP if dataset.is_points else RESNET


def real_samples(dataset: Dataset, n: int) -> Split | None:
    """Return n training images of a fixed random order with labels; None if there are not as many.

    What a perfect model would draw: trained on these, the classifier gives samples their measure.
    """
    return None if dataset.train.labels is None else random_part(dataset.train, n)


def random_part(split: Split | None, n: int) -> Split | None:
    """Return the first n images of a fixed random order; None if there are fewer."""
    if split is None or len(split) < n:
        return None
    chosen = np.sort(permutation(len(split))[:n])
    return Split(split.images[chosen], None if split.labels is None else split.labels[chosen])


def train_and_test(
    samples: Split, dataset: Dataset, device: str | torch.device, seed: int,
    progress: Progress = unheard,
) -> float:  # fmt: skip
    """Return the held-out accuracy of a classifier trained on labelled samples."""
    where = torch.device(device)
    assert dataset.test is not None
    with exact(where), torch.inference_mode(False), torch.random.fork_rng(devices=[]):
        # The global generator makes the first weights, on the CPU, wherever the training is.
        torch.manual_seed(seed)
        model = build(dataset).to(where)
        fit(model, *tensors(samples, where), recipe_for(dataset), seed, progress=progress)
        return accuracy(model.eval(), dataset.test, where)


def build(dataset: Dataset) -> nn.Module:
    """Build the classifier for a data set's shape and classes, from inputs in [-1, 1] to logits."""
    channels, size, _ = dataset.shape
    classes = len(dataset.classes)
    if dataset.is_points:
        first, second, last = nn.Linear(channels, 128), nn.Linear(128, 128), nn.Linear(128, classes)
        return nn.Sequential(nn.Flatten(), first, nn.SiLU(), second, nn.SiLU(), last)
    stride = 1 if size < 16 else 2
    side, stages = -(-size // stride), 1
    # The image is halved until its side is seven at most.
    while side > 7 and stages < len(_WIDTHS):
        side, stages = -(-side // 2), stages + 1
    shape = classifier.Shape(size, channels, stride, _WIDTHS[:stages], _WIDTHS[-1], classes)
    return classifier.FeatureClassifier(shape)


def fit(
    model: nn.Module, inputs: Tensor, labels: Tensor, recipe: ScoringRecipe, seed: int,
    *, progress: Progress = unheard,
) -> None:  # fmt: skip
    """Train in place by cross entropy, with AdamW and a one-cycle schedule."""
    batch = min(recipe.batch, len(inputs))
    steps = max(recipe.steps, recipe.epochs * len(inputs) // batch)
    rate, decay = recipe.learning_rate, recipe.weight_decay
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=rate, total_steps=steps)
    generator = torch.Generator().manual_seed(seed)
    order = torch.empty(0, dtype=torch.int64)
    model.train()
    with torch.enable_grad():
        for step in range(steps):
            if len(order) < batch:
                order = torch.cat([order, torch.randperm(len(inputs), generator=generator)])
            chosen, order = order[:batch].to(inputs.device), order[batch:]
            loss = functional.cross_entropy(logits(model, inputs[chosen]), labels[chosen])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            progress((step + 1) / steps)
