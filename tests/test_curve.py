"""Sampling finished cells again: what is drawn, what is kept, and what becomes of faults."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import yaml

from bench import cli
from bench.commands.sample import NFE
from bench.records import nfe_curve, record
from bench.records.nfe_curve import Curve, Point
from bench.records.record import Record, Status
from bench.report import nfe_table
from bench.report.plots import nfe_curve as nfe_plots
from bench.report.study_report import StudyReport
from bench.report.summary import mean_interval
from bench.tracking.content import study_files
from methods import samplers
from methods.samplers import SamplerSettings

from . import fake_study, forking
from .conftest import Bench, bench_here, install_here

SMOKE = ("--dataset", "digits", "--preset", "smoke", "--no-tracking")
pytestmark = pytest.mark.xdist_group("curve")
Sampled = Callable[..., "subprocess.CompletedProcess[str]"]
OWN = SamplerSettings(name="ancestral", steps=6, sigma_min=0.02, sigma_max=20)


@pytest.fixture(autouse=True)
def _nothing_but_curves(no_plots: None) -> None:
    """A study's other pictures are not drawn."""


def bench(place: Path, *arguments: str) -> str:
    """Run the command, which must end well; return what it says on standard error."""
    with forking.forked():
        done = bench_here(place, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stderr


def stored(folder: Path) -> Curve:
    return Curve.model_validate_json((folder / nfe_curve.FILE).read_bytes())


def load(folder: Path) -> Record:
    found = record.load(folder)
    assert found is not None
    return found


def point(folder: Path, sampler: str, steps: int) -> Point:
    (found,) = (
        p
        for p in stored(folder).points
        if (p.sampler["name"], p.sampler["steps"]) == (sampler, steps)
    )
    return found


def rows(text: str) -> dict[tuple[str, str], list[str]]:
    """The first table of a curve's Markdown: by method and sampler, what stands in its columns."""
    lines = [line for line in text.split("\n\n")[1].splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    return {(row[0], row[1]): row[2:] for row in cells}


# -- which points --------------------------------------------------------------------------------


@pytest.mark.parametrize("calls", [1.0, 2.0])
@pytest.mark.parametrize("asked", [1, 2, 5, 10, 35])
@pytest.mark.parametrize("name", samplers.SAMPLERS)
def test_settings_use_as_many_evaluations_as_are_allowed(
    name: str, asked: int, calls: float
) -> None:
    chosen = nfe_curve.settings_for(name, asked, OWN, calls)
    if chosen is None:
        one_step = OWN.model_copy(update={"name": name, "steps": 1})
        assert samplers.nfe(one_step) * calls > asked
        return
    more = chosen.model_copy(update={"steps": chosen.steps + 1})
    assert samplers.nfe(chosen) * calls <= asked < samplers.nfe(more) * calls
    kept = {"name", "steps"}
    assert chosen.model_dump(exclude=kept) == OWN.model_dump(exclude=kept)


def test_a_sampler_keeps_the_cells_own_churn() -> None:
    own = OWN.model_copy(update={"name": "edm_stochastic", "s_churn": 0.0})
    again = nfe_curve.settings_for("edm_stochastic", 11, own, 1.0)
    assert again == own.model_copy(update={"steps": 6})
    from_ancestral = nfe_curve.settings_for("edm_stochastic", 11, OWN, 1.0)
    assert from_ancestral is not None
    assert from_ancestral.s_churn == 30
    chosen = nfe_curve.settings_for(
        "edm_stochastic", 11, OWN.model_copy(update={"s_churn": 5.0}), 1.0
    )
    assert chosen is not None
    assert chosen.s_churn == 5


def test_equal_settings_are_one_point() -> None:
    points = nfe_curve.choose(["heun"], [5, 6, 7], samples=10, seed=0, own=OWN, calls=1.0)
    assert [(p.sampler["steps"], p.asked) for p in points] == [(3, [5, 6]), (4, [7])]


# -- end to end ----------------------------------------------------------------------------------

SAMPLE = ("sample", "--samplers", "ancestral,heun,predictor_corrector", "--nfe", "1,6,12")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, smoke: Path) -> Path:
    """Methods with one network, with two, and without a sampler, sampled again."""
    place = tmp_path_factory.mktemp("curve")
    leave = shutil.ignore_patterns("cdm-*", "*-seed1", "mlflow*")
    shutil.copytree(smoke / "results", place / "results", ignore=leave)
    folder = place / "results" / "digits-smoke"
    before = {path: path.read_bytes() for path in folder.glob("*-seed0/*")}
    bench(place, *SAMPLE, "--no-tracking")
    # The cells stay as they were.
    assert all(path.read_bytes() == content for path, content in before.items())
    assert not list(folder.glob("smm-seed0/nfe-curve*"))
    return folder


@pytest.mark.parametrize("cell", ["sde-seed0", "dlsm-seed0"])
def test_equal_settings_give_the_cells_own_values(study: Path, cell: str) -> None:
    own, again = load(study / cell), point(study / cell, "ancestral", 6)
    assert {"fd_digits_100", "is_digits_100"} <= again.metrics.keys() <= own.metrics.keys()
    assert ("accuracy_digits_100" in again.metrics) == (cell == "dlsm-seed0")
    assert again.nfe == own.cost.nfe
    assert again.nfe_by_network == own.cost.nfe_by_network
    for name, value in again.metrics.items():
        assert value == own.metrics[name], name


def test_every_point_is_counted_and_measured(study: Path) -> None:
    for cell, calls in (("sde-seed0", 1), ("dlsm-seed0", 2)):
        points = stored(study / cell).points
        for found in points:
            assert found.nfe == calls * samplers.nfe(SamplerSettings.model_validate(found.sampler))
            assert found.nfe <= max(found.asked)
            assert {"fd_digits_100", "is_digits_100"} <= found.metrics.keys()
            assert found.metrics["fd_digits_100"].provenance["sampler"] == found.sampler
            assert found.ms_per_image is not None
            assert found.ms_per_image.repeats == 5
        # A single step is the same plain denoise for most samplers.
        several = [found for found in points if found.sampler["steps"] > 1]
        assert len({p.metrics["fd_digits_100"].value for p in several}) == len(several)
    assert stored(study / "sde-seed0").too_few == {"predictor_corrector": [1]}
    too_few = stored(study / "dlsm-seed0").too_few
    assert too_few == {"ancestral": [1], "heun": [1], "predictor_corrector": [1]}


def test_the_table_has_every_line(study: Path) -> None:
    lines = rows((study / "nfe-curve.md").read_text())
    assert lines.pop(("method", "sampler")) == ["as run", "1", "6", "12"]
    assert len(lines) == 7
    own = load(study / "sde-seed0").metrics["fd_digits_100"].value
    assert lines["sde", "ancestral"][0] == f"{own:.4g} (NFE 6)"
    assert lines["sde", "ancestral"][2] == f"{own:.4g}"
    assert lines["sde", "predictor_corrector"][1] == "too few"
    assert lines["dlsm", "heun"][:2] == ["", "too few"]
    assert lines["smm", "—"][0].endswith("(NFE 1)")
    assert lines["smm", "—"][1:] == ["", "", ""]
    frame = pd.read_csv(study / "nfe-curve.csv")
    assert len(frame) == 3 + len(stored(study / "sde-seed0").points) + len(
        stored(study / "dlsm-seed0").points
    )
    assert frame["metrics.fd_digits_100"].notna().all()


def test_the_plot_is_drawn(study: Path) -> None:
    for name in ("fd_digits_100.png", "fd_digits_100.pdf"):
        assert (study / "plots" / f"nfe-curve-{name}").stat().st_size > 5000


def test_again_draws_only_what_is_missing(study: Path) -> None:
    place = study.parent.parent
    before = {path: path.stat().st_mtime_ns for path in study.glob("*-seed0/*")}
    told = bench(place, *SAMPLE, "--no-tracking")
    assert {path: path.stat().st_mtime_ns for path in study.glob("*-seed0/*")} == before
    assert "sde-seed0: reuse (0 of 8 points to draw)" in told

    old = stored(study / "sde-seed0").points
    command = ["sample", "--cells", "sde-seed0", "--samplers", "heun,ipndm", "--nfe", "5,7"]
    told = bench(place, *command, "--no-tracking")
    new = stored(study / "sde-seed0").points
    assert "sde-seed0: sample (3 of 4 points to draw)" in told  # heun's 3 steps are there for 6.
    added = [(p.sampler["name"], p.sampler["steps"]) for p in new[len(old) :]]
    assert added == [("heun", 4), ("ipndm", 5), ("ipndm", 7)]
    assert point(study / "sde-seed0", "heun", 3).asked == [5, 6]
    stripped = [p.model_copy(update={"asked": []}) for p in old]
    assert [p.model_copy(update={"asked": []}) for p in new[: len(old)]] == stripped
    assert (study / "dlsm-seed0" / nfe_curve.FILE).stat().st_mtime_ns == before[
        study / "dlsm-seed0" / nfe_curve.FILE
    ]


def test_other_numbers_of_samples_are_other_metrics(study: Path) -> None:
    place = study.parent.parent
    command = ["sample", "--cells", "sde-seed0", "--samplers", "ancestral", "--nfe", "6"]
    bench(place, *command, "--samples", "40", "--no-tracking")
    few = [p for p in stored(study / "sde-seed0").points if p.samples == 40]
    assert [set(p.metrics) for p in few] == [
        {
            f"{family}_digits_40"
            for family in ("fd", "kd", "is", "precision", "recall", "density", "coverage")
        }
    ]
    assert "fd_digits_40 ↓" in (study / "nfe-curve.md").read_text()


def test_a_stopped_command_keeps_what_it_has(study: Path, forks: None, call_bench: Bench) -> None:
    """Ctrl-C leaves no failures behind, and the same command goes on."""
    asked = ["sample", "--cells", "sde-seed0", "--samplers", "euler", "--nfe", "5,800"]
    asked += ["--results", str(study.parent), "--no-tracking"]
    with forking.command(study.parent.parent, *asked) as process:
        deadline = time.monotonic() + 120
        while stored(study / "sde-seed0").points[-1].sampler["name"] != "euler":
            assert time.monotonic() < deadline
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=60)
        assert process.returncode == 130, rest
    assert point(study / "sde-seed0", "euler", 5).metrics
    assert not list(filter(None, (found.reason for found in stored(study / "sde-seed0").points)))
    asked[asked.index("5,800")] = "5,20"
    done = call_bench(*asked)
    assert done.returncode == 0, done.stderr
    assert "sample (1 of 2 points to draw)" in done.stderr


@pytest.mark.usefixtures("forks")
def test_one_option_of_run_draws_the_default_curve(tmp_path: Path, call_bench: Bench) -> None:
    done = call_bench(
        "run", "--methods", "sde,smm", "--dataset", "gmm2d", "--preset", "smoke", "--no-tracking",
        "--curve",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "results" / "gmm2d-smoke"
    points = stored(folder / "sde-seed0").points
    assert {p.sampler["name"] for p in points} == set(nfe_curve.SAMPLERS)
    assert {n for p in points for n in p.asked} == set(NFE)
    assert (folder / "nfe-curve.md").read_text().strip() in done.stdout
    assert "| smm " in done.stdout.split("nfe")[0]
    assert list((folder / "plots").glob("nfe-curve-*.png"))


# -- what cannot be sampled ----------------------------------------------------------------------

FRAGILE = '''
"""A baseline that some samplers break."""

import os
import signal
import time

from methods.sde import SDE


class Fragile(SDE):
    """A baseline that some samplers break."""

    name = "fragile"

    def sample(self, n, *, labels=None, generator):
        if self.config.sampler.name == "heun" and self.config.sampler.steps < 4:
            raise RuntimeError("a planted fault\\nof two lines")
        if self.config.sampler.name == "euler":
            return super().sample(n, labels=labels, generator=generator) * float("nan")
        if self.config.sampler.name == "unipc":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.config.sampler.name == "ipndm":
            time.sleep(3600)
        return super().sample(n, labels=labels, generator=generator)
'''


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory, processes: None) -> Path:
    """The folder in which a fragile method has run, and which holds the method."""
    place = tmp_path_factory.mktemp("fragile")
    (place / "fragile.py").write_text(FRAGILE)
    info = place / "fragile-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fragile\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("[bench.methods]\nfragile = fragile:Fragile\n")
    with pytest.MonkeyPatch.context() as patch:
        install_here(place, patch)
        bench(place, "run", "--methods", "fragile", *SMOKE)
    return place


@pytest.fixture
def sample_fragile(
    fragile: Path, call_bench: Bench, forks: None, monkeypatch: pytest.MonkeyPatch
) -> Sampled:
    """Sample the cell of the fragile method again."""
    install_here(fragile, monkeypatch)
    results = str(fragile / "results")
    return lambda *asked: call_bench(
        "sample", "digits-smoke", *asked, "--results", results, "--no-tracking"
    )


def test_a_failed_point_is_a_row_with_its_reason(sample_fragile: Sampled, fragile: Path) -> None:
    asked = ["--samplers", "heun,euler,ancestral", "--nfe", "5,7"]
    done = sample_fragile(*asked)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    reason = "RuntimeError: a planted fault of two lines"
    assert f"bench: fragile-seed0: heun with 3 steps: {reason}; see " in done.stderr
    folder = fragile / "results" / "digits-smoke"
    text = (folder / "nfe-curve.md").read_text()
    assert text.split("\n\n")[1].count("failed") == 3
    assert f"| fragile-seed0 | heun    | 3     | {reason}" in text
    assert "a sample is not finite" in text
    assert point(folder / "fragile-seed0", "ancestral", 7).metrics
    assert "planted fault" in (folder / "fragile-seed0" / nfe_curve.LOG).read_text()
    # A failure is tried again; what is there is not.
    again = sample_fragile(*asked)
    assert again.returncode == 1
    assert "sample (3 of 6 points to draw)" in again.stderr


@pytest.mark.parametrize(
    ("sampler", "reason", "more"),
    [
        ("unipc", "its process was ended by SIGKILL, perhaps for lack of memory", []),
        ("ipndm", "ran past the limit of 10 s", ["--timeout", "10"]),
    ],
)
def test_points_of_a_lost_process_have_its_reason(
    sample_fragile: Sampled,
    fragile: Path,
    sampler: str,
    reason: str,
    more: list[str],
) -> None:
    asked = ["--samplers", f"dpmpp_2m,{sampler}", "--nfe", "6", *more]
    done = sample_fragile(*asked)
    assert done.returncode == 1, done.stderr
    assert f"{sampler} with 6 steps: {reason}" in done.stderr
    folder = fragile / "results" / "digits-smoke" / "fragile-seed0"
    assert point(folder, sampler, 6).reason == reason
    assert point(folder, "dpmpp_2m", 6).metrics


def test_a_stale_cell_is_refused(sample_fragile: Sampled, fragile: Path) -> None:
    source = fragile / "fragile.py"
    text = source.read_text()
    source.write_text(text + "\n# Another thought.\n")
    try:
        done = sample_fragile()
    finally:
        source.write_text(text)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert "the source of 'fragile' has changed since it was trained (at commit " in line
    assert f"run it again: cd {fragile} && bench run --methods fragile" in line


def write(folder: Path, name: str, change: dict[str, object]) -> None:
    path = folder / name
    body = yaml.safe_load(path.read_text()) | change
    path.write_text(json.dumps(body) if path.suffix == ".json" else yaml.safe_dump(body))


BAD = {
    "study": (["nothing"], "unknown study 'nothing'"),
    "cell": (["--cells", "sde-seed1"], "did you mean 'sde-seed0'?"),
    "cell twice": (["--cells", "sde-seed0,sde-seed0"], "each once"),
    "cell without a sampler": (["--cells", "smm-seed0"], "no sampler to exchange"),
    "sampler": (["--samplers", "huen"], "did you mean 'heun'?"),
    "no sampler": (["--samplers", ","], "at least one"),
    "nfe": (["--nfe", "5,ten"], "as 5,10,20"),
    "nfe of nothing": (["--nfe", "0"], "network evaluations, at least 1"),
    "samples": (["--samples", "1"], "at least 2"),
    "jobs": (["--jobs", "0"], "at least 1"),
    "timeout": (["--timeout", "-1"], "positive"),
    "swept value": (["--sweep", "guidance=-1"], "--sweep guidance=-1: dlsm: guidance = -1"),
    "swept with a sampler": (
        ["--sweep", "guidance=1", "--samplers", "heun"],
        "each cell's own sampler",
    ),
    "swept with nfe": (["--sweep", "guidance=1", "--nfe", "5"], "each cell's own sampler"),
    "swept, unknown": (
        ["--sweep", "guidanze=1"],
        "no finished cell whose method has a setting 'guidanze'",
    ),
    "swept, of training": (["--sweep", "balance=1"], "no finished cell whose method has a setting"),
    "swept, not of the cell": (
        ["--sweep", "guidance=1", "--cells", "sde-seed0"],
        "settings of it that do: sampler",
    ),
    "swept, a whole block": (
        ["--sweep", "sampler=1"],
        "no finished cell whose method has a setting",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_line(
    study: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    arguments, expected = BAD[case]
    results = ["--results", str(study.parent), "--no-tracking"]
    named = [] if case == "study" else [study.name]
    assert cli.main(["sample", *named, *arguments, *results]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("bench: ")
    assert expected in line


REFUSED = {
    "unfinished": ("record.json", {"status": "killed"}, "it is not finished but killed; run it"),
    "settings": ("config.yaml", {"seed": 7}, "its settings, extractor or evaluation protocol"),
    "no checkpoint": ("checkpoint.pt", None, "its checkpoint.pt is gone; run it again: cd "),
    "curve": (nfe_curve.FILE, {"format": "none"}, "cannot be read; remove it and sample again"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_cell_that_cannot_be_sampled_is_refused(
    study: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    name, change, expected = REFUSED[case]
    folder = study / "sde-seed0"
    path = folder / name
    content = path.read_bytes()
    path.unlink() if change is None else write(folder, name, change)
    try:
        arguments = ["--cells", "sde-seed0", "--results", str(study.parent), "--no-tracking"]
        assert cli.main(["sample", study.name, *arguments]) == 2
    finally:
        path.write_bytes(content)
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert expected in line


# -- reports -------------------------------------------------------------------------------------


def fake_point(seed: int, name: str, steps: int, fd: float, reason: str = "") -> Point:
    settings = OWN.model_copy(update={"name": name, "steps": steps})
    return Point(
        sampler=settings.model_dump(mode="json"),
        samples=500,
        asked=[steps],
        seed=seed,
        nfe=None if reason else float(steps),
        ms_per_image=None if reason else fake_study.interval(0.1 * steps, 100),
        metrics={} if reason else fake_study.values(fd, 8.0, None),
        reason=reason,
    )


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    """Three seeds of two methods with two samplers each; one point of one seed failed."""
    folder = fake_study.write_study(tmp_path / "fake")
    for method in ("sde", "cdm"):
        for seed in range(3):
            cell = folder / f"{method}-seed{seed}"
            points = [
                fake_point(seed, name, steps, 20 / steps + 0.1 * seed + place)
                for place, name in enumerate(("heun", "ancestral"))
                for steps in (5, 10)
            ]
            if (method, seed) == ("cdm", 1):
                points[0] = fake_point(seed, "heun", 5, 0.0, "a | fault")
            nfe_curve.save(Curve(key=load(cell).key, points=points), cell)
    return folder


def test_seeds_are_joined_with_their_interval(fake: Path) -> None:
    text = nfe_table.render_nfe_table(StudyReport.read(fake))
    mean, half, _ = mean_interval([4.0, 4.1, 4.2])
    assert rows(text)["sde", "heun"] == ["", f"{mean:.2f} ± {half:.2f}", "2.10 ± 0.25"]
    assert rows(text)["cdm", "heun"][1] == "4.1 ± 1.3 (1 failed)"
    assert "a \\| fault" in text
    assert "Seeds: cdm 3, sde 3; ±" in text


def test_points_of_an_earlier_training_do_not_count(fake: Path) -> None:
    for cell in fake.glob("sde-seed*"):
        nfe_curve.save(stored(cell).model_copy(update={"key": "another"}), cell)
    lines = rows(nfe_table.render_nfe_table(StudyReport.read(fake)))
    assert ("sde", "heun") not in lines
    assert ("cdm", "heun") in lines


def test_unfinished_cells_have_no_points(fake: Path) -> None:
    row = load(fake / "sde-seed0")
    row.status = Status.FAILED
    record.save(row, fake / "sde-seed0")
    assert "Seeds: cdm 3, sde 2" in nfe_table.render_nfe_table(StudyReport.read(fake))


@pytest.mark.slow
def test_table_and_plot_write_the_curve_too(fake: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["table", "fake", "--results", str(fake.parent)]) == 0
    assert (fake / "nfe-curve.csv").exists()
    assert cli.main(["plot", "fake", "--results", str(fake.parent)]) == 0
    assert "nfe-curve-fd_digits_500.png" in capsys.readouterr().out
    kept, pictures = study_files(fake)
    assert {"nfe-curve.md", "nfe-curve.csv"} <= {path.name for path in kept}
    assert "nfe-curve-fd_digits_500.png" in {path.name for path in pictures}


def test_a_study_without_a_curve_has_no_files_of_it(tmp_path: Path) -> None:
    folder = fake_study.write_study(tmp_path / "fake")
    report = StudyReport.read(folder)
    assert nfe_table.write_nfe_tables(report) == []
    assert nfe_plots.write_nfe_plots(report) == []
    assert nfe_table.render_nfe_table(report) == ""


def test_lines_stand_where_their_values_are(fake: Path) -> None:
    content = nfe_table.load_points(StudyReport.read(fake))
    assert content is not None
    figure = nfe_plots.draw(content, "fd_digits_500")
    panels = figure.axes
    assert [axes.get_title() for axes in panels] == ["cdm", "sde"]
    (line,) = (
        container.lines[0] for container in panels[1].containers if container.get_label() == "heun"
    )
    assert line.get_ydata() == pytest.approx([4.1, 2.1])
    assert line.get_xdata() == pytest.approx([5, 10], rel=0.05)
    single = {container.get_label(): container.lines[0] for container in panels[0].containers}
    assert single["smm"].get_xdata() == pytest.approx([1])
    assert "heun" in [text.get_text() for text in figure.legends[0].get_texts()]
