"""Which source this is: a checkout's commit and what in it is not committed.

In a wheel that was built from a checkout, two files say it: ``commit.txt``, the commit (and ``+``
if the tree differed), and ``uncommitted.diff``, by how much. The standard library alone is
imported here, since the build of a wheel reads this file too.
"""

import hashlib
import os
import subprocess
from functools import cache
from pathlib import Path

COMMIT = "commit.txt"
DIFF = "uncommitted.diff"
ROOT = Path(__file__).parents[2]
CODE = ("bench", "methods", "configs", "pyproject.toml", "hatch_build.py")
"""What a result may depend on, of a checkout."""
ADDED = {".py", ".yaml", ".toml"}
"""Endings of the files that count though git does not know them."""
PLAIN = (
    "diff", "--binary", "--no-color", "--no-ext-diff", "--no-textconv", "--no-renames",
    "--full-index", "--unified=3", "--diff-algorithm=myers", "--src-prefix=a/", "--dst-prefix=b/",
)  # fmt: skip
"""A diff that ``git apply`` takes, alike whatever the user has configured."""


def commit(root: Path = ROOT) -> tuple[str | None, bool | None]:
    """Return the commit of the checkout or of the wheel, and whether the tree differed.

    Files that git does not know count if they are source. A wheel that was not built from a
    checkout has neither.
    """
    built = root / "bench" / COMMIT
    if built.exists():
        text = built.read_text().strip()
        return text.removesuffix("+"), text.endswith("+")
    if not (root / ".git").exists():
        return None, None
    try:
        head = _git(root, "rev-parse", "HEAD").strip()
        changed = _git(root, "status", "--porcelain", "--untracked-files=no")
        return head, bool(changed or _unknown(root))
    except (OSError, subprocess.CalledProcessError):
        return None, None


def uncommitted(root: Path = ROOT) -> str | None:
    """Return the source that is not committed as a diff to ``git apply``; empty if all is.

    New files of source are in it. ``None`` where there is no checkout, and no wheel made of one.
    """
    built = root / "bench" / DIFF
    if built.exists():
        return built.read_bytes().decode(errors="surrogateescape")
    head, dirty = commit(root)
    if head is not None and not dirty:
        return ""
    if head is None or not (root / ".git").exists():
        return None
    try:
        changed = _git(root, *PLAIN, "HEAD", "--", *CODE)
        for path in _unknown(root):
            # Git answers 1 where two files differ, as these always do.
            changed += _git(root, *PLAIN, "--no-index", "--", os.devnull, path, good=(0, 1))
        return changed
    except (OSError, subprocess.CalledProcessError):
        return None


def digest(diff: str | None) -> str | None:
    """SHA-256 of a diff; ``None`` for none and for an empty one."""
    return hashlib.sha256(diff.encode(errors="surrogateescape")).hexdigest() if diff else None


@cache
def here() -> tuple[str | None, bool | None, str | None]:
    """Return this process's own commit, whether the tree differed, and the diff; asked once."""
    return *commit(), uncommitted()


def _unknown(root: Path) -> list[str]:
    """Paths of source files that git does not know and was not told to ignore."""
    found = _git(root, "ls-files", "-z", "--others", "--exclude-standard", "--", *CODE)
    return sorted(path for path in found.split("\0") if Path(path).suffix in ADDED)


def _git(root: Path, *arguments: str, good: tuple[int, ...] = (0,)) -> str:
    # The folder's own repository only, not one that happens to lie around it; and no lock on its
    # index, since many processes ask at once.
    command = ["git", f"--git-dir={root / '.git'}", f"--work-tree={root}", *arguments]
    environment = os.environ | {"GIT_OPTIONAL_LOCKS": "0"}
    done = subprocess.run(command, cwd=root, capture_output=True, env=environment, check=False)
    if done.returncode not in good:
        raise subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)
    return done.stdout.decode(errors="surrogateescape")
