"""Reads what the machine is like: clocks, heat, throttling, load; what it does not tell is None."""

from __future__ import annotations

import contextlib
import os
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from bench.costs.machine.gpu import Gpu, Work, read_gpu

if TYPE_CHECKING:
    import torch

SYSTEM = Path("/sys")
CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Reading:
    """What a machine tells of itself at one moment."""

    at: float
    """Seconds of a monotonic clock."""
    cores: float | None = None
    """Cores that this process may use: by affinity and quota."""
    machine_cores: int | None = None
    threads: int | None = None
    """Threads that torch computes with."""
    busy: float | None = None
    """Core-seconds that all processes have used since the machine started."""
    own: float | None = None
    """Core-seconds that this process and those it started have used."""
    stolen: float | None = None
    """Core-seconds that a hypervisor has given to others."""
    mhz: float | None = None
    mhz_max: float | None = None
    governor: list[str] | None = None
    celsius: float | None = None
    """The hottest sensor of those that have a limit, or of all where none has."""
    celsius_limit: float | None = None
    throttled: int | None = None
    """Times that cores and packages were slowed down for heat or current."""
    held_back: float | None = None
    """Seconds that the quota of its control group has kept it waiting."""
    swap_used: int | None = None
    swapped_in: int | None = None
    """Bytes read back from swap since the machine started."""
    on_battery: bool | None = None
    gpu: Gpu | None = None


def take(device: torch.device, work: Work | None = None) -> Reading:
    """Read what the machine tells now; ``work`` keeps a GPU busy meanwhile, see ``read_gpu``."""
    import torch

    readings: dict[str, Any] = {}
    missing = (psutil.Error, OSError, ValueError, AttributeError, NotImplementedError)
    for reader in READERS:
        # What this machine does not tell, or tells only with a warning, is left out.
        with contextlib.suppress(RuntimeWarning, *missing), warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            readings |= reader()
    pids = {process.pid for process in family()}
    gpu = read_gpu(device, pids, work) if device.type == "cuda" else None
    return Reading(at=time.monotonic(), threads=torch.get_num_threads(), gpu=gpu, **readings)


def read_cores() -> dict[str, Any]:
    """Read how many cores there are, and how many this process may use."""
    machine = psutil.cpu_count() or 1
    allowed = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else machine)
    limit = quota()
    return {"machine_cores": machine, "cores": min(allowed, limit) if limit else allowed}


def control_group(controller: str = "") -> Path:
    """The folder of this process's control group: of version 2, or of a controller of version 1.

    Within a container the root stands for a group that is not to be seen.
    """
    top = CGROUPS / controller
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, group = line.split(":", 2)
        if controller in controllers.split(","):
            inside = top / group.removeprefix("/")
            return inside if inside.exists() else top
    return top


def oom_kills() -> int:
    """How many processes Linux has ended for lack of memory; 0 where it does not tell.

    Of our control group where that counts them, else of the whole machine.
    """
    with contextlib.suppress(OSError):
        own = (control_group() / "memory.events", control_group("memory") / "memory.oom_control")
        for path in (*own, Path("/proc/vmstat")):
            lines = path.read_text().splitlines() if path.exists() else []
            counts = [line.split()[1] for line in lines if line.startswith("oom_kill ")]
            if counts:
                return int(counts[0])
    return 0


def quota() -> float | None:
    """Cores' worth of time that the control group allows; ``None`` without a limit."""
    with contextlib.suppress(OSError, ValueError):
        allowed, period = (control_group() / "cpu.max").read_text().split()
        return None if allowed == "max" else int(allowed) / int(period)
    with contextlib.suppress(OSError, ValueError):
        microseconds = int((CGROUPS / "cpu/cpu.cfs_quota_us").read_text())
        period_us = int((CGROUPS / "cpu/cpu.cfs_period_us").read_text())
        return microseconds / period_us if microseconds > 0 else None
    return None


def read_held_back() -> dict[str, Any]:
    """Read for how long the control group's quota has kept its processes waiting."""
    text = (control_group() / "cpu.stat").read_text()
    told = dict(line.split() for line in text.splitlines())
    return {"held_back": int(told["throttled_usec"]) / 1e6} if "throttled_usec" in told else {}


def read_load() -> dict[str, Any]:
    """Read the core-seconds of all processes, of this one's tree, and those given to others."""
    spent = psutil.cpu_times()
    parts = ("user", "nice", "system", "irq", "softirq")
    return {
        "busy": sum(getattr(spent, part, 0.0) for part in parts),
        "own": own_seconds(),
        "stolen": getattr(spent, "steal", None),
    }


def family() -> list[psutil.Process]:
    """This process and all that it has started and that still run."""
    here = psutil.Process()
    return [here, *here.children(recursive=True)]


def own_seconds() -> float:
    """Core-seconds that this process, its children and those that have ended have used."""
    total = 0.0
    for process in family():
        with contextlib.suppress(psutil.Error):
            spent = process.cpu_times()
            ended = getattr(spent, "children_user", 0.0) + getattr(spent, "children_system", 0.0)
            total += spent.user + spent.system + ended
    return total


def read_clock() -> dict[str, Any]:
    """Read the CPU's mean clock and its highest, MHz; a virtual machine often tells only one."""
    clock = psutil.cpu_freq()
    return {"mhz": clock.current or None, "mhz_max": clock.max or None} if clock else {}


def read_governor() -> dict[str, Any]:
    """Read the names of the frequency governors of the cores."""
    files = (SYSTEM / "devices/system/cpu").glob("cpu*/cpufreq/scaling_governor")
    found = sorted({file.read_text().strip() for file in files})
    return {"governor": found} if found else {}


def read_throttling() -> dict[str, Any]:
    """Read how often cores were slowed down, and packages, which every core of one tells."""
    folders = list((SYSTEM / "devices/system/cpu").glob("cpu*/thermal_throttle"))
    cores = [int((folder / "core_throttle_count").read_text()) for folder in folders]
    packages = [int((folder / "package_throttle_count").read_text()) for folder in folders]
    return {"throttled": sum(cores) + max(packages)} if folders else {}


def read_heat() -> dict[str, Any]:
    """Read the sensor that is nearest to its limit, or the hottest where no limit is told."""
    sensors = [s for group in psutil.sensors_temperatures().values() for s in group if s.current]
    limited = [sensor for sensor in sensors if sensor.critical]
    if limited:
        worst = max(limited, key=lambda sensor: sensor.current - (sensor.critical or 0.0))
        return {"celsius": worst.current, "celsius_limit": worst.critical}
    return {"celsius": max(sensor.current for sensor in sensors)} if sensors else {}


def read_swap() -> dict[str, Any]:
    """Read how much is in swap, and how much was read back from it."""
    swap = psutil.swap_memory()
    return {"swap_used": swap.used, "swapped_in": swap.sin}


def read_power() -> dict[str, Any]:
    """Read whether a battery drives the machine."""
    battery = psutil.sensors_battery()
    if battery is None or battery.power_plugged is None:
        return {}
    return {"on_battery": not battery.power_plugged}


READERS = (
    read_cores, read_held_back, read_load, read_clock, read_governor, read_throttling, read_heat,
    read_swap, read_power,
)  # fmt: skip
