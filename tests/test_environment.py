"""What a record says of where it was made: source, packages, device, flags, command."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.records import checkout, environment
from bench.records.environment import describe, diff_path, note

from .fake_study import make_record

GIT = shutil.which("git")
ROOT = Path(__file__).parent.parent


def git(folder: Path, *arguments: str) -> str:
    assert GIT is not None
    command = [GIT, "-c", "user.name=x", "-c", "user.email=x@x", *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A committed checkout of two files of source, a weight and a page."""
    if GIT is None:
        pytest.skip("git is not installed")
    # A user's taste in diffs must not change their hash.
    config = tmp_path / "gitconfig"
    config.write_text(
        "[diff]\nnoprefix = true\ncontext = 9\nalgorithm = patience\n[color]\nui = always\n"
    )
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    root = tmp_path / "checkout"
    for name in ("bench/records", "methods", "configs"):
        (root / name).mkdir(parents=True)
    (root / "bench" / "a.py").write_text("".join(f"line {n}\n" for n in range(30)))
    (root / "methods" / "m.py").write_text("x = 1\n")
    (root / "bench" / "w.pt").write_bytes(bytes(range(256)))
    (root / "README.md").write_text("page\n")
    (root / ".gitignore").write_text("ignored.py\n")
    git(root, "init", "-q")
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "all")
    return root


def change(root: Path) -> None:
    """Change source that git knows, a binary file, and add files of all kinds."""
    (root / "bench" / "a.py").write_text("".join(f"line {n}\n" for n in range(30) if n != 15))
    (root / "bench" / "w.pt").write_bytes(bytes(range(255, -1, -1)))
    (root / "methods" / "new é.py").write_text("y = 2\n")
    (root / "configs" / "mine.yaml").write_text("a: 1\n")
    (root / "bench" / "ignored.py").write_text("not source\n")
    (root / "bench" / "notes.txt").write_text("not source\n")


def test_a_clean_checkout_differs_in_nothing(repository: Path) -> None:
    (repository / "notes.txt").write_text("no source")
    head = git(repository, "rev-parse", "HEAD").strip()
    assert checkout.commit(repository) == (head, False)
    assert checkout.uncommitted(repository) == ""
    assert checkout.digest("") is None


def test_the_diff_makes_the_changed_tree_of_the_commit(repository: Path, tmp_path: Path) -> None:
    change(repository)
    diff = checkout.uncommitted(repository)
    assert diff is not None
    assert checkout.commit(repository)[1] is True
    assert "notes.txt" not in diff
    assert "ignored" not in diff
    again = tmp_path / "again"
    git(tmp_path, "clone", "-q", str(repository), str(again))
    (tmp_path / "it.diff").write_text(diff)
    git(again, "apply", str(tmp_path / "it.diff"))
    for name in ("bench/a.py", "bench/w.pt", "methods/new é.py", "configs/mine.yaml"):
        assert (again / name).read_bytes() == (repository / name).read_bytes(), name


def test_the_hash_is_of_the_source_alone(repository: Path) -> None:
    change(repository)
    before = checkout.digest(checkout.uncommitted(repository))
    (repository / "README.md").write_text("another page\n")
    git(repository, "add", "bench/a.py")
    assert checkout.digest(checkout.uncommitted(repository)) == before
    (repository / "methods" / "new é.py").write_text("y = 3\n")
    assert checkout.digest(checkout.uncommitted(repository)) != before


def test_a_change_of_the_page_alone_is_a_difference_without_a_diff(repository: Path) -> None:
    (repository / "README.md").write_text("another page\n")
    assert checkout.commit(repository)[1] is True
    assert checkout.uncommitted(repository) == ""


def test_without_a_checkout_there_is_no_commit(tmp_path: Path) -> None:
    assert checkout.commit(tmp_path) == (None, None)
    assert checkout.uncommitted(tmp_path) is None


@pytest.mark.parametrize("is_changed", [False, True])
def test_a_wheel_knows_what_differed(repository: Path, tmp_path: Path, is_changed: bool) -> None:
    pytest.importorskip("hatchling")
    shutil.copy(ROOT / "bench" / "records" / "checkout.py", repository / "bench" / "records")
    git(repository, "add", "-A")
    git(repository, "commit", "-q", "-m", "checkout")
    if is_changed:
        change(repository)
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    hook = module.CommitHook(str(repository), {}, None, None, str(tmp_path), "wheel")
    build: dict[str, Any] = {"force_include": {}}
    hook.initialize("standard", build)
    installed = tmp_path / "site"
    for source, target in build["force_include"].items():
        (installed / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, installed / target)
    assert checkout.commit(installed) == checkout.commit(repository)
    assert checkout.uncommitted(installed) == checkout.uncommitted(repository)


def test_a_description_names_what_decides_a_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    monkeypatch.setenv("AWS_SECRET", "x")
    found = describe(torch.device("cpu"), "cdm:semi")
    for name in ("torch", "numpy", "scipy", "clean-fid", "scikit-learn", "pillow", "mlflow"):
        assert found["packages"][name], name
    assert found["variables"]["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert "AWS_SECRET" not in found["variables"]
    assert found["directory"] == os.getcwd()
    assert found["determinism"]["matmul_precision"] == torch.get_float32_matmul_precision()
    assert found["method"]["class"] == "methods.cdm:CDM"
    assert found["threads"] == 1
    assert set(environment.SOURCE) <= found.keys()


def test_a_study_keeps_each_diff_once_and_a_record_its_earlier_surroundings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = make_record(tmp_path, "sde", 0, environment={"seconds_to_first_step": 1.5})
    for diff in ("one\n", "one\n", "", "two\n"):
        monkeypatch.setattr(checkout, "here", lambda diff=diff: ("c0ffee", bool(diff), diff))
        note(row, tmp_path, torch.device("cpu"))
        assert row.environment["diff"] == checkout.digest(diff)
    assert row.environment["seconds_to_first_step"] == 1.5
    kept = sorted(tmp_path.glob("*.diff"))
    assert sorted(path.read_text() for path in kept) == ["one\n", "two\n"]
    one = checkout.digest("one\n")
    assert one is not None
    assert diff_path(tmp_path, one) in kept
    assert row.environment["earlier"] == [{"diff": one}, {"diff": None}]
