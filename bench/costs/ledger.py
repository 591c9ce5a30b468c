"""What a run costs: a ledger of seconds, counted FLOPs, counted network calls, peak memory."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

PARTS = ("compile", "train", "sample", "evaluate", "log", "checkpoint", "other")


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all that was asked of it; nothing on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Ledger:
    """Seconds by part; exactly one part runs at any time, so that the parts sum to the wall clock.

    The device is synchronised at the edges only. ``started`` is a ``perf_counter`` reading from
    before this object existed (the process's start); ``carried`` holds the ``totals`` of an
    interrupted run that this one continues, and ``spent`` the seconds that its processes really
    took: what they did after their last checkpoint is lost, and charged to ``other``.
    """

    def __init__(
        self,
        device: torch.device,
        *,
        started: float | None = None,
        carried: Mapping[str, float] | None = None,
        spent: float = 0.0,
    ) -> None:
        self.device = device
        self.started = time.perf_counter() if started is None else started
        self.carried = dict(carried or {})
        self.seconds = {part: self.carried.get(part, 0.0) for part in PARTS}
        kept = self.carried.get("wall", 0.0) - self.carried.get("charged", 0.0)
        self.lost = max(0.0, spent - kept)
        self.seconds["other"] += self.lost
        self.carried["wall"] = self.carried.get("wall", 0.0) + self.lost
        self.current = "other"
        self.since = self.started

    def _close(self) -> None:
        now = time.perf_counter()
        self.seconds[self.current] += now - self.since
        self.since = now

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Charge the time inside to ``name`` and not to the part around it."""
        synchronize(self.device)
        self._close()
        outer, self.current = self.current, name
        try:
            yield
        finally:
            synchronize(self.device)
            self._close()
            self.current = outer

    def charge(self, name: str, seconds: float) -> None:
        """Charge what another cell has spent for this one, in the part and in the wall clock."""
        self.seconds[name] += seconds
        for total in ("wall", "charged"):
            self.carried[total] = self.carried.get(total, 0.0) + seconds

    def elapsed(self, name: str) -> float:
        """Seconds of a part so far, the running stretch included."""
        running = time.perf_counter() - self.since if self.current == name else 0.0
        return self.seconds[name] + running

    def totals(self) -> dict[str, float]:
        """Seconds of each part, and ``wall`` by the process's own clock, carried time included.

        ``charged`` is what of them another cell has spent for this one, ``lost`` what killed
        processes did after their last checkpoint.
        """
        self._close()
        wall = time.perf_counter() - self.started + self.carried.get("wall", 0.0)
        beside = {name: self.carried.get(name, 0.0) for name in ("charged", "lost")}
        beside["lost"] += self.lost
        return {**self.seconds, "wall": wall, **beside}
