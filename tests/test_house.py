"""The house's rule: imports run downwards, nothing goes in circles, every room can be read."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

import bench
import methods

from .fake_study import write_study

BENCH, METHODS = Path(bench.__file__).parent, Path(methods.__file__).parent
ROOT = Path(__file__).parent.parent
LONGEST = 400


def files(package: Path) -> list[Path]:
    # The template is what `bench new` writes for others, no part of the house.
    return sorted(path for path in package.rglob("*.py") if "template" not in path.parts)


def imported(path: Path) -> set[str]:
    """The top packages that a file imports anywhere."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    members = {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    return {name.split(".")[0] for name in plain | members}


def test_imports_run_downwards_and_never_in_circles(monkeypatch: pytest.MonkeyPatch) -> None:
    # The layers stand in pyproject.toml: the folders of bench/, from the top floor down.
    monkeypatch.chdir(ROOT)
    assert lint_imports(no_cache=True) == 0


def test_the_layers_are_the_folders() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    layers = next(c["layers"] for c in settings["contracts"] if c["type"] == "layers")
    folders = {path.name for path in BENCH.iterdir() if (path / "__init__.py").exists()}
    files_beside = {path.stem for path in BENCH.glob("*.py")} - {"__init__"}
    assert set(layers) == folders | files_beside


def test_files_can_be_read_in_one_go() -> None:
    counts = {path: len(path.read_text().splitlines()) for path in files(BENCH)}
    assert not {str(path): count for path, count in counts.items() if count > LONGEST}


def test_every_folder_says_what_it_is_for() -> None:
    for path in files(BENCH):
        assert ast.get_docstring(ast.parse(path.read_text())), f"{path} has no docstring"


def test_a_class_name_means_one_thing() -> None:
    seen: dict[str, Path] = {}
    for path in files(BENCH):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                assert node.name not in seen, f"{node.name}: {seen[node.name]} and {path}"
                seen[node.name] = path


def test_methods_import_torch_and_pydantic_alone() -> None:
    allowed = {"torch", "pydantic", "methods", ""} | sys.stdlib_module_names
    for path in files(METHODS):
        assert imported(path) <= allowed, path


def test_no_method_is_named_in_bench() -> None:
    from methods import registry

    names = set(registry.BUILTIN)
    for path in files(BENCH):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert node.value not in names, f"{path.name} names the method {node.value!r}"


def left_out(code: str, heavy: set[str]) -> None:
    """Run ``code`` in a process of its own, which must import nothing of ``heavy``."""
    check = f"{code}\nimport sys\nfound = {heavy!r} & set(sys.modules)\nassert not found, found"
    done = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr


EVERY_MODULE = """
import importlib, pkgutil, bench, methods
for package in (bench, methods):
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if not module.name.endswith(".__main__"):
            importlib.import_module(module.name)
"""


@pytest.mark.usefixtures("processes")
def test_no_module_needs_mlflow() -> None:
    """It is imported by those who log, when they do."""
    left_out(EVERY_MODULE, {"mlflow"})


HEAVY = {"torch", "mlflow", "pandas", "scipy", "matplotlib", "sklearn"}


@pytest.mark.usefixtures("processes")
@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    left_out(f"from bench.cli import main\nassert main({arguments!r}) == 0", HEAVY | {"numpy"})


@pytest.mark.usefixtures("processes")
@pytest.mark.parametrize(
    ("arguments", "heavy"),
    [
        (["table", "one"], {"torch", "mlflow", "matplotlib"}),
        (["plot", "one"], {"torch", "mlflow"}),
        (["report", "one"], {"torch", "mlflow"}),
        (["compare", "one", "other"], {"torch", "mlflow", "matplotlib"}),
        (["datasets"], HEAVY),
        (["sync", "one"], {"torch"}),
    ],
    ids=lambda given: given[0] if isinstance(given, list) else "",
)
def test_reading_commands_import_no_torch(
    arguments: list[str], heavy: set[str], results: Path
) -> None:
    for name in arguments[1:]:
        write_study(results / name, seeds=(0, 1))
    place = ["--results", str(results)] if arguments[1:] else []
    left_out(f"from bench.cli import main\nassert main({arguments + place!r}) == 0", heavy)
