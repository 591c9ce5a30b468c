"""The table for a paper, with booktabs."""

from collections.abc import Sequence

from bench.config.text import one_line
from bench.report.study_report import StudyReport
from bench.report.table.columns import Column, columns, quality_columns
from bench.report.table.notes import notes
from bench.report.table.rows import PUBLISHED, body, published_rows, unfinished

LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "±": r"$\pm$", "↓": r"$\downarrow$", "↑": r"$\uparrow$", "≈": r"$\approx$",
    ">": r"$>$", "<": r"$<$", "|": r"\textbar{}", "—": "--", "…": r"\ldots{}",
    "‡": r"$\ddagger$", "†": r"$\dagger$",
}  # fmt: skip


def escape_latex(text: str) -> str:
    """Escape what LaTeX would read as a command, and write our signs as its own."""
    return "".join(LATEX.get(letter, letter) for letter in one_line(text))


def latex(report: StudyReport) -> str:
    """Write a booktabs table for a paper; unfinished cells and notes go into its caption."""
    caption = [
        *notes(report),
        *(f"Not finished: {row[0]}, {row[1]}." for row in unfinished(report)),
    ]
    tables = [(columns(report), caption)]
    if rest := quality_columns(report):
        tables.append((rest, ["Further metrics of the same samples."]))
    texts = [_latex_of(report, *given) for given in tables]
    if rows := published_rows(report):
        texts.append(_latex_table(PUBLISHED, [rows], ["Published values beside ours."]))
    return "\n".join(texts)


def _latex_of(report: StudyReport, given: Sequence[Column], caption: Sequence[str]) -> str:
    chosen = [column for column in given if column.in_paper]
    return _latex_table([column.title for column in chosen], body(report, chosen), caption)


def _latex_table(
    head: Sequence[str], parts: Sequence[Sequence[Sequence[str]]], caption: Sequence[str]
) -> str:
    """Write a table whose parts, each of several rows, have a rule between them."""
    lines = [
        "% needs \\usepackage{booktabs,graphicx}",
        r"\begin{table*}",
        r"\centering",
        rf"\caption{{{escape_latex(' '.join(caption))}}}",
        r"\resizebox{\linewidth}{!}{%",
        rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
        r"\toprule",
        _latex_row(head),
        *(line for part in parts if part for line in (r"\midrule", *map(_latex_row, part))),
        r"\bottomrule",
        r"\end{tabular}}",
        r"\end{table*}",
    ]
    return "\n".join(lines) + "\n"


def _latex_row(texts: Sequence[str]) -> str:
    return " & ".join(map(escape_latex, texts)) + r" \\"
