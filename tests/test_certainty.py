"""What may be claimed: the jackknife, intervals, ranks and bands against simulation and theory."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from numpy.typing import NDArray

from bench.commands.compare.paired import holm, paired
from bench.commands.run import RunOptions
from bench.commands.run.request import resolve
from bench.config.errors import UserError
from bench.metrics import evaluation, extractors, frechet_distance
from bench.metrics.features import Features
from bench.metrics.references import Reference
from bench.records import files, record
from bench.records.record import Value
from bench.report import published, ranking
from bench.report.certainty import MIN_SEEDS, Gap, critical, gaps
from bench.report.frame import flatten
from bench.report.ranking import rank_by, rank_ranges
from bench.report.study_report import StudyReport
from bench.report.summary import mean_interval
from bench.report.table.numbers import with_error

from .fake_study import make_record, provenance, table, values, write_cell, write_study

Array = NDArray[np.float64]
BLOCKS = 20


def within(share: float, rate: float, count: int, sigmas: float = 4.0) -> bool:
    """Whether a share of ``count`` is what chance gives at a rate: four standard errors."""
    return abs(share - rate) <= sigmas * math.sqrt(rate * (1 - rate) / count)


# The jackknife, against its definition ------------------------------------------------------------


def left_out(features: Array, mu: Array, sigma: Array) -> tuple[float, float]:
    """The jackknife as it is defined: every distance computed anew from the features left."""
    parts = np.array_split(frechet_distance.permutation(len(features)), BLOCKS)
    whole = frechet_distance.frechet_to_features(features, mu, sigma)
    rest = np.array(
        [
            frechet_distance.frechet_to_features(np.delete(features, part, 0), mu, sigma)
            for part in parts
        ]
    )
    error = math.sqrt((BLOCKS - 1) / BLOCKS * ((rest - rest.mean()) ** 2).sum())
    return error, BLOCKS * whole - (BLOCKS - 1) * rest.mean()


@pytest.mark.parametrize(
    ("count", "size"), [(40, 3), (57, 8), (200, 16), (60, 100), (50, 49), (52, 50), (330, 300)]
)
def test_the_jackknife_is_that_of_its_definition(count: int, size: int) -> None:
    random = np.random.default_rng(count)
    # Far from zero, where a careless downdate loses its digits; correlated, and of unequal blocks.
    x = random.normal(size=(count, size)) @ random.normal(size=(size, size)) + 100
    other = random.normal(size=(4 * size, size)) @ random.normal(size=(size, size))
    given = (x.astype(np.float32), other.mean(axis=0), np.cov(other, rowvar=False))
    assert frechet_distance.frechet_jackknife(*given) == pytest.approx(left_out(*given), rel=1e-7)


def test_few_features_never_make_a_covariance(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = set()
    original = np.linalg.eigvalsh
    monkeypatch.setattr(
        np.linalg, "eigvalsh", lambda matrix: (shapes.add(matrix.shape), original(matrix))[1]
    )
    x = np.random.default_rng(0).normal(size=(60, 200))
    frechet_distance.frechet_jackknife(x, np.zeros(200), np.eye(200))
    assert shapes == {(60, 60), (57, 57)}


def test_moments_without_a_part_are_those_of_the_rest() -> None:
    x = np.random.default_rng(0).normal(1e4, 1, size=(50, 6))
    rest = frechet_distance.moments(x).without(frechet_distance.moments(x[:7]))
    assert rest.count == 43
    np.testing.assert_allclose(rest.mean, x[7:].mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(rest.covariance, np.cov(x[7:], rowvar=False), atol=1e-7)


def test_too_few_samples_have_no_jackknife() -> None:
    with pytest.raises(ValueError, match="39 samples do not fill 20 blocks"):
        frechet_distance.frechet_jackknife(np.zeros((39, 2)), np.zeros(2), np.eye(2))


# The jackknife, against a known distance ----------------------------------------------------------


SIZE, COUNT, STUDIES = 4, 200, 400


def gaussian_samples(shift: float, scale: float, studies: int) -> tuple[Array, float]:
    """Samples (studies, N, d) of N(shift, scale^2 I), and their distance to N(0, I)."""
    random = np.random.default_rng(7)
    samples = shift + scale * random.normal(size=(studies, COUNT, SIZE))
    return samples, SIZE * (shift**2 + (1 - scale) ** 2)


@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (0.3, 0.8)])
def test_the_corrected_distance_is_unbiased_and_its_interval_covers(
    shift: float, scale: float
) -> None:
    from scipy.stats import t

    samples, truth = gaussian_samples(shift, scale, STUDIES)
    exact = (np.zeros(SIZE), np.eye(SIZE))
    plug_in = np.array([frechet_distance.frechet_to_features(x, *exact) for x in samples])
    error, corrected = np.array([frechet_distance.frechet_jackknife(x, *exact) for x in samples]).T

    def bias(estimates: Array) -> float:
        """The mean error, in its standard errors."""
        return float((estimates.mean() - truth) / (estimates.std(ddof=1) / len(estimates) ** 0.5))

    assert abs(bias(corrected)) < 4
    assert bias(plug_in) > 8
    covered = np.abs(corrected - truth) <= t.ppf(0.975, BLOCKS - 1) * error
    # Conservative: it may cover more often than it says, never less.
    assert covered.mean() >= 0.95 - 4 * math.sqrt(0.95 * 0.05 / STUDIES)
    assert np.mean(error) >= 0.9 * plug_in.std(ddof=1)


def test_a_naive_bootstrap_fails_where_the_jackknife_covers() -> None:
    samples, truth = gaussian_samples(0.0, 1.0, 40)
    random = np.random.default_rng(0)
    exact = (np.zeros(SIZE), np.eye(SIZE))

    def interval(x: Array) -> Array:
        rows = random.integers(0, COUNT, (100, COUNT))
        again = [frechet_distance.frechet_to_features(x[chosen], *exact) for chosen in rows]
        return np.percentile(again, [2.5, 97.5])

    low, _ = np.array([interval(x) for x in samples]).T
    plug_in = [frechet_distance.frechet_to_features(x, *exact) for x in samples]
    # It never covers, and lies above even the plug-in value: the bias is added a second time.
    assert (low > truth).all()
    assert np.mean(low) > 0.9 * np.mean(plug_in)


# The jackknife, in an evaluation ------------------------------------------------------------------


@pytest.fixture
def reference() -> Reference:
    return Reference(
        np.zeros(5), np.eye(5), n=100, split="train", dataset="d", variant="d",
        data_sha256="aa", extractor_sha256="bb",
    )  # fmt: skip


def evaluate(reference: Reference, count: int, **options: Any) -> Value:
    x = np.random.default_rng(0).normal(size=(count, 5)).astype(np.float32)
    network = extractors.Extractor.__new__(extractors.Extractor)
    for name, value in {
        "name": "x", "sha256": "bb", "resize": "none", "classifies": None, "truth": None,
        "device": type("Device", (), {"type": "cpu"})(),
    }.items():  # fmt: skip
        object.__setattr__(network, name, value)
    found = evaluation.evaluate(
        Features(x, np.zeros((count, 0), np.float32)), reference, extractor=network, n=count,
        families=["fd"], **options,
    )  # fmt: skip
    return next(iter(found.values()))


def test_final_samples_have_an_error_and_snapshots_none(reference: Reference) -> None:
    plain, final = (evaluate(reference, 60, jackknife=asked) for asked in (False, True))
    assert (plain.error, plain.corrected) == (None, None)
    assert final.value == plain.value
    assert final.error is not None
    assert final.corrected is not None
    assert final.corrected < final.value
    assert final.provenance["jackknife_blocks"] == BLOCKS
    assert "jackknife_blocks" not in plain.provenance


def test_fewer_than_forty_samples_have_no_error(reference: Reference) -> None:
    assert evaluate(reference, 39, jackknife=True).error is None
    assert evaluate(reference, 40, jackknife=True).error is not None


# Intervals over seeds -----------------------------------------------------------------------------


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_the_interval_over_seeds_covers_at_its_rate(seeds: int) -> None:
    studies = 4000
    drawn = np.random.default_rng(seeds).normal(3.0, 2.0, size=(studies, seeds))
    found = np.array([mean_interval(row.tolist())[:2] for row in drawn])
    assert within(float((np.abs(found[:, 0] - 3.0) <= found[:, 1]).mean()), 0.95, studies)


def test_an_infinite_value_has_no_interval() -> None:
    mean, half, count = mean_interval([1.0, math.inf])
    assert (mean, count) == (math.inf, 2)
    assert math.isnan(half)


# Pairs --------------------------------------------------------------------------------------------


def test_a_pair_is_a_paired_t_test() -> None:
    from scipy import stats

    one, other = np.random.default_rng(1).normal(size=(2, 6))
    expected = stats.ttest_rel(one, other)
    found = paired(one, other)
    assert found.p == pytest.approx(expected.pvalue)
    assert found.mean == pytest.approx((one - other).mean())
    interval = expected.confidence_interval(0.95)
    assert found.half == pytest.approx((interval.high - interval.low) / 2)


def test_one_equal_seed_among_others_is_no_equality() -> None:
    """Differences 0, 1, 2: mean 1, standard error 1 / sqrt 3, so t = sqrt 3 of two degrees."""
    found = paired(np.array([1.0, 2.0, 3.0]), np.ones(3))
    assert found.p == pytest.approx(1 - math.sqrt(3 / 5))  # 1 - t / sqrt(2 + t^2)
    assert (found.mean, found.count) == (1, 3)


def test_only_shared_finite_seeds_count() -> None:
    one = np.array([1.0, 2.0, np.nan, 4.0, np.inf, 6.5])
    other = np.array([0.5, 1.0, 3.0, np.nan, 1.0, 6.0])
    found = paired(one, other)
    assert found == paired(one[[0, 1, 5]], other[[0, 1, 5]])
    assert found.count == 3
    assert paired(one, np.full(6, np.nan)).count == 0


def test_differences_without_variance_are_no_evidence() -> None:
    same = np.array([1.0, 2.0, 3.0])
    assert paired(same, same).p == 1
    # 0.1 + 0.2 is not 0.3 to the last bit, which is not a difference.
    assert paired(same + 0.1 + 0.2, same + 0.3).p == 1
    assert math.isnan(paired(same + 1, same).p)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == pytest.approx([1.0, 1.0])
    with_gap = holm([0.01, math.nan, 0.02])
    assert with_gap[::2] == pytest.approx([0.02, 0.02])
    assert math.isnan(with_gap[1])
    assert holm([]) == []


# Ranks --------------------------------------------------------------------------------------------


def frame_of(values: dict[str, list[float]], metric: str = "fd_x_9") -> pd.DataFrame:
    """A study's cells: of each method the values of seeds 0, 1, ..., all of one source."""
    cells = [(name, seed, value) for name, row in values.items() for seed, value in enumerate(row)]
    frame = pd.DataFrame(cells, columns=["method", "seed", f"metrics.{metric}"])
    return frame.assign(kind="cell", status="finished", source="s")


def test_what_does_not_separate_is_in_order_of_its_means_either_way() -> None:
    """Rising means of methods whose seeds differ by more; one has a seed too few to be ranked."""
    rows = {"c": [1.0, 5, 9], "a": [2.0, 4, 10], "b": [0.5, 6, 7], "few": [1.0, 2]}
    for metric, order in {"fd_x_9": ["b", "c", "a"], "is_x_9": ["a", "c", "b"]}.items():
        found = rank_by(frame_of(rows, metric), metric)
        assert list(found.ranks) == order
        assert set(found.ranks.values()) == {(1, 3)}
        assert found.unranked == {"few": 2}
        assert ranking.sentence(found) == (
            f"Rank by {metric}: 1-3 {', '.join(order)}. With fewer than 3 shared seeds no rank is "
            "claimed for few (2)."
        )


def test_what_has_no_test_is_said_of_ranked_methods_alone() -> None:
    """a and b share two seeds, each three with c; d has one seed."""
    nan = math.nan
    rows = {
        "a": [1.0, 2, 4, nan], "b": [nan, 3, 5, 3], "c": [7.0, 1, 30, 2], "d": [4.0, nan, nan, nan],
    }  # fmt: skip
    found = rank_by(frame_of(rows), "fd_x_9")
    assert [(pair.one, pair.other) for pair in found.untested] == [("a", "b")]
    assert ranking.sentence(found) == (
        "Rank by fd_x_9: 1-3 a, b, c. With fewer than 3 shared seeds no rank is claimed for d (1). "
        "Without a test (too few shared seeds, or no variance), so tied: a and b."
    )


def test_a_metric_of_one_method_ranks_nothing() -> None:
    assert ranking.rankings(frame_of({"a": [1.0, 2, 3]}), ["fd_x_9"]) == []
    assert len(ranking.rankings(frame_of({"a": [1.0, 2], "b": [1.0]}), ["fd_x_9"])) == 1


def test_ranks_leave_room_for_what_is_not_separated() -> None:
    better = np.zeros((4, 4), bool)
    assert rank_ranges(better) == [(1, 4)] * 4
    better[0, 1:] = True
    assert rank_ranges(better) == [(1, 1), (2, 4), (2, 4), (2, 4)]
    better[1, 3] = True
    assert rank_ranges(better) == [(1, 1), (2, 3), (2, 4), (3, 4)]


def test_methods_that_are_not_separated_always_share_a_rank() -> None:
    random = np.random.default_rng(0)
    for _ in range(300):
        size = int(random.integers(2, 8))
        found = random.random((size, size)) < random.random()
        found &= ~found.T
        ranges = rank_ranges(found)
        for i, j in combinations(range(size), 2):
            apart = ranges[i][1] < ranges[j][0] or ranges[j][1] < ranges[i][0]
            follows = connected(found, i, j) != connected(found, j, i)
            assert not apart or follows
            assert 1 <= ranges[i][0] <= ranges[i][1] <= size


def connected(found: NDArray[np.bool_], start: int, end: int) -> bool:
    """Whether ``end`` can be reached from ``start``, by a search of its own."""
    seen, todo = set(), [start]
    while todo:
        for after in np.flatnonzero(found[todo.pop()]):
            if after not in seen:
                seen.add(int(after))
                todo.append(int(after))
    return end in seen


# The model of all methods and seeds ---------------------------------------------------------------

ALIKE, DIGITS = np.ones(4), np.array([0.096, 0.068, 0.192, 0.134])
"""Spreads of methods; the second, of logarithms, are those of the reference study digits-quick."""


def compared(values: Array, rounding: float = 0.0) -> list[Gap]:
    return gaps(values, np.full(len(values), np.nan), rounding)


def drawn(spreads: Array, seeds: int, studies: int) -> Iterator[Array]:
    """Studies (methods, seeds) of equal methods with what a seed has in common for all."""
    random = np.random.default_rng(seeds * len(spreads))
    for _ in range(studies):
        common = 2 * random.normal(size=(1, seeds))
        yield spreads[:, None] * random.normal(size=(len(spreads), seeds)) + common


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize(
    "spreads",
    [ALIKE, np.array([1.0, 1, 1, 3]), np.geomspace(1, 3, 8), np.array([1.0] * 15 + [3])],
    ids=["4-alike", "4-one-3", "8-1-to-3", "16-one-3"],
)
def test_equal_methods_are_tied(spreads: Array, seeds: int) -> None:
    studies = 1000
    false = [
        any(gap.is_apart for gap in compared(study)) for study in drawn(spreads, seeds, studies)
    ]
    assert np.mean(false) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / studies)


def test_equal_methods_with_gaps_are_tied() -> None:
    """Some have only the first seeds, and some lack some by chance."""
    studies, random, false = 1000, np.random.default_rng(0), []
    for turn, study in enumerate(drawn(np.array([3.0, 1, 1, 1, 1, 3]), 6, studies)):
        if turn % 2:
            study[:3, 3:] = np.nan
        else:
            study[random.random(study.shape) < 0.25] = np.nan
        false.append(any(gap.is_apart for gap in compared(study)))
    assert np.mean(false) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / studies)


@pytest.mark.parametrize(("seeds", "power"), [(3, 0.75), (5, 0.95)])
def test_a_factor_of_two_and_a_half_separates(seeds: int, power: float) -> None:
    """Every pair in turn is that far apart, its first method the better."""
    apart = np.zeros(6)
    for study in drawn(DIGITS, seeds, 300):
        for place, (one, other) in enumerate(combinations(range(4), 2)):
            moved = study.copy()
            moved[other] += math.log(2.5)
            (found,) = (gap for gap in compared(moved) if (gap.one, gap.other) == (one, other))
            apart[place] += found.is_apart and found.mean < 0
    assert (apart / 300).min() >= power


@pytest.mark.parametrize("methods", [2, 3, 4, 16])
def test_critical_values_are_scipy_s(methods: int) -> None:
    from scipy.stats import studentized_range

    degrees = np.array([2.0, 2.4, 3.7, 6.5, 18, 70, 400])
    expected = [studentized_range.ppf(0.95, methods, one) for one in degrees]
    assert critical(methods)(degrees) * 2**0.5 == pytest.approx(expected, rel=1e-4)


def test_two_methods_are_a_paired_t_test() -> None:
    values = np.random.default_rng(2).normal(size=(2, 5))
    (found,), expected = compared(values), paired(*values)
    assert (found.mean, found.half) == pytest.approx((expected.mean, expected.half))
    assert (found.count, found.is_apart) == (5, expected.p <= 0.05)


def test_intervals_by_hand() -> None:
    """Three methods, three seeds.

    Differences of a and b are 1, 1, 1, of the others 1, 2, 3 apart from their means: half their
    variances are 0, 0.5, 0.5, and 1/3 is that of all pairs. The larger counts.
    """
    values = np.array([[1.0, 2, 3], [2.0, 3, 4], [9.0, 9, 9]])
    alike, apart, _ = compared(values)
    # Residuals of a and b have the variance 1/9, of c 4/9: Satterthwaite's are 36/18 * 2 * 2/3.
    (bound,) = critical(3)(np.array([2 * 36 / 18 * 2 / 3]))
    assert alike.half == pytest.approx(bound * math.sqrt(2 / 3 / 3))
    # The pair's own is larger: 25/17 of its two degrees.
    (bound,) = critical(3)(np.array([2 * 25 / 17]))
    assert apart.half == pytest.approx(bound * math.sqrt(2 * 0.5 / 3))
    floor = gaps(values, np.array([3.0, 1.0, np.nan]), 0.0)[0]
    assert floor.half == pytest.approx(alike.half * math.sqrt(2.0 / (1 / 3)))


def test_seeds_to_separate_are_those_that_do_8_times_of_10() -> None:
    """The spread seen is made the true one, and the gap stays."""
    step = np.array([-1.0, 0, 1])
    (found,) = compared(np.array([step, 0.5 + 0 * step]))
    assert 10 < found.needed < 60
    seeds, random = int(found.needed), np.random.default_rng(0)
    for count, low, high in ((seeds, 0.77, 0.86), (seeds // 2, 0.3, 0.6)):
        differences = found.mean + random.normal(size=(4000, count))
        error = differences.std(axis=1, ddof=1) / count**0.5
        apart = np.abs(differences.mean(axis=1)) / error > critical(2)(np.array([count - 1.0]))
        assert low < apart.mean() < high
    (never,) = compared(np.array([step, 0.01 + 0 * step]))
    assert (never.needed, never.is_apart) == (math.inf, False)


def test_differences_that_do_not_vary_take_the_variance_of_the_others() -> None:
    step = np.array([0.0, 0.1, 0.3])
    alike, *_ = compared(np.array([step, step + 5, 7 - step]))
    assert alike.is_apart
    assert alike.half > 0
    (alone,) = compared(np.array([step, step + 5]), rounding=1e-12)
    assert math.isnan(alone.half)
    assert not alone.is_apart


def write_row(study: Path, method: str, seed: int, **changes: Any) -> Path:
    """Write a cell of a method of any name."""
    named = {"method": method, "cell": f"{method}-seed{seed}"}
    row = make_record(study, "sde", seed).model_copy(update=named | changes)
    write_cell(study / row.cell, row, [], images=0)
    return study / row.cell


def study_of(place: Path, found: dict[str, list[float | None]]) -> Path:
    """A study whose methods have these distances by seed; ``None``: the cell failed."""
    study = write_study(place / "s", (), failed=None)
    for method, row in found.items():
        for seed, value in enumerate(row):
            measured = {} if value is None else values(value, 9.0, None)
            status = record.Status.FAILED if value is None else record.Status.FINISHED
            write_row(study, method, seed, metrics=measured, status=status)
    return study


@pytest.mark.parametrize(("factor", "ranks"), [(0.999, [(1, 2)] * 2), (1.001, [(1, 1), (2, 2)])])
def test_the_hurdle_is_where_a_pair_begins_to_separate(
    tmp_path: Path, factor: float, ranks: list[tuple[int, int]]
) -> None:
    hurdle = 4.30265  # Of two-sided 5 % with two degrees of freedom, from a table.
    error = 3**-0.5
    apart = [5 * math.exp(0.1 * (factor * hurdle * error + step)) for step in (-1, 0, 1)]
    study = study_of(tmp_path, {"a": [5.0, 5.0, 5.0], "b": [*apart]})
    found = rank_by(StudyReport.read(study).frame, "fd_digits_500")
    assert [*found.ranks.values()] == ranks


def test_ranks_are_of_shared_seeds(tmp_path: Path) -> None:
    study = study_of(
        tmp_path,
        {
            "a": [1.0, 1.1, 1.05, 1.02],
            "b": [2.0, 2.15, 2.05, 2.02],
            "late": [None, None, 1.0, 1.0],
            "wild": [math.inf, math.inf, 3.0, 3.0],
        },
    )
    found = rank_by(StudyReport.read(study).frame, "fd_digits_500")
    assert found.ranks == {"a": (1, 1), "b": (2, 2)}
    assert found.unranked == {"late": 2, "wild": 2}
    text = table(study)
    assert "Rank by fd_digits_500: 1 a; 2 b. With fewer than 3 shared seeds" in text
    assert "no rank is claimed for late (2), wild (2)." in text


def test_methods_without_shared_seeds_have_no_rank(tmp_path: Path) -> None:
    gap: list[float | None] = [None, None, None]
    study = study_of(tmp_path, {"a": [1.0, 1.1, 1.2, *gap], "b": [*gap, 5.0, 5.1, 5.2]})
    assert rank_by(StudyReport.read(study).frame, "fd_digits_500").ranks == {}
    text = table(study)
    assert "With fewer than 3 seeds that two methods share no rank is claimed." in text
    assert "| rank |" not in text


def test_higher_is_better_where_the_metric_says_so(tmp_path: Path) -> None:
    study = study_of(tmp_path, {"a": [1.0, 1.1, 1.05], "b": [2.0, 2.15, 2.05]})
    for folder, row in record.cells(study):
        score = {"is_digits_500": row.metrics["fd_digits_500"]}
        record.save(row.model_copy(update={"metrics": row.metrics | score}), folder)
    frame = StudyReport.read(study).frame
    assert list(rank_by(frame, "fd_digits_500").ranks) == ["a", "b"]
    assert list(rank_by(frame, "is_digits_500").ranks) == ["b", "a"]


def test_one_seed_claims_nothing(tmp_path: Path) -> None:
    text = table(study_of(tmp_path, {"a": [1.0], "b": [9.0]}))
    assert "no rank is claimed" in text
    assert "Rank by" not in text


def test_json_has_every_pair(tmp_path: Path) -> None:
    study = study_of(tmp_path, {"a": [1.0, 1.1, 1.05], "b": [2.0, 2.15, 2.05], "c": [2.0] * 3})
    content = json.loads(table(study, "json"))
    found = {one["metric"]: one for one in content["rankings"]}["fd_digits_500"]
    assert [pair["methods"] for pair in found["pairs"]] == [["a", "b"], ["a", "c"], ["b", "c"]]
    first = found["pairs"][0]
    assert first["seeds"] == MIN_SEEDS
    assert first["apart"]
    assert first["difference"] + first["half"] < 0
    assert (found["scale"], found["ranks"]["a"]) == ("log", [1, 1])
    assert found["pairs"][2]["seeds_to_separate"] == "15"
    assert found["spreads"]["a"].keys() == {"between"}


# What the table shows of one seed -----------------------------------------------------------------


def with_errors(study: Path) -> Path:
    """Give every cell's distance an error within its seed and a corrected value."""
    for folder, row in record.cells(study):
        value = row.metrics["fd_digits_500"]
        told = value.model_copy(update={"error": 0.123, "corrected": value.value - 1})
        record.save(
            row.model_copy(update={"metrics": row.metrics | {"fd_digits_500": told}}), folder
        )
    return study


def test_an_error_within_a_seed_is_no_interval_over_seeds(tmp_path: Path) -> None:
    one = table(with_errors(study_of(tmp_path / "1", {"a": [5.0], "b": [6.0]})))
    assert "5.00 (se 0.12)" in one
    assert "4.00 (se 0.12)" in one
    assert "±" not in one
    assert "(se ...): standard error within the one seed" in one
    several = table(with_errors(study_of(tmp_path / "2", {"a": [5.0, 5.2], "b": [6.0, 6.1]})))
    assert "(se" not in several
    assert "5.10 ± 1.27" in several or "5.1 ± 1.3" in several
    assert "4.1 ± 1.3" in several
    assert "fd_digits_500 corrected ↓" in several


def test_errors_are_columns_and_no_metrics(tmp_path: Path) -> None:
    report = StudyReport.read(with_errors(study_of(tmp_path, {"a": [5.0]})))
    assert report.metrics == ["fd_digits_500", "is_digits_500"]
    cell = report.cell_frame.iloc[0]
    assert cell["metrics.fd_digits_500.error"] == 0.123
    assert cell["metrics.fd_digits_500.corrected"] == 4.0


def test_numbers_with_an_error() -> None:
    assert with_error(0.7041, 0.0213) == "0.704 (se 0.021)"
    assert with_error(412.3, 31.4) == "412 (se 31)"
    assert with_error(0.7041, math.nan) == "0.7041"


# Published values ---------------------------------------------------------------------------------


HEUN, MISMATCHING, REAL = "sde:heun", "smm", "real (held-out)"
PAPER = {"data": "cifar10", "extractor": "inception-legacy", "reference_n": 50_000, "n": 50_000}


def paper_study(place: Path, method: str, found: list[float], **options: Any) -> Path:
    """A CIFAR-10 study at the paper's preset, with the resolved settings that it would have."""
    budget = options.pop("budget", None)
    request = resolve(
        RunOptions(
            methods=(method,), dataset="cifar10", preset=options.pop("preset", "paper"),
            budget=budget, overrides=options.pop("overrides", ()), device="cpu", results=place,
            rerun=("none",),
        )
    )  # fmt: skip
    study = write_study(place / "s", (), failed=None)
    anchors = options.pop("anchors", {})
    files.write_text(study / record.ANCHORS, record.Anchors(rows=anchors).model_dump_json())
    for seed, value in enumerate(found):
        told = provenance(**PAPER | options)
        metrics = {"fid_legacy": Value(value=value, provenance=told)}
        cell = write_row(
            study, method, seed, metrics=metrics, dataset="cifar10", data_variant=told["data"],
            preset="paper",
        )  # fmt: skip
        config = {
            "settings": request.settings.model_dump(mode="json"),
            "method_config": dict(request.methods[method]),
        }
        (cell / "config.yaml").write_text(yaml.safe_dump(config))
    return study


@pytest.mark.slow
@pytest.mark.parametrize(
    ("found", "verdict"),
    [([1.95, 2.0, 1.99], "inside"), ([1.5, 1.52, 1.51], "below band"), ([3.0], "above band")],
)
def test_a_published_value_stands_beside_ours(
    tmp_path: Path, found: list[float], verdict: str
) -> None:
    study = paper_study(tmp_path, HEUN, found)
    beside = StudyReport.read(study).published.beside
    assert [(one.published.value, one.verdict) for one in beside] == [
        (1.97, verdict),
        (2.01, verdict),
    ]
    text = table(study)
    assert "Published:" in text
    assert f"| 1.97      | 1.87 to 2.2 | {verdict}" in text
    assert "Karras et al. 2022, table 2" in text
    assert "tab:s-published" in table(study, "latex")
    assert [one["verdict"] for one in json.loads(table(study, "json"))["published"]] == [
        verdict,
        verdict,
    ]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"budget": "10kimg"}, "settings.budget.amount is 10.0, published with 200000"),
        ({"overrides": ["common.network.blocks=2"]}, "method_config.network.blocks is 2"),
        ({"preset": "gpu"}, "settings.preset is gpu, published with paper"),
        ({"data": "cifar10-jpeg"}, "data is cifar10-jpeg, published with cifar10"),
        ({"reference_n": 10_000}, "reference_n is 10000, published with 50000"),
    ],
)
def test_a_published_value_of_other_settings_does_not_apply(
    tmp_path: Path, options: dict[str, Any], told: str
) -> None:
    study = paper_study(tmp_path, HEUN, [1.97], **options)
    assert not StudyReport.read(study).published.beside
    text = table(study)
    assert f"No published value applies to {HEUN}: {told}" in text
    assert "Published:" not in text


def test_a_run_of_other_length_is_no_reproduction(tmp_path: Path) -> None:
    longer = paper_study(tmp_path / "1", MISMATCHING, [8.0])
    assert "budget.amount is 200000.0, published with 100000" in table(longer)
    own = paper_study(tmp_path / "2", MISMATCHING, [8.0], budget="100000kimg")
    assert [one.verdict for one in StudyReport.read(own).published.beside] == ["inside"]


def test_real_images_have_known_values_too(tmp_path: Path) -> None:
    real = {
        name: Value(value=value, provenance=provenance(**PAPER | {"n": 10_000}))
        for name, value in {"fid_legacy_10k": 3.15, "is_legacy_10k": 12.5}.items()
    }
    study = paper_study(tmp_path, HEUN, [1.97], anchors={REAL: real})
    rows = StudyReport.read(study).published.beside
    assert {(one.published.metric, one.verdict) for one in rows if one.row != HEUN} == {
        ("fid_legacy_10k", "inside"),
        ("is_legacy_10k", "above band"),
    }


def test_other_data_have_no_published_values(tmp_path: Path) -> None:
    text = table(study_of(tmp_path, {"a": [1.0]}))
    assert "No published value applies to a: none is known of these data." in text


LABELS = (
    "sde", HEUN, "sde:conditional+heun", "cdm:as_released", "cdm:conditional+as_released", "smm",
    "smm:main", "dlsm:as_released", "dlsm:as_released+ce", "dlsm:as_released+ce_scaled",
)  # fmt: skip
OWN_LENGTH = {"smm": 100_000, "dlsm": 130_600}
"""Lengths of training that are not the preset's."""
IDLE = {"log_kimg", "snapshots", "checkpoint_seconds", "share_stages", "compile", "per_method"}
"""Settings of training that decide no result; the methods' own are looked at by themselves."""
INERT = {
    "predictor_corrector": {
        "sigma_min", "sigma_max", "rho", "vp_beta_min", "vp_beta_range", "vp_end", "s_churn",
        "s_min", "s_max", "s_noise",
    },
    "heun": {
        "geometric_min", "geometric_max", "vp_beta_min", "vp_beta_range", "vp_end", "s_churn",
        "s_min", "s_max", "s_noise", "snr", "corrector_steps",
    },
    "positional": {"fourier_scale"},
    "absolute": {"min_ratio"},
}  # fmt: skip
"""Settings that a choice leaves without effect."""


def published_configs(place: Path, dataset: str) -> dict[str, dict[str, Any]]:
    """The flat ``config.yaml`` of the rows that have published values, at the preset ``paper``."""
    request = resolve(
        RunOptions(
            methods=LABELS, dataset=dataset, preset="paper", device="cpu", results=place,
            rerun=("none",),
        )
    )  # fmt: skip
    settings = request.settings.model_dump(mode="json")
    configs = {}
    for label, own in request.methods.items():
        flat = flatten("", {"settings": settings, "method_config": dict(own)})
        length = OWN_LENGTH.get(label.split(":")[0], flat["settings.budget.amount"])
        configs[label] = flat | {"settings.budget.amount": length}
    return configs


def recipe(config: dict[str, Any], method: str) -> set[str]:
    """The settings of a cell that decide its result: all of the method's, and of training."""
    values = {value for value in config.values() if isinstance(value, str)}
    inert = IDLE.union(*(INERT[choice] for choice in values & INERT.keys()))
    # What a method has of its own stands in for the study's.
    part = f".per_method.{method}"
    inherited = {name.replace(part, "") for name in config if part in name}
    if config.get("method_config.score_batch"):
        inherited |= {"settings.training.batch", "settings.training.flip", "settings.training.clip"}
    return {
        name
        for name in config.keys() - inherited
        if name.startswith(("method_config.", "settings.training.", "settings.budget."))
        and not inert & set(name.split("."))
    }


def beside_published(
    place: Path, dataset: str
) -> Iterator[tuple[published.Published, str, dict[str, Any]]]:
    """Each published value with each row that may stand beside it, and the row's configuration."""
    configs = published_configs(place, dataset)
    for value in published.read_published(dataset):
        for label in set(value.rows) & configs.keys():
            if not published._differs(value.setting, configs[label]):
                yield value, label, configs[label]


@pytest.mark.parametrize(
    ("dataset", "values"),
    [
        (
            "cifar10",
            [1.97, 2.01, 1.79, 1.82, 1.95, 1.77, 2.25, 4.1, 12.48, 9.9, 9.08, 9.37, 8.1, 8.1],
        ),
        ("cifar100", [3.86, 4.52, 12.58, 11.62, 11.53, 11.59]),
    ],
)
def test_every_published_value_can_be_reached(
    tmp_path: Path, dataset: str, values: list[float]
) -> None:
    """The paper preset is what the values were published with, but for the length of some."""
    reached = [value.value for value, _, _ in beside_published(tmp_path, dataset)]
    assert reached == values


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100"])
def test_whatever_differs_from_its_recipe_unpins_a_published_value(
    tmp_path: Path, dataset: str
) -> None:
    """Each setting of the method and of training, as the preset has it: none may be another."""
    for value, label, config in beside_published(tmp_path, dataset):
        method = label.split(":")[0]
        names = recipe(config, method)
        assert len(names) > 35
        changed = dict.fromkeys(names, "another")
        for key in ("batch", "flip", "clip", "precision"):
            changed[f"settings.training.per_method.{method}.{key}"] = "another"
        for name, other in sorted(changed.items()):
            told = published._differs(value.setting, config | {name: other})
            assert told.startswith(f"{name} is another"), f"{value.source}: {name} is free"


def test_a_published_value_says_what_it_was_held_against(tmp_path: Path) -> None:
    """One nobody has checked is marked in the table."""
    unchecked = {
        v.value for v in published.read_published("cifar10") if v.rows[0] != REAL and not v.checked
    }
    assert unchecked == {8.10}
    study = paper_study(tmp_path, MISMATCHING, [8.0], budget="100000kimg")
    assert "as quoted by a later paper (not checked)" in table(study)
    heun = paper_study(tmp_path / "2", HEUN, [1.97])
    assert "(not checked)" not in table(heun)


@pytest.mark.parametrize(
    ("snapshots", "ours"),
    [
        ([{}, {}], 2.03),
        ([{"fid_legacy_5k": 1.5}], 2.03),
        ([{"fid_legacy": 1.96}, {"fid_legacy": 2.1}], 1.96),
    ],
)
def test_the_best_snapshot_stands_beside_a_best_snapshot(
    tmp_path: Path, snapshots: list[dict[str, float]], ours: float
) -> None:
    """Of those that were measured as the end is; the end where there are none."""
    study = paper_study(tmp_path, "cdm:as_released", [2.03])
    (cell,) = study.glob("cdm*")
    points = [*snapshots, {"fid_legacy": 2.03}]
    lines = [{"images": k, "step": k, "seconds": k, "values": v} for k, v in enumerate(points)]
    files.write_text(cell / record.CURVES, "".join(f"{json.dumps(line)}\n" for line in lines))
    (beside,) = StudyReport.read(study).published.beside
    assert (beside.published.value, beside.mean) == (1.95, ours)


def test_a_band_that_does_not_hold_its_value_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "published").mkdir()
    body = {"rows": ["a"], "metric": "m", "value": 3, "band": [1, 2], "why": "w", "source": "s"}
    (tmp_path / "published" / "d.yaml").write_text(yaml.safe_dump({"values": [body]}))
    monkeypatch.setattr(published, "config_folder", lambda: tmp_path)
    with pytest.raises(UserError, match="does not hold 3"):
        published.read_published("d")
