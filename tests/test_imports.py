"""Imports only run downwards, and what must start fast imports nothing heavy."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import bench
import methods

BENCH, METHODS = Path(bench.__file__).parent, Path(methods.__file__).parent

FLOORS = [
    {"__main__"},
    {"cli"},
    {"commands"},
    {"timing"},
    {"sweep", "retiming", "rerun"},
    {"study", "resampling", "template", "evaluate"},
    {"check", "new", "progress", "worker"},
    {"executors", "orphans"},
    {"parts"},
    {"sampling", "stages", "tracking", "repetition"},
    {"training", "metrics", "report", "source"},
    {"options"},
    {"study_folders"},
    {"interleaved", "study_file"},
    {"config", "cost", "curve", "data", "environment", "machine"},
    {"record", "locks", "checkout"},
    {"errors", "seeds", "__init__"},
]
"""The house from the top floor down; a room may import from lower floors only."""
HEIGHT = {room: -floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def rooms() -> list[Path]:
    # The template is what `bench new` writes for others, no part of the house.
    return sorted(path for path in BENCH.rglob("*.py") if "template" not in path.parts)


def room_of(path: Path) -> str:
    # The commands' options lie beside their bodies, and rooms below take them as arguments.
    return (
        "options"
        if path.name == "options.py"
        else path.relative_to(BENCH).parts[0].removesuffix(".py")
    )


def imported(path: Path) -> set[str]:
    """Modules imported at run time anywhere in a file; type-checking blocks do not count."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            if node.module in {"bench", "methods"}:
                found.update(f"{node.module}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text()))
    return found


@pytest.mark.parametrize("path", rooms(), ids=lambda path: str(path.relative_to(BENCH)))
def test_bench_imports_run_downwards(path: Path) -> None:
    room = room_of(path)
    for name in imported(path):
        parts = name.split(".")
        if parts[0] == "bench" and len(parts) > 1:
            target = parts[1] if parts[1] in HEIGHT else "__init__"
            target = "options" if "options" in parts else target
            if target != room:
                assert HEIGHT[target] < HEIGHT[room], f"{room} imports {name}"


@pytest.mark.parametrize("path", sorted(METHODS.rglob("*.py")), ids=lambda path: path.name)
def test_methods_import_torch_and_pydantic_alone(path: Path) -> None:
    for name in imported(path):
        top = name.split(".")[0]
        assert top in {"torch", "pydantic", "methods"} or top in sys.stdlib_module_names, name


def test_no_method_is_named_in_bench() -> None:
    from methods import registry

    names = set(registry.BUILTIN)
    for path in rooms():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert node.value not in names, f"{path.name} names the method {node.value!r}"


@pytest.mark.usefixtures("processes")
@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["--version"]])
def test_help_leaves_torch_and_mlflow_out(arguments: list[str]) -> None:
    code = (
        "import sys; from bench.cli import main\n"
        f"assert main({arguments!r}) == 0\n"
        "heavy = {'torch', 'mlflow', 'pandas', 'matplotlib', 'sklearn'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)


def test_every_room_has_a_floor() -> None:
    assert {room_of(path) for path in rooms()} <= set(HEIGHT)
