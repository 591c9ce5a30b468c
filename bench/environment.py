"""Where a run happened: commit, packages, device, threads, command."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from bench import __version__

PACKAGES = ("torch", "torchvision", "numpy", "scipy", "clean-fid")


@cache
def commit() -> tuple[str, bool | None]:
    """Return the commit of this checkout or of the installed wheel, and whether the tree differed.

    A wheel that was not built from a checkout has none: the version stands instead, and ``None``.
    """
    built = Path(__file__).parent / "commit.txt"
    if built.exists():
        text = built.read_text().strip()
        return text.removesuffix("+"), text.endswith("+")
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():
        return f"scorebench-{__version__}", None
    try:
        head = _git(root, "rev-parse", "HEAD")
        return head, bool(_git(root, "status", "--porcelain"))
    except (OSError, subprocess.CalledProcessError):
        return f"scorebench-{__version__}", None


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def device_name(device: torch.device) -> str:
    """Return the device's model: of the GPU, or of the CPU with its count of cores."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return f"{model}, {os.cpu_count()} cores"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def describe(device: torch.device) -> dict[str, Any]:
    """Describe the present process's surroundings as JSON-like values."""
    head, dirty = commit()
    return {
        "commit": head,
        "dirty": dirty,
        "device": device_name(device),
        "device_type": device.type,
        "threads": torch.get_num_threads(),
        "cells_at_once": int(os.environ.get("SCOREBENCH_JOBS", "1")),
        "load_at_start": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "command": os.environ.get("SCOREBENCH_COMMAND", " ".join(sys.argv)),
        "host": socket.gethostname(),
        "pid": os.getpid(),
    }
