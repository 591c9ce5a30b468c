"""Networks against the papers' sizes, closed forms and invariants."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from bench.cost import count_flops, parameters
from methods.base import DataSpec, Settings
from methods.networks import choice, layers
from methods.networks.classifier import ClassifierSettings
from methods.networks.generator import GeneratorSettings
from methods.networks.mlp import MLPClassifierSettings, MLPGeneratorSettings, MLPSettings
from methods.networks.unet import InputResidual, UNet, UNetSettings

CIFAR = DataSpec(channels=3, size=32, classes=10)
POINTS = DataSpec(channels=2, size=1, classes=3)
NCSNPP: dict[str, Any] = {
    "embedding": "fourier",
    "embedding_multiplier": 2,
    "encoder": "residual",
    "resample": "fir",
}
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
    "generator": {"dcgan": GeneratorSettings, "mlp": MLPGeneratorSettings},
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


@pytest.mark.parametrize("size", [8, 12, 28, 32, 64])
@pytest.mark.parametrize("channels", [1, 3])
def test_networks_take_all_sizes(size: int, channels: int) -> None:
    data = DataSpec(channels=channels, size=size, classes=4)
    x, sigma = torch.zeros(2, *data.shape), torch.ones(2)
    unet = UNetSettings(channels=8, multipliers=(1, 2), blocks=1, attention=(size // 2,))
    for settings in (unet, unet.model_copy(update=NCSNPP)):
        assert settings.build(data)(x, sigma).shape == x.shape
    generator = GeneratorSettings(channels=8, z=10)
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


def test_ncsnpp_is_the_ddpmpp_network_with_wider_features_and_the_image_s_convolutions() -> None:
    """At EDM's CIFAR-10 size, 56.40 M: 128 features more, and 3x3 from 3 to 256 to 256 channels."""
    network = on_meta(UNetSettings(**NCSNPP), CIFAR)
    convolutions = (9 * 3 * 256 + 256) + (9 * 256 * 256 + 256)
    assert parameters(network) == 55_732_739 + 128 * 512 + convolutions == 56_395_523


def test_smm_s_score_network() -> None:
    """0.47 M with NCSN++'s options; the authors' 0.48 M needs attention at 4x4 too, 0.479 M."""
    size: dict[str, Any] = {"channels": 16, "multipliers": (1, 2, 2, 2), "blocks": 1}
    published = UNetSettings(**size, attention=(16, 8), dropout=0.1, **NCSNPP)
    assert parameters(on_meta(published, CIFAR)) == 469_987
    wider = published.model_copy(update={"attention": (16, 8, 4)})
    assert parameters(on_meta(wider, CIFAR)) == 478_563


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


# -- FLOPs ----------------------------------------------------------------------------------------


def test_flops_of_a_convolution_are_counted_exactly() -> None:
    """Forward 2 k^2 C_in C_out H W; backward twice that, once where the input needs none."""
    layer, x = nn.Conv2d(3, 5, 3, padding=1), torch.randn(2, 3, 8, 8)
    forward = 2 * 9 * 3 * 5 * 64 * 2
    assert count_flops(lambda: layer(x))[1] == forward
    assert count_flops(lambda: layer(x).sum().backward())[1] == 2 * forward
    x.requires_grad_()
    assert count_flops(lambda: layer(x * 1).sum().backward())[1] == 3 * forward
