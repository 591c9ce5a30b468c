"""The CIFAR-10 classifiers of He et al. 2016, section 4.2: ResNet-20 and ResNet-56.

Three stages of n blocks each at 32, 16 and 8 pixels with 16, 32 and 64 channels, 6n + 2 layers,
identity shortcuts (the paper's option A: subsampled, and padded with zero channels, half before and
half behind), global average pooling, one linear layer. The weights are Y. Idelbayev's public ones
(91.73 % and 93.39 % on the test split, BSD-2), whose file names carry the first digits of their
hashes. They take RGB images in 0..1, normalised by ImageNet's mean and deviation.
"""

import io
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.config import UserError
from bench.metrics.extractors.resizing import Run
from bench.metrics.extractors.verified import ROOT_VARIABLE, find, places

FILES = {"cifar-resnet20": "resnet20-12fca82f.th", "cifar-resnet56": "resnet56-4bfd9763.th"}
"""The weights' published names."""
BLOCKS = {"cifar-resnet20": 3, "cifar-resnet56": 9}
"""Blocks a stage, the paper's n."""
TAKES = (3, 32, 32)

_MEAN = (0.485, 0.456, 0.406)
_DEVIATION = (0.229, 0.224, 0.225)
_PREFIX = "module."


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut without weights."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        """Build a block from ``before`` to ``width`` channels."""
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.stride, self.new = stride, width - before

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, before, H, W) to (B, width, H / stride, W / stride)."""
        h = functional.relu(self.bn1(self.conv1(x)))
        half = self.new // 2
        shortcut = x[:, :, :: self.stride, :: self.stride]
        padded = functional.pad(shortcut, (0, 0, 0, 0, half, self.new - half))
        return functional.relu(self.bn2(self.conv2(h)) + padded)


class ResNet(nn.Module):
    """Normalised images (B, 3, 32, 32) to features (B, 64) and logits (B, 10)."""

    def __init__(self, blocks: int) -> None:
        """Build the network of 6 ``blocks`` + 2 layers; parts are named as in the files."""
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, 1, blocks)
        self.layer2 = _stage(16, 32, 2, blocks)
        self.layer3 = _stage(32, 64, 2, blocks)
        self.linear = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the pooled features and the logits of the same pass."""
        x = functional.relu(self.bn1(self.conv1(images)))
        features = self.layer3(self.layer2(self.layer1(x))).mean(dim=(2, 3))
        return features, self.linear(features)


def _stage(before: int, width: int, stride: int, blocks: int) -> nn.Sequential:
    first = ResidualBlock(before, width, stride)
    return nn.Sequential(first, *(ResidualBlock(width, width, 1) for _ in range(blocks - 1)))


def find_weights(name: str, cache: Path) -> Path:
    """Return the file of its published name; UserError, which says where it was looked for."""
    found = find(FILES[name], cache)
    if found is None:
        looked = ", ".join(str(path) for path in places(FILES[name], cache))
        raise UserError(
            f"no weights for extractor '{name}' (looked for: {looked}); get {FILES[name]} from the "
            f"repository akamaster/pytorch_resnet_cifar10 and put it there, name its folder in "
            f"{ROOT_VARIABLE}, or give it with --weights {name}=FILE"
        )
    return found


def load_resnet(name: str, content: bytes, device: torch.device) -> Run:
    """Return a function from uint8 images to 64 features and 10 probabilities."""
    stored = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")["state_dict"]
    model = ResNet(BLOCKS[name])
    model.load_state_dict({key.removeprefix(_PREFIX): value for key, value in stored.items()})
    model.eval().requires_grad_(False).to(device)
    mean, deviation = (
        torch.tensor(values, device=device).view(3, 1, 1) for values in (_MEAN, _DEVIATION)
    )

    def run(images: Tensor) -> tuple[Tensor, Tensor]:
        features, logits = model((images.float() / 255 - mean) / deviation)
        return features, logits.softmax(dim=1)

    return run
