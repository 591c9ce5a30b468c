"""Images that each have a seed of their own, and the files that ``bench draw`` makes of them."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bench.config.errors import UserError
from bench.config.random_streams import derive
from bench.sampling.image_seeds import OneStreamAnImage, class_of, draw_images
from bench.sampling.source import Source
from methods import registry
from methods.samplers import SAMPLERS

from .conftest import Bench, Build
from .test_sampling import source

SHAPE = (1, 8, 8)


def own(seed: int, draw: Callable[..., torch.Tensor] = torch.randn) -> torch.Tensor:
    """What the stream of a seed's image begins with."""
    return draw((1, *SHAPE), generator=torch.Generator().manual_seed(derive(seed, "image")))


def drawn(of: Source, seeds: list[int], size: int = 4) -> dict[int, bytes]:
    images = np.concatenate([images for images, _ in draw_images(of, seeds, size)])
    assert len(images) == len(seeds)
    return {seed: image.tobytes() for seed, image in zip(seeds, images, strict=True)}


# One stream an image ------------------------------------------------------------------------------


def test_each_image_is_of_its_own_stream() -> None:
    of = source(needs_labels=False)
    seeds = [7, 0, 3, 5, 9]
    assert drawn(of, seeds) == {seed: own(seed).numpy()[0].tobytes() for seed in seeds}


STYLEGAN2 = {"kind": "stylegan2"}
SAMPLED = [("sde", {"sampler": {"name": name, "steps": 4}}) for name in SAMPLERS]


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        *SAMPLED,
        ("cdm", {}),
        ("dlsm", {}),
        ("smm", {}),
        ("smm", {"generator": {"kind": "stylegan2"}}),
    ],
)
def test_an_image_is_the_same_beside_any_others(
    build: Build, method: str, settings: dict[str, Any]
) -> None:
    of = Source(
        build(method, **settings), shape=SHAPE, device=torch.device("cpu"), precision="fp32",
        seed=0, stream="draw", frequencies=np.full(10, 0.1), quantise=False,
    )  # fmt: skip
    many = drawn(of, [0, 1, 2, 3, 4, 5])
    assert len({*many.values()}) == 6
    few = drawn(of, [5, 1])
    assert few == {seed: many[seed] for seed in few}


def split(draw: Callable[[torch.Generator], Any], streams: int = 3) -> Any:
    asked = torch.Generator()
    with OneStreamAnImage(asked, [torch.Generator().manual_seed(i) for i in range(streams)]):
        return draw(asked)


@pytest.mark.parametrize(
    "draw",
    [
        lambda n, g: torch.randn(n, 2, generator=g),
        lambda n, g: torch.randn((n, 2), generator=g, dtype=torch.float64),
        lambda n, g: torch.rand(size=(n, 2), generator=g),
        lambda n, g: torch.randint(9, (n, 2), generator=g),
        lambda n, g: torch.randint(2, 9, size=(n, 2), generator=g),
        lambda n, g: torch.randint(low=2, high=9, size=(n, 2), generator=g),
        lambda n, g: torch.empty(n, 2).normal_(1.0, 3.0, generator=g),
        lambda n, g: torch.empty(n, 2).uniform_(-1, 1, generator=g),
    ],
)
def test_all_ways_of_drawing_noise_are_split(draw: Callable[..., torch.Tensor]) -> None:
    rows = [draw(1, torch.Generator().manual_seed(i)) for i in range(3)]
    assert torch.equal(split(lambda g: draw(3, g)), torch.cat(rows))


def test_other_generators_are_left_alone() -> None:
    alone = torch.randn(3, generator=torch.Generator().manual_seed(4))
    found = split(lambda _: torch.randn(3, generator=torch.Generator().manual_seed(4)))
    assert torch.equal(found, alone)


@pytest.mark.parametrize(
    ("draw", "told"),
    [
        (lambda g: torch.randn(2, 3, generator=g), r"shape \(2, 3\) for 3 images"),
        (lambda g: torch.randn((), generator=g), r"shape \(\) for 3 images"),
        (lambda g: torch.multinomial(torch.ones(3), 3, generator=g), "multinomial"),
    ],
)
def test_noise_without_a_row_for_each_image_is_refused(
    draw: Callable[[torch.Generator], torch.Tensor], told: str
) -> None:
    with pytest.raises(UserError, match=told):
        split(draw)


def test_a_sampler_that_ignores_its_generator_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    of = source(needs_labels=False)
    monkeypatch.setattr(of.method, "sample", lambda n, **_: torch.zeros(n, *SHAPE))
    with pytest.raises(UserError, match="draws nothing from the generator"):
        list(draw_images(of, [0], 4))


def test_one_seed_in_two_classes_is_two_images(call: Bench, tmp_path: Path) -> None:
    done = call("dlsm-seed0", "--seeds", "1,1", "--labels", "2,7", "--out", "x")
    assert done.returncode == 0, done.stderr
    found = [path.read_bytes() for path in sorted((tmp_path / "x").glob("*.png"))]
    assert len({*found}) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_classes_are_those_given_or_of_the_seed() -> None:
    of = source()
    ((_, given),) = draw_images(of, [4, 5], 4, [1, 0])
    assert given is not None
    assert given.tolist() == [1, 0]
    by_seed = [class_of(of, seed) for seed in range(200)]
    # Classes 0 and 1 are half of the data each, and 2 is not in them.
    assert 70 < sum(by_seed) < 130
    assert set(by_seed) == {0, 1}
    found = [labels for _, labels in draw_images(of, range(6), 4)]
    assert np.concatenate([x for x in found if x is not None]).tolist() == by_seed[:6]


# The files ----------------------------------------------------------------------------------------


@pytest.fixture
def call(smoke: Path, call_bench: Bench) -> Bench:
    """Draw from the finished study."""

    def draw(cell: str, *more: str) -> Any:
        return call_bench(
            "draw", f"digits-smoke/{cell}", *more, "--results", str(smoke / "results")
        )

    return draw


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)))


def test_a_folder_an_archive_and_a_grid_hold_the_same(call: Bench, tmp_path: Path) -> None:
    labels = ("--labels", "3,3,7")
    for more in (("--n", "5", "--out", "x.zip"), ("--seeds", "4,2", "--out", "x")):
        done = call("dlsm-seed0", *labels, *more)
        assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(tmp_path / "x.zip") as archive:
        packed = {name: archive.read(name) for name in archive.namelist()}
    classes = (3, 3, 7, 3, 3)
    names = [f"seed{seed:06d}-class{label}.png" for seed, label in enumerate(classes)]
    assert list(packed) == [*names, "dataset.json"]
    told = dict(json.loads(packed["dataset.json"])["labels"])
    assert list(told.values()) == [3, 3, 7, 3, 3]
    loose = {path.name: path.read_bytes() for path in (tmp_path / "x").iterdir()}
    # Classes are taken in turn: seed 4 is of class 3 in both, and 2 of another.
    assert loose.keys() == {names[4], "seed000002-class3.png", "dataset.json"}
    assert loose[names[4]] == packed[names[4]]
    done = call("dlsm-seed0", *labels, "--n", "5", "--out", "x.png")
    assert done.returncode == 0, done.stderr
    first = pixels(packed[names[0]])
    grid = pixels((tmp_path / "x.png").read_bytes())
    assert first.shape == (8, 8)
    scale = (grid.shape[0] - 6) // 16
    assert np.array_equal(grid[: 8 * scale : scale, : 8 * scale : scale].reshape(8, 8, -1)[..., 0],
                          first)  # fmt: skip


def test_what_is_drawn_can_be_measured(call: Bench, tmp_path: Path) -> None:
    """The archive is one of images with labels as our own loading reads it."""
    from bench.data import load

    assert call("dlsm-seed0", "--n", "4", "--labels", "1", "--out", "x.zip").returncode == 0
    found = load("images", path=tmp_path / "x.zip", cache=tmp_path / "cache", size=8)
    assert len(found.train.images) == 4


@pytest.mark.parametrize(
    ("cell", "more", "told"),
    [
        ("sde-seed0", ("--labels", "1", "--out", "x"), "'sde' draws without labels"),
        ("dlsm-seed0", ("--labels", "10", "--out", "x"), "classes are 0 to 9"),
        ("dlsm-seed0", ("--labels", "a", "--out", "x"), "write numbers of classes as 3,3,7"),
        ("sde-seed0", ("--n", "0", "--out", "x"), "n"),
        ("sde-seed0", ("--n", "2", "--seeds", "1", "--out", "x"), "give one of them"),
        ("sde-seed0", ("--seeds", "1,1", "--out", "x"), "name an image twice"),
        ("dlsm-seed0", ("--seeds", "1,1", "--labels", "2,2", "--out", "x"), "an image twice"),
        ("sde-seed0", ("--out", "x.jpg"), "give a folder, a FILE.zip"),
        ("sde-seed0", ("--n", "4097", "--out", "x.PNG"), "a grid holds 4096 images"),
        ("nosuch", ("--out", "x"), "give a cell as STUDY/CELL"),
        ("sde-seed0", ("--out", "here"), "is there already"),
        ("sde-seed0", ("--out", "here/a.txt/x"), "cannot be written"),
    ],
)
def test_what_cannot_be_drawn_gets_one_line(
    call: Bench, tmp_path: Path, cell: str, more: tuple[str, ...], told: str
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "a.txt").write_text("mine")
    done = call(cell, *more)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert told in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here"]
    assert (tmp_path / "here" / "a.txt").read_text() == "mine"


def test_every_method_is_drawn_above() -> None:
    """A new one is to be added there."""
    assert {*registry.BUILTIN} == {"sde", "cdm", "dlsm", "smm"}
