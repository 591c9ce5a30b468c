"""The smallest inputs: nothing, one and two of what each option takes; a value or one line."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bench.cli import main
from bench.commands.evaluate import measuring
from bench.commands.settings import resolve_settings
from bench.config import UserError, choose_preset, one_line
from bench.data import Dataset, Split, load
from bench.metrics import classification_score, evaluation, extractors, references
from bench.metrics.protocol import FAMILIES

from .conftest import Bench
from .fake_study import write_study

OPTIONS = {
    "run": "methods dataset preset data seeds budget set device jobs timeout memory weights "
    "reference rerun study results",
    "sample": "study cells samplers nfe samples jobs timeout results",
    "time": "study cells rounds batch results",
    "evaluate": "path metrics dataset samples as seed study reference format extractor preset data "
    "weights device results",
    "reference": "file dataset extractor results",
    "sensitivity": "dataset samples into data",
    "reproduce": "record data results",
    "compare": "one other format results",
    "table": "study format results",
    "plot": "study results",
    "sync": "study results",
    "ui": "port results",
    "new": "name into",
    "check": "methods dataset preset",
    "data prepare": "dataset data preset results",
}


@pytest.mark.parametrize("command", OPTIONS)
def test_an_empty_value_is_no_value(
    command: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An empty path would be the present folder, an empty name whatever is usual."""
    monkeypatch.chdir(tmp_path)
    for option in OPTIONS[command].split():
        for given in ([f"--{option}", ""], [f"--{option}="]):
            assert main([*command.split(), *given]) == 2
            said = capsys.readouterr().err
            assert said == f"bench: --{option} '': give a value, or leave it out\n"
    assert main([*command.split(), ""]) == 2
    assert "an argument '': give a value" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


FEW = {
    ("run", "jobs"): 1, ("run", "timeout"): 1e-9, ("sample", "samples"): 2, ("sample", "nfe"): 1,
    ("sample", "jobs"): 1, ("sample", "timeout"): 1e-9, ("time", "rounds"): 6,
    ("time", "batch"): 1, ("evaluate", "samples"): 2, ("sensitivity", "samples"): 2,
    ("ui", "port"): 1,
}  # fmt: skip
"""The least that an option takes."""


@pytest.mark.parametrize(("command", "option"), FEW, ids=str)
def test_what_is_less_than_the_least_is_one_line(
    command: str, option: str, call_bench: Bench, tmp_path: Path
) -> None:
    write_study(tmp_path / "results" / "s", ("sde",), (0,), failed=None)
    place = {"evaluate": ["x.npz", "--dataset", "digits"], "sensitivity": ["--dataset", "digits"]}
    for number in (-1, 0, 1, 2):
        if number < FEW[command, option]:
            done = call_bench(command, *place.get(command, []), f"--{option}={number}")
            assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
            assert f"--{option} " in done.stderr


# -- few images ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return load("digits", cache=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def measures(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> evaluation.Evaluator:
    cache = tmp_path_factory.mktemp("measures")
    _, preset = choose_preset("digits", "smoke", "cpu")
    settings = resolve_settings(
        "digits", "smoke", preset, device="cpu", data=None, weights=(), reference=None
    )
    return evaluation.Evaluator.open(settings, digits, device=torch.device("cpu"), cache=cache)


@pytest.mark.parametrize(
    ("count", "family"), sorted({*product([1, 2], FAMILIES)} - {(2, "cas")})
)  # that of two trains as that of more
def test_each_metric_of_few_images_is_a_number_or_a_line(
    measures: evaluation.Evaluator, digits: Dataset, count: int, family: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert digits.train.labels is not None
    images, labels = np.asarray(digits.train.images[:count]), digits.train.labels[:count]
    found = measures.measure(images, labels, families=[family], jackknife=True, insist=True)
    said = capsys.readouterr().err
    assert len(found) == 1 - said.count("\n")
    assert all(np.isfinite(value.value) for value in found.values())
    assert said == "" or said.startswith("no ")


def test_one_image_is_measured_by_what_can_be(call_bench: Bench, tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 7, np.uint8)).save(tmp_path / "one.png")
    (tmp_path / "images").mkdir()
    (tmp_path / "one.png").rename(tmp_path / "images" / "one.png")
    done = call_bench("evaluate", "images", "--dataset", "digits", "--device", "cpu")
    assert done.returncode == 0
    assert "no fd_digits_1: a covariance needs two images or more" in done.stderr
    assert "is_digits_1" in done.stdout


def test_one_sample_trains_no_classifier(digits: Dataset) -> None:
    said: list[str] = []
    images = np.asarray(digits.train.images[:1])
    scored = classification_score.cas(images, np.array([3]), digits, device="cpu", say=said.append)
    assert (scored, said) == ({}, ["no cas_digits_1: a classifier needs two samples or more"])


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_training_images_make_no_reference(
    digits: Dataset, count: int, tmp_path: Path
) -> None:
    few = replace(digits, train=Split(digits.train.images[:count], None), source="here")
    network = extractors.load("digits", device="cpu", weights={}, cache=tmp_path)
    with pytest.raises(UserError, match=rf"from here has {count} training image\(s\)"):
        references.reference(few, network, cache=tmp_path)


# -- words --------------------------------------------------------------------------------------


def test_no_message_tells_where_in_memory_an_object_lies(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert (
        one_line(f"found {object()} and\n {one_line}")
        == "found <object object> and <function one_line>"
    )


NEEDED = {"evaluate": "PATH", "reproduce": "RECORD", "compare a": "OTHER", "new": "NAME"}


@pytest.mark.parametrize("line", NEEDED)
def test_what_is_typed_without_an_option_is_told_without_it(line: str, call_bench: Bench) -> None:
    done = call_bench(*line.split())
    assert f"needs {NEEDED[line]}" in done.stderr
    assert "--" not in done.stderr.replace("`bench --help`", "")


def test_only_options_that_were_given_are_told(call_bench: Bench, tmp_path: Path) -> None:
    """Of a file of images, of a number that is the study's own, and of methods."""
    (tmp_path / "x.txt").touch()
    cases = {
        ("evaluate", "x.txt", "--dataset", "digits", "--device", "cpu"): ("--data", "no"),
        ("check", "sde,sde"): ("--methods", "named twice"),
        ("run", "--set", "cdm.clip=1", "--methods", "sde"): (
            "--methods",
            "no method of this study",
        ),
    }
    for arguments, (option, expected) in cases.items():
        done = call_bench(*arguments)
        assert done.returncode == 2
        assert option not in done.stderr.replace("--dataset", "")
        assert expected in done.stderr


def test_a_number_that_is_the_study_s_own_is_no_option(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = replace(digits, train=Split(digits.train.images[:3], None))
    monkeypatch.setattr(measuring, "load_samples", lambda path, **how: few)
    request: Any = SimpleNamespace(cache=tmp_path, passing=lambda title: nullcontext(print))
    against: Any = SimpleNamespace(dataset=digits)
    for folder, is_option in ((tmp_path, False), (None, True)):
        with pytest.raises(UserError, match="give more images") as caught:
            measuring._measure_given(Path("x"), against, request, wanted=9, folder=folder)
        assert ("--samples" in str(caught.value)) == is_option


@pytest.mark.parametrize("option", ["--as", "--samples", "--study"])
def test_options_of_foreign_images_are_refused_for_cells(
    option: str, call_bench: Bench, tmp_path: Path
) -> None:
    write_study(tmp_path / "results" / "s", ("sde",), (0,), failed=None)
    done = call_bench("evaluate", "s", option, "7")
    assert f"{option} is for images made elsewhere" in done.stderr


def test_a_study_without_a_name_to_add_is_refused(call_bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "x.txt").touch()
    done = call_bench("evaluate", "x.txt", "--dataset", "digits", "--study", "s")
    assert "--study is where --as NAME adds images" in done.stderr
