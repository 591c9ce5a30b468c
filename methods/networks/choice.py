"""The networks that a method's settings choose from, by the tag ``kind``.

A block without ``kind`` is read as the family's first: a preset that states only ``channels`` means
the U-Net, as before there was a choice. Keys of another kind are refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import Discriminator, Tag

from methods.networks.classifier import ClassifierSettings
from methods.networks.generator import GeneratorSettings
from methods.networks.mlp import MLPClassifierSettings, MLPGeneratorSettings, MLPSettings
from methods.networks.stylegan2 import StyleGAN2Settings
from methods.networks.unet import UNetSettings


def kind_or(default: str) -> Callable[[Any], str]:
    """Return a function that reads the tag of a mapping or of settings; ``default`` without one."""

    def kind(value: Any) -> str:
        if isinstance(value, dict):
            return value.get("kind", default)
        return getattr(value, "kind", default)

    return kind


ScoreNetwork = Annotated[
    Annotated[UNetSettings, Tag("unet")] | Annotated[MLPSettings, Tag("mlp")],
    Discriminator(kind_or("unet")),
]
"""``.build(data, classes=0, augment=0)`` gives ``F(x, noise_label, labels, augment)``."""

ClassifierNetwork = Annotated[
    Annotated[ClassifierSettings, Tag("resnet")] | Annotated[MLPClassifierSettings, Tag("mlp")],
    Discriminator(kind_or("resnet")),
]
"""``.build(data)`` gives ``C(x, sigma)``, the class logits."""

GeneratorNetwork = Annotated[
    Annotated[GeneratorSettings, Tag("dcgan")]
    | Annotated[StyleGAN2Settings, Tag("stylegan2")]
    | Annotated[MLPGeneratorSettings, Tag("mlp")],
    Discriminator(kind_or("dcgan")),
]
"""``.build(data)`` gives ``G(z)``; the latent's dimension is the setting ``z``."""
