"""The command line: its first page of help, and the commands in their groups."""

import sys

from cyclopts import App, Group

from bench.commands.check.command import check
from bench.commands.compare.command import compare
from bench.commands.data.command import prepare
from bench.commands.draw.command import draw
from bench.commands.evaluate import EvaluateOptions, ReferenceOptions
from bench.commands.new.command import new
from bench.commands.report.command import report
from bench.commands.reproduce.command import reproduce
from bench.commands.run import RunOptions
from bench.commands.sample.command import sample
from bench.commands.sensitivity.command import sensitivity
from bench.commands.show.command import CompletionOptions, datasets, methods, plot, sync, table, ui
from bench.commands.studies.command import export, remove, studies
from bench.commands.time.command import time
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


@app.command(group=RUN)
def run(options: RunOptions = RunOptions()) -> int:
    """Train, sample, evaluate and compare methods; continues what was interrupted."""
    if sys.stderr.isatty():
        # Before seconds of imports.
        named = ", ".join(options.methods or ["all methods"])
        print(f"preparing {named} on {options.dataset}", file=sys.stderr, flush=True)
    if options.dry_run:
        from bench.commands.dry_run.command import dry_run

        return dry_run(options)
    from bench.commands.run.command import run

    return run(options)


for look in (studies, table, plot, report, compare, export, remove, ui, sync):
    app.command(look, group=LOOK)
for measure in (draw, sample, time, reproduce):
    app.command(measure, group=AGAIN)
# What `reproduce` was called until 0.2.
app.command(reproduce, name="rerun", show=False)


@app.command(group=AGAIN)
def evaluate(options: EvaluateOptions) -> int:
    """Measure finished cells again, or images made elsewhere; trains and draws nothing."""
    from bench.commands.evaluate.command import evaluate

    return evaluate(options)


@app.command(group=AGAIN)
def reference(options: ReferenceOptions) -> int:
    """Export a data set's reference statistics, as EDM and clean-fid read them."""
    from bench.commands.evaluate.command import export_reference

    return export_reference(options)


app.command(sensitivity, group=AGAIN)
for extend in (methods, datasets, new, check):
    app.command(extend, group=EXTEND)
data = App(name="data", help="Prepare images of one's own ahead of a run.", group=EXTEND)
data.command(prepare)
app.command(data)


@app.command(group=EXTEND)
def completion(options: CompletionOptions) -> int:
    """Print what completes commands and options in a shell: `source <(bench completion bash)`."""
    print(app.generate_completion(prog_name="bench", shell=options.shell), end="")
    return 0


COMMANDS = [name for name in app if not name.startswith("-") and app[name].show]
"""Names of all commands, in the groups' order."""

FIRST = """Compare score-based generative models: what are the images worth for what they cost?

  bench run --methods smm,dlsm,cdm,sde --dataset digits   train, sample, measure: five minutes
  bench table                                             print the latest study's table
  bench ui                                                browse its runs, also while they go on
  bench new mine                                          begin a method of your own

`bench --help` has all commands, `bench COMMAND --help` what one of them takes."""


def first() -> int:
    """Print what one does first: for whoever types the name alone."""
    print(FIRST)
    return 0
