"""MyMethod against the interface and against a closed form; run with `pytest`."""

from __future__ import annotations

import torch
from my_method import MyMethod, MyMethodConfig
from torch import Tensor

from bench.check import check
from methods.base import DataSpec
from methods.noise import per_image


def test_the_interface_is_kept() -> None:
    broken = [str(finding) for finding in check(MyMethod) if finding.failed]
    assert not broken, "\n".join(broken)


def test_the_exact_denoiser_of_a_gaussian_gives_its_samples() -> None:
    """For data N(m, s^2) the best D is known; what sample draws with it has that mean and spread.

    A test like this, of whatever your method has in closed form, finds what no curve shows.
    """
    m, s = 0.3, 0.5

    def exact(x: Tensor, sigma: Tensor) -> Tensor:
        level = per_image(sigma.expand(len(x))) ** 2
        return (s**2 * x + level * m) / (s**2 + level)

    config = MyMethodConfig.model_validate({"network": {"kind": "mlp", "width": 8}})
    method = MyMethod(config, DataSpec(channels=2, size=1))
    method.denoiser = exact
    points = method.sample(4000, generator=torch.Generator().manual_seed(0))
    assert abs(float(points.mean()) - m) < 0.03
    assert abs(float(points.std()) - s) < 0.03
