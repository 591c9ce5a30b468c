"""``bench evaluate`` and ``bench reference``: cells again, samples and statistics of others."""

from __future__ import annotations

import json
import re
import shutil
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from bench import metrics
from bench.cli import main
from bench.config.errors import UserError
from bench.metrics import features
from bench.records import record
from bench.records.record import Record, Value
from bench.report.plots import write as plots
from bench.report.study_report import StudyReport

from .fake_study import table

CELL = "dlsm-seed0"
OF_ALL = ("fd", "kd", "is", "precision", "recall", "density", "coverage")


@pytest.fixture
def results(smoke: Path, tmp_path: Path) -> Path:
    """A results folder with a small study of conditional and unconditional methods."""
    leave = shutil.ignore_patterns("cdm-*", "smm-*", "*-seed1", "mlflow*")
    shutil.copytree(smoke / "results" / "digits-smoke", tmp_path / "results" / "s", ignore=leave)
    return tmp_path / "results"


@pytest.fixture
def bench(
    results: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str, str]]:
    """Run a command on the results; return exit code, output and errors. Nothing is drawn."""
    monkeypatch.setattr(plots, "write_plots", lambda *_, **__: [])

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([*map(str, arguments), "--results", str(results), "--device", "cpu"])
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


def load(results: Path, cell: str = CELL) -> Record:
    row = record.load(results / "s" / cell)
    assert row is not None
    return row


def samples(results: Path, cell: str = CELL) -> tuple[np.ndarray, np.ndarray | None]:
    with np.load(results / "s" / cell / "samples.npz") as stored:
        return stored["images"], stored.get("labels")


class Tiny(nn.Module):
    """A network of the user's own: 4 features, and no classes."""

    def forward(self, images: Tensor) -> Tensor:
        x = images.float()
        return torch.stack([x.mean((1, 2, 3)), x.std((1, 2, 3)), x[:, 0, 4, 4], x[:, 0, 2, 2]], 1)


@pytest.fixture
def tiny(tmp_path: Path) -> list[object]:
    """Options that bring a network of the user's own."""
    path = tmp_path / "tiny.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch would rather have other formats.
        torch.jit.script(Tiny()).save(str(path))
    return ["--extractor", "tiny", "--weights", f"tiny={path}"]


def measured(values: dict[str, Value]) -> dict[str, float]:
    return {name: value.value for name, value in values.items()}


def write_folder(place: Path, images: np.ndarray, labels: np.ndarray | None = None) -> Path:
    for index, image in enumerate(images):
        folder = place if labels is None else place / str(labels[index])
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0]).save(folder / f"{index:05}.png")
    return place


# Cells --------------------------------------------------------------------------------------------


def test_features_are_enough(
    results: Path,
    bench: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Metrics left out of a record come back as they were, with no image seen again."""
    before = load(results)
    kept = {name: before.metrics[name] for name in ("fd_digits_100", "cas_digits_100")}
    record.save(before.model_copy(update={"metrics": kept}), results / "s" / CELL)

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("looked at the samples again")

    monkeypatch.setattr(features, "extract", refuse)
    monkeypatch.setattr(metrics, "measure_anchors", lambda *_, **__: {})
    code, _, _ = bench("evaluate", f"s/{CELL}", "--metrics", "kid,precision,recall,fdc")
    assert code == 0
    after = load(results).metrics
    families = ("kd", "precision", "recall", "fdc")
    assert after.keys() - kept.keys() == {f"{family}_digits_100" for family in families}
    assert all(after[name] == before.metrics[name] for name in after)


def test_older_cells_get_their_error_within_the_seed(
    results: Path, bench: Callable[..., tuple[int, str, str]]
) -> None:
    name = "fd_digits_100"
    before = load(results)
    value = before.metrics[name]
    assert value.error is not None
    assert value.corrected is not None
    assert 0 < value.error < value.value
    assert value.corrected < value.value
    bare = value.model_copy(update={"error": None, "corrected": None})
    older = before.model_copy(update={"metrics": before.metrics | {name: bare}})
    record.save(older, results / "s" / CELL)
    code, printed, _ = bench("evaluate", f"s/{CELL}", "--metrics", "fd")
    assert code == 0
    assert load(results).metrics[name] == value
    assert f"(se {value.error:.2g})"[:6] in printed


def test_another_extractor_adds_its_columns(
    results: Path, bench: Callable[..., tuple[int, str, str]], tiny: list[object]
) -> None:
    code, out, err = bench("evaluate", "s", *tiny, "--metrics", "fd,kd,is")
    assert code == 0
    for cell in (CELL, "sde-seed0"):
        assert {"fd_tiny_100", "kd_tiny_100"} <= load(results, cell).metrics.keys()
        assert (results / "s" / cell / "features-tiny.npz").exists()
    rows = record.read_anchors(results / "s").rows
    assert "fd_tiny_100" in rows[metrics.NOISE]
    assert "fd_digits_100" in rows[metrics.HELD_OUT]
    assert "fd_tiny_100" in rows[metrics.HELD_OUT]
    assert "fd_tiny_100 ↓" in out
    assert "no is_tiny_100: extractor 'tiny' tells no classes" in err
    provenance = load(results).metrics["fd_tiny_100"].provenance
    own = load(results).metrics["fd_digits_100"].provenance
    assert provenance["extractor"] == "tiny"
    for key in ("sampling_seed", "nfe", "sampler", "ema", "precision"):
        assert provenance[key] == own[key]
    assert own["ema"].keys() == {"denoiser", "classifier"}
    # And the study is done as it was.
    options = ["--methods", "dlsm,sde", "--preset", "smoke", "--study", "s", "--dry-run"]
    code, out, _ = bench("run", *options)
    assert code == 0
    assert out.count("reuse (done)") == 2


def test_features_of_other_images_are_not_taken(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = results / "s" / CELL
    images, _ = samples(results)
    extractor = metrics.extractors.load("digits", device="cpu", cache=results / "cache")
    path = features.features_file(folder, "digits")
    assert features.stored(path, extractor, images) is not None
    assert features.stored(path, extractor, images[::-1]) is None
    assert features.stored(path, extractor, images[:50]) is None
    monkeypatch.setattr(features, "PROTOCOL", "another")
    assert features.stored(path, extractor, images) is None
    monkeypatch.undo()
    assert features.stored(path, extractor, images) is not None
    path.write_bytes(path.read_bytes()[:1000])
    assert features.stored(path, extractor, images) is None


# Images made elsewhere ----------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["folder", "zip", "npz"])
def test_a_cells_own_samples_measure_the_same_from_outside(
    results: Path, bench: Callable[..., tuple[int, str, str]], tmp_path: Path, form: str
) -> None:
    images, labels = samples(results)
    path = tmp_path / f"theirs.{form}"
    if form == "npz":
        np.savez(path, arr_0=images.transpose(0, 2, 3, 1), arr_1=labels)
    else:
        assert labels is not None
        folder = write_folder(tmp_path / "folder", images, labels)
        path = folder if form == "folder" else pack(folder, path, labels)
    arguments = ["--dataset", "digits", "--preset", "smoke", "--format", "json"]
    code, out, _ = bench("evaluate", path, *arguments)
    assert code == 0
    found = {name: body["value"] for name, body in json.loads(out).items()}
    own = measured(load(results).metrics)
    # The order of the images decides which split of the score and which batch they are in.
    ordered = {"is_digits_100", "cas_digits_100"}
    assert found.keys() == own.keys() - {"violation"}
    for name in found.keys() - ordered:
        assert found[name] == pytest.approx(own[name], rel=1e-5, abs=1e-9), name
    provenance = json.loads(out)["fd_digits_100"]["provenance"]
    assert provenance["samples"] == path.name
    assert len(provenance["samples_sha256"]) == 64


def pack(folder: Path, path: Path, labels: np.ndarray) -> Path:
    rows = []
    with zipfile.ZipFile(path, "w") as archive:
        for index, label in enumerate(labels):
            name = f"{index:05}.png"
            archive.write(folder / str(label) / name, name)
            rows.append([name, int(label)])
        archive.writestr("dataset.json", json.dumps({"labels": rows}))
    return path


def test_a_part_of_many_images_is_taken_at_random(
    results: Path, bench: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    images, _ = samples(results)
    path = tmp_path / "many.npz"
    np.savez(path, arr_0=np.concatenate([images, 255 - images]).transpose(0, 2, 3, 1))
    arguments = ["evaluate", path, "--dataset", "digits", "--preset", "smoke", "--format", "json"]
    few = json.loads(bench(*arguments, "--samples", 100)[1])
    assert json.loads(bench(*arguments, "--samples", 100)[1]) == few
    assert few["fd_digits_100"]["provenance"]["given"] == 200
    # Not the first hundred, which alone are the cell's.
    assert few["fd_digits_100"]["value"] != pytest.approx(
        measured(load(results).metrics)["fd_digits_100"], rel=0.01
    )
    assert "accuracy_digits_100" not in few
    assert set(json.loads(bench(*arguments)[1])) == {f"{family}_digits_200" for family in OF_ALL}


def test_images_from_elsewhere_become_a_row_without_costs(
    results: Path, bench: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    images, _ = samples(results)
    write_folder(tmp_path / "theirs", images)
    for seed in (0, 1):
        code, out, _ = bench("evaluate", tmp_path / "theirs", "--as", "edm", "--seed", seed)
        assert code == 0
    row = next(line for line in out.splitlines() if line.startswith("| edm"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    own = measured(load(results).metrics)["fd_digits_100"]
    assert cells[:2] == ["edm", "2/2"]
    assert float(cells[2]) == pytest.approx(own, rel=1e-3)
    head = next(line for line in out.splitlines() if line.startswith("| method"))
    names = [cell.strip() for cell in head.strip("|").split("|")]
    assert set(cells[names.index("NFE") :]) == {"—"}
    assert "edm: samples from" in out
    assert "not ranked" in out
    study = results / "s"
    assert StudyReport.read(study).levels("fd_digits_100")["edm"] == pytest.approx(own)
    assert (study / "foreign" / "edm-seed0" / "grid.png").exists()
    assert len(json.loads(table(study, "json"))["foreign"]) == 2
    # It is no cell: the study's plan, its ranks and the curve leave it alone.
    assert StudyReport.read(study).frame["kind"].value_counts()["foreign"] == 2
    assert "Seeds: 1 finished per method" in out


def test_rows_from_elsewhere_get_new_columns_too(
    results: Path,
    bench: Callable[..., tuple[int, str, str]],
    tiny: list[object],
    tmp_path: Path,
) -> None:
    images, _ = samples(results)
    path = write_folder(tmp_path / "x", images)
    assert bench("evaluate", path, "--as", "edm")[0] == 0
    folder = results / "s" / "foreign" / "edm-seed0"
    assert bench("evaluate", f"s/{CELL}", *tiny, "--metrics", "fd")[0] == 0
    row = record.load(folder)
    assert row is not None
    own = measured(load(results).metrics)["fd_tiny_100"]
    assert measured(row.metrics)["fd_tiny_100"] == pytest.approx(own, rel=1e-6)
    # What lies there now is something else: the row stays as it is, and says so.
    write_folder(path, 255 - images)
    code, _, err = bench("evaluate", "s", "--metrics", "kd")
    assert code == 0
    assert "edm-seed0 keeps the metrics that it has" in err
    assert "other images" in err
    again = record.load(folder)
    assert again is not None
    assert again.metrics == row.metrics
    shutil.rmtree(path)
    assert "edm-seed0 keeps" in bench("evaluate", "s", "--metrics", "kd")[2]


def test_what_is_known_of_foreign_images_stays_with_them(
    results: Path, bench: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    images = np.concatenate([samples(results)[0]] * 2)[:120]
    folder = tmp_path / "jpeg"
    folder.mkdir()
    for index, image in enumerate(images):
        Image.fromarray(image[0]).save(folder / f"{index:05}.jpg")
    code, out, _ = bench("evaluate", folder, "--as", "edm")
    assert code == 0
    (note,) = [line for line in out.splitlines() if line.startswith("- edm: ")]
    assert "100 of the 120 images were taken, at random" in note
    assert "JPEG" in note
    row = record.load(results / "s" / "foreign" / "edm-seed0")
    assert row is not None
    told = row.metrics["fd_digits_100"].provenance["samples_notes"]
    assert any("JPEG" in line for line in told)


def test_what_cannot_be_had_is_named_where_it_is_asked_for(
    results: Path, bench: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    path = write_folder(tmp_path / "x", samples(results)[0])
    asked = ["evaluate", path, "--dataset", "digits", "--preset", "smoke"]
    code, out, err = bench(*asked, "--metrics", "fd,accuracy,fdc,cas,sw2,modes")
    assert code == 0
    assert "fd_digits_100" in out
    for name in ("accuracy_digits_100", "fdc_digits_100", "cas_digits_100"):
        assert f"no {name}: the samples have no labels" in err
    assert "no sw2_digits_100, modes_digits_100: they are of points" in err
    # Of all metrics, what such images never have needs no word.
    assert "no accuracy" not in bench(*asked)[2]
    code, _, err = bench(*asked, "--samples", "4", "--metrics", "fd,recall")
    assert "no recall_digits_4: neighbours need 6 images" in err
    assert "precision" not in err


def test_one_file_holds_the_statistics_of_one_extractor(
    bench: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    arguments = ["--dataset", "digits", "--extractor", "digits,efflite0"]
    code, _, err = bench("reference", tmp_path / "x.npz", *arguments)
    assert code == 2
    assert "digits,efflite0" in err
    assert not (tmp_path / "x.npz").exists()


def test_a_study_keeps_to_its_data(
    results: Path, bench: Callable[..., tuple[int, str, str]]
) -> None:
    path = results / "s" / "study.yaml"
    text = path.read_text()
    (digest,) = re.findall(r"data_sha256: (\w+)", text)
    path.write_text(text.replace(digest, "f" * 64))
    before = load(results)
    code, _, err = bench("evaluate", "s", "--metrics", "fd")
    assert code == 2
    assert "not those that the study was run on" in err
    assert load(results) == before


def test_a_row_measured_against_other_data_is_refused(
    results: Path,
    bench: Callable[..., tuple[int, str, str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    images, _ = samples(results)
    assert bench("evaluate", write_folder(tmp_path / "x", images), "--as", "edm")[0] == 0
    folder = results / "s" / "foreign" / "edm-seed0"
    row = record.load(folder)
    assert row is not None
    value = row.metrics["fd_digits_100"]
    changed = value.model_copy(update={"provenance": value.provenance | {"data_sha256": "0" * 64}})
    record.save(row.model_copy(update={"metrics": {"fd_digits_100": changed}}), folder)
    assert main(["table", "s", "--results", str(results)]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert "data_sha256" in told.err
    assert "edm-seed0" in told.err
    with pytest.raises(UserError, match="data_sha256"):
        StudyReport.read(results / "s")
    # Measured again, it compares.
    assert bench("evaluate", "s", "--metrics", "fd")[0] == 0
    assert main(["table", "s", "--results", str(results)]) == 0


def few(tmp_path: Path, results: Path) -> list[object]:
    images, _ = samples(results)
    return [write_folder(tmp_path / "few", images[:20]), "--as", "edm"]


def large(tmp_path: Path, results: Path) -> list[object]:
    images = np.zeros((20, 1, 16, 16), np.uint8)
    return [write_folder(tmp_path / "large", images), "--dataset", "digits", "--preset", "smoke"]


def one(tmp_path: Path, results: Path) -> list[object]:
    return [write_folder(tmp_path / "one", np.zeros((1, 1, 8, 8), np.uint8))]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (few, ["20 images", "100 are measured"]),
        (large, ["16x16", "8x8"]),
        (lambda t, r: [*one(t, r)], ["--dataset", "digits"]),
        (lambda t, r: [*one(t, r), "--as", "sde"], ["--as 'sde'", "no method's name"]),
        (lambda t, r: [*one(t, r), "--as", "a/b"], ["--as 'a/b'"]),
        (lambda t, r: [*one(t, r), "--as", "noise"], ["--as 'noise'", "nor an anchor's"]),
        (lambda t, r: [*one(t, r), "--dataset", "gmm2d"], ["points, not images"]),
        (lambda t, r: [*one(t, r), "--dataset", "digts"], ["digts", "did you mean 'digits'"]),
        (lambda t, r: ["nowhere"], ["'nowhere'", "no study or cell"]),
        (lambda t, r: ["s", "--metrics", "fod"], ["fod", "did you mean"]),
        (lambda t, r: ["s", "--metrics", ""], ["--metrics"]),
        (lambda t, r: ["s", "--as", "edm"], ["--as", "leave it out for cells"]),
        (lambda t, r: ["s", "--dataset", "mnist"], ["is of digits, not mnist"]),
        (lambda t, r: ["s", "--extractor", "vgg"], ["vgg", "efflite0"]),
        (lambda t, r: ["s", "--weights", "digits=nofile"], ["digits=nofile", "no such file"]),
        (lambda t, r: ["s", "--weights", f"my={t}"], ["'my' is not in use, only digits"]),
        (lambda t, r: ["s", "--reference", "x.npz"], ["--reference", "would not compare"]),
        (
            lambda t, r: [*one(t, r), "--as", "edm", "--reference", "x.npz"],
            ["--reference", "would not compare"],
        ),
        (
            lambda t, r: [*few(t, r)[:1], "--dataset", "digits", "--metrics", "accuracy,fdc,cas"],
            ["none of what was asked for"],
        ),
    ],
)
def test_bad_input_is_one_line(
    results: Path,
    bench: Callable[..., tuple[int, str, str]],
    tmp_path: Path,
    arguments: Callable[[Path, Path], list[object]],
    told: list[str],
) -> None:
    before = load(results)
    code, out, err = bench("evaluate", *arguments(tmp_path, results))
    assert (code, out) == (2, "")
    lines = [line for line in err.splitlines() if line.startswith("bench: ")]
    assert len(lines) == 1
    assert "Traceback" not in err
    for text in told:
        assert text in lines[0]
    assert load(results) == before
    assert not (results / "s" / "foreign").exists()


def test_an_unfinished_cell_is_refused(
    results: Path, bench: Callable[..., tuple[int, str, str]]
) -> None:
    row = load(results).model_copy(update={"status": record.Status.KILLED})
    record.save(row, results / "s" / CELL)
    code, _, err = bench("evaluate", f"s/{CELL}")
    assert code == 2
    assert "it is killed" in err
    # As a study, the others are measured.
    assert bench("evaluate", "s", "--metrics", "fd")[0] == 0


def test_lost_samples_are_named(results: Path, bench: Callable[..., tuple[int, str, str]]) -> None:
    (results / "s" / CELL / "samples.npz").write_bytes(b"PK")
    code, _, err = bench("evaluate", f"s/{CELL}")
    assert code == 2
    assert "samples.npz" in err


# Statistics made elsewhere ------------------------------------------------------------------------


def test_exported_statistics_give_the_same_distance(
    results: Path, bench: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    file = tmp_path / "digits.npz"
    code, out, _ = bench("reference", file, "--dataset", "digits", "--preset", "smoke")
    assert code == 0
    assert "1297 digits images by digits" in out
    images = write_folder(tmp_path / "x", samples(results)[0])
    options = ["--dataset", "digits", "--preset", "smoke", "--format", "json"]
    code, out, err = bench("evaluate", images, *options, "--reference", file)
    assert code == 0
    found = json.loads(out)
    assert found["fd_digits_100"]["value"] == pytest.approx(
        measured(load(results).metrics)["fd_digits_100"], rel=1e-6
    )
    provenance = found["fd_digits_100"]["provenance"]
    assert provenance["reference_split"] == "imported"
    assert len(provenance["reference_sha256"]) == 64
    assert provenance["reference_data"] == "digits"
    assert provenance["reference_data_sha256"] == provenance["data_sha256"]
    assert provenance["reference_data_split"] == "train"
    assert "kd_digits_100" not in found
    assert "no kd_digits_100: imported statistics hold no features" in err


def test_foreign_layouts_are_read(tmp_path: Path) -> None:
    """EDM's and clean-fid's files hold mu and sigma and nothing else that we need."""
    path = tmp_path / "edm.npz"
    np.savez(path, mu=np.arange(3.0), sigma=np.eye(3, dtype=np.float32), extra=np.array("x"))
    found = metrics.references.read_statistics(path)
    assert (found.n, found.told) == (None, {})
    assert found.sigma.dtype == np.float64


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"mu": np.zeros(3)}, "sigma"),
        ({"mu": np.zeros(3), "sigma": np.eye(4)}, "do not belong together"),
        ({"mu": np.full(3, np.nan), "sigma": np.eye(3)}, "not finite"),
        ({"mu": np.zeros(3), "sigma": np.triu(np.ones((3, 3)))}, "not symmetric"),
        ({"mu": np.zeros(3), "sigma": np.eye(3)}, "3 features and extractor 'digits' 64"),
        (
            {"mu": np.zeros(64), "sigma": np.eye(64), "extractor_sha256": np.array("ab")},
            "sha256 'ab'",
        ),
        (
            {"mu": np.zeros(64), "sigma": np.eye(64), "resize": np.array("legacy")},
            "made with resize 'legacy'",
        ),
        ({"mu": np.zeros(3), "sigma": -np.eye(3)}, "negative eigenvalues"),
        ({"mu": np.array([None]), "sigma": np.eye(1)}, "no statistics"),
        (None, "no statistics"),
    ],
)
def test_wrong_statistics_are_refused(
    results: Path,
    bench: Callable[..., tuple[int, str, str]],
    tmp_path: Path,
    content: dict[str, np.ndarray] | None,
    told: str,
) -> None:
    path = tmp_path / "wrong.npz"
    if content is None:
        path.write_bytes(b"PK not a zip")
    else:
        np.savez(path, **content)  # type: ignore[arg-type]
    images = write_folder(tmp_path / "x", samples(results)[0])
    options = ["--dataset", "digits", "--preset", "smoke", "--reference", path]
    code, out, err = bench("evaluate", images, *options)
    assert (code, out) == (2, "")
    assert told in err
