"""What is printed and pasted: the table on a terminal, the LaTeX of a paper, names of metrics."""

from __future__ import annotations

import io
import math
import re
import shutil
import subprocess
from pathlib import Path
from subprocess import PIPE

import pytest
from rich.console import Console

from bench.commands.run import command
from bench.commands.show.command import TableOptions, table
from bench.metrics.protocol import FAMILIES, metric_names
from bench.records import record
from bench.records.record import Status, Value
from bench.report.study_report import StudyReport
from bench.report.table import latex
from bench.report.table.formats import csv, to_json, write_tables
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


def test_the_best_and_its_ties_are_marked_without_colours(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", failed=None)
    for path, row in record.cells(study):
        # Else the methods' gaps are the same for all seeds, and nothing separates.
        old = row.metrics["fd_digits_500"]
        shift = 1 + 0.02 * ((row.seed + len(row.method)) % 3)
        row.metrics["fd_digits_500"] = old.model_copy(update={"value": old.value * shift})
        record.save(row, path)
    report = StudyReport.read(study)
    tied = {name for name, (first, _) in report.rankings[0].ranks.items() if first == 1}
    assert 0 < len(tied) < len(report.rankings[0].ranks)
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


# LaTeX ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "half", "written"),
    [
        (0.70412, 0.0892, "0.704(89)"),
        (19.24, 3.71, "19.2(37)"),
        (412.3, 120.6, "412(121)"),
        (-0.00237, 0.00051, "-0.00237(51)"),
        (6.7, math.nan, "6.70"),
        (6.7, 1e-4, "6.70"),
        (math.nan, 1.0, "{--}"),
        (math.inf, math.nan, "{inf}"),
        (1e30, 1.0, "{1.00e+30}"),
    ],
)
def test_numbers_are_written_for_siunitx(value: float, half: float, written: str) -> None:
    assert latex.entry(value, half) == written


def test_a_papers_table_has_the_columns_of_a_paper(study: Path) -> None:
    results, costs, *_ = latex.latex(StudyReport.read(study)).split("\\end{table*}")
    heads = [line for line in results.splitlines() if line.endswith("\\\\")][:2]
    assert heads[0].count("&") == heads[1].count("&") == 6
    assert "{(TFLOP)}" in heads[1]
    rows = {line.split(" & ")[0]: line for line in results.splitlines() if " & " in line}
    begun = r"cdm & \bfseries 5.40(40) & \bfseries 9.080(50) & 36 & 2.22 & 29.0"
    assert rows["cdm"].startswith(begun)
    assert r"\bfseries" not in rows["smm"]
    assert "S[table-format=3.3(2)] S[table-format=1.3(2)]" in results
    assert r"\label{tab:digits-quick}" in results
    assert results.split(r"\caption{")[1].partition("}\n")[0].count(". ") == 0
    for head in ("(sampling)", "(all, k)", "{Batch}", "{(Mimg)}", "{(device-h)}"):
        assert head in costs
    cells = dict(line.split(" & ", 1) for line in costs.splitlines() if " & " in line)
    assert cells["cdm"] == r"{--} & 432 & 128 & 4.00 & 0.512 & 0.02000(69) \\"


def test_parameters_of_sampling_are_those_of_the_networks_called(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", ("smm",), (0,), failed=None)
    row = record.load(study / "smm-seed0")
    assert row is not None
    row.cost.nfe_by_network = {"score": 0.0, "generator": 1.0}
    row.cost.parameters_by_network = {"score": 45_000, "generator": 142_000}
    record.save(row, study / "smm-seed0")
    tables = latex.latex(StudyReport.read(study)).split("\\end{table*}")
    assert "smm & 142 & 432 & 128" in tables[1]


def test_no_table_of_a_paper_is_wide(study: Path) -> None:
    report = StudyReport.read(study)
    for name in [f"{family}_cifar-resnet56_10k" for family in ("kd", "precision", "recall")]:
        report.frame[f"metrics.{name}"] = 0.5
    text = latex.latex(report)
    assert text.count("Further metrics") == 2
    lines = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert max(line.count("&") for line in lines) < latex.MOST
    for name in report.metrics:
        assert latex.escape_latex(metric_title(name).partition(" (")[0]) in text


def test_the_notes_of_a_paper_say_what_its_names_are(study: Path) -> None:
    notes = latex.latex_notes(StudyReport.read(study))
    assert r"FD (digits, 500): Fr\'echet distance (digits, 500 samples)." in notes
    assert "IS (digits, 500), accuracy (digits, 500): protocol 1, n 500" in notes
    assert "fd_" not in notes.replace("\\", "")


@pytest.fixture
def pdflatex() -> list[str]:
    """The command that sets a file named after it."""
    asked = ["kpsewhich", "siunitx.sty"]
    if not shutil.which(asked[0]) or subprocess.run(asked, stdout=PIPE, check=False).returncode:
        pytest.skip("no pdflatex with siunitx: texlive-latex-recommended, texlive-science")
    return ["pdflatex", "-interaction=nonstopmode", "-halt-on-error"]


@pytest.mark.slow
def test_a_papers_tables_compile(tmp_path: Path, pdflatex: list[str]) -> None:
    """At one and two columns; a name, a reason and numbers that are hard to set among them."""
    study = write_study(tmp_path / "a study_of & odd")
    for path, row in record.cells(study):
        if row.method == "cdm":
            row.method, row.cost.unfit = "cdm:as_released+heun", ["busy"]
        if row.status == Status.FINISHED:
            provenance = row.metrics["fd_digits_500"].provenance
            found = {"fd_efflite0_1k": 1234.5, "kd_cifar-resnet56_10k": -2e-3 * (1 + row.seed),
                     "recall_efflite0_1k": 1e30, "coverage_efflite0_1k": math.inf}  # fmt: skip
            for name, value in found.items():
                row.metrics[name] = Value(value=value, provenance=provenance)
            row.notes = ["\u2192 \u00b2 \u2018x\u2019 \u65e5 100% $x$ {a}_b^c # ~ \\"]
        record.save(row, path)
    write_tables(StudyReport.read(study))
    for columns in ("onecolumn", "twocolumn"):
        (study / "paper.tex").write_text(
            rf"\documentclass[{columns}]{{article}}\usepackage{{booktabs,graphicx,siunitx}}"
            r"\begin{document}\input{table}\input{table-notes}\end{document}"
        )
        command = [*pdflatex, "paper.tex"]
        done = subprocess.run(command, cwd=study, stdout=PIPE, text=True, check=False)
        assert done.returncode == 0, done.stdout[-2000:]
        wide = re.findall(r"Overfull \\hbox \(([\d.]+)pt", done.stdout)
        assert all(float(points) <= 2 for points in wide), columns


# CSV and JSON -----------------------------------------------------------------------------------


def test_shared_files_hold_no_place_on_a_disk(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", ("sde", "cdm"), (0, 1), failed=None)
    row = fail(make_record(study, "cdm", 1))
    row.reason = f"cannot read '/home/me/secret place/x.npz'; see {study}/cdm-seed1/log.txt, 3/4"
    write_cell(study / row.cell, row, [], images=0)
    done = record.load(study / "sde-seed0")
    assert done is not None
    done.notes = ["made from /home/me/theirs.zip by https://x.org/a/b at 13.2 ms/image"]
    record.save(done, study / "sde-seed0")
    report = StudyReport.read(study)
    for text in (csv(report), to_json(report)):
        assert str(tmp_path) not in text
        assert "/home" not in text
        assert "see cdm-seed1/log.txt, 3/4" in text
    assert "made from theirs.zip by https://x.org/a/b at 13.2 ms/image" in to_json(report)
