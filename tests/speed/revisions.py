"""Which revision is the base, and copies of the two trees."""

from __future__ import annotations

import filecmp
import io
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

from bench.config.errors import UserError

MEASURED = ("bench", "methods", "configs")
"""Folders whose content decides what is measured."""
BENCHMARKS = "tests/speed"
DEFAULT_BRANCHES = ("main", "master")


@dataclass(frozen=True)
class Base:
    """The revision to compare with."""

    commit: str
    why: str
    """How it was chosen, in words."""

    def __str__(self) -> str:
        return f"{self.commit[:10]} ({self.why})"


def git(root: Path, *arguments: str) -> str | None:
    """Return what a git command prints, ``None`` where it fails; UserError without git."""
    try:
        result = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise UserError("git is not installed, and the base is a revision; install git") from None
    return result.stdout.strip() if result.returncode == 0 else None


def find_root(folder: Path) -> Path:
    """Return the top of the repository that holds ``folder``."""
    top = git(folder, "rev-parse", "--show-toplevel")
    if top is None:
        raise UserError(
            f"{folder} is in no git repository, so there is no base; run this in a clone"
        )
    return Path(top)


def commit_of(root: Path, revision: str) -> str | None:
    """Return the commit that a revision names."""
    return git(
        root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}"
    )


def is_dirty(root: Path) -> bool:
    """Whether what is measured differs from HEAD."""
    folders = [name for name in MEASURED if (root / name).exists()]
    return bool(git(root, "status", "--porcelain", "--", *folders))


def choose(root: Path, revision: str | None = None) -> Base:
    """Choose the base: ``revision``, else the last tag, else where the branch began.

    With nothing committed on the branch it is HEAD if the tree has changes, else HEAD's parent.
    Tags and branch points at HEAD itself count where the tree has changes alone. UserError if the
    revision is unknown, or if there is none.
    """
    if revision is not None:
        commit = commit_of(root, revision)
        if commit is None:
            raise UserError(
                f"unknown base '{revision}'; give a commit, branch or tag of {root} "
                "(a shallow clone lacks older ones: git fetch --unshallow --tags)"
            )
        return Base(commit, revision)
    head, dirty = commit_of(root, "HEAD"), is_dirty(root)
    if head is None:
        raise UserError(f"{root} has no commit yet, so there is no base; commit first")
    found = _last_tag(root, dirty) or _branch_point(root, head)
    if found is not None:
        return found
    if dirty:
        return Base(head, "HEAD, for the tree has changes")
    parent = commit_of(root, "HEAD^")
    if parent is None:
        raise UserError(
            f"HEAD of {root} has no parent here, so there is no base; name one by --base, or get "
            "older commits (git fetch --unshallow --tags)"
        )
    return Base(parent, "the parent of HEAD")


def _last_tag(root: Path, dirty: bool) -> Base | None:
    tag = git(root, "describe", "--tags", "--abbrev=0", "HEAD" if dirty else "HEAD^")
    commit = None if tag is None else commit_of(root, f"refs/tags/{tag}")
    return None if commit is None else Base(commit, f"the last tag, {tag}")


def _branch_point(root: Path, head: str) -> Base | None:
    """Return where the present branch left the default branch, if it has left it."""
    remote = git(root, "symbolic-ref", "--quiet", "--short", "refs/remotes/origin/HEAD")
    for branch in ([remote] if remote else []) + list(DEFAULT_BRANCHES):
        if commit_of(root, branch) is not None:
            commit = git(root, "merge-base", branch, head)
            if commit and commit != head:
                return Base(commit, f"where the branch left {branch}")
            return None
    return None


def export(root: Path, commit: str, to: Path) -> Path:
    """Write a commit's tree to a new folder."""
    archive = subprocess.run(
        ["git", "-C", str(root), "archive", "--format=tar", commit],
        capture_output=True,
        check=True,
    )
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
        tar.extractall(to, filter="data")
    return to


def copy(root: Path, to: Path) -> Path:
    """Copy what is measured, and by what, to a new folder: files that git tracks, and new ones."""
    listing = ["ls-files", "-z", "--cached", "--others", "--exclude-standard", "--"]
    listed = git(root, *listing, *MEASURED, BENCHMARKS)
    for name in filter(None, (listed or "").split("\0")):
        source, target = root / name, to / name
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
    return to


def same_code(one: Path, other: Path) -> bool:
    """Whether two trees hold the same files where it counts."""

    def files(tree: Path) -> list[Path]:
        found = (path for name in MEASURED for path in (tree / name).rglob("*"))
        return sorted(path.relative_to(tree) for path in found if path.is_file())

    names = files(one)
    if names != files(other):
        return False
    return not any(filecmp.cmpfiles(one, other, names, shallow=False)[1:])
