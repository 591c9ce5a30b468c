"""What a GPU tells of itself through NVML, by NVIDIA's own nvidia-ml-py (extra ``gpu``)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

Work = Callable[[], object]
NOT_INSTALLED = "nvidia-ml-py is not installed; pip install 'scorebench[gpu]'"


@dataclass(frozen=True)
class Gpu:
    """What a GPU tells of itself, in its own units: MHz, degrees Celsius, watts."""

    name: str | None = None
    driver: str | None = None
    cuda: str | None = None
    """The CUDA version that torch was built for."""
    mhz: float | None = None
    mhz_max: float | None = None
    memory_mhz: float | None = None
    celsius: float | None = None
    watts: float | None = None
    watts_limit: float | None = None
    watts_limit_default: float | None = None
    state: str | None = None
    """P0, the fastest, to P15."""
    mig: str | None = None
    reasons: list[str] | None = None
    """Why its clocks are not higher; names of ``REASONS``."""
    slowed: dict[str, float] | None = None
    """Seconds since the driver's start that each of ``COUNTERS`` has held the clocks down."""
    others: int | None = None
    """Other processes that hold memory on it."""
    unread: str | None = None
    """Why nothing but ``cuda`` is told; ``None`` where the driver was asked."""


FACTS: dict[str, Callable[[Any, Any], Any]] = {
    "name": lambda nvml, gpu: nvml.nvmlDeviceGetName(gpu),
    "driver": lambda nvml, _: nvml.nvmlSystemGetDriverVersion(),
    "mhz": lambda nvml, gpu: float(nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_SM)),
    "mhz_max": lambda nvml, gpu: float(nvml.nvmlDeviceGetMaxClockInfo(gpu, nvml.NVML_CLOCK_SM)),
    "memory_mhz": lambda nvml, gpu: float(nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_MEM)),
    "celsius": lambda nvml, gpu: float(
        nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU)
    ),
    "watts": lambda nvml, gpu: nvml.nvmlDeviceGetPowerUsage(gpu) / 1e3,
    "watts_limit": lambda nvml, gpu: nvml.nvmlDeviceGetPowerManagementLimit(gpu) / 1e3,
    "watts_limit_default": lambda nvml, gpu: (
        nvml.nvmlDeviceGetPowerManagementDefaultLimit(gpu) / 1e3
    ),
    "state": lambda nvml, gpu: f"P{nvml.nvmlDeviceGetPerformanceState(gpu)}",
    "mig": lambda nvml, gpu: "Enabled" if nvml.nvmlDeviceGetMigMode(gpu)[0] else "Disabled",
}
"""How each of a GPU's facts is asked for; milliwatts become watts."""
REASONS = (
    "idle", "application clocks", "power cap", "hardware slowdown", "sync boost",
    "thermal slowdown", "hardware thermal slowdown", "power brake", "display clocks",
)  # fmt: skip
"""NVML's clock event reasons from bit 0 up (nvml.h, nvmlClocksEventReasons)."""
SLOWDOWNS = ("hardware slowdown", "thermal slowdown", "hardware thermal slowdown", "power brake")
"""Reasons that are a fault of the machine. A power cap is none: many run so under full load."""
COUNTERS = {
    "thermal slowdown": "SW_THERM_SLOWDOWN",
    "hardware thermal slowdown": "HW_THERM_SLOWDOWN",
    "power brake": "HW_POWER_BRAKE_SLOWDOWN",
}
"""Reasons whose time recent drivers count, in nanoseconds."""


def read_gpu(device: torch.device, own: Collection[int], work: Work | None = None) -> Gpu:
    """Ask the driver about the device that torch uses; ``own`` are the ids of our processes.

    ``work`` is called again and again meanwhile: a GPU that has nothing to do lowers its clocks.
    It must wait for the device itself.
    """
    import torch

    uuid = str(torch.cuda.get_device_properties(device).uuid).removeprefix("GPU-")
    with ThreadPoolExecutor(1) as asking:
        answer = asking.submit(_ask, f"GPU-{uuid}", own)
        while work is not None and not answer.done():
            work()
    return Gpu(cuda=torch.version.cuda, **answer.result())


def _ask(uuid: str, own: Collection[int]) -> dict[str, Any]:
    """Return what the driver tells, or why it could not be asked."""
    try:
        import pynvml as nvml
    except ImportError:
        return {"unread": NOT_INSTALLED}
    try:
        nvml.nvmlInit()
        try:
            gpu, told = nvml.nvmlDeviceGetHandleByUUID(uuid), dict[str, Any]()
            # Each fact on its own: what this GPU or its driver does not support is left out.
            for name, ask in {**FACTS, "reasons": reasons_of, "slowed": slowed_by}.items():
                with contextlib.suppress(nvml.NVMLError):
                    told[name] = ask(nvml, gpu)
            with contextlib.suppress(nvml.NVMLError):
                holders = nvml.nvmlDeviceGetComputeRunningProcesses(gpu)
                told["others"] = other_holders({process.pid for process in holders}, own)
            return told
        finally:
            nvml.nvmlShutdown()
    except nvml.NVMLError as error:
        return {"unread": f"NVML: {error}"}


def reasons_of(nvml: Any, gpu: Any) -> list[str]:
    """Why the clocks are not higher; drivers before 535 know the question by its older name."""
    try:
        mask = nvml.nvmlDeviceGetCurrentClocksEventReasons(gpu)
    except nvml.NVMLError:
        mask = nvml.nvmlDeviceGetCurrentClocksThrottleReasons(gpu)
    return [reason for bit, reason in enumerate(REASONS) if mask >> bit & 1]


def slowed_by(nvml: Any, gpu: Any) -> dict[str, float] | None:
    """Seconds that each reason has held the clocks down; ``None`` where nothing is counted.

    The numbers of these fields have moved between drivers. Only these are 64 bits wide of those
    that any driver has had there: another type is another fact.
    """
    prefix = "NVML_FI_DEV_CLOCKS_EVENT_REASON_"
    fields = [getattr(nvml, prefix + name) for name in COUNTERS.values()]
    found = {
        reason: told.value.ullVal / 1e9
        for reason, told in zip(COUNTERS, nvml.nvmlDeviceGetFieldValues(gpu, fields), strict=True)
        if told.nvmlReturn == nvml.NVML_SUCCESS
        and told.valueType == nvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG
    }
    return found or None


def other_holders(pids: Collection[int], own: Collection[int]) -> int | None:
    """Count the processes on the GPU that are not ours; ``None`` if not even ours is listed.

    From within a container our own process stands under another number, or none is shown.
    """
    listed, ours = set(pids), set(pids) & set(own)
    if not listed:
        return None
    return len(listed - ours) if ours else len(listed) - 1
