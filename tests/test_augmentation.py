"""EDM's augmentation against exact transforms, and its labels against their distribution."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter
from torch.utils._python_dispatch import TorchDispatchMode

from methods import augmentation
from methods.augmentation import Transform, augment
from methods.base import Batch


def transform(n: int = 1, **values: float | tuple[float, float]) -> Transform:
    """A transform of every image alike; what is not given does nothing."""
    fields = {name: torch.zeros(n) for name in Transform.__dataclass_fields__}
    fields["shift"] = torch.zeros(n, 2)
    for name, value in values.items():
        fields[name] = torch.tensor(value).expand_as(fields[name])
    return Transform(**fields)


def make_batch(n: int = 8, channels: int = 3, size: int = 16, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, channels, size, size, generator=generator) * 2 - 1
    return Batch(x=x, labels=None, generator=generator)


def coordinates(size: int) -> Tensor:
    """An image whose first channel is x and whose second is y, from the centre: (1, 2, s, s)."""
    line = torch.arange(size) - (size - 1) / 2
    y, x = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([x, y])[None]


def inner(x: Tensor, border: int) -> Tensor:
    return x[..., border:-border, border:-border]


# -- what is done to images -----------------------------------------------------------------------


def test_the_filter_is_orthonormal() -> None:
    """What makes two passes of it an identity; the shifts by two are orthogonal (Daubechies)."""
    taps = torch.tensor(augmentation.SYM6, dtype=torch.float64)
    assert float(taps.sum()) == pytest.approx(math.sqrt(2), abs=1e-11)
    for shift in range(6):
        product = float((taps[2 * shift :] * taps[: len(taps) - 2 * shift]).sum())
        assert product == pytest.approx(float(shift == 0), abs=1e-11)
    # Six vanishing moments: the high-pass filter is blind to polynomials up to the fifth degree.
    high = taps.flip(0) * (-1.0) ** torch.arange(12)
    places = torch.arange(12, dtype=torch.float64) - 5.5
    for degree in range(6):
        assert abs(float((high * places**degree).sum())) < 1e-7 * 5.5**degree


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [8, 9, 28, 32, 64])
def test_resampling_by_nothing_changes_nothing(size: int, channels: int) -> None:
    """Up to 1e-4, on white noise and up to the border."""
    x = make_batch(4, channels, size).x
    resampled = augmentation.resample(x, transform(4))
    torch.testing.assert_close(resampled, x, rtol=0, atol=1e-4)


def test_without_probability_images_are_mirrored_or_left_alone() -> None:
    batch = make_batch(200)
    images, labels = augment(batch, 0.0)
    mirrored = labels[:, 0] == 1
    assert torch.equal(labels[:, 1:], torch.zeros(200, 8))
    assert torch.equal(images[mirrored], batch.x[mirrored].flip(3))
    assert torch.equal(images[~mirrored], batch.x[~mirrored])
    assert 70 < int(mirrored.sum()) < 130


def test_flips_are_torch_s() -> None:
    x = make_batch().x
    assert torch.equal(augmentation.apply(x, transform(8, mirrored=1.0)), x.flip(3))
    assert torch.equal(augmentation.apply(x, transform(8, flipped=1.0)), x.flip(2))


@pytest.mark.parametrize("turns", [1, 2, 3, -1])
def test_quarter_turns_are_torch_s(turns: int) -> None:
    """Counterclockwise; on smooth images, for the filter's phase is not quite linear."""
    place = coordinates(32)
    x = torch.sin(0.3 * place[:, :1] + 0.1 * place[:, 1:] + 0.5)
    turned = augmentation.apply(x, transform(angle=turns * math.pi / 2))
    expected = x.rot90(turns, (2, 3))
    torch.testing.assert_close(inner(turned, 5), inner(expected, 5), rtol=0, atol=0.005)


@pytest.mark.parametrize(("right", "down"), [(2, -1), (0, 3), (-4, 0)])
def test_shifts_by_whole_pixels_are_rolls(right: int, down: int) -> None:
    """Exactly, on white noise; one unit of the label is an eighth of the side: 4 pixels of 32."""
    x = make_batch(2, size=32).x
    shifted = augmentation.apply(x, transform(2, shift=(right / 4, down / 4)))
    expected = x.roll((down, right), (2, 3))
    torch.testing.assert_close(inner(shifted, 4), inner(expected, 4), rtol=0, atol=1e-4)


def test_what_comes_from_outside_is_reflected() -> None:
    """Far away too; on a smooth image, since the filter is not quite its own mirror image."""
    x = torch.sin(0.3 * coordinates(32) + 0.5)
    shifted = augmentation.apply(x, transform(shift=(2.5, 0.0)))  # 10 pixels to the right
    torch.testing.assert_close(shifted[..., 10:], x[..., :-10], rtol=0, atol=0.01)
    torch.testing.assert_close(shifted[..., :10], x[..., 1:11].flip(3), rtol=0, atol=0.01)
    far = augmentation.apply(x * 0 + 0.7, transform(shift=(20.0, -9.0), scale=-9.0))
    torch.testing.assert_close(far, torch.full_like(far, 0.7))


KNOWN: dict[str, tuple[dict[str, Any], list[list[float]]]] = {
    "scale": ({"scale": 2.0}, [[2**0.4, 0], [0, 2**0.4]]),
    "stretch": ({"stretch": 2.0}, [[2**0.4, 0], [0, 2**-0.4]]),
    "upright": ({"stretch": 2.0, "axis": math.pi / 2}, [[2**-0.4, 0], [0, 2**0.4]]),
    "turn": ({"angle": 0.5}, [[math.cos(0.5), math.sin(0.5)], [-math.sin(0.5), math.cos(0.5)]]),
}


@pytest.mark.parametrize("name", KNOWN)
def test_known_matrices(name: str) -> None:
    """A point M p of the result shows what was at p; an image of coordinates shows p itself."""
    settings, matrix = KNOWN[name]
    place = coordinates(32)
    seen = augmentation.apply(place, transform(**settings))
    inverse = torch.tensor(matrix).inverse()
    expected = torch.einsum("ij,njhw->nihw", inverse, place)
    torch.testing.assert_close(inner(seen, 11), inner(expected, 11), rtol=0, atol=1e-3)


def test_the_order_is_scale_turn_stretch_shift() -> None:
    given = {"scale": 1.5, "angle": 0.7, "stretch": -1.2, "axis": 0.4, "shift": (0.5, -0.25)}
    place = coordinates(64)
    seen = augmentation.apply(place, transform(**given))

    def turn(angle: float) -> Tensor:
        cos, sin = math.cos(angle), math.sin(angle)
        return torch.tensor([[cos, -sin], [sin, cos]])

    # Counterclockwise, where y points down.
    stretch = turn(-0.4) @ torch.diag(torch.tensor([2**-0.24, 2**0.24])) @ turn(0.4)
    forward = stretch @ turn(-0.7) * 2**0.3
    there = torch.einsum("ij,njhw->nihw", forward, seen) + torch.tensor([4.0, -2.0])[:, None, None]
    torch.testing.assert_close(inner(there, 20), inner(place, 20), rtol=0, atol=2e-3)


def test_images_keep_to_their_own_transforms() -> None:
    batch = make_batch(64)
    images, labels = augment(batch, 0.3)
    untouched = (labels == 0).all(1)
    assert 3 < int(untouched.sum()) < 61
    changed = (images != batch.x).flatten(1).any(1)
    assert torch.equal(changed, ~untouched)


def test_images_stay_about_within_their_range() -> None:
    """Interpolation overshoots at white noise's steepest edges, by less than its own range."""
    images, _ = augment(make_batch(200), 1.0)
    assert images.abs().max() < 2
    assert float(images.abs().mean()) == pytest.approx(0.4, abs=0.15)


# -- labels ---------------------------------------------------------------------------------------


def test_labels_follow_their_distribution() -> None:
    """Each transform with probability p, and the parameters of EDM's table 6."""
    n, p = 40_000, 0.12
    drawn = augmentation.draw(make_batch(n, 1, 8), p)
    labels = drawn.labels()
    assert labels.shape == (n, augmentation.LABELS)
    used = (labels != 0).float().mean(0)
    expected = torch.tensor([0.5, p / 2, p, p, p, p, p / 2, p, p])
    error = 4 * (expected * (1 - expected) / n).sqrt()
    assert ((used - expected).abs() < error).all(), used
    for normal in (drawn.scale, drawn.stretch, drawn.shift[:, 0], drawn.shift[:, 1]):
        values = normal[normal != 0]
        assert float(values.mean()) == pytest.approx(0, abs=0.06)
        assert float(values.std()) == pytest.approx(1, abs=0.05)
    angles = drawn.angle[drawn.angle != 0]
    assert float(angles.abs().max()) == pytest.approx(math.pi, abs=0.01)
    assert float(angles.std()) == pytest.approx(math.pi / math.sqrt(3), rel=0.05)
    assert float((drawn.axis != 0).float().mean()) == pytest.approx(0.5, abs=0.02)
    # Both shifts come together, and the transforms independently of one another.
    assert torch.equal(drawn.shift[:, 0] != 0, drawn.shift[:, 1] != 0)
    once = labels[:, [0, 1, 2, 4, 5, 7]] != 0
    assert float(torch.corrcoef(once.T.float()).fill_diagonal_(0).abs().max()) < 0.02


def test_labels_are_those_of_the_paper() -> None:
    """Karras et al. 2022, table 6, in its order."""
    given = {"scale": 0.3, "angle": 0.5, "stretch": 2.0, "axis": 0.25, "shift": (1.5, -1.0)}
    labels = transform(**given, mirrored=1.0, flipped=1.0).labels()[0]
    turned, stretched = [math.cos(0.5) - 1, math.sin(0.5)], [math.cos(0.25), math.sin(0.25)]
    expected = [1, 1, 0.3, *turned, *(2 * value for value in stretched), 1.5, -1]
    torch.testing.assert_close(labels, torch.tensor(expected))


def test_all_randomness_is_the_batch_s() -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first, again, other = (augment(make_batch(seed=seed), 0.5) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[1], other[1])


# -- how it runs ----------------------------------------------------------------------------------

WAITS = (
    "_local_scalar_dense",  # .item(), bool(tensor)
    "nonzero",
    "masked_select",
    "_unique2",
    "equal",
    "lift_fresh",  # torch.tensor(numbers): a copy from the host
    "_to_copy.device",
)


class NoWaiting(TorchDispatchMode):
    """Refuses what would make a GPU's host wait, or copy from it."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.name().removeprefix("aten::")
        assert not name.startswith(WAITS), name
        return func(*args, **(kwargs or {}))


def test_nothing_waits_for_the_device() -> None:
    batch = make_batch()
    with NoWaiting():
        augment(batch, 0.12)
    with pytest.raises(AssertionError, match="_local_scalar_dense"), NoWaiting():
        batch.x.max().item()


@pytest.mark.slow
def test_it_compiles_whole_and_once_for_all_draws() -> None:
    counter = CompileCounter()
    compiled = torch.compile(augmentation.apply, backend=counter, fullgraph=True)
    for seed in range(3):
        batch = make_batch(seed=seed)
        drawn = augmentation.draw(batch, 0.5)
        torch.testing.assert_close(compiled(batch.x, drawn), augmentation.apply(batch.x, drawn))
    assert counter.frame_count == 1


def test_mixed_precision_leaves_it_alone() -> None:
    batch = make_batch()
    drawn = augmentation.draw(batch, 1.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = augmentation.apply(batch.x, drawn)
    assert torch.equal(mixed, augmentation.apply(batch.x, drawn))


@pytest.mark.parametrize("shape", [(1, 7, 7), (3, 16, 12)])
def test_other_images_are_refused(shape: tuple[int, int, int]) -> None:
    batch = Batch(x=torch.zeros(2, *shape), labels=None, generator=torch.Generator())
    with pytest.raises(ValueError, match="square images of 8 pixels"):
        augment(batch, 0.1)
