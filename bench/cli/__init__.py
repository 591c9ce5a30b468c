"""The ``bench`` command: parse, call, print; nothing else."""

from bench.cli.main import main, script
