"""What the machine is like while something is timed: clocks, heat, throttling, other load.

A :class:`Reading` is taken before and one after. Whatever the machine does not tell is ``None``,
and nothing is concluded from it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    import torch

SHORTEST = 0.5
"""Seconds below which no load is told: the kernel counts in ticks of 0.01 s on every core."""
OTHER_LOAD = 0.1
"""Share of the machine's cores that others may use. A desktop's or a scheduler's own services stay
below a tenth; beyond it caches, memory bandwidth and the clocks under turbo are shared for long."""
STEAL = 0.02
"""Share of the time that a hypervisor may take away: less than what counts as stable."""
HELD_BACK = 0.01
"""Share of the time that a quota or heat may hold the work back."""
SWAPPED = 16 * 2**20
"""Bytes read back from swap: some hundredths of a second from a disk, and a sign of more."""
ANSWER_SECONDS = 20.0
"""Longest wait for nvidia-smi, which takes seconds where the driver has to be woken."""

SYSTEM = Path("/sys")
CGROUPS = Path("/sys/fs/cgroup")

Work = Callable[[], object]


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


# Reading ----------------------------------------------------------------------------------------


def take(device: torch.device, work: Work | None = None) -> Reading:
    """Read what the machine tells now.

    ``work`` is called again and again while the GPU is asked, which takes a second: a GPU that
    has nothing to do lowers its clocks. It must wait for the device itself.
    """
    import torch

    readings: dict[str, Any] = {}
    for reader in READERS:
        with _optional():
            readings |= reader()
    gpu = read_gpu(device, work) if device.type == "cuda" else None
    return Reading(at=time.monotonic(), threads=torch.get_num_threads(), gpu=gpu, **readings)


@contextlib.contextmanager
def _optional() -> Iterator[None]:
    """Leave out what this machine does not tell, or tells only with a warning."""
    missing = (OSError, ValueError, AttributeError, NotImplementedError, RuntimeWarning)
    with contextlib.suppress(psutil.Error, *missing), warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        yield


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
    lines = (control_group() / "cpu.stat").read_text().splitlines()
    told = dict(line.split() for line in lines)
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
    read_cores,
    read_held_back,
    read_load,
    read_clock,
    read_governor,
    read_throttling,
    read_heat,
    read_swap,
    read_power,
)


# The GPU ----------------------------------------------------------------------------------------

FIELDS = {
    "name": "name",
    "driver": "driver_version",
    "mhz": "clocks.sm",
    "mhz_max": "clocks.max.sm",
    "memory_mhz": "clocks.mem",
    "celsius": "temperature.gpu",
    "watts": "power.draw",
    "watts_limit": "power.limit",
    "watts_limit_default": "power.default_limit",
    "state": "pstate",
    "mig": "mig.mode.current",
}
"""What nvidia-smi calls a GPU's facts."""
TEXTS = {"name", "driver", "state", "mig"}
REASONS = {
    0x1: "idle",
    0x2: "application clocks",
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x10: "sync boost",
    0x20: "thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
    0x100: "display clocks",
}
"""Bits of NVML's clock event reasons (nvml.h, nvmlClocksEventReasons)."""
SLOWDOWNS = ("hardware slowdown", "thermal slowdown", "hardware thermal slowdown", "power brake")
"""Reasons that are a fault of the machine. A power cap is none: many run so under full load."""
COUNTERS = {
    "thermal slowdown": "sw_thermal_slowdown",
    "hardware thermal slowdown": "hw_thermal_slowdown",
    "power brake": "hw_power_brake_slowdown",
}
"""Reasons whose time recent drivers count, in microseconds."""


def read_gpu(device: torch.device, work: Work | None = None) -> Gpu:
    """Ask nvidia-smi about the device that torch uses; all ``None`` where it does not answer."""
    import torch

    cuda = torch.version.cuda
    identifier = getattr(torch.cuda.get_device_properties(device), "uuid", None)
    if identifier is None:
        return Gpu(cuda=cuda)
    place = f"GPU-{str(identifier).removeprefix('GPU-')}"
    told = _query(place, work)
    pids = _ask(["--query-compute-apps=pid", "-i", place], work)
    others = None if pids is None else other_holders(pids, {process.pid for process in family()})
    return Gpu(cuda=cuda, others=others, **told)


def _query(place: str, work: Work | None) -> dict[str, Any]:
    """Ask for the fields that this driver knows: one that it does not fails the whole query."""
    counters = [f"clocks_event_reasons_counters.{name}" for name in COUNTERS.values()]
    event, throttle = "clocks_event_reasons.active", "clocks_throttle_reasons.active"
    for more in ([event, *counters], [event], [throttle], []):
        fields = [*FIELDS.values(), *more]
        lines = _ask([f"--query-gpu={','.join(fields)}", "-i", place], work)
        if lines:
            return parse(dict(zip(fields, lines[0].split(", "), strict=False)))
    return {}


def _ask(arguments: Sequence[str], work: Work | None) -> list[str] | None:
    """Return nvidia-smi's lines, or ``None`` if it is not there, refuses or takes too long."""
    command = ["nvidia-smi", *arguments, "--format=csv,noheader,nounits"]
    quiet: Mapping[str, Any] = {"stdin": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **quiet)
    except OSError:
        return None
    deadline = time.monotonic() + ANSWER_SECONDS
    with process:
        while work is not None and process.poll() is None and time.monotonic() < deadline:
            work()
        try:
            told, _ = process.communicate(timeout=max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            return None
        except BaseException:
            process.kill()
            raise
    lines = [line.strip() for line in told.splitlines() if line.strip()]
    return lines if process.returncode == 0 else None


def parse(told: Mapping[str, str]) -> dict[str, Any]:
    """Turn nvidia-smi's fields into :class:`Gpu`'s; what is not supported is left out."""
    known = {name: text for name, text in told.items() if not text.startswith(("[", "N/A"))}
    facts: dict[str, Any] = {
        name: known[asked] if name in TEXTS else float(known[asked])
        for name, asked in FIELDS.items()
        if asked in known
    }
    mask = known.get("clocks_event_reasons.active", known.get("clocks_throttle_reasons.active"))
    if mask is not None:
        bits = int(mask, 16)
        facts["reasons"] = [reason for bit, reason in REASONS.items() if bits & bit]
    slowed = {
        reason: int(known[f"clocks_event_reasons_counters.{name}"]) / 1e6
        for reason, name in COUNTERS.items()
        if f"clocks_event_reasons_counters.{name}" in known
    }
    return facts | ({"slowed": slowed} if slowed else {})


def other_holders(lines: Sequence[str], own: Collection[int]) -> int | None:
    """Count the processes on the GPU that are not ours; ``None`` if not even ours is listed.

    From within a container our own process stands under another number, or none is shown.
    """
    pids = {int(line) for line in lines if line.isdecimal()}
    if not pids:
        return None
    return len(pids - set(own)) if pids & set(own) else len(pids) - 1


# Between two readings ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Between:
    """What happened from one reading to a later one; ``None`` is not told."""

    seconds: float
    other_cores: float | None = None
    """Cores that processes of others used, on average."""
    stolen: float | None = None
    """Share of the machine's time that a hypervisor took, 0 to 1."""
    throttled: int | None = None
    held_back: float | None = None
    """Seconds."""
    swapped_in: int | None = None
    """Bytes."""
    gpu_slowed: dict[str, float] = field(default_factory=dict)
    """Seconds by reason."""


def between(before: Reading, after: Reading) -> Between:
    """Take the difference of two readings."""
    seconds = after.at - before.at
    busy, own = _grown(before.busy, after.busy), _grown(before.own, after.own)
    stolen, cores = _grown(before.stolen, after.stolen), after.machine_cores
    long = seconds >= SHORTEST
    known = busy is not None and own is not None and long
    throttled = _grown(before.throttled, after.throttled)
    swapped_in = _grown(before.swapped_in, after.swapped_in)
    return Between(
        seconds=seconds,
        other_cores=max(0.0, (busy or 0.0) - (own or 0.0)) / seconds if known else None,
        stolen=stolen / seconds / cores if stolen is not None and cores and long else None,
        throttled=None if throttled is None else int(throttled),
        held_back=_grown(before.held_back, after.held_back),
        swapped_in=None if swapped_in is None else int(swapped_in),
        gpu_slowed=_slowed(before.gpu, after.gpu),
    )


def _grown(before: float | None, after: float | None) -> float | None:
    """How much a counter has grown; nothing is told by one that went back."""
    if before is None or after is None or after < before:
        return None
    return after - before


def _slowed(before: Gpu | None, after: Gpu | None) -> dict[str, float]:
    if before is None or after is None or before.slowed is None or after.slowed is None:
        return {}
    grown = {reason: _grown(before.slowed.get(reason), s) for reason, s in after.slowed.items()}
    return {reason: seconds for reason, seconds in grown.items() if seconds is not None}


# Whether it is fit ------------------------------------------------------------------------------


def unfit(before: Reading, after: Reading) -> list[str]:
    """Say why a machine was not fit to time on between two readings; empty if nothing told so.

    Clocks, governors and a power cap are recorded and not judged: what is normal differs.
    """
    change = between(before, after)
    return [*_load_reasons(change, after), *_heat_reasons(change, before, after),
            *_gpu_reasons(change, before.gpu, after.gpu)]  # fmt: skip


def _load_reasons(change: Between, after: Reading) -> Iterator[str]:
    if after.threads and after.cores and after.threads > after.cores:
        yield f"{after.threads} threads on {after.cores:g} core(s)"
    others, cores = change.other_cores, after.machine_cores
    if others is not None and cores and others > OTHER_LOAD * cores:
        yield f"other processes used {others:.1f} of {cores} cores"
    if change.stolen is not None and change.stolen > STEAL:
        yield f"steal time {change.stolen:.0%}".replace("%", " %")
    if change.held_back is not None and change.held_back > HELD_BACK * change.seconds:
        yield f"a CPU quota held it back for {change.held_back:.2g} of {change.seconds:.2g} s"
    if change.swapped_in is not None and change.swapped_in > SWAPPED:
        yield f"{change.swapped_in >> 20} MiB were read back from swap"


def _heat_reasons(change: Between, before: Reading, after: Reading) -> Iterator[str]:
    if change.throttled:
        yield f"the CPU was throttled {change.throttled} time(s)"
    for reading in (after, before):
        if reading.celsius and reading.celsius_limit and reading.celsius >= reading.celsius_limit:
            yield f"CPU at {reading.celsius:.0f} C, its limit is {reading.celsius_limit:.0f} C"
            break
    if before.on_battery or after.on_battery:
        yield "on battery power"


def _gpu_reasons(change: Between, before: Gpu | None, after: Gpu | None) -> Iterator[str]:
    told = [gpu for gpu in (after, before) if gpu is not None]
    others = max((gpu.others or 0 for gpu in told), default=0)
    if others:
        yield "another process held the GPU" if others == 1 else f"{others} others held the GPU"
    seen: set[str] = set()
    for gpu in told:
        for reason in set(gpu.reasons or ()) & set(SLOWDOWNS) - seen:
            seen.add(reason)
            heat = "" if gpu.celsius is None else f"GPU at {gpu.celsius:.0f} C, "
            yield f"{heat}{reason} active"
    for reason, seconds in change.gpu_slowed.items():
        if reason not in seen and seconds > HELD_BACK * change.seconds:
            yield f"the GPU was under {reason} for {seconds:.2g} of {change.seconds:.2g} s"
    for gpu in told[:1]:
        limit, usual = gpu.watts_limit, gpu.watts_limit_default
        if limit and usual and limit < usual and "power cap" in (gpu.reasons or ()):
            yield f"the GPU was held to {limit:.0f} W of its {usual:.0f} W"


class Watch:
    """Watches the machine during a block, and for ``least`` seconds.

    Load cannot be told of less than ``SHORTEST``, and what shared the machine with a shorter block
    is there a moment later too.
    """

    def __init__(
        self, device: torch.device, work: Work | None = None, *, least: float = SHORTEST
    ) -> None:
        self.device, self.work, self.least = device, work, least

    def __enter__(self) -> Watch:
        self.before = self.after = take(self.device, self.work)
        return self

    def __exit__(self, kind: object, *exception: object) -> None:
        if kind is None:
            time.sleep(max(0.0, self.least - (time.monotonic() - self.before.at)))
            self.after = take(self.device, self.work)

    def facts(self) -> dict[str, Any]:
        """Return what was told, as JSON-like values; ``None`` is what was not."""
        change = between(self.before, self.after)
        return _rounded(
            asdict(change) | {"before": asdict(self.before), "after": asdict(self.after)}
        )

    def unfit(self) -> list[str]:
        """Say why the machine was not fit to time on."""
        return unfit(self.before, self.after)


def _rounded(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Round numbers to what the sources tell."""
    return {
        key: _rounded(value)
        if isinstance(value, Mapping)
        else round(value, 4)
        if isinstance(value, float)
        else value
        for key, value in tree.items()
    }
