"""Build hook: a wheel made from a git checkout knows its commit, and what differed from it."""

from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CommitHook(BuildHookInterface):  # type: ignore[type-arg]
    """Puts ``bench/commit.txt`` into the wheel: the commit, and ``+`` if the tree differs.

    If it does, ``bench/uncommitted.diff`` says what of the source is not committed.
    """

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Ask git; outside a checkout or without git the files are left out."""
        if self.target_name != "wheel" or version == "editable":
            return
        root = Path(self.root)
        checkout = self._checkout(root)
        head, differs = checkout.commit(root)
        if head is None:
            return
        files = {checkout.COMMIT: head + ("+" if differs else "") + "\n"}
        if differs:
            files[checkout.DIFF] = checkout.uncommitted(root) or ""
        folder = Path(tempfile.mkdtemp())
        for name, text in files.items():
            (folder / name).write_bytes(text.encode(errors="surrogateescape"))
            build_data["force_include"][str(folder / name)] = f"bench/{name}"

    def _checkout(self, root: Path) -> Any:
        # By its path: the package itself needs what a build does not have.
        spec = importlib.util.spec_from_file_location(
            "checkout", root / "bench" / "records" / "checkout.py"
        )
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
