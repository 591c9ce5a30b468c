"""``bench compare``: what moved between two studies, what did not, and what cannot be told."""

from __future__ import annotations

import csv
import io
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from bench.cli import main
from bench.commands.compare.comparison import (
    CHANGED,
    EQUAL,
    MOVED,
    STAYED,
    UNKNOWN,
    Compared,
    Comparison,
    by_errors,
    choose,
    compare,
    over_seeds,
    welch,
)
from bench.commands.compare.formats import render_comparison
from bench.commands.compare.paired import holm
from bench.metrics import frechet_distance
from bench.records import files, record
from bench.records.record import Anchors, Record, Value

from .fake_study import interval, make_record, values, write_study

FD = "fd_digits_500 ↓"


def two(
    place: Path, methods: tuple[str, ...] = ("sde", "cdm"), seeds: int = 3
) -> tuple[Path, Path]:
    """Two studies of the same numbers."""
    one = write_study(place / "a", methods, range(seeds), failed=None)
    return one, Path(shutil.copytree(one, place / "b"))


def change(study: Path, edit: Callable[[Record], object], method: str | None = None) -> None:
    """Edit the records of a study's cells."""
    for folder, row in record.cells(study):
        if method in {None, row.method}:
            edit(row)
            record.save(row, folder)


def set_fd(*found: float, **beside: float) -> Callable[[Record], None]:
    """Give each seed its distance."""

    def edit(row: Record) -> None:
        value = row.metrics["fd_digits_500"]
        update = {"value": found[row.seed], **beside}
        row.metrics["fd_digits_500"] = value.model_copy(update=update)

    return edit


def row_of(found: Comparison, method: str, what: str) -> Compared:
    return next(row for row in found.rows if (row.method, row.what) == (method, what))


# Verdicts -----------------------------------------------------------------------------------------


def test_the_same_numbers_are_equal_to_the_bit(tmp_path: Path) -> None:
    found = compare(*two(tmp_path))
    assert {row.verdict for row in found.rows} == {EQUAL}
    assert (found.differences, found.only, found.left_out) == ((), (), ())
    text = render_comparison(*two(tmp_path / "again"))
    assert "Nothing else differs" in text
    assert "Moved beyond noise:" not in text


def test_what_moved_is_told_from_noise(tmp_path: Path) -> None:
    one, other = two(tmp_path)
    change(other, set_fd(4.01, 4.2, 4.36), "sde")
    change(other, set_fd(5.1, 5.6, 5.4), "cdm")
    found = compare(one, other)
    moved = row_of(found, "sde", FD)
    assert (moved.verdict, moved.is_better, moved.how) == (MOVED, True, "paired, 3 seeds")
    stayed = row_of(found, "cdm", FD)
    assert stayed.verdict == STAYED
    assert stayed.difference == pytest.approx(stayed.other - stayed.one)
    text = render_comparison(one, other)
    assert "2 comparisons of metrics and 0 of measured costs" in text
    assert text.index("Moved beyond noise") < text.index("4.190") < text.index("Not moved")


def test_holm_holds_many_comparisons_together(tmp_path: Path) -> None:
    one, other = two(tmp_path)
    # By itself this difference would be called one; among as many others as these it is not.
    change(other, set_fd(5.8, 6.0, 6.13), "sde")
    alone = row_of(compare(one, other), "sde", FD)
    assert alone.verdict == MOVED

    def noise(row: Record) -> None:
        random = np.random.default_rng([row.seed, len(row.method), places.index(row.study)])
        row.metrics |= {f"fd_x{k}": Value(value=value) for k, value in enumerate(random.random(8))}

    places = ["a", "b"]
    for study in (one, other):
        change(study, lambda row, name=study.name: setattr(row, "study", name))  # type: ignore[misc]
        change(study, noise)
    among = row_of(compare(one, other), "sde", FD)
    assert among.p == alone.p
    assert among.p_holm > 0.05
    assert among.verdict == STAYED


def test_other_seeds_are_compared_by_welch(tmp_path: Path) -> None:
    from scipy import stats

    left, right = {0: 1.0, 1: 1.2, 2: 1.1, 3: 0.9}, {7: 2.0, 8: 2.3, 9: 1.8}
    found, how = over_seeds(choose(left, right))
    expected = stats.ttest_ind([*right.values()], [*left.values()], equal_var=False)
    assert how == "Welch, 4 and 3 seeds"
    assert found.p == pytest.approx(expected.pvalue)
    assert found.mean - found.half == pytest.approx(expected.confidence_interval(0.95).low)


@pytest.mark.parametrize(
    ("left", "right", "kept", "is_paired"),
    [
        ((0, 1), (0, 1), (0, 1), True),
        ((0, 1, 2, 3), (1, 2, 3), (1, 2, 3), True),
        ((0, 1, 2), (2, 3, 4), (0, 1, 2), False),
        ((0, 1, 2), (1,), (1,), True),
        ((0,), (5,), (0,), False),
    ],
)
def test_shared_seeds_are_paired(
    left: tuple[int, ...], right: tuple[int, ...], kept: tuple[int, ...], is_paired: bool
) -> None:
    chosen = choose(dict.fromkeys(left, 1.0), dict.fromkeys(right, 1.0))
    assert (tuple(chosen.one), chosen.is_paired) == (kept, is_paired)


def test_values_that_do_not_vary_have_no_interval() -> None:
    assert math.isnan(welch(np.ones(3), np.full(3, 2.0)).p)


def test_one_seed_is_held_against_the_error_within_it(tmp_path: Path) -> None:
    one, other = two(tmp_path, seeds=1)
    change(one, set_fd(5.0, error=0.3))
    change(other, set_fd(6.5, error=0.4), "sde")
    change(other, set_fd(5.5, error=0.4), "cdm")
    found = compare(one, other)
    moved = row_of(found, "sde", FD)
    assert (moved.verdict, moved.how) == (MOVED, "within seed 0")
    assert moved.half == pytest.approx(1.96 * 0.5, rel=1e-4)
    assert row_of(found, "cdm", FD).verdict == STAYED
    assert "of another training it says nothing" in render_comparison(one, other)


def test_one_seed_without_an_error_tells_nothing(tmp_path: Path) -> None:
    one, other = two(tmp_path, ("sde",), seeds=1)
    change(other, set_fd(60.0))
    assert row_of(compare(one, other), "sde", FD).verdict == UNKNOWN
    text = render_comparison(one, other)
    assert "Not judged: there is no interval" in text
    assert "Moved beyond noise:" not in text


def test_a_single_shared_seed_is_all_that_is_compared(tmp_path: Path) -> None:
    one, other = two(tmp_path, ("sde",))
    change(other, set_fd(7.0, 0.0, 0.0))
    for seed in (1, 2):
        shutil.rmtree(other / f"sde-seed{seed}")
    row = row_of(compare(one, other), "sde", FD)
    assert row.one == record.load(one / "sde-seed0").metrics["fd_digits_500"].value  # type: ignore[union-attr]
    assert (row.other, row.verdict) == (7.0, UNKNOWN)


# Costs --------------------------------------------------------------------------------------------


def test_counts_are_compared_exactly(tmp_path: Path) -> None:
    one, other = two(tmp_path)
    change(other, lambda row: setattr(row.cost, "train_flops", row.cost.train_flops + 1), "sde")
    found = compare(one, other)
    assert row_of(found, "sde", "training FLOPs").verdict == CHANGED
    assert row_of(found, "cdm", "training FLOPs").verdict == EQUAL
    assert row_of(found, "sde", "NFE").verdict == EQUAL
    assert math.isnan(row_of(found, "sde", "training FLOPs").p)


def test_times_of_other_devices_are_not_compared(tmp_path: Path) -> None:
    one, other = two(tmp_path)
    change(other, lambda row: row.environment.update(device="another"), "sde")
    found = compare(one, other)
    kinds = {row.kind for row in found.rows if row.method == "sde"}
    assert kinds == {"metric", "counted"}
    assert "ms/image" in {row.what for row in found.rows if row.method == "cdm"}
    assert found.left_out == (
        "times and memory of sde: measured on cpu: fake processor and on another",
    )


def test_times_of_other_batches_are_not_compared(tmp_path: Path) -> None:
    one, other = two(tmp_path, ("sde",))
    change(other, lambda row: setattr(row.cost, "ms_per_image", interval(2.0, 50)))
    found = compare(one, other)
    assert "ms/image" not in {row.what for row in found.rows}
    assert found.left_out == ("ms/image of sde: measured at batches of 100 and 50",)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("fit", [True, False])
def test_times_of_one_process_or_an_unfit_machine_are_not_judged(
    tmp_path: Path, seeds: int, fit: bool
) -> None:
    """The batches of a process share its moment of the machine and know of no other day."""
    one, other = two(tmp_path, ("sde",), seeds=seeds)
    slower = iter([9.0, 9.1, 9.2])
    change(other, lambda row: setattr(row.cost, "ms_per_image", interval(next(slower), 100)))
    change(other, lambda row: row.ledger.update(train=3 * row.ledger["train"]))
    if not fit:
        change(other, lambda row: row.cost.unfit.append("another process was running"))
    rows = [row_of(compare(one, other), "sde", what) for what in ("ms/image", "train s")]
    judged = fit and seeds == 3
    assert [row.verdict for row in rows] == [MOVED if judged else UNKNOWN] * 2
    assert fit or {row.how for row in rows} == {"machine not fit"}
    assert "not judged at all" in render_comparison(one, other)


# What is only in one, and what else differs -------------------------------------------------------


def test_what_only_one_has_is_said(tmp_path: Path) -> None:
    one = write_study(tmp_path / "a", ("sde", "dlsm"), (0, 1), failed=None)
    other = write_study(tmp_path / "b", ("sde", "smm"), (0, 1), failed="smm-seed0")
    (other / "smm-seed1").rename(tmp_path / "gone")
    row = make_record(one, "sde", 0)
    (one / row.cell / "record.json").write_text(row.model_dump_json())
    only = compare(one, other).only
    assert "A: method dlsm" in only
    assert "A: accuracy_digits_500" in only
    assert not any("smm" in line for line in only)


def test_a_method_that_failed_in_one_is_said(tmp_path: Path) -> None:
    one = write_study(tmp_path / "a", ("sde", "smm"), (0,), failed=None)
    other = write_study(tmp_path / "b", ("sde", "smm"), (0,), failed="smm-seed0")
    assert compare(one, other).only == ("A: method smm, without a finished cell in the other",)


def test_values_measured_otherwise_are_left_out_by_name(tmp_path: Path) -> None:
    one, other = two(tmp_path, ("sde",))
    moved = values(1.0, 9.0, None, extractor_sha256="cc" * 32)["fd_digits_500"]
    change(other, lambda row: row.metrics.update(fd_digits_500=moved))
    (other / record.ANCHORS).unlink()
    found = compare(one, other)
    assert not [row for row in found.rows if row.what == FD]
    assert [row for row in found.rows if row.what.startswith("is_")]
    (told,) = found.left_out
    assert told.startswith("fd_digits_500: not measured alike, extractor_sha256 is aaaaaaaaaaaa")


def test_settings_code_device_and_data_are_compared(tmp_path: Path) -> None:
    one, other = two(tmp_path)

    def edit(row: Record) -> None:
        row.environment |= {"commit": "feed" * 10, "dirty": True, "packages": {"torch": "3"}}
        row.data["sha256"] = "11"

    change(other, edit)
    for folder, _ in record.cells(other):
        path = folder / "config.yaml"
        body = yaml.safe_load(path.read_text())
        body["method"]["batch"] = 64
        path.write_text(yaml.safe_dump(body))
    found = compare(one, other).differences
    assert "commit: 0123456789ab and feedfeedfeed with changes" in found
    assert "version of torch: 2.15 and 3" in found
    assert "sha256 of the data: none and 11" in found
    assert "method.batch: 128 and 64 (cdm, sde)" in found


def test_a_yardstick_that_moved_is_a_warning(tmp_path: Path) -> None:
    one, other = two(tmp_path, ("sde",))
    rows = {"noise": values(400.0, 1.7, None)}
    files.write_text(other / record.ANCHORS, Anchors(rows=rows).model_dump_json())
    assert compare(one, other).differences == (
        "fd_digits_500 of the same yardstick, noise: 412 and 400",
    )


# The command --------------------------------------------------------------------------------------


def test_studies_are_given_by_name_or_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = two(tmp_path)
    assert main(["compare", "a", str(other), "--results", str(tmp_path)]) == 0
    assert f"A: {one}\nB: {other}" in capsys.readouterr().out
    assert main(["compare", "a", "c", "--results", str(tmp_path)]) == 2
    assert "unknown study 'c'" in capsys.readouterr().err
    assert main(["compare", "a", "a", "--results", str(tmp_path)]) == 2
    assert "the same study twice" in capsys.readouterr().err


def test_every_format_has_the_same_rows(tmp_path: Path) -> None:
    one, other = two(tmp_path)
    change(other, set_fd(4.0, 4.2, 4.3), "sde")
    rows = compare(one, other).rows
    content = json.loads(render_comparison(one, other, "json"), parse_constant=pytest.fail)
    lines = [*csv.DictReader(io.StringIO(render_comparison(one, other, "csv")))]
    assert len(rows) == len(content["comparisons"]) == len(lines)
    place = next(k for k, row in enumerate(rows) if row.verdict in {MOVED, STAYED})
    assert content["comparisons"][place]["p"] == float(lines[place]["p"]) == rows[place].p


# By simulation ------------------------------------------------------------------------------------


def test_equal_studies_are_called_moved_at_the_stated_rate() -> None:
    studies, rows, random = 500, 6, np.random.default_rng(0)
    # Pairs share what belongs to the seed; Welch's test has other seeds on either side.
    for names in ((range(3), range(3)), (range(3), range(5, 9))):
        false = 0
        for _ in range(studies):
            p = []
            for _ in range(rows):
                sides = [dict(zip(n, random.normal(size=len(n)), strict=True)) for n in names]
                p.append(over_seeds(choose(*sides))[0].p)
            false += min(holm(p)) <= 0.05
        assert false / studies <= 0.05 + 4 * math.sqrt(0.05 * 0.95 / studies)


def test_two_draws_of_one_network_do_not_move() -> None:
    random, size, studies = np.random.default_rng(1), 4, 300
    exact = (np.zeros(size), np.eye(size))
    p = []
    for _ in range(studies):
        one, other = 0.2 + 0.9 * random.normal(size=(2, 200, size))
        distances = [frechet_distance.frechet_to_features(x, *exact) for x in (one, other)]
        errors = [frechet_distance.frechet_jackknife(x, *exact)[0] for x in (one, other)]
        p.append(by_errors(distances[1] - distances[0], errors).p)
    assert np.mean(np.array(p) <= 0.05) <= 0.05 + 4 * math.sqrt(0.05 * 0.95 / studies)
