"""The small classifier behind the extractors ``digits`` and ``fashion-mnist``.

A residual network of the plainest kind, one class for both, its size set by a frozen table. SiLU
keeps the features smooth in the image. Batch norm, whose statistics are frozen in use, rather than
group norm: the latter divides each image's contrast out, and a Fréchet distance that cannot see
washed-out samples is no use. The features are taken after global average pooling and before the
only linear layer, so that the distance sees what the classifier decides by.
"""

import io
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.data.dataset import Split
from bench.metrics.extractors.resizing import Run


@dataclass(frozen=True)
class Shape:
    """The classifier's size and input: square grey or colour images of ``size`` pixels."""

    size: int
    channels: int
    stem_stride: int
    widths: tuple[int, ...]
    features: int
    classes: int


SHAPES = {
    "digits": Shape(8, 1, stem_stride=1, widths=(32, 64), features=64, classes=10),
    "fashion-mnist": Shape(28, 1, stem_stride=2, widths=(32, 64), features=128, classes=10),
}


class FeatureBlock(nn.Module):
    """Two pre-activated 3x3 convolutions around an identity."""

    def __init__(self, width: int) -> None:
        """Build a block that keeps ``width`` channels."""
        super().__init__()
        self.norm1 = nn.BatchNorm2d(width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, width, H, W) to the same shape."""
        h: Tensor = self.conv1(functional.silu(self.norm1(x)))
        h = self.conv2(functional.silu(self.norm2(h)))
        return x + h


class FeatureClassifier(nn.Module):
    """Images in [-1, 1], (B, C, H, W), to features (B, d) and logits (B, K)."""

    def __init__(self, shape: Shape) -> None:
        """Build the network with torch's default initialisation."""
        super().__init__()
        first = shape.widths[0]
        layers: list[nn.Module] = [
            nn.Conv2d(shape.channels, first, 3, stride=shape.stem_stride, padding=1),
            FeatureBlock(first),
        ]
        for before, width in zip(shape.widths, shape.widths[1:], strict=False):
            layers += [nn.Conv2d(before, width, 3, stride=2, padding=1), FeatureBlock(width)]
        last = shape.widths[-1]
        layers += [nn.BatchNorm2d(last), nn.SiLU(), nn.Conv2d(last, shape.features, 1)]
        layers += [nn.BatchNorm2d(shape.features), nn.SiLU()]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(shape.features, shape.classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the pooled features and the logits of the same pass."""
        features = self.body(images).mean(dim=(2, 3))
        return features, self.head(features)


def to_float(images: Tensor) -> Tensor:
    """Map uint8 images to [-1, 1]."""
    return images.float() / 127.5 - 1


def logits(model: nn.Module, inputs: Tensor) -> Tensor:
    """Return (B, K) of uint8 images or of points; where features come too, the logits alone."""
    found = model(to_float(inputs) if inputs.dtype == torch.uint8 else inputs)
    chosen: Tensor = found[1] if isinstance(found, tuple) else found
    return chosen


def tensors(split: Split, device: str | torch.device) -> tuple[Tensor, Tensor]:
    """Return images, uint8, or points, float32, and labels, on the device."""
    assert split.labels is not None, "a classifier needs labels"
    inputs = torch.from_numpy(np.array(split.images)).to(device)
    return inputs, torch.from_numpy(split.labels).to(device)


@torch.no_grad()
def accuracy(model: nn.Module, split: Split, device: str | torch.device = "cpu") -> float:
    """Return the fraction of a split that a model in ``eval()`` classifies correctly, 0 to 1."""
    inputs, labels = tensors(split, device)
    parts = [logits(model, part).argmax(1) for part in torch.split(inputs, 500)]
    return float((torch.cat(parts) == labels).double().mean())


def load_classifier(name: str, content: bytes, device: torch.device) -> Run:
    """Return a function from uint8 images to features and probabilities, from a file's bytes."""
    model = FeatureClassifier(SHAPES[name])
    model.load_state_dict(torch.load(io.BytesIO(content), weights_only=True, map_location="cpu"))
    model.eval().requires_grad_(False).to(device)

    def run(images: Tensor) -> tuple[Tensor, Tensor]:
        features, told = model(to_float(images))
        return features, told.softmax(dim=1)

    return run
