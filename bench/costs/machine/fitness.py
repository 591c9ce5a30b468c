"""Whether a machine was fit to time on: what happened between two readings of it."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self, TypeVar

import torch

from bench.costs.machine.gpu import SLOWDOWNS, Gpu, Work
from bench.costs.machine.readings import Reading, take

N = TypeVar("N", int, float)
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
    was, now = ((reading.gpu and reading.gpu.slowed) or {} for reading in (before, after))
    slowed = {reason: _grown(was.get(reason), s) for reason, s in now.items()}
    long = seconds >= SHORTEST
    known = busy is not None and own is not None and long
    return Between(
        seconds=seconds,
        other_cores=max(0.0, (busy or 0.0) - (own or 0.0)) / seconds if known else None,
        stolen=stolen / seconds / cores if stolen is not None and cores and long else None,
        throttled=_grown(before.throttled, after.throttled),
        held_back=_grown(before.held_back, after.held_back),
        swapped_in=_grown(before.swapped_in, after.swapped_in),
        gpu_slowed={reason: grown for reason, grown in slowed.items() if grown is not None},
    )


def _grown(before: N | None, after: N | None) -> N | None:
    """How much a counter has grown; nothing is told by one that went back."""
    return None if before is None or after is None or after < before else after - before


def unfit(before: Reading, after: Reading) -> list[str]:
    """Say why a machine was not fit to time on between two readings; empty if nothing told so.

    Clocks, governors and a power cap are recorded and not judged: what is normal differs.
    """
    change = between(before, after)
    gpus = [reading.gpu for reading in (after, before) if reading.gpu is not None]
    return [*_host_reasons(change, before, after), *_gpu_reasons(change, gpus)]


def _host_reasons(change: Between, before: Reading, after: Reading) -> Iterator[str]:
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
    if change.throttled:
        yield f"the CPU was throttled {change.throttled} time(s)"
    for reading in (after, before):
        if reading.celsius and reading.celsius_limit and reading.celsius >= reading.celsius_limit:
            yield f"CPU at {reading.celsius:.0f} C, its limit is {reading.celsius_limit:.0f} C"
            break
    if before.on_battery or after.on_battery:
        yield "on battery power"


def _gpu_reasons(change: Between, told: Sequence[Gpu]) -> Iterator[str]:
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

    def __enter__(self) -> Self:
        self.before = self.after = take(self.device, self.work)
        return self

    def __exit__(self, kind: object, *exception: object) -> None:
        if kind is None:
            time.sleep(max(0.0, self.least - (time.monotonic() - self.before.at)))
            self.after = take(self.device, self.work)

    def facts(self) -> dict[str, Any]:
        """Return what was told, as JSON-like values; ``None`` is what was not."""
        told = {"before": asdict(self.before), "after": asdict(self.after)}
        return dict(_rounded(asdict(between(self.before, self.after)) | told))

    def unfit(self) -> list[str]:
        """Say why the machine was not fit to time on."""
        return unfit(self.before, self.after)


def _rounded(value: Any) -> Any:
    """Round numbers to what the sources tell."""
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return round(value, 4) if isinstance(value, float) else value
