"""The source that a method's result depends on: its module, and all of its own that it imports.

Its own is ``methods``, and for a plug-in what its distribution holds, or, where that is not told
(as of one that is installed to be edited), what lies in the folder that it is imported from.
"""

import ast
import hashlib
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import entry_points
from importlib.util import find_spec, resolve_name
from pathlib import Path

from bench.config import UserError, digest
from bench.records.plugins import method_class
from methods import registry

OURS = "methods"
INSTALLED = {"site-packages", "dist-packages"}
"""Folders in which what lies side by side does not belong together."""


def source_files(module: str) -> dict[str, Path]:
    """Return the files of a module and of all of its own that it imports, by name."""
    files: dict[str, Path] = {}
    top = _top(module)
    own = {OURS: True, top: True}
    shipped = set() if top == OURS else _shipped_with(top)
    left = [module]
    while left:
        name, *left = left
        if name not in files and (path := _file(name)):
            files[name] = path
            new = _imported(name, path) if path.suffix == ".py" else ()
            left = [each for each in new if _is_own(each, top, shipped, own)] + left
    return files


def source_hashes(module: str) -> dict[str, str]:
    """Return the SHA-256 of each file of ``source_files``, by the module's name."""
    files = source_files(module)
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}


def source_digest(module: str) -> str:
    """Hash the source of a module with all of its own that it imports."""
    return digest(source_hashes(module))


def check_source(method: str, key: str, source: dict[str, str]) -> None:
    """UserError unless this process runs the source that a cell's ``key`` is of.

    ``source`` are the hashes that its record tells, to name what differs.
    """
    here = source_hashes(method_class(method).__module__)
    if digest(here)[:20] != key.rpartition("-")[2]:
        changed = [n for n in sorted({*here, *source}) if here.get(n) != source.get(n)]
        files = ", ".join(f"{name.replace('.', '/')}.py" for name in changed)
        raise UserError(
            f"the source of '{method}' is not that which the cell was planned with; changed: "
            f"{files}; give the command again"
        )


def _top(module: str) -> str:
    return module.partition(".")[0]


def _file(module: str) -> Path | None:
    """The file of a module, if there is such a module and it has one."""
    try:
        spec = find_spec(module)
    except Exception:  # It runs the packages that the module is in, which may raise anything.
        return None
    return Path(spec.origin) if spec and spec.has_location and spec.origin else None


def _imported(module: str, path: Path) -> Iterator[str]:
    """What may be modules of what a file imports, by their full names."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    if _top(module) != OURS and package:
        # Packages are run before what is in them.
        yield package
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            with suppress(ImportError):  # of what lies above the top, which cannot be run either
                source = resolve_name("." * node.level + (node.module or ""), package)
                yield from [source, *(f"{source}.{alias.name}" for alias in node.names)]


def _is_own(module: str, of: str, shipped: set[str], known: dict[str, bool]) -> bool:
    """Whether a module belongs to the plug-in whose top-level module is ``of``.

    ``shipped`` is what its distribution holds; ``known`` gets what has been found.
    """
    top = _top(module)
    if top not in known:
        here, there = _folder(of), _folder(top)
        beside = of != OURS and here == there and here is not None and here.name not in INSTALLED
        known[top] = top in shipped if of in shipped else beside
    return known[top]


def _shipped_with(of: str) -> set[str]:
    """The top-level modules of the distribution whose method is in one; empty if not told."""
    points = entry_points(group=registry.GROUP)
    held = [p.dist.files or () for p in points if _top(p.module) == of and p.dist is not None]
    files = [file for each in held for file in each if file.suffix == ".py"]
    return {file.parts[0].removesuffix(".py") for file in files}


def _folder(top: str) -> Path | None:
    """The folder that a top-level module is imported from."""
    path = _file(top)
    return path and (path.parent.parent if path.name == "__init__.py" else path.parent)
