"""A study's table in all its formats; see ``formats``."""

from bench.report.table.formats import FORMATS, render_table, write_tables
from bench.report.table.markdown import markdown_table

__all__ = ["FORMATS", "markdown_table", "render_table", "write_tables"]
