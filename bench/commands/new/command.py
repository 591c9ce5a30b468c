"""``bench new``: write the project of a method, and say what to do with it."""

from __future__ import annotations

from bench.commands.new.options import NewOptions
from methods import registry


def new(options: NewOptions) -> int:
    """Write the project of a new method, and say what to do with it."""
    from bench.commands.new.project import new as write

    name, folder = options.name, write(options.name, options.into)
    for path in sorted(folder.iterdir()):
        print(path)
    print(f"check    bench check {folder / name}.py")
    print(f"install  pip install -e {folder}")
    print(f"run      bench run --methods {name},{registry.names()[0]} --dataset digits")
    return 0
