"""``bench new``: write the project of a method: a file that trains, its test, its entry point.

The template is an ordinary method under ``template/``, kept by the same linters and tests as the
rest, in which the names are replaced.
"""

import keyword
import re
import shlex
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from importlib.util import find_spec
from pathlib import Path

from cyclopts import Parameter

from bench.config import UserError, bench_command
from methods import registry

TEMPLATE = Path(__file__).parent / "template"
FILES = ("my_method.py", "test_my_method.py", "pyproject.toml")
NAME, CLASS = "my_method", "MyMethod"
"""How the template calls itself."""


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
    name, folder = options.name, write_project(options.name, options.into)
    for path in sorted(folder.iterdir()):
        print(path)
    print(f"check    {bench_command('check', folder / f'{name}.py')}")
    print(f"install  {shlex.join(['pip', 'install', '-e', str(folder)])}")
    print(f"run      bench run --methods {name},{registry.names()[0]} --dataset digits")
    return 0


def write_project(name: str, into: Path) -> Path:
    """Write the project of a method into the folder ``into/name``, and return that folder.

    UserError for a name that cannot be one or is taken; nothing that exists is written over.
    """
    folder = into / name
    if folder.exists():
        raise UserError(f"'{folder}' exists already; give another name, or another --into")
    check_name(name)
    files = render(name)
    folder.mkdir(parents=True)
    for path, text in files.items():
        (folder / path).write_text(text, encoding="utf-8")
    return folder


def check_name(name: str) -> None:
    """UserError unless a module, a method and a distribution can be called this."""
    from bench.commands.method_labels import WORDS

    if not re.fullmatch(r"[a-z]([a-z0-9_]*[a-z0-9])?", name) or keyword.iskeyword(name):
        raise UserError(
            f"'{name}' cannot name a method: use lower-case letters, digits and '_', "
            "beginning with a letter, such as my_flow"
        )
    if name in registry.names():
        raise UserError(f"there is a method '{name}' already, {registry.source(name)}")
    if name in WORDS:
        raise UserError(f"'{name}' means something else on the command line; give another name")
    found = find_spec(name)
    if found is not None and found.loader is not None and found.origin is not None:
        raise UserError(f"there is a Python module '{name}' already, which this would hide")


def render(name: str) -> Mapping[str, str]:
    """Return the files of the project with its own names, by their paths."""
    texts = {file: (TEMPLATE / file).read_text(encoding="utf-8") for file in FILES}
    # ``MyFlow`` for ``my_flow``, told from words of the template.
    own = "".join(part.capitalize() for part in name.split("_"))
    taken = set(re.findall(r"\w+", " ".join(texts.values())))
    own = f"{own}Method" if {own, f"{own}Config"} & taken else own
    return {
        file.replace(NAME, name): text.replace(CLASS, own).replace(NAME, name)
        for file, text in texts.items()
    }
