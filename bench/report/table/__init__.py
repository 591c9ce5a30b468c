"""A study's table in all its formats; see ``formats``."""

from bench.report.table.formats import FORMATS, markdown_table, render_table, write_tables

__all__ = ["FORMATS", "markdown_table", "render_table", "write_tables"]
