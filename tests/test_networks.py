"""Networks against the papers' sizes, closed forms and invariants."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from bench.costs.flops import count_flops, parameters
from methods.base import DataSpec, Settings
from methods.networks import choice, layers
from methods.networks.classifier import ClassifierSettings
from methods.networks.generator import GeneratorSettings
from methods.networks.mlp import MLPClassifierSettings, MLPGeneratorSettings, MLPSettings
from methods.networks.stylegan2 import (
    Layer,
    Linear,
    LSTMMapping,
    ModulatedConv,
    StyleGAN2,
    StyleGAN2Settings,
    ToImage,
    normals_from,
)
from methods.networks.unet import NCSNPP, InputResidual, SelfAttention, UNet, UNetSettings

CIFAR = DataSpec(channels=3, size=32, classes=10)
POINTS = DataSpec(channels=2, size=1, classes=3)
SMALL = UNetSettings(channels=8, multipliers=(1, 2), blocks=1, attention=(4,), dropout=0.0)
SCORES: dict[str, tuple[UNetSettings | MLPSettings, DataSpec]] = {
    "unet": (SMALL, DataSpec(channels=1, size=8, classes=3)),
    "ncsnpp": (SMALL.model_copy(update=NCSNPP), DataSpec(channels=1, size=8, classes=3)),
    "mlp": (MLPSettings(width=16), POINTS),
}
CLASSIFIERS: dict[str, tuple[ClassifierSettings | MLPClassifierSettings, DataSpec]] = {
    "resnet": (
        ClassifierSettings(channels=8, blocks=(1, 1)),
        DataSpec(channels=1, size=8, classes=3),
    ),
    "mlp": (MLPClassifierSettings(width=16), POINTS),
}


def on_meta(settings: Any, data: DataSpec, **options: int) -> nn.Module:
    """Build a network without memory or arithmetic, to count by."""
    with torch.device("meta"):
        return settings.build(data, **options)


def build_score(name: str, **options: int) -> tuple[nn.Module, Tensor, Tensor]:
    """A score network whose output is far from its initial zero, images and noise labels."""
    settings, data = SCORES[name]
    torch.manual_seed(0)
    network = settings.build(data, **options)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    return network, torch.randn(4, *data.shape), torch.tensor([-1.0, 0.0, 0.5, 1.0])


# -- choosing a network ---------------------------------------------------------------------------


class Choice(Settings):
    network: choice.ScoreNetwork = UNetSettings()
    classifier: choice.ClassifierNetwork = ClassifierSettings()
    generator: choice.GeneratorNetwork = GeneratorSettings()


KINDS = {
    "network": {"unet": UNetSettings, "mlp": MLPSettings},
    "classifier": {"resnet": ClassifierSettings, "mlp": MLPClassifierSettings},
    "generator": {
        "dcgan": GeneratorSettings,
        "stylegan2": StyleGAN2Settings,
        "mlp": MLPGeneratorSettings,
    },
}


@pytest.mark.parametrize(
    ("key", "kind"), [(key, kind) for key, kinds in KINDS.items() for kind in kinds]
)
def test_a_kind_chooses_the_settings_and_survives_json(key: str, kind: str) -> None:
    chosen = Choice.model_validate({key: {"kind": kind}})
    assert type(getattr(chosen, key)) is KINDS[key][kind]
    assert Choice.model_validate(chosen.model_dump(mode="json")) == chosen
    assert Choice.model_validate_json(chosen.model_dump_json()) == chosen


def test_a_block_without_a_kind_is_the_family_s_first() -> None:
    chosen = Choice.model_validate(
        {"network": {"channels": 8}, "classifier": {"blocks": [1]}, "generator": {"z": 3}}
    )
    assert chosen.network == UNetSettings(channels=8)
    assert chosen.classifier == ClassifierSettings(blocks=(1,))
    assert chosen.generator == GeneratorSettings(z=3)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"kind": "mpl"}, "'mpl'.*'unet', 'mlp'"),
        ({"kind": "mlp", "channels": 8}, "channels"),
        ({"width": 8}, "width"),
        (7, "dictionary"),
    ],
)
def test_a_wrong_block_is_refused(block: object, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Choice.model_validate({"network": block})


# -- shapes ---------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("size", [8, 12, 28, 32, 64])
@pytest.mark.parametrize("channels", [1, 3])
def test_networks_take_all_sizes(size: int, channels: int) -> None:
    data = DataSpec(channels=channels, size=size, classes=4)
    x, sigma = torch.zeros(2, *data.shape), torch.ones(2)
    unet = UNetSettings(channels=8, multipliers=(1, 2), blocks=1, attention=(size // 2,))
    for settings in (unet, unet.model_copy(update=NCSNPP)):
        assert settings.build(data)(x, sigma).shape == x.shape
    for generator in (GeneratorSettings(channels=8, z=10), StyleGAN2Settings(channels_max=8, z=10)):
        assert generator.build(data)(torch.zeros(2, 10)).shape == x.shape
    classifier = ClassifierSettings(channels=8, blocks=(1, 1, 1))
    assert classifier.build(data)(x, sigma).shape == (2, 4)


@pytest.mark.parametrize("data", [POINTS, DataSpec(channels=1, size=8, classes=3)], ids=str)
def test_mlps_take_points_and_images(data: DataSpec) -> None:
    x, sigma = torch.randn(5, *data.shape), torch.ones(5)
    assert MLPSettings().build(data)(x, sigma).shape == x.shape
    assert MLPClassifierSettings().build(data)(x, sigma).shape == (5, 3)
    generator = MLPGeneratorSettings(z=4).build(data)
    assert generator.z == 4
    assert generator(torch.randn(5, 4)).shape == x.shape


def test_a_bounded_generator_stays_within_one() -> None:
    z = 1e4 * torch.randn(50, 16)
    assert MLPGeneratorSettings().build(POINTS)(z).abs().max() <= 1
    assert MLPGeneratorSettings(bounded=False).build(POINTS)(z).abs().max() > 1


def test_a_unet_refuses_sizes_it_cannot_halve() -> None:
    with pytest.raises(ValueError, match="divisible by 4, not 10"):
        UNet(UNetSettings(channels=8), DataSpec(channels=1, size=10))


# -- the papers' sizes ----------------------------------------------------------------------------


def count_per_image(network: nn.Module, data: DataSpec) -> tuple[float, float]:
    """FLOPs of one image forward, and forward and backward."""
    x, label = torch.empty(1, *data.shape, device="meta"), torch.empty(1, device="meta")
    _, forward = count_flops(lambda: network(x, label))
    _, training = count_flops(lambda: network(x, label).sum().backward())
    return forward, training


@pytest.mark.slow
def test_the_unet_at_edm_s_cifar10_size() -> None:
    """55.73 M parameters, 21.2 GMAC, 127.1 GFLOP a training image (METHODS: Karras et al. 2022)."""
    network = on_meta(UNetSettings(), CIFAR)
    assert parameters(network) == 55_732_739
    assert parameters(on_meta(UNetSettings(), CIFAR, augment=9)) == 55_732_739 + 9 * 128
    forward, training = count_per_image(network, CIFAR)
    assert forward / 2 == pytest.approx(21.2e9, rel=1e-3)
    assert training == pytest.approx(127.1e9, rel=1e-3)


def test_class_labels_cost_one_linear_layer() -> None:
    assert parameters(on_meta(UNetSettings(), CIFAR, classes=10)) == 55_732_739 + 11 * 128


@pytest.mark.slow
def test_ncsnpp_is_the_ddpmpp_network_with_wider_features_and_the_image_s_convolutions() -> None:
    """At EDM's CIFAR-10 size, 56.40 M: 128 features more, and 3x3 from 3 to 256 to 256 channels."""
    network = on_meta(UNetSettings(**NCSNPP), CIFAR)
    convolutions = (9 * 3 * 256 + 256) + (9 * 256 * 256 + 256)
    assert parameters(network) == 55_732_739 + 128 * 512 + convolutions == 56_395_523
    # Multiply-adds: the convolutions with the border that their filter needs, and the filters of
    # 16 taps on 256 channels: of the image, and twice in each block that resamples.
    convolutions = 9 * 3 * 256 * 34**2 + 9 * 256 * 256 * 18**2
    filters = 16 * 256 * ((16**2 + 8**2) + 2 * (16**2 + 8**2) + 2 * (16**2 + 8**2))
    plain, _ = count_per_image(on_meta(UNetSettings(), CIFAR), CIFAR)
    forward, _ = count_per_image(network, CIFAR)
    assert forward - plain == 2 * (128 * 512 + convolutions + filters)


def test_smm_s_score_network() -> None:
    """468,963 parameters, as in the authors' code, whose 483,219 hold some that nothing reaches.

    Each of the three convolutions that the image passes on its way down has a second weight there,
    of which no use is made. With Fourier features, NCSN++'s own, there are 16 features more.
    """
    size: dict[str, Any] = {"channels": 16, "multipliers": (1, 2, 2, 2), "blocks": 1}
    size |= {"attention": (16, 8), "dropout": 0.1, **NCSNPP}
    published = UNetSettings(**size | {"embedding": "positional", "embedding_multiplier": 1})
    assert parameters(on_meta(published, CIFAR)) == 468_963
    assert 483_219 - 468_963 == 9 * (3 * 16 + 16 * 32 + 32 * 32)
    assert parameters(on_meta(UNetSettings(**size), CIFAR)) == 468_963 + 16 * 64


@pytest.mark.slow
def test_dlsm_s_score_network() -> None:
    """107.6 M parameters, as in the authors' code: NCSN++ with eight blocks a resolution."""
    deep = UNetSettings(channels=128, multipliers=(1, 2, 2, 2), blocks=8, **NCSNPP)
    assert parameters(on_meta(deep, CIFAR)) == pytest.approx(107.6e6, abs=0.05e6)


# -- labels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCORES)
def test_an_unconditional_network_has_no_labels(name: str) -> None:
    network, x, noise = build_score(name)
    assert torch.equal(network(x, noise), network(x, noise, None, None))
    with pytest.raises(ValueError, match="without classes"):
        network(x, noise, torch.zeros(4, dtype=torch.int64))
    with pytest.raises(ValueError, match="augmentation labels"):
        network(x, noise, None, torch.zeros(4, 9))


@pytest.mark.parametrize("name", SCORES)
def test_a_conditional_network_responds_to_each_image_s_own_label(name: str) -> None:
    network, x, noise = build_score(name, classes=3)
    zeros, mixed = torch.zeros(4, dtype=torch.int64), torch.tensor([0, 1, 0, 2])
    change = (network(x, noise, zeros) - network(x, noise, mixed)).flatten(1).abs().amax(1)
    assert (change[[1, 3]] > 1e-3).all()
    assert (change[[0, 2]] < 1e-6).all()


@pytest.mark.parametrize("name", SCORES)
def test_a_conditional_network_without_labels_is_an_error(name: str) -> None:
    network, x, noise = build_score(name, classes=3)
    with pytest.raises(ValueError, match="3 classes needs class labels"):
        network(x, noise)


@pytest.mark.parametrize("name", SCORES)
def test_zero_augmentation_labels_are_none(name: str) -> None:
    network, x, noise = build_score(name, augment=9)
    assert torch.equal(network(x, noise), network(x, noise, None, torch.zeros(4, 9)))
    for index in range(9):
        label = torch.zeros(4, 9)
        label[:, index] = 1
        assert (network(x, noise) - network(x, noise, None, label)).abs().max() > 1e-3


def test_class_labels_are_one_hot_vectors_times_the_root_of_their_number() -> None:
    """The features' second moment then does not depend on the number of classes (EDM, F.2)."""
    conditioning = layers.Conditioning(layers.PositionalEmbedding(8), 8, 8, classes=4)
    seen: list[Tensor] = []
    assert conditioning.embed_class is not None
    conditioning.embed_class.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    conditioning(torch.zeros(2), torch.tensor([3, 0]))
    assert torch.equal(seen[0], torch.tensor([[0, 0, 0, 2.0], [2.0, 0, 0, 0]]))


# -- noise labels ---------------------------------------------------------------------------------


LN_SIGMA = torch.arange(-4.5, 4.4, 0.25, dtype=torch.float64)
TAU = ((0.1**2 + 2 * 19.9 * (2 * LN_SIGMA).exp().log1p()).sqrt() - 0.1) / 19.9
NOISE_LABELS = {
    "edm": LN_SIGMA / 4,
    "vp": 999 * TAU,
    "ve": LN_SIGMA - math.log(2),
    "smm": torch.arange(20.0),
}


@pytest.mark.parametrize("name", NOISE_LABELS)
def test_noise_features_tell_levels_apart_in_every_convention(name: str) -> None:
    """Levels a factor e^(1/4) apart differ by 5 % of the features' norm at least.

    The geometric frequencies of DDPM give 3 % on EDM's labels.
    """
    features = layers.NoiseFeatures(64)(NOISE_LABELS[name].float())
    apart = torch.cdist(features, features) / features.norm(dim=1).mean()
    apart.fill_diagonal_(math.inf)
    assert apart.min() > 0.05
    # Smooth: neighbours are nearer than strangers, whose features are orthogonal at best.
    assert apart.diagonal(1).median() < 0.6


# -- resampling -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", ["box", "fir"])
def test_resampling_keeps_a_constant_and_a_ramp_s_slope(kernel: Any) -> None:
    ramp = torch.arange(16.0).expand(1, 2, 16, 16)
    down = layers.Resample("down", kernel)(ramp)
    expected = (torch.arange(8.0) * 2 + 0.5).expand(1, 2, 8, 8)
    torch.testing.assert_close(down[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1])
    up = layers.Resample("up", kernel)(torch.ones(1, 2, 8, 8))
    assert up.shape == (1, 2, 16, 16)
    torch.testing.assert_close(up[..., 1:-1, 1:-1], torch.ones(1, 2, 14, 14))


def test_fir_upsampling_interpolates_linearly() -> None:
    """[1, 3, 3, 1] / 4 gives the values a quarter and three quarters between pixels."""
    up = layers.Resample("up", "fir")(torch.arange(8.0).expand(1, 1, 8, 8))
    expected = torch.arange(16.0) / 2 - 0.25
    torch.testing.assert_close(up[0, 0, 4, 2:-2], expected[2:-2])


@pytest.mark.parametrize("kernel", ["box", "fir"])
def test_the_input_residual_adds_the_halved_image(kernel: Any) -> None:
    """With the identity for its convolution: (h + halved image) / sqrt 2."""
    resample = layers.Resample("down", kernel)
    residual = InputResidual(2, 2, resample)
    nn.init.dirac_(residual.conv.weight)
    image, h = torch.randn(1, 2, 16, 16), torch.randn(1, 2, 8, 8)
    expected = (h + resample(image)) / math.sqrt(2)
    torch.testing.assert_close(residual(image, h), expected)


def test_the_image_reaches_every_resolution_of_a_residual_encoder() -> None:
    network, x, noise = build_score("ncsnpp")
    (residual,) = network.residuals.values()
    network(x, noise).sum().backward()
    assert residual.conv.weight.grad.abs().sum() > 0


# -- classifiers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifier_starts_without_an_opinion(name: str) -> None:
    settings, data = CLASSIFIERS[name]
    logits = settings.build(data)(torch.randn(4, *data.shape), torch.ones(4))
    assert torch.equal(logits, torch.zeros(4, 3))


class Operations(TorchDispatchMode):
    """Collects the names of what is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.names.add(func.name().removeprefix("aten::").split(".")[0])
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifier_has_nothing_that_dlsm_cannot_bear(name: str) -> None:
    """Kinks, dropout, batch norm, and anything in place."""
    settings, data = CLASSIFIERS[name]
    classifier = settings.build(data)
    with Operations() as seen:
        classifier(torch.randn(4, *data.shape), torch.ones(4))
    assert "silu" in seen.names
    assert not seen.names & {"relu", "leaky_relu", "threshold", "native_dropout", "bernoulli"}
    assert not any("batch_norm" in found or found.endswith("_") for found in seen.names)
    if name == "mlp":
        assert not any("norm" in found for found in seen.names)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifier_s_gradient_has_a_derivative(name: str) -> None:
    """The second derivative by autograd is the first one's finite difference."""
    settings, data = CLASSIFIERS[name]
    torch.manual_seed(0)
    classifier = settings.build(data).double()
    nn.init.normal_(classifier.out.weight)
    x = torch.randn(3, *data.shape, dtype=torch.float64)
    sigma = torch.tensor([0.1, 1.0, 9.0], dtype=torch.float64)
    direction = torch.randn_like(x)

    def gradient(at: Tensor, create_graph: bool = False) -> tuple[Tensor, Tensor]:
        leaf = at.detach().requires_grad_()
        chosen = classifier(leaf, sigma).log_softmax(1)[:, 1].sum()
        return leaf, torch.autograd.grad(chosen, leaf, create_graph=create_graph)[0]

    leaf, first = gradient(x, create_graph=True)
    (second,) = torch.autograd.grad((first * direction).sum(), leaf)
    step = 1e-6
    difference = gradient(x + step * direction)[1] - gradient(x - step * direction)[1]
    torch.testing.assert_close(second, difference / (2 * step), rtol=1e-4, atol=1e-7)
    assert second.abs().max() > 1e-3


# -- the noise-conditional ResNet ----------------------------------------------------------------


SMALL_CLASSIFIER = """
import torch
from methods.base import DataSpec
from methods.networks.classifier import ClassifierSettings

torch.set_num_threads(1)
data = DataSpec(channels=3, size=64, classes=2)
network = ClassifierSettings(channels=8, blocks=[1, 1]).build(data)
network.to(memory_format=torch.channels_last)
torch.nn.init.normal_(network.out.weight)
for _ in range(3):
    x = torch.randn(8, 3, 64, 64).to(memory_format=torch.channels_last)
    network(x, torch.ones(8)).square().mean().backward()
print("trained")
"""


@pytest.mark.usefixtures("processes")
def test_a_small_classifier_trains_at_64_pixels() -> None:
    """In a process of its own, which a strided 1x1 convolution of 8 channels would abort."""
    command = [sys.executable, "-c", SMALL_CLASSIFIER]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, "trained\n"), done.stderr


@pytest.mark.parametrize(
    ("blocks", "standard"), [((2, 2, 2, 2), 11_173_962), ((3, 4, 6, 3), 21_282_122)], ids=str
)
def test_the_classifier_is_the_standard_resnet_and_the_noise_embedding(
    blocks: tuple[int, ...], standard: int
) -> None:
    """ResNet-18/-34 of 11.17 M and 21.28 M parameters for CIFAR-10 (He et al. 2016), plus 0.14 M.

    The norms come before the convolutions here: the standard ones normalise each block's output
    twice, the stem and three shortcuts; ours each block's input, its middle and the last output.
    """
    embedding = (128 * 128 + 128) + sum(128 * width + width for width in (64, 128, 256, 512))
    first = [64, 64, 128, 256]
    norms = 0
    for stage, count in enumerate(blocks):
        width = 64 * 2**stage
        norms += 2 * (first[stage] + (count - 1) * width + count * width)  # ours
        norms -= 2 * (2 * count * width)  # the standard ones
    norms += 2 * 512 - 2 * (64 + 128 + 256 + 512)
    network = on_meta(ClassifierSettings(blocks=blocks), CIFAR)
    assert parameters(network) == standard + embedding + norms
    assert abs(norms) < 3000


# -- StyleGAN2 ------------------------------------------------------------------------------------


def small_stylegan2(size: int = 16, mapping: Any = "plain") -> StyleGAN2:
    """A generator whose noise inputs count."""
    torch.manual_seed(0)
    settings = StyleGAN2Settings(
        channels_max=16, z=8, w=8, mapping_width=8, mapping_depth=2, mapping=mapping
    )
    generator = settings.build(DataSpec(channels=3, size=size))
    for name, parameter in generator.named_parameters():
        if name.endswith("noise_strength"):
            nn.init.constant_(parameter, 0.5)
    return generator


@pytest.mark.parametrize("size", [4, 8, 16, 32, 64])
def test_the_generator_at_stylegan2_s_size(size: int) -> None:
    """A 512-channel convolution of 3x3 with its affine map, bias and noise strength; images."""
    layer = 9 * 512**2 + (512**2 + 512) + 512 + 1
    image = 3 * 512 + (512**2 + 512) + 3
    levels = size.bit_length() - 3
    expected = 512 * 16 + (1 + 2 * levels) * layer + (1 + levels) * image + 8 * (512**2 + 512)
    network = on_meta(StyleGAN2Settings(), DataSpec(channels=3, size=size))
    assert parameters(network) == expected


LSTM: dict[str, Any] = {"mapping": "lstm", "mapping_depth": 2}


def test_the_generator_at_smm_s_size() -> None:
    """24,669,715 parameters, 5,247,488 of them the mapping's, as in the authors' code.

    Two layers of 512; three maps of 1024 numbers to 512; a cell of four gates.
    """
    network = on_meta(StyleGAN2Settings(**LSTM), CIFAR)
    assert isinstance(network, StyleGAN2)
    layers, maps = 2 * (512**2 + 512), 3 * (1024 * 512 + 512)
    cell = 4 * 512 * (1024 + 512 + 1)
    assert parameters(network.mapping) == layers + maps + cell == 5_247_488
    assert parameters(network) == 19_422_227 + 5_247_488 == 24_669_715
    assert parameters(on_meta(StyleGAN2Settings(), CIFAR)) == 21_523_475
    fast = sum(p.numel() for n, p in network.mapping.named_parameters() if "layers" not in n)
    assert fast / 5_247_488 == pytest.approx(0.9, abs=0.01)


def test_the_lstm_mapping_is_a_cell_unrolled_over_the_slots() -> None:
    """Against torch's own cell; what it is told stays, its state and memory begin as maps of it."""
    torch.manual_seed(0)
    settings = StyleGAN2Settings(z=6, w=5, mapping_width=7, mapping_lr=0.1, **LSTM)
    mapping = LSTMMapping(settings)
    z = 3 * torch.randn(4, 6)
    normal = z / z.square().mean(1, keepdim=True).sqrt()
    h = normal
    for layer in mapping.layers:
        weight = layer.weight * 0.1 / layer.weight.shape[1] ** 0.5
        h = F.leaky_relu(h @ weight.T + 0.1 * layer.bias, 0.2) * 2**0.5
    u = torch.cat([h, normal], 1)

    def mapped(layer: Linear) -> Tensor:
        return u @ layer.weight.T / 11**0.5 + layer.bias

    cell = nn.LSTMCell(11, 5)
    with torch.no_grad():
        cell.weight_ih.copy_(mapping.cell_u)
        cell.weight_hh.copy_(mapping.cell_h)
        cell.bias_ih.copy_(mapping.cell_bias)
        cell.bias_hh.zero_()
    state = tuple(
        F.leaky_relu(mapped(layer), 0.2) * 2**0.5 for layer in (mapping.hidden, mapping.memory)
    )
    found = mapping.styles(z, 3)
    for style in found:
        state = cell(u, state)
        torch.testing.assert_close(style, state[0] + mapped(mapping.skip))
    assert (found[1] - found[2]).abs().max() > 1e-3


def test_each_slot_of_the_styles_has_its_layer() -> None:
    """A resolution's image takes the style of the next one's first convolution; the last its own.

    32x32 has eight slots: seven of convolutions, one of the last image.
    """
    settings = StyleGAN2Settings(channels_max=8, z=8, w=8, **LSTM)
    generator, seen = settings.build(DataSpec(channels=3, size=32)), []
    generator.mapping.styles = lambda z, slots: [
        torch.full((len(z), 8), float(slot)) for slot in range(slots)
    ]
    for module in generator.modules():
        if isinstance(module, (Layer, ToImage)):
            module.register_forward_hook(
                lambda layer, inputs, _: seen.append((type(layer), int(inputs[1][0, 0])))
            )
    generator(torch.randn(2, 8))
    assert seen == [
        (Layer, 0), (ToImage, 1),
        (Layer, 1), (Layer, 2), (ToImage, 3),
        (Layer, 3), (Layer, 4), (ToImage, 5),
        (Layer, 5), (Layer, 6), (ToImage, 7),
    ]  # fmt: skip


def modulated_weight(layer: ModulatedConv, style: Tensor) -> Tensor:
    """One image's own weight by Karras et al. 2020, eq. 1 and 3."""
    weight = layer.weight * layer.scale * style[None, :, None, None]
    if not layer.demodulate:
        return weight
    norm = (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
    return weight / norm


@pytest.mark.parametrize("demodulate", [True, False])
@pytest.mark.parametrize("kernel", [1, 3])
def test_modulation_is_that_of_the_weights(kernel: int, demodulate: bool) -> None:
    layer = ModulatedConv(5, 7, kernel, 4, demodulate=demodulate)
    x, w = torch.randn(3, 5, 8, 8), torch.randn(3, 4)
    styles = layer.affine(w)
    expected = [
        F.conv2d(image[None], modulated_weight(layer, style), padding=kernel // 2)
        for image, style in zip(x, styles, strict=True)
    ]
    torch.testing.assert_close(layer(x, w), torch.cat(expected), rtol=1e-4, atol=1e-5)


def test_an_upsampling_convolution_is_zeros_between_pixels_then_two_filters() -> None:
    layer = ModulatedConv(2, 3, 3, 4, up=True, demodulate=True)
    x, w = torch.randn(1, 2, 6, 6), torch.randn(1, 4)
    spread = torch.zeros(1, 2, 12, 12)
    spread[..., ::2, ::2] = x
    weight = modulated_weight(layer, layer.affine(w)[0]).flip(2, 3)
    h = F.conv2d(F.pad(spread, (2, 1, 2, 1)), weight)
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 4
    smoothing = torch.outer(taps, taps).expand(3, 1, 4, 4)
    expected = F.conv2d(h, smoothing, padding=1, groups=3)
    torch.testing.assert_close(layer(x, w), expected, rtol=1e-4, atol=1e-5)


def test_demodulation_undoes_a_style_s_scale() -> None:
    layer = ModulatedConv(16, 8, 3, 4, demodulate=True)
    x, w = torch.randn(2, 16, 8, 8), torch.randn(2, 4)
    before = layer(x, w)
    with torch.no_grad():
        layer.affine.weight *= 100
        layer.affine.bias *= 100
    torch.testing.assert_close(layer(x, w), before, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("lr", [1.0, 0.01])
def test_equalised_layers_differ_in_speed_alone(lr: float) -> None:
    """Outputs keep the variance; a step of one in a stored number moves them by lr, scaled."""
    torch.manual_seed(0)
    layer = Linear(400, 300, lr=lr)
    x = torch.randn(100, 400)
    before = layer(x)
    assert before.std().item() == pytest.approx(1, rel=0.03)
    with torch.no_grad():
        layer.weight += 1
        layer.bias += 2
    change = x.sum(1, keepdim=True) * lr / 20 + 2 * lr
    torch.testing.assert_close(layer(x) - before, change.expand(-1, 300), rtol=1e-3, atol=1e-4)


def test_an_image_is_a_function_of_its_latent_alone() -> None:
    """Whatever else is in the batch, in training and evaluation, whatever the seed."""
    generator, z = small_stylegan2(), torch.randn(6, 8)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    images = generator(z)
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(generator.eval()(z[[4, 1]]), images[[4, 1]])
    assert torch.equal(generator(z), images)


@pytest.mark.parametrize("mapping", ["plain", "lstm"])
def test_noise_inputs_act_and_every_parameter_learns(mapping: str) -> None:
    generator, z = small_stylegan2(mapping=mapping), torch.randn(6, 8)
    images = generator(z)
    images.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in generator.parameters())
    for name, parameter in generator.named_parameters():
        if name.endswith("noise_strength"):
            nn.init.zeros_(parameter)
    assert (generator(z) - images).abs().max() > 0.1


def test_every_layer_has_noise_of_its_own() -> None:
    generator, seen = small_stylegan2(), []
    for module in generator.modules():
        if isinstance(module, Layer):
            module.register_forward_hook(lambda _, inputs, __: seen.append(inputs[2]))
    generator(torch.randn(6, 8))
    assert [noise.shape[-1] for noise in seen] == [4, 8, 8, 16, 16]
    numbers = torch.cat([noise.flatten() for noise in seen])
    assert len(numbers.unique()) > 0.999 * len(numbers)


def test_noise_from_latents_is_standard_normal_and_independent() -> None:
    z = torch.randn(1000, 8)
    noise = normals_from(z, 500)
    for power, moment in ((1, 0), (2, 1), (3, 0), (4, 3)):
        assert float((noise**power).mean()) == pytest.approx(moment, abs=0.06)
    assert float(torch.corrcoef(noise).fill_diagonal_(0).abs().max()) < 0.3
    assert float(torch.corrcoef(noise.T).fill_diagonal_(0).abs().max()) < 0.25
    # The last bit of one number, or two numbers exchanged, make another noise.
    nudged, exchanged = z.clone(), z[:, [1, 0, 2, 3, 4, 5, 6, 7]]
    nudged[:, 3] = torch.nextafter(nudged[:, 3], torch.tensor(9.0))
    for other in (nudged, exchanged):
        assert abs(float((normals_from(other, 500) * noise).mean())) < 0.01


GENERATORS: dict[str, Any] = {
    "dcgan": GeneratorSettings(channels=8, z=8),
    "stylegan2": StyleGAN2Settings(channels_max=8, z=8),
    "lstm": StyleGAN2Settings(channels_max=8, z=8, **LSTM),
    "mlp": MLPGeneratorSettings(z=8),
}


@pytest.mark.parametrize("name", GENERATORS)
def test_generators_in_mixed_precision(name: str) -> None:
    """float32 images near those of full precision, and finite gradients."""
    torch.manual_seed(0)
    generator, z = GENERATORS[name].build(DataSpec(channels=1, size=8)), torch.randn(4, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        images = generator(z)
    assert images.dtype == torch.float32
    full = generator(z)
    assert (images - full).abs().mean() < 0.05 * full.abs().mean()
    images.square().mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in generator.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("name", SCORES)
def test_score_networks_compile_whole(name: str) -> None:
    """No branch on a value, which would wait for the device."""
    network, x, noise = build_score(name, classes=3, augment=9)
    inputs = (x, noise, torch.tensor([0, 1, 2, 0]), torch.zeros(4, 9))
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(*inputs), network(*inputs))


@pytest.mark.slow
@pytest.mark.parametrize("name", GENERATORS)
def test_generators_compile_whole(name: str) -> None:
    generator = GENERATORS[name].build(DataSpec(channels=1, size=8))
    z = torch.randn(4, 8)
    compiled = torch.compile(generator, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(z), generator(z))


# -- FLOPs ----------------------------------------------------------------------------------------


def twice(network: nn.Module, x: Tensor) -> None:
    """The gradient of an input gradient's square, with respect to the weights and the input."""
    leaf = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad((network(leaf * 1) ** 2).sum(), leaf, create_graph=True)
    (gradient**2).sum().backward()


def flops(network: nn.Module, x: Tensor) -> tuple[float, float, float]:
    """FLOPs of the forward pass, of forward and backward, and of the double backward."""
    leaf = x.detach().requires_grad_()
    return (
        count_flops(lambda: network(x))[1],
        count_flops(lambda: network(leaf * 1).sum().backward())[1],
        count_flops(lambda: twice(network, x))[1],
    )


LINEAR_MAPS: dict[str, tuple[nn.Module, tuple[int, ...], int]] = {
    "linear": (nn.Linear(8, 16), (5, 8), 2 * 8 * 16 * 5),
    "convolution": (nn.Conv2d(3, 5, 3, padding=1), (2, 3, 8, 8), 2 * 9 * 3 * 5 * 64 * 2),
    "1x1": (nn.Conv2d(3, 5, 1), (2, 3, 8, 8), 2 * 3 * 5 * 64 * 2),
    "transposed": (nn.ConvTranspose2d(3, 5, 3, stride=2), (2, 3, 8, 8), 2 * 9 * 3 * 5 * 64 * 2),
}


@pytest.mark.parametrize("name", ["linear", "convolution", "1x1"])
def test_flops_of_linear_maps(name: str) -> None:
    """``y = W x`` costs F forward: 2 times the products of a multiply-add.

    Backward, ``dx = W' dy`` and ``dW = dy x'`` cost F each: 3 F in all. The double backward runs
    y (F) and dx (F), then differentiates dx with respect to dy and W (2 F) and y with respect to
    x and W (2 F): 6 F.
    """
    layer, shape, expected = LINEAR_MAPS[name]
    counted = flops(layer, torch.randn(shape))
    assert counted == (expected, 3 * expected, 6 * expected)


def test_flops_of_transposed_convolutions() -> None:
    layer, shape, expected = LINEAR_MAPS["transposed"]
    assert flops(layer, torch.randn(shape))[:2] == (expected, 3 * expected)


def test_flops_of_a_strided_convolution_s_double_backward_are_those_that_torch_does() -> None:
    """One of its two weight gradients is taken over 4x4 taps, of which 3x3 are kept."""
    layer, forward = nn.Conv2d(4, 8, 3, stride=2, padding=1), 2 * 9 * 4 * 8 * 16 * 2
    counted = flops(layer, torch.randn(2, 4, 8, 8))
    assert counted == (forward, 3 * forward, forward * (5 + 16 / 9))


def test_flops_of_a_frozen_input_leave_its_gradient_out() -> None:
    layer, x = nn.Conv2d(3, 5, 3, padding=1), torch.randn(2, 3, 8, 8)
    forward = 2 * 9 * 3 * 5 * 64 * 2
    assert count_flops(lambda: layer(x).sum().backward())[1] == 2 * forward


def test_flops_of_attention() -> None:
    """Linear maps 8 C^2 N forward, two products of matrices 4 N^2 C; N pixels.

    The maps as above: 1, 3 and 6 times. A product ``Z = A B`` of which both factors have
    gradients costs F, backward ``dA = dZ B'`` and ``dB = A' dZ``: 3 F. The double backward runs
    all three (3 F), differentiates dA with respect to dZ and B and dB with respect to A and dZ
    (4 F), and Z with respect to A and B (2 F): 9 F.
    """
    channels, side, images = 8, 6, 3
    pixels = side**2
    maps = images * 8 * channels**2 * pixels
    products = images * 4 * pixels**2 * channels
    counted = flops(SelfAttention(channels), torch.randn(images, channels, side, side))
    assert counted == (maps + products, 3 * (maps + products), 6 * maps + 9 * products)


@pytest.mark.parametrize("direction", ["up", "down"])
def test_flops_of_fixed_filters_are_a_forward_pass_each_way(direction: Any) -> None:
    """Depthwise: 16 taps a channel. Its weights have no gradient, so backward is F, in all 2 F.

    (A depthwise convolution that learns would be counted wrongly: torch's counter forgets the
    groups in the weights' gradient. None of the networks has one.)
    """
    resample = layers.Resample(direction, "fir")
    x = torch.randn(2, 6, 8, 8, requires_grad=True)
    forward = 2 * 16 * 6 * 2 * (64 if direction == "up" else 16)
    assert count_flops(lambda: resample(x * 1))[1] == forward
    assert count_flops(lambda: resample(x * 1).sum().backward())[1] == 2 * forward


def test_no_network_learns_a_grouped_convolution() -> None:
    """Their backward pass would be counted wrongly by torch."""
    networks = [
        on_meta(settings, data) for settings, data in [*SCORES.values(), *CLASSIFIERS.values()]
    ]
    networks += [on_meta(StyleGAN2Settings(), CIFAR), on_meta(GeneratorSettings(), CIFAR)]
    for network in networks:
        assert all(getattr(module, "groups", 1) == 1 for module in network.modules())


def test_flops_of_stylegan2() -> None:
    """Convolutions, affine maps, demodulation, filters and mapping add up to the count."""
    width, w, images, sides = 16, 8, 2, [4, 8, 16]
    total = 2 * 8 * 8 * 2  # the mapping's layers
    for level, side in enumerate(sides):
        total += 2 * (3 * width * side**2 + w * width)  # to the image
        for up in [True, False] if level else [False]:
            source = side // 2 if up else side
            total += 2 * (9 * width**2 * source**2 + w * width + width**2)
            total += 2 * 16 * width * side**2 if up else 0
        total += 2 * 16 * 3 * (side // 2) ** 2 if level else 0  # the image, doubled
    generator = small_stylegan2(16)
    # The squared weights, summed for demodulation, are the same for all images.
    _, counted = count_flops(lambda: generator(torch.randn(images, 8)))
    assert counted == images * total
