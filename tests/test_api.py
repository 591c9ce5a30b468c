"""The Python interface: studies, their frames, tables and plots, samples drawn, images measured."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
import torch

import bench
from bench import FailedCellsError, Study
from bench.api import studies
from bench.commands.compare.comparison import EQUAL
from bench.config.errors import UserError
from bench.records.record import Status, load, save

from .fake_study import table, write_study

mpl.use("agg")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A synthetic study: four methods by three seeds, one cell diverged."""
    return bench.open_study(write_study(tmp_path_factory.mktemp("results") / "digits-quick"))


@pytest.fixture(scope="module")
def finished(smoke: Path) -> Study:
    """A study whose networks were trained; not to be changed."""
    return bench.open_study(smoke / "results" / "digits-smoke")


# -- import ---------------------------------------------------------------------------------------


def test_importing_bench_loads_nothing(processes: None) -> None:
    code = (
        "import sys; before = set(sys.modules); import bench; bench.__version__; dir(bench)\n"
        "loaded = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(loaded - sys.stdlib_module_names))\n"
        "assert callable(bench.run) and callable(bench.open_study)\n"
        "assert 'torch' not in sys.modules and 'pandas' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['bench']"


def test_what_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'ran'"):
        bench.ran  # noqa: B018
    assert {"run", "open_study", "evaluate"} <= set(dir(bench))
    assert bench.open_study is studies.open_study


# -- reading --------------------------------------------------------------------------------------


def test_a_study_is_opened_by_folder_and_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_study(tmp_path / "results" / "small", ("sde",), (0,), failed=None)
    monkeypatch.chdir(tmp_path)
    assert bench.open_study("small").folder == Path("results") / "small"
    assert bench.open_study(tmp_path / "results" / "small").frame()["cell"][0] == "sde-seed0"
    with pytest.raises(UserError, match="did you mean 'small'"):
        bench.open_study("smal")


def test_frame_and_curves_are_copies(made: Study) -> None:
    frame = made.frame()
    assert frame["kind"].value_counts().to_dict() == {"cell": 12, "anchor": 2}
    frame["metrics.fd_digits_500"] = 0.0
    assert made.frame()["metrics.fd_digits_500"].max() == 412.0
    curves = made.curves()
    assert list(curves.columns) == [
        "method", "seed", "stage", "images", "seconds", "flops", "name", "value",
    ]  # fmt: skip
    assert set(curves["method"]) == {"sde", "cdm", "dlsm", "smm"}


@pytest.mark.parametrize("format", ["md", "csv", "latex", "json"])
def test_the_table_is_the_commands(made: Study, format: str) -> None:
    assert made.table(format) == table(made.folder, format)


def test_an_unknown_format_is_refused(made: Study) -> None:
    with pytest.raises(UserError, match="did you mean 'latex'"):
        made.table("latx")


@pytest.mark.parametrize("x", ["ms_per_image", "train_flops", "train_seconds", "nfe"])
def test_a_plot_has_a_point_per_method(made: Study, x: str) -> None:
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    assert made.plot("fd_digits_500", x=x, ax=axes) is axes
    labels = axes.get_legend_handles_labels()[1]
    assert sorted(labels) == ["cdm", "dlsm", "sde", "smm"]
    heights = {line.get_label(): line.get_ydata()[0] for line in axes.lines}
    summary = made.report.summary.set_index("method")
    assert heights["cdm"] == summary.loc["cdm", "metrics.fd_digits_500"]


def test_a_plot_of_what_is_not_there_is_refused(made: Study) -> None:
    from matplotlib import pyplot

    with pytest.raises(UserError, match="fd_digits_50"):
        made.plot("fd_digits_5")
    with pytest.raises(UserError, match="train_flops"):
        made.plot("fd_digits_500", x="flops")
    assert made.plot("fd_digits_500").get_legend() is not None
    pyplot.close("all")


def test_a_notebook_shows_table_and_grid(made: Study) -> None:
    text = made._repr_html_()
    assert text.count("<tr>") == 1 + 4 + 2
    assert "fd_digits_500 ↓" in text
    assert "data:image/png;base64,iVBOR" in text
    assert repr(made) == f"Study({str(made.folder)!r})"


def test_two_studies_are_compared(made: Study, tmp_path: Path) -> None:
    other = write_study(tmp_path / "again", failed=None)
    found = made.compare(other)
    assert any(row.what.startswith("fd_digits_500") for row in found.of(EQUAL))
    assert made.comparison_table(other).startswith(f"A: {made.folder}\nB: {other}\n")
    with pytest.raises(UserError, match="same study twice"):
        made.compare(made)


def test_a_cell_has_its_record(made: Study) -> None:
    cell = made.cell("sde", 1)
    assert cell.folder == made.folder / "sde-seed1"
    assert cell.record.metrics["fd_digits_500"].value == pytest.approx(6.1)
    with pytest.raises(UserError, match="cell 'sde with seed 7'"):
        made.cell("sde", 7)


# -- drawing --------------------------------------------------------------------------------------


def kept(study: Study, cell: str) -> np.ndarray:
    with np.load(study.folder / cell / "samples.npz") as stored:
        return stored["images"]


@pytest.mark.parametrize("method", ["sde", "smm", "dlsm"])
def test_samples_are_the_cells_own_to_the_bit(finished: Study, method: str) -> None:
    own = kept(finished, f"{method}-seed0")
    torch.manual_seed(5)
    before = torch.get_rng_state(), random.getstate(), torch.get_num_threads()
    drawn = finished.cell(method, 0).samples(12)
    assert (drawn.dtype, drawn.shape) == (np.uint8, (12, 1, 8, 8))
    assert np.array_equal(drawn, own[:12])
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), torch.get_num_threads()) == before[1:]


def test_labels_choose_what_is_drawn(finished: Study) -> None:
    cell = finished.cell("dlsm", 0)
    zeros, again = cell.samples(6, labels=0), cell.samples(6, labels=[0] * 6)
    assert np.array_equal(zeros, again)
    mixed = cell.samples(6, labels=np.array([0, 0, 0, 9, 9, 9]))
    assert np.array_equal(mixed[:3], zeros[:3])
    assert not np.array_equal(mixed[3:], zeros[3:])


@pytest.mark.parametrize(
    ("method", "n", "labels", "told"),
    [
        ("dlsm", 4, [0, 1], "give one class, or 4 of them"),
        ("dlsm", 4, 10, "classes are 0 to 9"),
        ("dlsm", 4, -1, "classes are 0 to 9"),
        ("dlsm", 4, 0.5, "whole numbers"),
        ("sde", 4, 1, "draws without labels"),
        ("sde", 0, None, "at least one"),
    ],
)
def test_what_cannot_be_drawn_is_refused(
    finished: Study, method: str, n: int, labels: object, told: str
) -> None:
    with pytest.raises(UserError, match=told):
        finished.cell(method, 0).samples(n, labels=labels)  # type: ignore[arg-type]


def test_a_cell_without_a_result_draws_nothing(smoke_copy: Path) -> None:
    record = load(smoke_copy / "sde-seed0")
    assert record is not None
    save(record.model_copy(update={"status": Status.FAILED}), smoke_copy / "sde-seed0")
    with pytest.raises(UserError, match="sde-seed0: it is not finished but failed"):
        bench.open_study(smoke_copy).cell("sde").samples(1)


# -- running and measuring ------------------------------------------------------------------------

QUICK = {"preset": "smoke", "device": "cpu", "tracking": False}


def test_a_run_is_a_study_and_is_reused(
    tmp_path: Path, forks: None, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = {"methods": "sde", "seeds": [0], "set": {"training.batch": 32}, "results": tmp_path}
    study = bench.run(**asked, **QUICK)
    assert study.folder.parent == tmp_path
    assert (study.folder / "table.md").read_text() == study.table()
    record = study.cell("sde").record
    assert record.status == Status.FINISHED
    assert "batch: 32" in (study.folder / "sde-seed0" / "config.yaml").read_text()
    assert capsys.readouterr() == ("", "")
    assert bench.run(**asked, **QUICK).cell("sde").record == record


def test_failed_cells_are_raised_with_their_study(tmp_path: Path, forks: None) -> None:
    with pytest.raises(FailedCellsError, match="sde-seed0") as caught:
        bench.run("sde", timeout=0.01, results=tmp_path, **QUICK)
    assert caught.value.study.cell("sde").record.status != Status.FINISHED


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"methods": "sd"}, "did you mean 'sde'"),
        ({"dataset": "digit"}, "digits"),
        ({"seeds": "0;1"}, "seeds"),
        ({"seeds": [0, 0]}, "each once"),
        ({"budget": "5"}, "budget"),
        ({"set": {"training.batches": 3}}, "batch"),
        ({"set": {"training.batch": True}}, 'batch = "true"'),
        ({"set": {"training.clip": float("inf")}}, "finite"),
        ({"seeds": "0-9999999999"}, "seeds"),
        ({"seeds": [-1]}, "seed -1"),
        ({"dry_run": True}, "command line"),
    ],
)
def test_bad_options_are_one_line(tmp_path: Path, options: dict[str, object], told: str) -> None:
    with pytest.raises(UserError, match=told) as caught:
        bench.run(**{"results": tmp_path, **QUICK, **options})  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_an_unknown_option_is_a_type_error(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="sedes"):
        bench.run("sde", sedes=1, results=tmp_path)


def test_images_are_measured_as_the_cells_were(finished: Study, tmp_path: Path) -> None:
    own = finished.cell("sde", 0)
    metrics = ("fd", "is")
    names = [name for name in own.record.metrics if name.split("_")[0] in metrics]
    images = kept(finished, "sde-seed0")
    asked = {"metrics": metrics, "preset": "smoke", "device": "cpu"}
    found = bench.evaluate(images, "digits", results=finished.folder.parent, **asked)
    assert sorted(found) == sorted(names)
    for name in names:
        assert found[name].value == own.record.metrics[name].value
        extractor = own.record.metrics[name].provenance["extractor"]
        assert found[name].provenance["extractor"] == extractor
    path = tmp_path / "images.npz"
    np.savez(path, images=images)
    again = bench.evaluate(path, "digits", results=finished.folder.parent, **asked)
    assert {name: value.value for name, value in again.items()} == {
        name: value.value for name, value in found.items()
    }
    with pytest.raises(UserError, match="8"):
        bench.evaluate(np.zeros((4, 3, 5, 5), np.uint8), "digits", results=tmp_path, **asked)
