"""A Markdown table that is aligned for a terminal too."""

from bench.config import one_line


def markdown_table(head: list[str], rows: list[list[str]]) -> str:
    """Write a Markdown table whose columns are aligned for a terminal too."""
    clean = [[one_line(text).replace("|", "\\|") for text in row] for row in [head, *rows]]
    widths = [max(map(len, column)) for column in zip(*clean, strict=True)]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in clean]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines) + "\n"
