"""The command line's frame: its first page of help, and the groups of its commands."""

from __future__ import annotations

from cyclopts import App, Group

from bench.version import __version__

HELP = """Compare score-based generative models on the same data, networks, budget and device.

Start with: `bench run --methods smm,dlsm,cdm,sde --dataset digits`
"""

# Markdown, since it takes the lines of a docstring as one paragraph.
app = App(name="bench", help=HELP, version=f"scorebench {__version__}", help_format="markdown")
# `main` says what a stopped command leaves.
app.suppress_keyboard_interrupt = False

RUN = Group("Run", sort_key=1)
LOOK = Group("Look", sort_key=2)
AGAIN = Group("Measure again", sort_key=3)
EXTEND = Group("Extend", sort_key=4)
