"""What every picture must keep: nothing overlaps or leaves it, errors are drawn, no point moves."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from bench.costs.intervals import Interval
from bench.records import files, nfe_curve, record
from bench.records.grid import ScatterLook, by_class, scatter_image
from bench.records.record import Anchors, Record, Value
from bench.report.nfe_table import load_points
from bench.report.plots import drawing
from bench.report.plots.drawing import STYLE, PlottedStudy, Skipped
from bench.report.plots.nfe_curve import draw as draw_nfe
from bench.report.plots.quality import (
    FLOPS,
    TIME,
    MethodPoint,
    draw_quality,
    of_equal_cost,
    quality,
)  # fmt: skip
from bench.report.plots.scales import apart, plain, round_values, through_zero
from bench.report.plots.training_curves import metric_curve
from bench.report.plots.write import write_plots
from bench.report.study_report import StudyReport
from bench.report.table.numbers import number
from bench.report.training_flops import training_flops

from .fake_study import METHODS, curve, make_record, provenance, write_cell, write_study

VARIANTS = {
    "sde": ("", ":conditional", ":heun"),
    "cdm": ("", ":one_step", ":published", ":relative"),
    "dlsm": ("", ":ce", ":ce_scaled", ":dlsm_alone"),
    "smm": ("", ":gan", ":main", ":no_mismatch", ":two_time_scales"),
}
"""Sixteen methods."""
Change = Callable[[Record], dict[str, object]]


def altered(study: Path, change: Change) -> Path:
    """Change the records of a study's cells."""
    for folder, row in record.cells(study):
        record.save(row.model_copy(update=change(row)), folder)
    return study


def with_metrics(**found: Callable[[Record], Value]) -> Change:
    return lambda row: {"metrics": row.metrics | {name: of(row) for name, of in found.items()}}


def four(folder: Path, seeds: int = 3) -> Path:
    """Four methods with precision and recall, and kernel distances around 0."""
    study = write_study(folder, METHODS, range(seeds), failed=None)
    distances = {"sde": 0.004, "cdm": 0.0012, "dlsm": 0.0031, "smm": 0.02}
    anchors = Anchors.model_validate_json((study / record.ANCHORS).read_bytes())
    for name, value in {"noise": 0.42, "real (held-out)": -0.0024}.items():
        anchors.rows[name]["kd_digits_500"] = Value(value=value)
    files.write_text(study / record.ANCHORS, anchors.model_dump_json())
    return altered(
        study,
        with_metrics(
            kd_digits_500=lambda row: Value(value=distances[row.method] * (1 + 0.2 * row.seed)),
            precision_digits_500=lambda row: Value(value=0.4 + 0.1 * row.seed),
            recall_digits_500=lambda row: Value(value=0.5 + 0.02 * len(row.method)),
            fd_digits_500=lambda row: row.metrics["fd_digits_500"].model_copy(
                update={"error": 0.3}
            ),
        ),
    )


def sixteen(folder: Path) -> Path:
    """Sixteen methods of four families with three seeds, all of one cost but for 0.7 %."""
    study = write_study(folder, (), ())
    for place, (family, name) in enumerate(
        (family, name) for family, names in VARIANTS.items() for name in names
    ):
        for seed in range(3):
            row = make_record(study, family, seed)
            cost = row.cost.model_copy(update={"train_flops": 4.34e11 * (1 + 0.0005 * place)})
            fd = row.metrics["fd_digits_500"]
            fd = fd.model_copy(update={"value": fd.value * (1 + 0.1 * place)})
            changes = {
                "method": family + name, "cell": record.cell_name(family + name, seed),
                "cost": cost, "metrics": {"fd_digits_500": fd},
            }  # fmt: skip
            row = row.model_copy(update=changes)
            write_cell(study / row.cell, row, curve(family, seed, points=12), images=0)
    return study


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("studies")
    return {
        "four": four(folder / "four"), "one seed": four(folder / "single", seeds=1),
        "sixteen": sixteen(folder / "sixteen"),
        "one method": write_study(folder / "one", ("sde",), (0, 1), failed=None),
    }  # fmt: skip


@pytest.fixture(scope="module")
def figures(studies: dict[str, Path]) -> dict[str, tuple[dict[str, Figure], list[str]]]:
    """Every picture of each study, laid out, and what was said of those left out."""
    found: dict[str, tuple[dict[str, Figure], list[str]]] = {}
    with pytest.MonkeyPatch.context() as patch, rc_context(STYLE):
        for name, study in studies.items():
            drawn: dict[str, Figure] = {}
            patch.setattr(
                "bench.report.plots.write.save",
                lambda figure, path, drawn=drawn: [drawn.setdefault(path.name, figure)][:0],
            )
            patch.setattr("bench.report.plots.write.samples", lambda report, path: path)
            said: list[str] = []
            write_plots(StudyReport.read(study), said.append)
            for figure in drawn.values():
                figure.draw_without_rendering()
            found[name] = drawn, said
    return found


def texts(figure: Figure) -> Iterator[tuple[Text, Bbox]]:
    """Yield every text that can be seen, with its box; ticks beyond an axis are not drawn."""
    left_out = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            shown = {tick.label1 for tick in axis._update_ticks()}
            left_out |= {label for label in axis.get_ticklabels(which="both")} - shown
    for text in figure.findobj(Text):
        if text.get_visible() and text.get_text().strip() and text not in left_out:
            yield text, Text.get_window_extent(text)  # Without an annotation's line.


def overlapping(figure: Figure) -> list[tuple[str, str]]:
    """Return the texts that lie over one another, but for a hair."""
    boxes = [(text.get_text(), box.padded(-0.5)) for text, box in texts(figure)]
    return [
        (one, other)
        for (one, first), (other, second) in itertools.combinations(boxes, 2)
        if first.overlaps(second)
    ]


@pytest.mark.parametrize("name", ["four", "one seed", "sixteen", "one method"])
def test_nothing_overlaps_and_no_word_leaves_a_picture(
    name: str, figures: dict[str, tuple[dict[str, Figure], list[str]]]
) -> None:
    drawn, _ = figures[name]
    assert {"losses", "ledger", "curve-fd_digits_500"} <= drawn.keys()
    for title, figure in drawn.items():
        assert overlapping(figure) == [], title
        inside = figure.bbox.padded(1.0)
        for text, box in texts(figure):
            assert inside.x0 <= box.x0 <= box.x1 <= inside.x1, (title, text)
            assert inside.y0 <= box.y0 <= box.y1 <= inside.y1, (title, text)
            for axes in figure.axes:
                for x, y in markers(axes):
                    assert not box.padded(3).contains(x, y), (title, text)
                if "-" in title and text in axes.texts:  # The anchors' names.
                    assert box.x0 > axes.bbox.x1, (title, text)


def markers(axes: Axes) -> Iterator[tuple[float, float]]:
    for line in axes.lines:
        if line.get_marker() not in ("None", None, "", "_", "|"):
            yield from line.get_transform().transform(line.get_xydata())


def test_axes_are_in_words(figures: dict[str, tuple[dict[str, Figure], list[str]]]) -> None:
    for drawn, _ in figures.values():
        for title, figure in drawn.items():
            for axes in figure.axes:
                assert "_" not in axes.get_ylabel() + axes.get_xlabel(), title
    drawn, _ = figures["four"]
    axes = drawn["fd_digits_500-train_flops"].axes[0]
    words = axes.get_ylabel().replace("\n", " ")
    assert words == "Fréchet distance (digits, 500 samples), lower is better"
    assert axes.get_xlabel() == "training compute (FLOP)"


# Points, bars and costs -------------------------------------------------------------------------


def places(axes: Axes) -> dict[str, tuple[float, float]]:
    """Return where each method's marker stands."""
    shown = zip(*axes.get_legend_handles_labels(), strict=True)
    return {label: (float(h.get_xdata()[0]), float(h.get_ydata()[0])) for h, label in shown}


def upright_bars(axes: Axes) -> list[np.ndarray]:
    """Return the ends of all upright bars, (2, 2) each."""
    ends = [part for lines in axes.collections for part in lines.get_segments()]
    return [part for part in ends if len(part) == 2 and part[0][0] == part[1][0]]


@pytest.mark.parametrize("cost", [FLOPS, TIME])
def test_no_point_is_moved(studies: dict[str, Path], cost: object) -> None:
    report = StudyReport.read(studies["four"])
    axes = quality(PlottedStudy.of(report), "fd_digits_500", cost).axes[0]
    drawn = places(axes)
    for row in report.method_rows:
        x = row["cost.train_flops"] if cost is FLOPS else row["time.ms_per_image.median"]
        assert drawn[row["method"]] == (x, row["metrics.fd_digits_500"])


@pytest.mark.parametrize(
    ("name", "told", "half"),
    [
        ("four", "95 % t interval over seeds", lambda row: row["metrics.fd_digits_500:half"]),
        ("one seed", "± 1.96 standard errors within the one seed", lambda row: 1.96 * 0.3),
    ],
)
def test_errors_are_always_drawn(
    studies: dict[str, Path], name: str, told: str, half: Callable[[Mapping[str, float]], float]
) -> None:
    report = StudyReport.read(studies[name])
    figure = quality(PlottedStudy.of(report), "fd_digits_500", FLOPS)
    bars = sorted(float(end[1][1] - end[0][1]) for end in upright_bars(figure.axes[0]))
    expected = sorted(2 * half(row) for row in report.method_rows)
    assert bars == pytest.approx(expected)
    assert told in figure.get_supxlabel()


def test_who_has_no_error_is_named(studies: dict[str, Path]) -> None:
    content = PlottedStudy.of(StudyReport.read(studies["one seed"]))
    assert "without a known error" in quality(content, "kd_digits_500", FLOPS).get_supxlabel()
    assert drawing.bars_told({"seeds"}, ["sde"]).endswith("No error is known for sde.")


def test_equal_costs_have_no_axis(studies: dict[str, Path]) -> None:
    content = PlottedStudy.of(StudyReport.read(studies["sixteen"]))
    figure = quality(content, "fd_digits_500", FLOPS)
    axes = figure.axes[0]
    assert axes.get_xlabel() == "all at 4.36e11 FLOP of training compute, within 0.74 %"
    names = [label.get_text() for label in axes.get_xticklabels()]
    assert names == sorted(content.looks)
    found = places(axes)
    for place, row in enumerate(content.report.method_rows):
        assert found[row["method"]] == (place, row["metrics.fd_digits_500"])
    assert not figure.legends
    # Times differ, and have their axis.
    assert quality(content, "fd_digits_500", TIME).axes[0].get_xscale() == "log"


def test_methods_heaped_at_few_costs_stand_in_groups(tmp_path: Path) -> None:
    """Of six methods four cost 2 and two 3: an axis would have them lie on one another."""
    study = write_study(tmp_path / "s", ("sde",), (0,), failed=None)
    names = ["sde", *(f"sde:v{k}" for k in range(5))]
    for place, name in enumerate(names):
        row = make_record(study, "sde", 0)
        cost = row.cost.model_copy(update={"train_flops": 3e12 if place in (1, 2) else 2e12})
        cell = {"method": name, "cell": record.cell_name(name, 0), "cost": cost}
        write_cell(study / str(cell["cell"]), row.model_copy(update=cell), [], images=0)
    axes = quality(PlottedStudy.of(StudyReport.read(study)), "fd_digits_500", FLOPS).axes[0]
    ticks = zip(axes.get_xticklabels(), axes.get_xticks(), strict=True)
    shown = {label.get_text(): x for label, x in ticks}
    assert shown == {"sde": 0, "sde:v2": 1, "sde:v3": 2, "sde:v4": 3, "sde:v0": 5, "sde:v1": 6}
    assert {name: x for name, (x, _) in places(axes).items()} == shown
    heads = {text.get_text(): text.get_position()[0] for text in axes.texts if "FLOP" in str(text)}
    assert heads == {"2.00e12 FLOP": 1.5, "3.00e12 FLOP": 5.5}


@pytest.mark.parametrize(
    ("costs", "sizes"),
    [([100, 103, 110], [2, 1]), ([100, 103.5, 107], [2, 1]), ([5, 5, 5], [3]), ([1, 9], [1, 1])],
)
def test_equal_costs_are_within_four_percent_of_the_largest(
    costs: list[float], sizes: list[int]
) -> None:
    bar = drawing.Bar(0.0, "")
    points = [MethodPoint(f"{x}", (x, x, x), (1, 1, 1), bar, True, []) for x in reversed(costs)]
    assert [len(group) for group in of_equal_cost(points)] == sizes


def test_what_is_negative_keeps_its_sign_and_noise_presses_nothing(
    studies: dict[str, Path],
) -> None:
    content = PlottedStudy.of(StudyReport.read(studies["four"]))
    axes = quality(content, "kd_digits_500", FLOPS).axes[0]
    assert axes.get_yscale() == "symlog"
    low, high = axes.get_ylim()
    assert low < -0.0024 < 0.02 < high < 0.2
    told = [text.get_text() for text in axes.texts]
    assert told == ["real (held-out): -0.00240", "noise: 0.420"]
    # The methods, from 0.0014 to 0.024, take more than a third of the height.
    drawn = [axes.transData.transform(point) for point in places(axes).values()]
    heights = [axes.transAxes.inverted().transform(point)[1] for point in drawn]
    assert max(heights) - min(heights) > 0.33


@pytest.mark.parametrize(("level", "is_near"), [(25.0, True), (412.0, False)])
def test_an_anchor_near_the_methods_is_a_line(tmp_path: Path, level: float, is_near: bool) -> None:
    """The methods stand at 6.1 and 19.5."""
    study = write_study(tmp_path / "s", ("sde", "smm"), (0,), failed=None)
    rows = {"noise": {"fd_digits_500": Value(value=level, provenance=provenance())}}
    files.write_text(study / record.ANCHORS, Anchors(rows=rows).model_dump_json())
    axes = quality(PlottedStudy.of(StudyReport.read(study)), "fd_digits_500", FLOPS).axes[0]
    across = [float(line.get_ydata()[0]) for line in axes.lines if len(line.get_ydata()) == 2]
    assert across == [level] * is_near
    assert [text.get_text() for text in axes.texts] == [f"noise: {number(level)}"]
    assert [line.get_marker() for line in axes.lines].count("^") == (not is_near)


def test_one_point_is_no_picture(
    figures: dict[str, tuple[dict[str, Figure], list[str]]], studies: dict[str, Path]
) -> None:
    drawn, said = figures["one method"]
    assert sorted(drawn) == ["curve-fd_digits_500", "ledger", "losses"]
    assert "only 'sde' has both 'fd_digits_500' and train_flops" in " ".join(said)
    content = PlottedStudy.of(StudyReport.read(studies["one method"]))
    with pytest.raises(Skipped):
        quality(content, "fd_digits_500", FLOPS)
    axes = Figure().subplots()
    draw_quality(axes, content, "fd_digits_500", FLOPS)  # Asked for by name, it is drawn.
    assert len(places(axes)) == 1


def test_only_methods_in_the_picture_are_called_unfit(tmp_path: Path) -> None:
    def change(row: Record) -> dict[str, object]:
        unfit = ["busy"] if row.method in ("cdm", "smm") else []
        metrics = {} if row.method == "smm" else row.metrics
        return {"cost": row.cost.model_copy(update={"unfit": unfit}), "metrics": metrics}

    study = altered(write_study(tmp_path / "s", METHODS, (0,), failed=None), change)
    content = PlottedStudy.of(StudyReport.read(study))
    told = quality(content, "fd_digits_500", TIME).get_supxlabel().replace("\n", " ")
    assert "Machine not fit: cdm." in told
    assert "fit" not in quality(content, "fd_digits_500", FLOPS).get_supxlabel()


def test_variants_share_a_hue_and_no_two_methods_a_look(studies: dict[str, Path]) -> None:
    looks = PlottedStudy.of(StudyReport.read(studies["sixteen"])).looks
    assert len({(look["color"], look["marker"]) for look in looks.values()}) == 16
    assert len({look["color"] for look in looks.values()}) == 16


# Over training ----------------------------------------------------------------------------------


def test_quality_is_drawn_over_flops_seconds_and_images(tmp_path: Path) -> None:
    """The mean over seeds of each snapshot, its range, and where the second stage begins."""
    study = tmp_path / "s"
    for seed, factor in enumerate((1.0, 1.2, 1.4)):
        row = make_record(study, "dlsm", seed)
        cost = row.cost.model_copy(
            update={"train_flops_by_objective": {"score": 3e12, "classifier": 9e12},
                    "train_flops": 12e12}
        )  # fmt: skip
        lines = [
            {"images": 1000 * step, "step": step, "seconds": float(step), "stage": stage,
             "values": {f"loss/{stage}": 1.0, "fd_digits_500": factor * (10 - step)}}
            for step in range(1, 9) for stage in ["score" if step <= 6 else "classifier"]
        ]  # fmt: skip
        write_cell(study / row.cell, row.model_copy(update={"cost": cost}), lines)
    figures: dict[str, Figure] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "bench.report.plots.write.save", lambda f, p: figures.update({p.name: f}) or []
        )
        write_plots(StudyReport.read(study), str)
    panels = figures["curve-fd_digits_500"].axes
    assert [axes.get_xlabel() for axes in panels] == [
        "training compute (FLOP)", "training time (s)", "images seen",
    ]  # fmt: skip
    begun = [0.5e12 * 6, 6.0, 6000.0]
    spent = [0.5e12 * step for step in range(1, 7)] + [7.5e12, 12e12]
    for axes, boundary, x in zip(panels, begun, [spent, range(1, 9), None], strict=True):
        line, dotted = axes.lines
        assert line.get_ydata() == pytest.approx([1.2 * (10 - step) for step in range(1, 9)])
        assert dotted.get_xdata()[0] == pytest.approx(boundary)
        if x is not None:
            assert line.get_xdata() == pytest.approx(list(x))
        band = axes.collections[0].get_paths()[0].vertices
        assert band[:, 1].max() == pytest.approx(1.4 * 9)


@pytest.mark.parametrize(
    ("taken", "expected"),
    [
        # Two seeds took their first stage over, and its snapshots are of the first seed alone.
        ([(1, 2, 3, 4), (3, 4), (3, 4)], {"x": [3000, 4000], "y": [3.0, 4.0]}),
        # A budget of seconds ends each seed elsewhere: paired by their order.
        ([(1, 4), (2, 5), (3, 6)], {"x": [2000, 5000], "y": [2.0, 5.0]}),
    ],
)
def test_means_are_over_the_same_snapshots(
    tmp_path: Path, taken: list[tuple[int, ...]], expected: dict[str, list[float]]
) -> None:
    study = tmp_path / "s"
    for seed, steps in enumerate(taken):
        row = make_record(study, "sde", seed)
        lines = [line(k, "score") | {"images": 1000 * k, "values": {"fd": float(k)}} for k in steps]
        write_cell(study / row.cell, row, lines, images=0)
    content = PlottedStudy.of(StudyReport.read(study))
    (drawn,) = metric_curve(content, "fd").axes[-1].lines
    assert {"x": list(drawn.get_xdata()), "y": list(drawn.get_ydata())} == expected


def line(step: int, stage: str, *losses: str) -> dict[str, object]:
    values = {f"loss/{name}": 1.0 for name in losses}
    return {"images": step, "step": step, "seconds": 1.0, "stage": stage, "values": values}


@pytest.mark.parametrize(
    ("totals", "lines", "expected"),
    [
        ({"a": 8.0}, [line(2, "x", "a"), line(4, "x", "a"), line(4, "final")], [4, 8, 8]),
        # Two objectives a step, then one of another stage.
        ({"a": 6.0, "b": 2.0, "c": 30.0}, [line(4, "x", "a", "b"), line(7, "y", "c"),
                                           line(10, "y", "c")], [8, 23, 38]),
        # One objective in two stages; totals that do not add up; a stage that comes back.
        ({"a": 8.0}, [line(2, "x", "a"), line(4, "y", "a")], None),
        ({"a": 8.0, "b": 1.0}, [line(2, "x", "a")], None),
        ({"a": 4.0, "b": 4.0}, [line(1, "x", "a"), line(2, "y", "b"), line(3, "x", "a")], None),
        ({}, [line(2, "x", "a")], None),
    ],
)  # fmt: skip
def test_flops_along_training_are_right_or_unknown(
    totals: dict[str, float], lines: list[dict[str, object]], expected: list[float] | None
) -> None:
    row = make_record(Path("s"), "sde", 0)
    cost = row.cost.model_copy(
        update={"train_flops_by_objective": totals, "train_flops": sum(totals.values())}
    )
    found = training_flops(row.model_copy(update={"cost": cost}), lines)
    if expected is None:
        assert all(math.isnan(value) for value in found)
    else:
        assert found == pytest.approx(expected)


def test_samplers_are_drawn_at_their_counts(tmp_path: Path) -> None:
    study = four(tmp_path / "s", seeds=1)
    for folder, row in record.cells(study):
        if row.method == "smm":
            continue
        points = [
            nfe_curve.Point(
                sampler={"name": name, "steps": n}, samples=500, asked=[n], seed=0, nfe=n,
                ms_per_image=Interval(median=1, q25=1, q75=1, low=1, high=1, batch=1, repeats=1),
                metrics={
                    "fd_digits_500": Value(value=50 / n + place, provenance=provenance(sampler={}))
                },
            )
            for n in (5, 10, 20) for place, name in enumerate(nfe_curve.SAMPLERS)
        ]  # fmt: skip
        content = nfe_curve.Curve(key=row.key, points=points)
        files.write_text(folder / nfe_curve.FILE, content.model_dump_json())
    points = load_points(StudyReport.read(study))
    assert points is not None
    with rc_context(STYLE):
        figure = draw_nfe(points, "fd_digits_500")
        figure.draw_without_rendering()
    assert overlapping(figure) == []
    for axes in figure.axes:
        drawn = {x for handle in axes.containers for x in handle[0].get_xdata()}
        assert drawn <= {5.0, 10.0, 20.0, 1.0}


# Ticks and labels -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "factors", "threshold", "expected"),
    [
        (0.9, 25, (1, 2, 5), 0, [1, 2, 5, 10, 20]),
        (0.02, 0.6, (1, 3), 0, [0.03, 0.1, 0.3]),
        (-0.003, 0.02, (1,), 0.001, [-0.001, 0, 0.001, 0.01]),
        (-3.0, 5.0, (1, 2, 5), 1.0, [-2, -1, 0, 1, 2, 5]),
    ],
)
def test_round_values(
    low: float, high: float, factors: tuple[float, ...], threshold: float, expected: list[float]
) -> None:
    assert round_values(low, high, factors, threshold) == pytest.approx(expected)


@pytest.mark.parametrize(("low", "high"), [(433.9e9, 437e9), (1e9, 1e15), (3e11, 6.5e11), (1, 3)])
@pytest.mark.parametrize("inches", [2.0, 5.0])
def test_ticks_stand_apart(low: float, high: float, inches: float) -> None:
    from bench.report.plots.scales import cost_axis

    figure, (axes,) = drawing.new_figure(inches, 2.5)
    cost_axis(axes, "x", [(low, low, low), (high, high, high)])
    figure.draw_without_rendering()
    assert overlapping(figure) == []
    shown = [plain(tick) for tick in axes.get_xticks()]
    assert len(shown) >= 2
    assert len(set(shown)) == len(shown)


def test_a_scale_through_zero_inverts_itself() -> None:
    scale = through_zero([-0.0024, 0.0013, 0.02])
    assert scale.options["linthresh"] == 0.001
    for value in (-0.5, -0.001, -0.0003, 0.0, 0.0007, 0.02):
        assert scale.value(scale.place(value)) == pytest.approx(value)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [([0.5], [0.5]), ([0.2, 0.25, 0.9], [0.2, 0.3, 0.9]), ([0.98, 1.0], [0.9, 1.0]), ([], [])],
)
def test_labels_move_only_as_far_as_they_must(wanted: list[float], expected: list[float]) -> None:
    assert apart(wanted, 0.1) == pytest.approx(expected)


# Samples ----------------------------------------------------------------------------------------


def test_classes_are_taken_in_turn_and_shown_in_order() -> None:
    labels = np.array([2, 0, 0, 1, 0, 2, 1, 0])
    chosen = by_class(labels, 5)
    assert labels[chosen].tolist() == [0, 0, 1, 1, 2]
    assert chosen.tolist() == [1, 2, 3, 6, 0]


def test_dots_lie_over_the_true_density() -> None:
    rows, columns = np.mgrid[0:64, 0:64]
    density = np.exp(-((rows - 16) ** 2 + (columns - 48) ** 2) / 50.0)
    points = np.zeros((1, 2, 1, 1), np.float32)
    picture = scatter_image(points, None, ScatterLook(density=density, unlabelled="#444444"))
    grey = picture[..., 0]
    assert grey[128, 380] < 200  # Upper right, where it is densest.
    assert grey[384, 128] == 255
    assert (picture[256, 256] == 0x44).all()
