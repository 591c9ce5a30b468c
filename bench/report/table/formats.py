"""A study's table: Markdown for reading, LaTeX for a paper, CSV and JSON for further work."""

from collections.abc import Callable, Sequence
from pathlib import Path

from bench.config import one_line, unknown
from bench.records import write_text
from bench.report.study_report import StudyReport
from bench.report.table.as_json import to_json
from bench.report.table.columns import Column, columns, quality_columns
from bench.report.table.markdown import markdown_table
from bench.report.table.notes import notes
from bench.report.table.rows import PUBLISHED, body, published_rows, unfinished

LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "±": r"$\pm$", "↓": r"$\downarrow$", "↑": r"$\uparrow$", "≈": r"$\approx$",
    ">": r"$>$", "<": r"$<$", "|": r"\textbar{}", "—": "--", "…": r"\ldots{}",
    "‡": r"$\ddagger$", "†": r"$\dagger$",
}  # fmt: skip


def markdown(report: StudyReport) -> str:
    """Write the table with anchors, unfinished cells and notes, aligned for a terminal too."""
    parts = []
    for chosen in filter(None, (columns(report), quality_columns(report))):
        methods, anchors = body(report, chosen)
        parts.append(markdown_table([column.title for column in chosen], methods + anchors))
    if rows := published_rows(report):
        parts += ["Published:\n", markdown_table(PUBLISHED, rows)]
    if rest := unfinished(report):
        parts += ["Not finished:\n", markdown_table(["cell", "status", "reason", "log"], rest)]
    parts.append("\n".join(f"- {note}" for note in notes(report)) + "\n")
    return "\n".join(parts)


def csv(report: StudyReport) -> str:
    """Write every cell and anchor with its raw numbers at full precision."""
    return report.frame.to_csv(index=False)


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


FORMATS: dict[str, tuple[str, Callable[[StudyReport], str]]] = {
    "md": ("table.md", markdown),
    "csv": ("table.csv", csv),
    "latex": ("table.tex", latex),
    "json": ("table.json", to_json),
}


def render_table(report: StudyReport, format: str = "md") -> str:
    """Write a study's table as ``md``, ``csv``, ``latex`` or ``json``.

    Raises:
        UserError: an unknown format.
    """
    if format not in FORMATS:
        raise unknown("format", format, FORMATS)
    return FORMATS[format][1](report)


def write_tables(report: StudyReport) -> list[Path]:
    """Write ``table.md``, ``.csv``, ``.tex`` and ``.json`` into the study, each atomically."""
    paths = []
    for name, write in FORMATS.values():
        write_text(report.folder / name, write(report))
        paths.append(report.folder / name)
    return paths
