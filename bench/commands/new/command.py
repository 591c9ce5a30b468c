"""``bench new``: write the project of a method, and say what to do with it."""

import shlex
from dataclasses import KW_ONLY, dataclass
from pathlib import Path

from cyclopts import Parameter

from bench.config import bench_command


@Parameter(name="*")
@dataclass(frozen=True)
class NewOptions:
    """What to call a new method, and where to write it."""

    name: str
    """Name of the method, and of its module."""
    _: KW_ONLY
    into: Path = Path()
    """Folder to write the method's own folder into."""


def new(options: NewOptions) -> int:
    """Write a method of your own to start from: a file that trains, its test, its entry point."""
    from bench.commands.new.project import write_project
    from methods import registry

    name, folder = options.name, write_project(options.name, options.into)
    for path in sorted(folder.iterdir()):
        print(path)
    print(f"check    {bench_command('check', folder / f'{name}.py')}")
    print(f"install  {shlex.join(['pip', 'install', '-e', str(folder)])}")
    print(f"run      bench run --methods {name},{registry.names()[0]} --dataset digits")
    return 0
