"""Build hook: a wheel made from a git checkout knows its commit."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CommitHook(BuildHookInterface):  # type: ignore[type-arg]
    """Puts ``bench/commit.txt`` into the wheel: the commit, and ``+`` if the tree differs."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Ask git; outside a checkout or without git the file is left out."""
        if self.target_name != "wheel" or version == "editable":
            return
        try:
            head = self._git("rev-parse", "HEAD")
            changed = self._git("status", "--porcelain", "--untracked-files=no")
        except (OSError, subprocess.CalledProcessError):
            return
        path = Path(tempfile.mkdtemp()) / "commit.txt"
        path.write_text(head + ("+" if changed else "") + "\n")
        build_data["force_include"][str(path)] = "bench/commit.txt"

    def _git(self, *arguments: str) -> str:
        # The folder's own repository only, not one that happens to lie around it.
        command = ["git", f"--git-dir={self.root}/.git", f"--work-tree={self.root}", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
