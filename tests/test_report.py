"""The data frame, tables, plots and grids, all made from a study's folders."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.special import stdtrit

from bench.config.errors import UserError
from bench.records import files, record
from bench.records.grid import GAP, grid_image, write_grid
from bench.records.metric_names import direction
from bench.records.record import Anchors, Cost, Status, Value
from bench.report import frame as frames
from bench.report import ranking, study_report, summary
from bench.report.frame import refuse_difference
from bench.report.plots.drawing import DPI, PlottedStudy, save
from bench.report.plots.fidelity import fidelity, pairs
from bench.report.plots.ledger import ledger
from bench.report.plots.samples import SamplePanel, samples, side_by_side
from bench.report.plots.scales import plain
from bench.report.plots.write import write_plots
from bench.report.study_report import StudyReport
from bench.report.summary import mean_interval, mean_intervals
from bench.report.table.formats import to_json, write_tables
from bench.report.table.latex import escape_latex
from bench.report.table.notes import measured
from bench.report.table.numbers import number, plus_minus, scaled, size

from .fake_study import (
    METHODS,
    fail,
    make_record,
    provenance,
    table,
    values,
    write_cell,
    write_study,
)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four methods by three seeds, one cell diverged."""
    return write_study(tmp_path_factory.mktemp("results") / "digits-quick")


def picture_of(path: Path) -> np.ndarray:
    """Read a PNG as uint8 (H, W, 3)."""
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


# Frame ------------------------------------------------------------------------------------------


def test_frame_has_a_row_for_every_cell_and_anchor(study: Path) -> None:
    frame = StudyReport.read(study).frame
    assert sorted(frame["cell"]) == sorted(
        [f"{method}-seed{seed}" for method in METHODS for seed in range(3)]
        + ["noise", "real (held-out)"]
    )
    assert frame["kind"].value_counts().to_dict() == {"cell": 12, "anchor": 2}


def test_frame_keeps_a_failed_cell_with_its_reason(study: Path) -> None:
    frame = StudyReport.read(study).frame.set_index("cell")
    assert frame.loc["smm-seed2", "status"] == "diverged"
    assert "nan at step 1333" in frame.loc["smm-seed2", "reason"]
    assert math.isnan(frame.loc["smm-seed2", "metrics.fd_digits_500"])


def test_frame_carries_the_records_numbers_exactly(study: Path) -> None:
    frame = StudyReport.read(study).frame.set_index("cell")
    row = record.load(study / "dlsm-seed1")
    assert row is not None
    assert row.cost.ms_per_image is not None
    found = frame.loc["dlsm-seed1"]
    assert found["metrics.is_digits_500"] == row.metrics["is_digits_500"].value
    assert found["metrics.is_digits_500.spread"] == 0.11
    assert found["cost.ms_per_image.high"] == row.cost.ms_per_image.high
    assert found["ledger.train"] == row.ledger["train"]
    assert (found["device"], found["commit"]) == ("cpu: fake processor", "0123456789abcdef")
    assert frame.loc["noise", "metrics.fd_digits_500"] == 412.0


def test_metrics_come_distances_first(study: Path) -> None:
    names = ["fd_digits_500", "is_digits_500", "accuracy_digits_500"]
    assert StudyReport.read(study).metrics == names


def test_the_lead_extractor_comes_first(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", ("sde",), (0,), failed=None)
    row = record.load(study / "sde-seed0")
    assert row is not None
    other = {"fd_another_500": Value(value=1.0), "kd_another_500": Value(value=2.0)}
    record.save(row.model_copy(update={"metrics": row.metrics | other}), study / "sde-seed0")
    names = StudyReport.read(study).metrics
    assert names[:2] == ["fd_digits_500", "fd_another_500"]
    # What is no headline has a table of its own below.
    first, second = table(study, "md").split("\n\n")[:2]
    assert "fd_another_500" in first
    assert "kd_another_500" not in first
    assert "kd_another_500" in second


@pytest.mark.parametrize(
    ("name", "arrow"),
    [("fid", "↓"), ("fd_digits_500", "↓"), ("is_2k", "↑"), ("isolation", ""), ("loss/score", "")],
)
def test_direction_of_a_metric(name: str, arrow: str) -> None:
    assert direction(name) == arrow


@pytest.mark.parametrize(
    "change",
    [
        {"extractor_sha256": "cc" * 32},
        {"data_sha256": "dd" * 32},
        {"protocol": "2"},
        {"n": 400},
    ],
)
def test_values_measured_otherwise_are_refused(tmp_path: Path, change: dict[str, object]) -> None:
    study = write_study(tmp_path / "s", ("sde",), (0, 1), failed=None)
    row = make_record(study, "sde", 2, metrics=values(6.0, 9.0, None, **change))
    write_cell(study / row.cell, row)
    with pytest.raises(UserError) as caught:
        StudyReport.read(study)
    message = str(caught.value)
    assert next(iter(change)) in message
    assert "sde-seed2" in message
    assert "\n" not in message


def test_an_anchor_measured_otherwise_is_refused(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", ("sde",), (0,), failed=None)
    anchors = Anchors(rows={"noise": values(400.0, 1.5, None, extractor_sha256="ee" * 32)})
    files.write_text(study / record.ANCHORS, anchors.model_dump_json())
    with pytest.raises(UserError, match="extractor_sha256"):
        StudyReport.read(study)


def test_what_does_not_decide_comparability_may_differ(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", ("sde",), (0,), failed=None)
    row = make_record(study, "sde", 1, metrics=values(6.0, 9.0, None, samples_seed=7))
    write_cell(study / row.cell, row)
    assert len(StudyReport.read(study).frame) == 4


def test_a_failed_cells_old_metrics_stop_nothing(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", ("sde",), (0,), failed=None)
    stale = values(6.0, 9.0, None, protocol="0")
    row = make_record(study, "sde", 1, status=Status.FAILED, reason="killed", metrics=stale)
    write_cell(study / row.cell, row)
    summary = StudyReport.read(study).summary.iloc[0]
    assert (summary["seeds"], summary["seeds_total"]) == (1, 2)


def test_no_cells_and_broken_records_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no cells in"):
        StudyReport.read(tmp_path)
    study = write_study(tmp_path / "s", ("sde",), (0,))
    (study / "sde-seed0" / record.RECORD).write_text("{")
    with pytest.raises(UserError, match=r"sde-seed0/record\.json"):
        StudyReport.read(study)


def test_aggregate_is_the_mean_and_its_t_interval(study: Path) -> None:
    from scipy import stats

    report = StudyReport.read(study)
    frame, row = report.frame, report.summary.set_index("method").loc["sde"]
    numbers = frame.loc[frame["method"] == "sde", "metrics.fd_digits_500"]
    low, high = stats.t.interval(0.95, 2, numbers.mean(), stats.sem(numbers))
    assert row["metrics.fd_digits_500"] == pytest.approx(numbers.mean())
    assert row["metrics.fd_digits_500:half"] == pytest.approx((high - low) / 2)


def test_aggregate_counts_only_finished_seeds(study: Path) -> None:
    rows = StudyReport.read(study).summary.set_index("method")
    assert rows["seeds"].to_dict() == {"cdm": 3, "dlsm": 3, "sde": 3, "smm": 2}
    assert set(rows["seeds_total"]) == {3}
    # The diverged cell has seen 170,624 images; they are no part of the mean.
    assert rows.loc["smm", "cost.images_seen"] == 512_000
    assert rows.loc["smm", "unfinished"].startswith("smm-seed2: diverged (loss of")


def test_a_method_without_a_finished_cell_keeps_its_row(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", ("sde", "smm"), (0,), failed="smm-seed0")
    row = StudyReport.read(study).summary.set_index("method").loc["smm"]
    assert row["seeds"] == 0
    assert math.isnan(row["metrics.fd_digits_500"])


def test_rows_are_reduced_by_hand() -> None:
    """Of three cells two are finished: 1 and 4 have the mean 2.5 and s / sqrt 2 = 1.5."""
    cells = [
        ("a-s0", "a", "finished", "", 1.0, 7.0, 5.0, 4.0, 6.0, "", ""),
        ("a-s1", "a", "finished", "", 4.0, math.nan, 8.0, 3.0, 7.0, "hot", "off by 3 s"),
        ("a-s2", "a", "failed", "nan at step 3", 9.0, 9.0, 1.0, 1.0, 99.0, "", ""),
        ("b-s0", "b", "running", "", math.nan, math.nan, 2.0, 2.0, 2.0, "", ""),
    ]
    parts = [f"cost.ms_per_image.{part}" for part in ("median", "low", "high")]
    columns = ["cell", "method", "status", "reason", "x", "y", *parts, "unfit", "imbalance"]
    rows = pd.DataFrame(cells, columns=columns)
    a, b = summary.aggregate(rows).to_dict("records")
    assert (a["method"], a["seeds"], a["seeds_total"]) == ("a", 2, 3)
    assert a["unfinished"] == "a-s2: failed (nan at step 3)"
    assert (b["seeds"], b["seeds_total"], b["unfinished"]) == (0, 1, "b-s0: running")
    assert (a["x"], a["x:n"]) == (2.5, 2)
    assert a["x:half"] == pytest.approx(12.7062 * 1.5, rel=1e-5)  # t of one degree, 97.5 %.
    assert (a["y"], a["y:n"], math.isnan(a["y:half"])) == (7, 1, True)
    assert math.isnan(b["x"])
    times = summary.times(rows[rows["status"] != "failed"])
    assert times["a"] == {
        "time.unfit": True, "ledger.unbalanced": True, "time.ms_per_image.median": 6.5,
        "time.ms_per_image.low": 3.0, "time.ms_per_image.high": 7.0,
    }  # fmt: skip
    assert (times["b"]["time.unfit"], times["b"]["ledger.unbalanced"]) == (False, False)


def test_one_value_has_no_interval() -> None:
    mean, half, count = mean_interval([3.0])
    assert (mean, count) == (3.0, 1)
    assert math.isnan(half)


# Numbers for people -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (scaled(1.2e13, "FLOP"), "12.0 TFLOP"),
        (scaled(9.999e11, "FLOP"), "1.00 TFLOP"),
        (scaled(512_000, ""), "512 k"),
        (scaled(999, ""), "999"),
        (number(0.061234), "0.0612"),
        (number(1234.5), "1234"),
        (number(0), "0"),
        (number(math.nan), "—"),
        (number(math.inf), "inf"),
        (plus_minus(6.1234, 0.4567), "6.12 ± 0.46"),
        (plus_minus(412.3, 31.4), "412 ± 31"),
        (plus_minus(6.1234, math.nan), "6.123"),
        (plus_minus(36, 0), "36.00"),
        (size(612 * 2**20), "612 MiB"),
        (size(3 * 2**30), "3.00 GiB"),
        (plain(0.02), "0.02"),
        (plain(20_000), "20 k"),
        (plain(100), "100"),
        (plain(1.2e13), "12 T"),
    ],
)
def test_numbers_are_written_for_people(written: str, expected: str) -> None:
    assert written == expected


def test_a_report_is_read_once(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All four formats are made from the same frame, summary, ranks and published values."""
    calls: dict[str, int] = {}

    def counted(module: ModuleType, name: str) -> None:
        work = getattr(module, name)

        def count(*given: object) -> object:
            calls[name] = calls.get(name, 0) + 1
            return work(*given)

        monkeypatch.setattr(module, name, count)

    for name in ("read_records", "make_frame", "metric_names"):
        counted(frames, name)
    counted(study_report, "times")
    ranked: list[str] = []
    rank_by = ranking.rank_by
    monkeypatch.setattr(
        ranking, "rank_by", lambda frame, metric: ranked.append(metric) or rank_by(frame, metric)
    )
    report = StudyReport.read(study)
    write_tables(report)
    write_tables(report)
    assert calls == {"read_records": 1, "make_frame": 1, "metric_names": 1, "times": 1}
    assert len(ranked) == len(set(ranked))


def test_means_of_many_columns_have_the_bits_of_one_by_one() -> None:
    values = np.random.default_rng(3).lognormal(0, 3, (50, 23))
    values[::3, ::4] = np.nan
    values[7] = np.nan
    values[9, 1] = np.inf
    means, halves, counts = mean_intervals(values)
    for row, mean, half, count in zip(values, means, halves, counts, strict=True):
        there = row[~np.isnan(row)]
        assert count == len(there)
        if count and np.isfinite(there).all():
            assert mean == np.mean(there.tolist())
            error = float(np.std(there.tolist(), ddof=1)) / len(there) ** 0.5
            assert half == float(stdtrit(len(there) - 1, 0.975)) * error
        else:
            assert math.isnan(half)
            assert not math.isfinite(mean)


# Tables -----------------------------------------------------------------------------------------


def test_markdown_has_methods_anchors_failures_and_notes(study: Path) -> None:
    text = table(study, "md")
    head, *rows = [line for line in text.splitlines() if line.startswith("|")]
    titles = [title.strip() for title in head.strip("|").split("|")]
    assert titles == [
        "method", "seeds", "rank", "fd_digits_500 ↓", "is_digits_500 ↑", "accuracy_digits_500 ↑",
        "NFE", "ms/image (batch 100)", "latency ms (batch 1)", "train FLOPs", "images seen",
        "train s", "total s", "parameters", "peak memory",
    ]  # fmt: skip
    first = [row.split("|")[1].strip() for row in rows[1:]]
    assert first == ["cdm", "dlsm", "sde", "smm", "noise", "real (held-out)", "method", "-" * 8,
                     "cdm", "sde", "dlsm", "cell", "-" * 11, "smm-seed2"]  # fmt: skip
    sde = dict(zip(titles, [text.strip() for text in rows[3].strip("|").split("|")], strict=True))
    assert sde["train FLOPs"] == "12.0 TFLOP"
    assert sde["NFE"] == "36"
    assert sde["fd_digits_500 ↓"] == "6.10 ± 0.45"
    assert sde["ms/image (batch 100)"] == "2.12 [1.99, 2.31]"
    assert r"nan at step 1333 \| lr=1e-2" in text
    assert str(study / "smm-seed2" / "log.txt") in text
    assert "n 500" in text
    assert "aaaaaaaaaaaa…" in text
    assert "Device: cpu: fake processor." in text
    assert "no rank is claimed for smm (2)" in text


def test_columns_are_aligned(study: Path) -> None:
    lines = table(study, "md").split("\n\n")[0].splitlines()
    assert len({len(line) for line in lines}) == 1


@pytest.mark.parametrize(
    ("dataset", "variant", "told"),
    [("cifar10", "cifar10-2k", True), ("cifar10", "cifar10", False), ("a-jpeg", "a-jpeg", True)],
)
def test_altered_data_is_told(tmp_path: Path, dataset: str, variant: str, told: bool) -> None:
    study = write_study(
        tmp_path / "s", ("sde",), (0,), failed=None, dataset=dataset, data_variant=variant
    )
    assert ("not comparable with published" in table(study, "md")) is told


def test_three_seeds_of_all_give_an_order_with_ties(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", ("sde", "cdm", "smm"), (0, 1, 2), failed=None)
    for seed in (0, 1, 2):
        # As good as sde on average, better and worse by turns: no seed-wise difference.
        close = values(6.1 + 0.3 * (seed - 1) * (-1) ** seed, 9.0, None)
        row = make_record(study, "cdm", seed, metrics=close)
        record.save(row, study / row.cell)
    text = table(study, "md")
    assert re.search(r"- Rank by fd_digits_500: 1-2 (cdm, sde|sde, cdm); 3 smm\.\n", text)
    assert [line.split("|")[3].strip() for line in text.splitlines()[2:5]] == ["1-2", "1-2", "3"]
    assert "no rank" not in text


def test_a_ledger_that_does_not_balance_is_marked(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", failed=None)
    row = record.load(study / "cdm-seed1")
    assert row is not None
    seconds = 1.05 * row.ledger["wall"]
    row.attempts = [record.Attempt(started=str(row.started), pid=1, host="h", seconds=seconds)]
    record.save(row, study / row.cell)
    text = table(study, "md")
    assert "‡ cdm-seed1: the parts of its ledger miss its wall clock by 4.8%" in text
    marked = [line for line in text.splitlines() if line.startswith("|") and "‡" in line]
    assert [line.split()[1] for line in marked] == ["cdm"]
    assert "$\\ddagger$" in table(study, "latex")


def test_seeds_of_different_source_have_no_rank(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", ("sde", "cdm", "dlsm"), failed=None)
    assert re.search(r"Rank by fd_digits_500: .*cdm", table(study, "md"))
    for cell, source in (("cdm-seed0", "1" * 64), ("cdm-seed1", "2" * 64)):
        row = record.load(study / cell)
        assert row is not None
        row.identity["source"] = {"methods.cdm": source}
        record.save(row, study / cell)
    text = table(study, "md")
    assert "cdm: its seeds are of different source (cdm-seed0: " in text
    assert not re.search(r"Rank by fd_digits_500: .*cdm", text)
    assert re.search(r"Rank by fd_digits_500: .*sde", text)


def test_several_devices_are_told(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", ("sde",), (0,), failed=None)
    row = make_record(study, "sde", 1, environment={"device": "cuda: other"})
    write_cell(study / row.cell, row)
    assert "different devices do not compare" in table(study, "md")


def test_csv_keeps_every_digit(study: Path) -> None:
    rows = {row["cell"]: row for row in csv.DictReader(io.StringIO(table(study, "csv")))}
    stored = record.load(study / "sde-seed2")
    assert stored is not None
    value = stored.metrics["fd_digits_500"].value
    assert float(rows["sde-seed2"]["metrics.fd_digits_500"]) == value
    assert rows["smm-seed2"]["status"] == "diverged"
    assert rows["noise"]["kind"] == "anchor"


def test_json_is_strict_and_whole(study: Path) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    content = json.loads(table(study, "json"), parse_constant=refuse)
    cells = {row["cell"]: row for row in content["cells"]}
    stored = record.load(study / "sde-seed2")
    assert stored is not None
    assert len(cells) == 12
    assert cells["sde-seed2"]["metrics.fd_digits_500"] == stored.metrics["fd_digits_500"].value
    assert cells["smm-seed2"]["status"] == "diverged"
    assert "metrics.fd_digits_500" not in cells["smm-seed2"]
    assert content["provenance"]["fd_digits_500"] == provenance()
    assert [row["method"] for row in content["anchors"]] == ["noise", "real (held-out)"]


def test_json_survives_an_infinite_value(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", ("sde",), (0,), failed=None)
    report = StudyReport.read(study)
    report.frame.loc[0, "metrics.fd_digits_500"] = math.inf
    cells = json.loads(to_json(report))["cells"]
    assert cells[0]["metrics.fd_digits_500"] == "inf"


def test_latex_is_escaped_and_balanced(study: Path) -> None:
    text = table(study, "latex")
    assert r"{FD $\downarrow$} & {IS $\uparrow$} & {NFE}" in text
    assert "6.10(45)" in text
    for rule in ("toprule", "midrule", "bottomrule"):
        assert rf"\{rule}" in text
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert max(line.count("&") - line.count(r"\&") for line in rows) == 6
    assert text.count("smm-seed2 (diverged)") == text.count(r"\toprule")
    assert text.isascii()


def test_latex_escapes_every_special_letter() -> None:
    assert escape_latex("a_b & 5% {x} ~^\\") == (
        r"a\_b \& 5\% \{x\} \textasciitilde{}\textasciicircum{}\textbackslash{}"
    )


def test_an_unknown_format_is_refused_with_the_nearest(study: Path) -> None:
    with pytest.raises(UserError, match=r"did you mean 'latex'\?"):
        table(study, "latx")


def test_tables_are_written_in_all_formats(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", ("sde",), (0,), failed=None)
    paths = write_tables(StudyReport.read(study))
    names = ["table.md", "table.csv", "table.tex", "table.json", "table-notes.tex"]
    assert [path.name for path in paths] == names
    assert paths[0].read_text() == table(study, "md")
    assert not list(study.glob(".table*"))


def test_a_study_that_has_only_begun_has_a_table(tmp_path: Path) -> None:
    study = tmp_path / "s"
    row = make_record(study, "sde", 0, status=Status.RUNNING, metrics={}, cost=Cost(), ledger={})
    write_cell(study / row.cell, row, [], images=0)
    for format in ("md", "csv", "latex", "json"):
        assert "running" in table(study, format)
    assert "| sde    | 0/1 " in table(study, "md")


# Plots ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plots(study: Path) -> tuple[list[Path], list[str]]:
    """The study's pictures, drawn once, and what was said about those left out."""
    said: list[str] = []
    return write_plots(StudyReport.read(study), said.append), said


@pytest.mark.slow
def test_every_plot_is_drawn(study: Path, plots: tuple[list[Path], list[str]]) -> None:
    paths, said = plots
    charts = {
        "fd_digits_500-ms_per_image", "fd_digits_500-train_flops", "losses",
        "curve-fd_digits_500", "ledger",
    }  # fmt: skip
    expected = {f"{name}.{ending}" for name in charts for ending in ("png", "pdf")}
    assert {path.name for path in paths} == expected | {"samples.png"}
    assert said == []
    assert all(path.parent == study / "plots" and path.stat().st_size > 3000 for path in paths)


@pytest.mark.slow
def test_fidelity_is_drawn_against_diversity(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", ("sde", "cdm"), (0, 1), failed=None)
    for place, (folder, row) in enumerate(record.cells(study)):
        # Two seeds of precision that are far apart: the interval is wider than the axis.
        both = {"precision_digits_500": 0.2 + 0.4 * (place % 2), "recall_digits_500": 0.4}
        found = {name: Value(value=value) for name, value in both.items()}
        record.save(row.model_copy(update={"metrics": row.metrics | found}), folder)
    content = PlottedStudy.of(StudyReport.read(study))
    assert list(pairs(content.report.metrics)) == [("precision_digits_500", "recall_digits_500")]
    figure = fidelity(content, "precision_digits_500", "recall_digits_500")
    drawn = {
        bars.get_label(): (float(bars[0].get_xdata()[0]), float(bars[0].get_ydata()[0]))
        for bars in figure.axes[0].containers
    }
    # The mean over seeds; the anchors have neither and are left out.
    assert drawn == {"cdm": pytest.approx((0.4, 0.4)), "sde": pytest.approx((0.4, 0.4))}
    for bars in figure.axes[0].containers:
        ends = np.concatenate([part.get_segments()[0] for part in bars[2]])
        assert (ends >= 0).all()
        assert (ends <= 1 + 1e-12).all()
    assert study / "plots" / "precision_digits_500-recall.png" in write_plots(content.report, str)


def test_samples_are_shown_pixel_by_pixel(study: Path, tmp_path: Path) -> None:
    picture = picture_of(samples(StudyReport.read(study), tmp_path / "samples"))
    with np.load(study / "cdm-seed0" / "samples.npz") as stored:
        grid = grid_image(stored["images"][:64], 8, scale=8)
    windows = np.lib.stride_tricks.sliding_window_view(picture[..., 0], grid.shape[:2])
    corners = np.argwhere((windows[:, :, :, 0] == grid[:, 0, 0]).all(-1))
    assert any(np.array_equal(windows[row, column], grid[..., 0]) for row, column in corners)


def test_real_images_stand_beside_the_samples(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", ("sde",), (0,), failed=None)
    report = StudyReport.read(study)
    alone = picture_of(samples(report, tmp_path / "alone"))
    np.savez(study / "real.npz", images=np.zeros((64, 1, 8, 8), np.uint8))
    both = picture_of(samples(report, tmp_path / "both"))
    assert both.shape[1] > 1.8 * alone.shape[1]


def test_panels_wrap_into_rows_and_stay_whole() -> None:
    panels = [SamplePanel(str(i), np.full((40, 50, 3), 20 * i, np.uint8)) for i in range(5)]
    figure = side_by_side(panels, columns=3)
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=DPI)
    picture = np.asarray(Image.open(data).convert("L"))
    for i in range(1, 5):
        assert (picture == 20 * i).sum() >= 40 * 50


def test_what_cannot_be_drawn_is_said(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", ("smm",), (0,), failed="smm-seed0")
    (study / "smm-seed0" / record.CURVES).unlink()
    said: list[str] = []
    assert write_plots(StudyReport.read(study), said.append) == []
    assert len(said) == 6
    assert all("left out: no " in line for line in said)


@pytest.mark.slow
def test_plots_survive_missing_metrics_and_nan_losses(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", ("sde",), (0,), failed=None)
    (study / record.ANCHORS).unlink()
    bare = make_record(study, "cdm", 0, metrics={}, ledger={}, cost=Cost())
    nan = {"images": 10, "step": 1, "seconds": 0.1, "values": {"loss/score": math.nan}}
    write_cell(study / bare.cell, bare, [nan], images=0)
    row = fail(make_record(study, "smm", 0))
    write_cell(study / row.cell, row, [nan], images=0)
    names = {path.stem for path in write_plots(StudyReport.read(study), str)}
    assert {"losses", "ledger", "samples", "curve-fd_digits_500"} <= names
    assert not any(name.startswith("fd_digits_500-") for name in names)  # One method has both.


def test_a_resumed_curve_counts_each_step_once(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", ("sde",), (0,), failed=None)
    lines = record.read_curves(study / "sde-seed0")
    again = lines[40] | {"values": {"loss/score": 77.0}}
    with (study / "sde-seed0" / record.CURVES).open("a") as file:
        file.write(json.dumps(again) + "\n")
    curves = StudyReport.read(study).curves
    same = curves[(curves["name"] == "loss/score") & (curves["images"] == again["images"])]
    assert same["value"].tolist() == [77.0]


def test_the_same_numbers_give_the_same_files(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", ("sde",), (0,), failed=None)
    first, second = (
        [
            path.read_bytes()
            for path in save(ledger(PlottedStudy.of(StudyReport.read(study))), tmp_path / name)
        ]
        for name in ("first", "second")
    )
    assert first == second


# Grids ------------------------------------------------------------------------------------------


def test_grid_puts_pixels_where_they_belong() -> None:
    images = np.arange(3 * 3 * 2 * 2, dtype=np.uint8).reshape(3, 3, 2, 2)
    grid = grid_image(images, 2, gap=1)
    assert grid.shape == (5, 5, 3)
    assert np.array_equal(grid[:2, 3:], images[1].transpose(1, 2, 0))
    assert np.array_equal(grid[3:, :2], images[2].transpose(1, 2, 0))
    assert (grid[2] == 255).all()
    assert (grid[3:, 3:] == 255).all()


def test_grey_becomes_colour_and_pixels_squares() -> None:
    image = np.array([[[[0, 50], [100, 200]]]], np.uint8)
    grid = grid_image(image, 8, scale=3)
    assert grid.shape == (6, 6, 3)
    assert np.array_equal(grid[..., 1], image[0, 0].repeat(3, 0).repeat(3, 1))


@pytest.mark.parametrize(
    ("images", "columns"),
    [
        (np.zeros((1, 1, 2, 2), np.float32), 1),
        (np.zeros((1, 2, 2, 2), np.uint8), 1),
        (np.zeros((2, 2), np.uint8), 1),
        (np.zeros((0, 1, 2, 2), np.uint8), 1),
        (np.zeros((1, 1, 2, 2), np.uint8), 0),
    ],
)
def test_grid_refuses_what_it_cannot_show(images: np.ndarray, columns: int) -> None:
    with pytest.raises(ValueError, match="a grid takes"):
        grid_image(images, columns)


@pytest.mark.parametrize(("side", "tile"), [(8, 32), (28, 56), (32, 32), (64, 64)])
def test_written_grids_are_enlarged_by_whole_factors(tmp_path: Path, side: int, tile: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 3, side, side)).astype(np.uint8)
    write_grid(tmp_path / "grid.png", images, columns=2)
    picture = picture_of(tmp_path / "grid.png")
    assert picture.shape == (2 * tile + GAP, 2 * tile + GAP, 3)
    step = tile // side
    assert np.array_equal(picture[:tile:step, :tile:step], images[0].transpose(1, 2, 0))


# Start-up ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("processes")
@pytest.mark.parametrize(
    ("modules", "heavy"),
    [
        ("report.frame, report.table.numbers, tracking", "torch mlflow pandas matplotlib scipy"),
        ("report.table.formats, report.plots.write, report.nfe_table", "torch mlflow"),
    ],
)
def test_importing_reports_and_tracking_loads_nothing_heavy(modules: str, heavy: str) -> None:
    named = ", ".join(f"bench.{module}" for module in modules.split(", "))
    code = f"import sys, {named}; print(*{{*{heavy.split()}}} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize(
    "key",
    [
        "protocol", "protocol_cas", "n", "reference_split", "reference_n", "reference_sha256",
        "data", "data_sha256", "extractor", "extractor_sha256", "resize", "quantisation",
    ],
)  # fmt: skip
def test_each_part_of_a_measurement_is_compared(key: str) -> None:
    alike = {key: "one", "libraries": {"torch": "1"}, "nfe": 1}
    refuse_difference("fd", ("a", alike), ("b", alike | {"libraries": {"torch": "2"}, "nfe": 2}))
    with pytest.raises(UserError, match=f"a and b were not measured alike: {key} is one and two"):
        refuse_difference("fd", ("a", alike), ("b", alike | {key: "two"}))
    with pytest.raises(UserError, match=f"{key} is one and not said"):
        refuse_difference("fd", ("a", alike), ("b", {}))


@pytest.mark.parametrize(
    ("key", "usual", "other", "told"),
    [
        ("splits", 10, 1, "splits 1"),
        ("levels", [0.1, 0.2, 0.4, 0.8, 1.6, 3.2], [30.0, 80.0], "levels [30.0, 80.0]"),
    ],
)
def test_what_is_measured_as_usual_goes_without_saying(
    key: str, usual: object, other: object, told: str
) -> None:
    """And is alike whether it is said or not; any other way is told, and compares with itself."""
    refuse_difference("is", ("a", {key: usual}), ("b", {}))
    refuse_difference("is", ("a", {key: other}), ("b", {key: other}))
    with pytest.raises(UserError, match=f"not measured alike: {key} is "):
        refuse_difference("is", ("a", {key: usual}), ("b", {key: other}))
    assert measured({"protocol": 1, key: usual}) == "protocol 1"
    assert measured({"protocol": 1, key: other}) == f"protocol 1, {told}"


def test_a_copied_cell_is_told(study: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(study, tmp_path / "s"))
    shutil.copytree(copy / "sde-seed0", copy / "sde-seed0-copy")
    with pytest.raises(UserError, match=r"sde-seed0' and .*sde-seed0-copy' are the same cell"):
        StudyReport.read(copy)
