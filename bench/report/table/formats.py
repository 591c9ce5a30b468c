"""A study's table: Markdown for reading, LaTeX for a paper, CSV and JSON for further work."""

from collections.abc import Callable
from pathlib import Path

from bench.config.errors import unknown
from bench.records.files import write_text
from bench.report.study_report import StudyReport
from bench.report.table.as_json import to_json
from bench.report.table.columns import columns, quality_columns
from bench.report.table.latex import latex
from bench.report.table.markdown import markdown_table
from bench.report.table.notes import notes
from bench.report.table.rows import PUBLISHED, body, published_rows, unfinished


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
