"""A network with the structure of the 2015 Inception and random weights, in the genuine interface.

Where it differs from torchvision's ``inception_v3``: the averages leave the padding out, the last
block's pool is a maximum, 1008 outputs, and a resize of TensorFlow 1's within the graph.
"""

from __future__ import annotations

import io
import warnings

import torch
from torch import Tensor, nn

Size = int | tuple[int, int]


class Mixed(nn.Module):
    """Branches side by side, their channels joined."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        outputs: list[Tensor] = []
        for branch in self.branches:
            outputs.append(branch(x))
        return torch.cat(outputs, dim=1)


def conv(before: int, after: int, kernel: Size, stride: int = 1, padding: Size = 0) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(before, after, kernel, stride, padding, bias=False),
        nn.BatchNorm2d(after, eps=1e-3),
        nn.ReLU(),
    )


def wide(before: int, after: int, length: int = 7) -> nn.Module:
    return conv(before, after, (1, length), padding=(0, length // 2))


def tall(before: int, after: int, length: int = 7) -> nn.Module:
    return conv(before, after, (length, 1), padding=(length // 2, 0))


def chain(*parts: nn.Module) -> nn.Module:
    return nn.Sequential(*parts)


def average() -> nn.Module:
    return nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)


def at_35(before: int, pooled: int) -> nn.Module:
    return Mixed(
        conv(before, 64, 1),
        chain(conv(before, 48, 1), conv(48, 64, 5, padding=2)),
        chain(conv(before, 64, 1), conv(64, 96, 3, padding=1), conv(96, 96, 3, padding=1)),
        chain(average(), conv(before, pooled, 1)),
    )


def to_17() -> nn.Module:
    return Mixed(
        conv(288, 384, 3, 2),
        chain(conv(288, 64, 1), conv(64, 96, 3, padding=1), conv(96, 96, 3, 2)),
        nn.MaxPool2d(3, 2),
    )


def at_17(inner: int) -> nn.Module:
    return Mixed(
        conv(768, 192, 1),
        chain(conv(768, inner, 1), wide(inner, inner), tall(inner, 192)),
        chain(
            conv(768, inner, 1),
            tall(inner, inner),
            wide(inner, inner),
            tall(inner, inner),
            wide(inner, 192),
        ),
        chain(average(), conv(768, 192, 1)),
    )


def to_8() -> nn.Module:
    return Mixed(
        chain(conv(768, 192, 1), conv(192, 320, 3, 2)),
        chain(conv(768, 192, 1), wide(192, 192), tall(192, 192), conv(192, 192, 3, 2)),
        nn.MaxPool2d(3, 2),
    )


def at_8(before: int, pool: nn.Module) -> nn.Module:
    return Mixed(
        conv(before, 320, 1),
        chain(conv(before, 384, 1), Mixed(wide(384, 384, 3), tall(384, 384, 3))),
        chain(
            conv(before, 448, 1),
            conv(448, 384, 3, padding=1),
            Mixed(wide(384, 384, 3), tall(384, 384, 3)),
        ),
        chain(pool, conv(before, 192, 1)),
    )


def layers() -> nn.Module:
    return chain(
        conv(3, 32, 3, 2),
        conv(32, 32, 3),
        conv(32, 64, 3, padding=1),
        nn.MaxPool2d(3, 2),
        conv(64, 80, 1),
        conv(80, 192, 3),
        nn.MaxPool2d(3, 2),
        *(at_35(before, pooled) for before, pooled in ((192, 32), (256, 64), (288, 64))),
        to_17(),
        *(at_17(inner) for inner in (128, 160, 160, 192)),
        to_8(),
        at_8(1280, average()),
        at_8(2048, nn.MaxPool2d(3, 1, 1)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


class Graph(nn.Module):
    """``layers``, ``output``, and images of 0..255 of any size to features or probabilities."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = layers()
        self.output = nn.Linear(2048, 1008)

    def forward(self, x: Tensor, return_features: bool = False) -> Tensor:
        features = self.layers((self.resize(x) - 128) / 128)
        if return_features:
            return features
        return self.output(features).softmax(dim=1)

    def resize(self, x: Tensor) -> Tensor:
        """Interpolate as TensorFlow 1 did, which puts the first pixel's corner, not its centre."""
        for axis in (2, 3):
            count = x.shape[axis]
            place = torch.arange(299, device=x.device) * (count / 299)
            before = place.floor()
            share = (place - before).view([299, 1] if axis == 2 else [299])
            first = before.long()
            second = (first + 1).clamp(max=count - 1)
            x = x.index_select(axis, first) * (1 - share) + x.index_select(axis, second) * share
        return x


def build(seed: int = 0) -> Graph:
    """Return a graph whose batch norms know some images, so that features neither die nor burst."""
    torch.manual_seed(seed)
    graph = Graph()
    for module in graph.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    seen = graph.resize(torch.randint(0, 256, (4, 3, 32, 32)).float())
    with torch.no_grad():
        graph.layers.train()((seen - 128) / 128)
    return graph.eval().requires_grad_(False)


def serialise(module: nn.Module) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(module), buffer)
    return buffer.getvalue()
