"""Every block against its formula, written again, at random weights.

At the weights that they start from, most branches are almost zero, and a wrong sign would not show.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.base import DataSpec
from methods.networks.classifier import Classifier, ClassifierSettings, ResidualBlock
from methods.networks.generator import Generator, GeneratorSettings
from methods.networks.layers import (
    NEARLY_ZERO,
    Conditioning,
    FourierEmbedding,
    NoiseFeatures,
    PositionalEmbedding,
    Resample,
    group_norm,
)
from methods.networks.mlp import (
    MLP,
    Block,
    MLPClassifier,
    MLPClassifierSettings,
    MLPSettings,
    Trunk,
)
from methods.networks.stylegan2 import (
    Layer,
    LSTMMapping,
    ModulatedConv,
    StyleGAN2,
    StyleGAN2Settings,
    ToImage,
    leaky,
    mix,
    normals_from,
)
from methods.networks.unet import SelfAttention, UNet, UNetBlock, UNetSettings

M = TypeVar("M", bound=nn.Module)
COLOUR = DataSpec(channels=3, size=16, classes=5)
POINTS = DataSpec(channels=2, size=1, classes=3)


def randomised(module: M, spread: float = 0.3) -> M:
    """Give every parameter normal values."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=spread)
    return module.double()


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert found.std() > 1e-3


# -- layers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("channels", "groups"),
    [(2, 1), (5, 1), (8, 2), (16, 4), (44, 11), (128, 32), (256, 32), (132, 22), (155, 31)],
)
def test_groups_are_at_most_32_of_at_least_4_channels(channels: int, groups: int) -> None:
    norm = group_norm(channels)
    assert (norm.num_groups, norm.num_channels, norm.eps) == (groups, channels, 1e-6)


@pytest.mark.parametrize("channels", [2, 4, 8])
def test_positional_features_are_at_geometric_frequencies(channels: int) -> None:
    label, half = np.array([0.3, 700.0]), channels // 2
    frequencies = [10_000.0 ** (-i / max(half - 1, 1)) for i in range(half)]
    assert frequencies[0] == 1
    assert half == 1 or frequencies[-1] == pytest.approx(1e-4)
    angles = label[:, None] * np.array(frequencies)
    found = PositionalEmbedding(channels)(torch.tensor(label))
    expected = np.concatenate([np.sin(angles), np.cos(angles)], 1)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_fourier_features_are_at_normal_frequencies() -> None:
    torch.manual_seed(0)
    network = FourierEmbedding(6, 16.0)
    torch.manual_seed(0)
    frequencies = 2 * math.pi * 16 * torch.randn(3)
    torch.testing.assert_close(network.frequencies, frequencies)
    angles = torch.tensor([[0.2], [-1.5]]) * frequencies
    torch.testing.assert_close(
        network(torch.tensor([0.2, -1.5])), torch.cat([angles.sin(), angles.cos()], 1)
    )


def test_what_is_drawn_is_saved_with_the_weights() -> None:
    assert list(FourierEmbedding(4, 1.0).state_dict()) == ["frequencies"]
    for known in (PositionalEmbedding(4), NoiseFeatures(4), Resample("up", "fir")):
        assert not known.state_dict()


def test_an_embedding_is_the_sum_of_its_labels_features_in_two_layers() -> None:
    network = randomised(Conditioning(NoiseFeatures(8), 8, 6, classes=5, augment=2))
    noise, classes, augment = normal(4), torch.tensor([0, 4, 2, 2]), normal(4, 2, seed=1)
    own = dict(network.named_parameters())
    h = network.noise(noise) + augment @ own["embed_augment.weight"].T
    h = h + math.sqrt(5) * own["embed_class.weight"].T[classes] + own["embed_class.bias"]
    for layer in ("embed0", "embed1"):
        h = F.silu(h @ own[f"{layer}.weight"].T + own[f"{layer}.bias"])
    close(network(noise, classes, augment), h)


# -- multilayer perceptrons -----------------------------------------------------------------------


def test_a_block_of_points() -> None:
    block = randomised(Block(6))
    x, embedding = normal(4, 6), normal(4, 6, seed=1)
    scale, shift = block.affine(embedding)[:, :6], block.affine(embedding)[:, 6:]
    h = block.linear0(x * x.sigmoid())
    h = h + scale * h + shift
    close(block(x, embedding), block.linear1(h * h.sigmoid()) + x)


def test_a_point_enters_as_direction_and_length() -> None:
    trunk = randomised(Trunk(POINTS, 6, 2))
    x, embedding = 5 * normal(4, 2, 1, 1), normal(4, 6, seed=1)
    flat = x.reshape(4, 2)
    length = torch.sqrt(1 + (flat[:, :1] ** 2 + flat[:, 1:] ** 2) / 2)
    h = trunk.linear_in(torch.cat([flat / length, torch.log(length)], 1))
    for block in trunk.blocks:
        h = block(h, embedding)
    close(trunk(x, embedding), h * h.sigmoid())


def test_a_classifier_of_points_sees_unit_variance_and_the_level() -> None:
    network = randomised(MLPClassifier(MLPClassifierSettings(width=6, depth=1), POINTS))
    x, sigma = normal(4, 2, 1, 1), torch.tensor([0.02, 0.5, 2.0, 80.0], dtype=torch.float64)
    x = x * sigma.reshape(4, 1, 1, 1)
    scaled = x.reshape(4, 2) / torch.sqrt(sigma**2 + 0.5**2)[:, None]
    h = network.trunk(scaled, network.embed(torch.log(sigma) / 4))
    close(network(x, sigma), network.out(h))


@pytest.mark.parametrize("build", [MLPSettings(), UNetSettings(channels=8, multipliers=(1,))])
def test_a_score_network_starts_at_nearly_zero(build: Any) -> None:
    network = build.build(POINTS if isinstance(build, MLPSettings) else COLOUR)
    out = network.out if isinstance(network, MLP) else network.conv_out
    fan = out.weight[0].numel() + out.weight[:, 0].numel()
    assert 0 < out.weight.abs().max() <= NEARLY_ZERO * math.sqrt(6 / fan)


# -- the classifier -------------------------------------------------------------------------------


@pytest.mark.parametrize(("channels", "stride"), [((8, 8), 1), ((8, 16), 2), ((4, 8), 1)])
def test_a_residual_block(channels: tuple[int, int], stride: int) -> None:
    block = randomised(ResidualBlock(*channels, stride))
    x = normal(2, channels[0], 8, 8)
    h = F.conv2d(F.silu(block.norm0(x)), block.conv0.weight, stride=stride, padding=1)
    h = F.conv2d(F.silu(block.norm1(h)), block.conv1.weight, padding=1)
    same = stride == 1 and channels[0] == channels[1]
    skip = x if same else F.conv2d(x, block.skip.weight, stride=stride)  # type: ignore[arg-type]
    close(block(x), h + skip)


def test_a_classifier_halves_and_shifts_stage_by_stage() -> None:
    network = randomised(Classifier(ClassifierSettings(channels=8, blocks=(2, 1, 2)), COLOUR))
    strides = [[block.stride for block in stage] for stage in network.stages]  # type: ignore[union-attr]
    assert strides == [[1, 1], [2], [2, 1]]
    x, sigma = normal(3, 3, 16, 16), torch.tensor([0.02, 1.0, 50.0], dtype=torch.float64)
    embedding = F.silu(network.embed(network.fourier(torch.log(sigma)).double()))
    h = network.conv_in(x / torch.sqrt(sigma**2 + 0.5**2).reshape(3, 1, 1, 1))
    for index, stage in enumerate(network.stages):
        h = stage(h) + network.shifts[index](embedding).reshape(3, -1, 1, 1)
    assert h.shape == (3, 32, 4, 4)
    close(network(x, sigma), network.out(F.silu(network.norm_out(h)).mean(3).mean(2)))


# -- generators -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "base", "widths"),
    [(32, 4, [40, 32, 16, 8]), (28, 7, [32, 16, 8]), (6, 3, [16, 8]), (4, 4, [8]), (5, 5, [8])],
)
def test_a_generator_s_sizes(size: int, base: int, widths: list[int]) -> None:
    settings = GeneratorSettings(z=6, channels=8, channels_max=40, blocks=2)
    network = randomised(Generator(settings, DataSpec(channels=1, size=size, classes=0)))
    assert network.linear.weight.shape == (widths[0] * base**2, 6)
    convolutions = [[m for m in level if isinstance(m, nn.Conv2d)] for level in network.levels]  # type: ignore[union-attr]
    assert [[(c.in_channels, c.out_channels) for c in each] for each in convolutions] == [
        [(before, after), (after, after)] for before, after in itertools.pairwise(widths)
    ]
    assert network(normal(2, 6)).shape == (2, 1, size, size)


@pytest.mark.parametrize("build", [GeneratorSettings, StyleGAN2Settings])
def test_a_bounded_generator_is_the_tanh_of_the_unbounded(build: Any) -> None:
    small: dict[str, Any] = {"z": 6, "channels_max": 8}
    found = {}
    for bounded in (False, True):
        network = randomised(build(bounded=bounded, **small).build(COLOUR), 1.0)
        found[bounded] = network(normal(2, 6))
    assert found[False].abs().max() > 1
    torch.testing.assert_close(found[True], found[False].tanh())


# -- StyleGAN2 ------------------------------------------------------------------------------------


def test_the_mapping_s_cell_starts_as_torch_s_does() -> None:
    torch.manual_seed(0)
    network = LSTMMapping(StyleGAN2Settings(z=20, w=25, mapping="lstm", mapping_depth=2))
    for values in (network.cell_u, network.cell_h, network.cell_bias):
        assert -0.2 <= values.min() < -0.18
        assert 0.18 < values.max() <= 0.2


@pytest.mark.parametrize("kernel", [1, 3])
def test_a_convolution_s_weights_are_scaled_by_what_goes_in(kernel: int) -> None:
    network = randomised(ModulatedConv(4, 6, kernel, 5, demodulate=False))
    x, w = normal(2, 4, 8, 8), normal(2, 5, seed=1)
    style = network.affine(w)
    expected = [
        F.conv2d(x[n : n + 1] * style[n].reshape(1, 4, 1, 1), network.weight, padding=kernel // 2)
        for n in range(2)
    ]
    close(network(x, w), torch.cat(expected) / math.sqrt(4 * kernel * kernel))


def test_noise_and_bias_are_added_before_the_activation() -> None:
    layer, image = randomised(Layer(4, 6, 5)), randomised(ToImage(4, 3, 5))
    x, w, noise = normal(2, 4, 8, 8), normal(2, 5, seed=1), normal(2, 1, 8, 8, seed=2)
    h = layer.conv(x, w) + layer.noise_strength * noise + layer.bias.reshape(1, -1, 1, 1)
    close(layer(x, w, noise), torch.where(h > 0, h, h / 5) * math.sqrt(2))
    close(leaky(h), torch.where(h > 0, h, h / 5) * math.sqrt(2))
    assert layer.noise_strength.abs() > 0.01
    expected = (image.conv(x, w) + image.bias.reshape(1, -1, 1, 1)).float()
    torch.testing.assert_close(image(x, w), expected)
    assert image.bias.abs().min() > 0.01


def test_every_resolution_adds_its_image() -> None:
    settings = StyleGAN2Settings(z=6, w=6, mapping_width=6, channels_max=8, mapping="lstm")
    network = randomised(StyleGAN2(settings, COLOUR), 1.0)
    assert network.sides == [4, 8, 16]
    z = normal(2, 6)
    w, noise = network.mapping.styles(z, 6), network._noises(z)
    h = network.layers[0](network.constant.expand(2, -1, -1, -1), w[0], noise[0])
    image = network.images[0](h, w[1])
    for level in (1, 2):
        h = network.up[level - 1](h, w[2 * level - 1], noise[2 * level - 1])
        h = network.layers[level](h, w[2 * level], noise[2 * level])
        image = network.enlarge(image) + network.images[level](h, w[2 * level + 1])
    torch.testing.assert_close(network(z), image)


def test_the_hash_is_wellons_() -> None:
    def hashed(x: int) -> int:
        x = ((x ^ (x >> 16)) * 0x21F0AAAD) % 2**32
        x = ((x ^ (x >> 15)) * 0x735A2D97) % 2**32
        return x ^ (x >> 15)

    numbers = [0, 1, 2, 12345, 2**31 - 1, 2**31, 2**32 - 1]
    assert mix(torch.tensor(numbers)).tolist() == [hashed(x) for x in numbers]


def test_normal_numbers_are_box_muller_s_of_hashed_counters() -> None:
    def hashed(x: int) -> int:
        return int(mix(torch.tensor([x % 2**32]))[0])

    z = normal(3, 4).float()
    found = normals_from(z, 5)
    for row, numbers in zip(z.numpy(), found, strict=True):
        bits = row.view(np.uint32).tolist()
        total = sum(hashed(bit + hashed(place)) for place, bit in enumerate(bits, start=1))
        seed = hashed(total)
        words = [hashed(hashed(seed + hashed(k)) ^ seed) for k in range(1, 11)]
        uniform = [(word + 0.5) / 2**32 for word in words]
        expected = [
            math.sqrt(-2 * math.log(uniform[i])) * math.cos(2 * math.pi * uniform[5 + i])
            for i in range(5)
        ]
        np.testing.assert_allclose(numbers, expected, rtol=1e-4, atol=1e-5)


# -- the U-Net ------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", [False, True])
@pytest.mark.parametrize("direction", [None, "up", "down"])
@pytest.mark.parametrize("out", [8, 16])
def test_a_unet_block(attention: bool, direction: Any, out: int) -> None:
    resample = Resample(direction, "box") if direction else None
    block = randomised(
        UNetBlock(8, out, embedding=6, dropout=0.0, resample=resample, attention=attention)
    )
    x, embedding = normal(2, 8, 8, 8), normal(2, 6, seed=1)
    turned = resample or nn.Identity()
    h = block.conv0(turned(F.silu(block.norm0(x)))) + block.affine(embedding).reshape(2, -1, 1, 1)
    skip = turned(x)
    if direction or out != 8:
        skip = F.conv2d(skip, block.skip.weight, block.skip.bias)  # type: ignore[arg-type]
    h = (block.conv1(F.silu(block.norm1(h))) + skip) / math.sqrt(2)
    close(block(x, embedding), block.attention(h) if attention else h)
    assert isinstance(block.attention, SelfAttention) == attention


def test_attention_is_torch_s() -> None:
    layer = randomised(SelfAttention(8), 0.5)
    x = 2 * normal(2, 8, 4, 4)
    q, k, v = layer.qkv(layer.norm(x)).reshape(2, 3, 8, 16).transpose(2, 3).unbind(1)
    attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)
    found = layer(x)
    expected = (x + layer.project(attended)) / math.sqrt(2)
    # The softmax is in single precision.
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert (layer.project(attended)).std() > 0.3


@pytest.mark.parametrize(("size", "levels"), [(16, 5), (12, 3), (7, 1)])
def test_a_unet_halves_as_often_as_it_can(size: int, levels: int) -> None:
    settings = UNetSettings(channels=8, multipliers=(1,) * levels, blocks=1)
    x = normal(1, 1, size, size).float()
    network = UNet(settings, DataSpec(channels=1, size=size, classes=0))
    assert network(x, torch.zeros(1)).shape == x.shape


def test_the_setting_chooses_the_embedding() -> None:
    data = DataSpec(channels=1, size=8, classes=0)
    for name, kind in (("positional", PositionalEmbedding), ("fourier", FourierEmbedding)):
        settings = UNetSettings(channels=8, multipliers=(1,), blocks=1, embedding=name)  # type: ignore[arg-type]
        assert type(UNet(settings, data).embed.noise) is kind


def test_blocks_and_attention_lie_where_edm_has_them() -> None:
    settings = UNetSettings(channels=8, multipliers=(1, 2, 2), blocks=2, attention=(8,))
    network = UNet(settings, COLOUR)

    def told(blocks: Any) -> list[tuple[str, bool]]:
        kinds = [getattr(b.resample, "direction", "join" if b.joins_skip else "") for b in blocks]
        return [
            (kind, isinstance(block.attention, SelfAttention))
            for kind, block in zip(kinds, blocks, strict=True)
        ]

    plain, attended = ("", False), ("", True)
    assert told(network.encoder) == [
        plain, plain, ("down", False), attended, attended, ("down", False), plain, plain,
    ]  # fmt: skip
    joined = ("join", False)
    assert told(network.decoder) == [
        attended, plain, joined, joined, joined,
        ("up", False), joined, joined, ("join", True),
        ("up", False), joined, joined, joined,
    ]  # fmt: skip
