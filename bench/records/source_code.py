"""The source that a method's result depends on: its module and all it imports from ``methods``."""

import ast
import contextlib
import hashlib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from bench.config import digest


def source_files(module: str) -> dict[str, Path]:
    """Return the files of a module and of all that it imports from ``methods``, by name."""
    files: dict[str, Path] = {}
    left = [module]
    while left:
        name, *left = left
        spec = None if name in files else find_spec(name)
        if spec is not None and spec.origin is not None:
            files[name] = Path(spec.origin)
            new = [each for each in _imported(files[name]) if each.split(".")[0] == "methods"]
            left = new + left
    return files


def _imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            for alias in node.names:
                with contextlib.suppress(ModuleNotFoundError):
                    if find_spec(f"{node.module}.{alias.name}"):
                        yield f"{node.module}.{alias.name}"


def source_hashes(module: str) -> dict[str, str]:
    """Return the SHA-256 of each file of ``source_files``, by the module's name."""
    files = source_files(module)
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}


def source_digest(module: str) -> str:
    """Hash the source of a module with all that it imports from ``methods``."""
    return digest(source_hashes(module))
