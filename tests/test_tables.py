"""What is printed and pasted: the table on a terminal, the LaTeX of a paper, names of metrics."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from bench.commands.run import command
from bench.commands.show.command import TableOptions, table
from bench.metrics.protocol import FAMILIES, metric_names
from bench.records import record
from bench.records.record import Status
from bench.report.study_report import StudyReport
from bench.report.table.terminal import show_table
from bench.report.titles import metric_title, metric_words

from .fake_study import METHODS, fail, make_record, write_cell, write_study


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four methods by three seeds, one cell diverged."""
    return write_study(tmp_path_factory.mktemp("results") / "digits-quick")


def shown(
    study: Path | StudyReport, width: int, encoding: str = "utf-8", *, color: bool = False
) -> str:
    """Return the table as a terminal of so many columns has it."""
    report = StudyReport.read(study) if isinstance(study, Path) else study
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="")
    system = "standard" if color else None
    console = Console(file=file, force_terminal=True, width=width, color_system=system)
    show_table(report, console)
    file.flush()
    return file.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize(
    ("name", "title", "words"),
    [
        ("fd_digits_500", "FD (digits, 500)", "Fréchet distance (digits, 500 samples)"),
        ("fid", "FID", "Fréchet Inception distance"),
        ("fid_legacy_10k", "FID (legacy resize, 10k)",
         "Fréchet Inception distance (legacy resize, 10,000 samples)"),
        ("is_2k", "IS (2k)", "Inception Score (2,000 samples)"),
        ("kd_fashion-mnist_1k", "KD (Fashion-MNIST, 1k)",
         "kernel distance (Fashion-MNIST, 1,000 samples)"),
        ("recall_cifar-resnet20", "recall (CIFAR-10 ResNet-20)", "recall (CIFAR-10 ResNet-20)"),
        ("fd_my_net_2_500", "FD (my_net_2, 500)", "Fréchet distance (my_net_2, 500 samples)"),
        ("score_error_class", "score error (given the class)", "score error (given the class)"),
        ("violation", "martingale violation", "martingale violation"),
        ("of_a_plugin", "of a plugin", "of a plugin"),
    ],
)  # fmt: skip
def test_metrics_have_a_papers_names(name: str, title: str, words: str) -> None:
    assert (metric_title(name), metric_words(name)) == (title, words)


@pytest.mark.parametrize("extractor", ["inception", "inception-legacy", "digits", "mine_2"])
def test_no_two_metrics_have_the_same_name(extractor: str) -> None:
    names = [name for n in (500, 5000, 50_000) for name in metric_names(extractor, n).values()]
    assert len(names) == 3 * (len(FAMILIES) - 1)
    for write in (metric_title, metric_words):
        assert len({write(name) for name in names}) == len(names)


# Terminal ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize("width", [30, 60, 80, 100, 200])
def test_the_table_fits_the_terminal(study: Path, width: int, encoding: str) -> None:
    said = shown(study, width, encoding)
    assert max(map(len, said.splitlines())) <= width
    plus_minus = "±" if encoding == "utf-8" else "+-"
    for number in ("5.40", "7.90", "6.10"):
        assert re.search(rf"{number} {re.escape(plus_minus)} 0\.\d\d", said), number
    assert ("36" in said) == (width > 50)
    assert ("12.0 T" in said) == (width >= 80)
    assert ("rank" in said) == (width >= 100)


def test_columns_are_dropped_from_the_right(study: Path) -> None:
    heads = ["FD ↓", "IS ↑", "NFE", "image", "FLOP", "s", "rank"]
    report = StudyReport.read(study)
    for width in range(30, 110, 3):
        lines = shown(report, width).splitlines()
        place = next(place for place, line in enumerate(lines) if line.startswith("method"))
        words = f"{lines[place - 1]} {lines[place]}".split()
        there = [head.split()[0] in words for head in heads]
        assert there == sorted(there, reverse=True), width
        assert there[0]


def test_the_table_says_whose_it_is_and_where_the_rest_lies(study: Path) -> None:
    first, *_, last = shown(study, 200).splitlines()
    assert first == "study digits-quick: digits, preset quick, seeds 0-2, commit 0123456"
    assert last.endswith(f"notes and all columns: {study / 'table.md'}")


def test_the_best_and_its_ties_are_marked_without_colours(study: Path) -> None:
    report = StudyReport.read(study)
    tied = {name for name, (first, _) in report.rankings[0].ranks.items() if first == 1}
    assert 0 < len(tied) < len(METHODS)
    rows = {line.split()[0]: line for line in shown(study, 200).splitlines() if line}
    assert {name for name in METHODS if "*" in rows[name].split("±")[0]} == tied
    assert "* best, or not told apart" in shown(study, 200)
    coloured = shown(study, 200, color=True)
    assert all(re.search(rf"{name} .*?\x1b\[1m *\*", coloured) for name in tied)
    assert re.search(r"\x1b\[2mreal", coloured)


def test_one_seed_marks_the_best_mean_and_claims_no_rank(tmp_path: Path) -> None:
    said = shown(write_study(tmp_path / "s", seeds=(0,), failed=None), 100)
    assert [line.split()[0] for line in said.splitlines() if "* 5.238" in line] == ["cdm"]
    assert "fewer than 3 shared seeds claim no rank" in said
    assert "rank" not in said.split("method")[1].splitlines()[0]
    alone = shown(write_study(tmp_path / "alone", ("sde",), (0,), failed=None), 100)
    assert "*" not in alone


def test_failed_cells_stand_under_the_table_with_their_reason(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", ("sde",), (0,), failed=None)
    for seed in (1, 2):
        row = fail(make_record(study, "sde", seed)).model_copy(update={"reason": "far " * 40})
        write_cell(study / row.cell, row, images=0)
    said = " ".join(shown(study, 80).split())
    assert f"sde-seed1, sde-seed2 diverged: {'far ' * 40}".strip() in said


def test_names_are_folded_and_no_number_is(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", ("sde", "cdm"), (0, 1, 2), failed=None)
    name = "a:very+long" * 4
    for seed in range(3):
        row = make_record(study, "smm", seed).model_copy(
            update={"method": name, "cell": f"long-seed{seed}"}
        )
        write_cell(study / row.cell, row, [], images=0)
    lines = shown(study, 80).splitlines()
    assert any(line.startswith(name[:28] + " ") for line in lines)
    assert all(len(line) <= 80 for line in lines)
    assert any("5.40 ± 0.40" in line for line in lines)


def test_altered_data_are_told_in_the_first_line(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", ("sde",), (0,), failed=None, data_variant="digits-jpeg")
    assert "digits (digits-jpeg: not comparable), preset quick" in shown(study, 100)


def test_a_study_without_a_result_has_no_table(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", ("sde",), (0,), failed="sde-seed0")
    said = shown(study, 80)
    assert "No cell has finished yet." in said
    assert "sde-seed0  diverged: loss of 'generator' is nan" in said
    assert "noise" not in said


@pytest.mark.parametrize(("is_terminal", "format"), [(True, None), (True, "md"), (False, None)])
def test_markdown_is_for_pipes_and_for_who_asks(
    study: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    is_terminal: bool, format: str | None,
) -> None:  # fmt: skip
    monkeypatch.setattr("sys.stdout.isatty", lambda: is_terminal)
    monkeypatch.setenv("TERM", "dumb")
    table(TableOptions(study=study.name, results=study.parent, format=format))  # type: ignore[arg-type]
    said = capsys.readouterr().out
    assert said.startswith("study digits-quick:" if is_terminal and format is None else "| method")


def test_a_command_stopped_early_says_what_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = tmp_path / "s"
    for method in ("sde", "cdm"):
        row = make_record(study, method, 0, status=Status.INTERRUPTED, metrics={}, ledger={})
        write_cell(study / row.cell, row, images=0)
    (study / "sde-seed0" / record.CHECKPOINT).touch()
    assert command.finished_of(study) == []
    command.tell_begun(study)
    assert capsys.readouterr().out.splitlines() == [
        "study    s: no cell has finished",
        f"kept     checkpoints of 1 of 2 cells, in {study}",
    ]
    command.tell_begun(tmp_path / "other")
    assert capsys.readouterr().out == "study    other: no cell was begun\n"
