"""The README's first command from an installed wheel, outside the checkout."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from methods import registry

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.xdist_group("wheel")


def run(*command: str, cwd: Path, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **(env or {})},
        capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, processes: None) -> Path:
    """A folder that holds the installed wheel, without its dependencies."""
    place = tmp_path_factory.mktemp("wheel")
    python = sys.executable
    run(python, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(place), cwd=ROOT)
    (wheel,) = place.glob("*.whl")
    target = place / "site"
    run(python, "-m", "pip", "install", "--no-deps", "--target", str(target), str(wheel), cwd=place)
    return target


def shorten(scoring: Path) -> None:
    """Have classification accuracy scores, 10 s each, come from a classifier of a few steps."""
    text = scoring.read_text()
    short = text.replace('("resnet 1", 250, 10, ', '("resnet 1", 5, 0, ')
    assert short != text
    scoring.write_text(short)


def test_the_wheel_holds_presets_and_weights(installed: Path) -> None:
    assert (installed / "bench" / "configs" / "digits.yaml").exists()
    assert (installed / "bench" / "configs" / "published" / "cifar10.yaml").exists()
    assert list((installed / "bench" / "metrics" / "extractors" / "weights").glob("*"))
    assert not (installed / "tests").exists()


def test_the_first_command_runs_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    shorten(installed / "bench" / "metrics" / "classification_score.py")
    readme = (ROOT / "README.md").read_text()
    line = re.search(r"\.venv/bin/bench (run --methods \S+ --dataset \S+)", readme)
    assert line is not None
    command = [str(installed / "bin" / "bench"), *line[1].split(), "--preset", "smoke"]
    env = {"PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1"}
    where = run(sys.executable, "-c", "import bench; print(bench.__file__)", cwd=tmp_path, env=env)
    assert Path(where.strip()).is_relative_to(installed)
    # As in a checkout, whose files are others: nothing of the current folder is run.
    for name in ("bench", "methods", "random", "torch", "yaml"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('run from the current folder')\n")
    output = run(sys.executable, *command, cwd=tmp_path, env={"PYTHONPATH": str(installed)})
    for name in registry.names():
        assert re.search(rf"^\| {name} +\| 1/1 ", output, re.MULTILINE)
