"""Finished cells drawn again at several values of a setting: `bench sample --sweep`."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

from bench.commands.options import parse_sweep
from bench.config import UserError
from bench.records import nfe_curve
from bench.records.nfe_curve import Curve, Point
from bench.report.plots import sweep as sweep_plots
from bench.report.study_report import StudyReport
from bench.report.summary import mean_interval
from bench.report.sweep_table import render_sweep, swept_settings, write_sweep_tables
from bench.tracking.content import study_files
from methods import registry

from . import fake_study
from .test_curve import OWN, bench, load, stored

pytestmark = pytest.mark.xdist_group("curve")
SWEEP = ("sample", "--sweep", "guidance=0,4", "--no-tracking")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, smoke: Path) -> Path:
    """A baseline, which is not guided, and a guided method, whose guidance was 4."""
    place = tmp_path_factory.mktemp("sweep")
    leave = shutil.ignore_patterns("cdm-*", "smm-*", "*-seed1", "mlflow*")
    shutil.copytree(smoke / "results", place / "results", ignore=leave)
    bench(place, *SWEEP)
    return place / "results" / "digits-smoke"


def test_the_cells_own_value_gives_its_own_metrics(study: Path) -> None:
    own = load(study / "dlsm-seed0")
    none, same = stored(study / "dlsm-seed0").points
    assert (none.swept, same.swept) == ({"guidance": 0}, {"guidance": 4})
    assert same.nfe == own.cost.nfe
    for name, value in same.metrics.items():
        assert value == own.metrics[name], name
    assert none.metrics["fd_digits_100"].value != same.metrics["fd_digits_100"].value
    assert not (study / "sde-seed0" / nfe_curve.FILE).exists()


def test_a_setting_of_the_sampler_is_the_sampler_s(study: Path) -> None:
    bench(study.parent.parent, "sample", "--sweep", "sampler.steps=6,3", "--no-tracking")
    for cell in ("sde-seed0", "dlsm-seed0"):
        own, points = load(study / cell), stored(study / cell).points
        found = {p.swept["sampler.steps"]: p for p in points if "sampler.steps" in p.swept}
        assert {value: p.sampler["steps"] for value, p in found.items()} == {6: 6, 3: 3}
        assert found[6].metrics["fd_digits_100"] == own.metrics["fd_digits_100"]
        assert found[3].nfe == (own.cost.nfe or 0) / 2


def test_again_draws_only_what_is_missing(study: Path) -> None:
    before = stored(study / "dlsm-seed0").points
    told = bench(study.parent.parent, *SWEEP)
    assert "dlsm-seed0: reuse (0 of 2 points to draw)" in told
    assert stored(study / "dlsm-seed0").points == before


def test_sweeps_and_curves_stand_apart(study: Path) -> None:
    assert not (study / "nfe-curve.md").exists()
    frame = pd.read_csv(study / "sweep-guidance.csv")
    assert frame["guidance"].tolist() == [4, 0, 4]
    assert frame["own"].tolist() == [True, False, False]
    text = (study / "sweep-guidance.md").read_text()
    lines = [line.split("|")[1:3] for line in text.splitlines() if line.startswith("| dlsm")]
    assert [value.strip() for _, value in lines] == ["0", "4", "4 (as run)"]
    assert (study / "plots" / "sweep-guidance.png").stat().st_size > 5000
    tables, plots = study_files(study)
    assert "sweep-guidance.md" in {path.name for path in tables}
    assert "sweep-guidance.png" in {path.name for path in plots}


@pytest.mark.parametrize("name", registry.BUILTIN)
def test_no_loss_knows_a_setting_of_sampling(name: str) -> None:
    kind = registry.load(name)
    assert kind.sampling_settings <= set(kind.Config.model_fields)
    assert ("guidance" in kind.sampling_settings) == (name == "dlsm")
    assert ("sampler" in kind.sampling_settings) == (name != "smm")


@pytest.mark.parametrize(
    "text",
    ["guidance", "guidance=", "=1", "guidance=1,x", "guidance=1,1.0", "a..b=1", "guidance=.nan"],
)
def test_what_is_no_sweep_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="write a setting and numbers, each once"):
        parse_sweep(text)


# -- reports -------------------------------------------------------------------------------------


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    """Three seeds of a method at three values; one point of one seed failed."""
    folder = fake_study.write_study(tmp_path / "fake")
    for seed in range(3):
        cell = folder / f"dlsm-seed{seed}"
        points = [
            Point(
                sampler=OWN.model_dump(mode="json"), swept={"guidance": value},
                samples=500, seed=seed, nfe=12.0, ms_per_image=fake_study.interval(0.1, 100),
                metrics=fake_study.values(3 + value + 0.1 * seed, 8.0, None),
            )
            for value in (0, 1, 20)
        ]  # fmt: skip
        if seed == 1:
            points[0] = points[0].model_copy(update={"metrics": {}, "reason": "a | fault"})
        nfe_curve.save(Curve(key=load(cell).key, points=points), cell)
    return folder


def test_seeds_are_joined_with_their_interval(fake: Path) -> None:
    text = render_sweep(StudyReport.read(fake), "guidance")
    rows = [[x.strip() for x in line.split("|")] for line in text.splitlines() if "| dlsm " in line]
    by_value = {row[2]: row for row in rows}
    mean, half, _ = mean_interval([4.0, 4.1, 4.2])
    assert by_value["1"][3] == f"{mean:.2f} ± {half:.2f}"
    assert (by_value["0"][-2], by_value["1"][-2]) == ("2", "3")
    assert "a \\| fault" in text
    assert render_sweep(StudyReport.read(fake), "balance") == ""


def test_a_line_stands_where_its_values_are(fake: Path) -> None:
    (content,) = swept_settings(StudyReport.read(fake))
    figure = sweep_plots.draw(content)
    titles = [axes.get_title().replace("\n", " ") for axes in figure.axes]
    axes = figure.axes[titles.index("Fréchet distance (digits, 500 samples), lower is better")]
    line = next(box.lines[0] for box in axes.containers if box.get_label() == "dlsm")
    assert line.get_xdata() == pytest.approx([0, 1, 20])
    assert line.get_ydata() == pytest.approx([3.1, 4.1, 23.1])
    assert axes.get_xscale() == "symlog"
    assert [text.get_text() for text in axes.get_xticklabels()] == ["0", "1", "20"]


def test_a_sweep_of_failures_is_told_and_not_drawn(fake: Path) -> None:
    for seed in range(3):
        cell = fake / f"dlsm-seed{seed}"
        lost = [p.model_copy(update={"metrics": {}, "reason": "gone"}) for p in stored(cell).points]
        nfe_curve.save(stored(cell).model_copy(update={"points": lost}), cell)
    report = StudyReport.read(fake)
    assert render_sweep(report, "guidance").count("gone") == 9
    assert sweep_plots.write_sweep_plots(report) == []


def test_a_setting_names_no_other_file(fake: Path) -> None:
    path = fake / "dlsm-seed0" / nfe_curve.FILE
    path.write_text(path.read_text().replace('"guidance"', '"../guidance"'))
    with pytest.raises(UserError, match="cannot be read; remove it and sample again"):
        write_sweep_tables(StudyReport.read(fake))


def test_a_study_without_a_sweep_has_no_files_of_it(tmp_path: Path) -> None:
    report = StudyReport.read(fake_study.write_study(tmp_path / "fake"))
    assert write_sweep_tables(report) == []
    assert sweep_plots.write_sweep_plots(report) == []
