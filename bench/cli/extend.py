"""The commands about what can be run: methods, data sets, and those of one's own."""

from __future__ import annotations

from cyclopts import App

from bench.cli.app import EXTEND, app
from bench.commands.check import CheckOptions
from bench.commands.data import PrepareOptions
from bench.commands.new import NewOptions

data_app = App(name="data", help="Prepare images of one's own ahead of a run.", group=EXTEND)
app.command(data_app)


@app.command(group=EXTEND)
def methods() -> int:
    """List the methods there are, built in and from plug-ins."""
    from bench.commands.show.listings import list_methods

    return list_methods()


@app.command(group=EXTEND)
def datasets() -> int:
    """List the data sets there are, with their presets and where they are looked for."""
    from bench.commands.show.listings import list_datasets

    return list_datasets()


@app.command(group=EXTEND)
def new(options: NewOptions) -> int:
    """Write a method of your own to start from: a file that trains, its test, its entry point."""
    from bench.commands.new.command import new

    return new(options)


@app.command(group=EXTEND)
def check(options: CheckOptions) -> int:
    """Hold methods against the interface, on the CPU; 1 if one breaks a rule."""
    from bench.commands.check.command import check_methods

    return check_methods(options)


@data_app.command
def prepare(options: PrepareOptions) -> int:
    """Decode images, crop and resize them if the preset has a size, and keep them in the cache.

    Runs on the same data then start at once, and need no more memory than a batch.
    """
    from bench.commands.data.command import prepare_data

    return prepare_data(options)
