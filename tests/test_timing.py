"""Timing that can be defended: warm-up, a watched machine, cells in turn, marks in the table."""

from __future__ import annotations

import csv
import inspect
import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from scipy.special import bdtrc

from bench import cli
from bench.commands.time import interleave
from bench.commands.time.report import render_timing
from bench.commands.time.worker import Taken, Turns
from bench.config.errors import UserError
from bench.costs.intervals import interval, median_bounds
from bench.costs.machine import gpu as gpu_module
from bench.costs.machine import readings
from bench.costs.machine.fitness import SHORTEST, Watch, between, unfit
from bench.costs.machine.gpu import Gpu, other_holders, read_gpu
from bench.costs.machine.readings import Reading
from bench.executors import End, explain_end
from bench.progress.display import Display
from bench.records import interleaved, record
from bench.records.interleaved import TimedCell, Timing
from bench.records.record import Cost, Status
from bench.report.plots import write as plots
from bench.report.plots.drawing import PlottedStudy
from bench.report.plots.quality import FLOPS, TIME, quality
from bench.report.study_report import StudyReport
from bench.report.table.formats import write_tables
from bench.report.table.numbers import MARK
from bench.sampling.source import timed
from bench.sampling.timing import WARM_UP_SECONDS, WarmUp, is_stable, latency, settle, warm_up

from . import fake_study
from .fake_study import table

CPU = torch.device("cpu")


# -- warm-up -------------------------------------------------------------------------------------


def draws(seconds: Sequence[float]) -> Callable[[], float]:
    """Draws that take these times, the last one for ever."""
    rest: Iterator[float] = iter(seconds)
    return lambda: next(rest, seconds[-1])


@pytest.mark.parametrize(
    ("seconds", "stable"),
    [
        ([1, 1], False),
        ([1, 1, 1, 1, 1], False),
        ([1, 1, 1, 1, 1, 1], True),
        ([9, 1, 1, 1, 1, 1], True),  # One slow batch decides nothing.
        ([1, 1, 1, 1, 1, 9], True),
        ([2, 2, 2, 1, 1, 1], False),
        ([1, 1, 1, 1.06, 1.06, 1.06], False),  # Slower, as a machine that gets hot.
        ([1, 1, 1, 1.04, 1.04, 1.04], True),
        ([1.05, 1.04, 1.03, 1.02, 1.01, 1.00], False),  # Near, and faster every time.
        ([1.05, 1.04, 1.03, 1.02, 1.01, 1.03], True),
        ([9, 5, 3, 1, 1, 1, 1, 1, 1], True),
    ],
)
def test_stable_times_are_those_that_stay(seconds: list[float], stable: bool) -> None:
    assert is_stable(seconds) == stable


@pytest.mark.parametrize(
    ("seconds", "batches", "stable"),
    [
        ([0.5], 6, True),
        ([5, 4, 3, 2, 1, 0.5], 3, False),
        ([2.0, 1.0, *[0.5] * 9], 7, True),
        ([60.0], 2, True),  # Two batches are what a slow sampler costs.
        ([90.0, 60.0], 2, False),
        ([6.0, 3.0, 3.0], 3, True),
        ([0.3 * 0.9**n for n in range(40)], 30, False),
        ([2**-10], 256, True),  # Clocks need their time to rise.
    ],
)
def test_warm_up_ends(seconds: list[float], batches: int, stable: bool) -> None:
    found = settle(draws(seconds), 50)
    assert (found.batches, found.stable) == (batches, stable)
    spent = sum((seconds + seconds[-1:] * batches)[:batches])
    assert found.seconds == pytest.approx(spent, abs=1e-4)
    assert bool(found.reasons) != stable


def test_only_the_last_six_may_not_fall_and_of_two_nothing_is_known() -> None:
    assert not is_stable([1.0, 1.0, 1.0, 1.0, 0.999, 0.998, 0.997, 0.996, 0.995])
    assert is_stable([1.0, 0.99], window=1)


@pytest.mark.parametrize("slow", [0.1, 1.0, 10.0, 100.0])
def test_warm_up_is_capped_by_time(slow: float) -> None:
    found = settle(draws([slow * 0.93**n for n in range(200)]), 1)
    most = max(WARM_UP_SECONDS + slow, 2 * slow)
    assert found.seconds <= most
    assert not found.stable


def test_an_unsettled_warm_up_says_so() -> None:
    (reason,) = settle(draws([90.0, 60.0]), 50).reasons
    assert reason == "the time of a batch of 50 still changed by -33% after 2 batches of warm-up"


# -- one batch -----------------------------------------------------------------------------------


class FakeSource:
    """A source whose batches do nothing but are noted."""

    device = CPU

    def __init__(self, name: str = "a", log: list[Any] | None = None) -> None:
        self.name, self.log = name, [] if log is None else log

    def batch(self, size: int, index: int) -> tuple[torch.Tensor, None]:
        self.log.append(("draw", size))
        return torch.zeros(size, 1), None

    def on_host(self, images: torch.Tensor) -> Any:
        return images.numpy()


def test_the_device_is_waited_for_at_both_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    source: Any = FakeSource()
    moments = count()
    waited = lambda device: source.log.append(("wait", device))  # noqa: E731
    monkeypatch.setattr("bench.sampling.source.synchronize", waited)
    clock = lambda: source.log.append(("clock",)) or float(next(moments))  # noqa: E731
    monkeypatch.setattr("bench.sampling.source.time", SimpleNamespace(perf_counter=clock))
    seconds, _ = timed(source, 7, 0)
    wait = ("wait", CPU)
    assert source.log == [wait, ("clock",), ("draw", 7), wait, ("clock",)]
    assert seconds == 1


def test_latency_is_of_single_images_after_a_warm_up_of_its_own() -> None:
    source: Any = FakeSource()
    found, warm = latency(source, 10)
    assert (found.batch, found.repeats, warm.size) == (1, 10, 1)
    assert len(source.log) == warm.batches + 10
    assert set(source.log) == {("draw", 1)}
    assert warm_up(source, 3).size == 3


def test_the_median_s_interval_covers_it() -> None:
    """Nominally 95 %; the percentile bootstrap of a median of 20 is near to that."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(300):
        low, high = median_bounds(rng.lognormal(0, 0.1, 20).tolist(), resamples=400)
        covered += low <= 1 <= high
    assert 0.91 <= covered / 300 <= 0.99


def test_the_median_s_interval_is_the_bootstrap_s_at_95_percent() -> None:
    """P(median of a resample <= x_(k)) = P(Bin(n, k / n) > n / 2), so that its limits are known."""
    n = 1601
    below = bdtrc(n // 2, n, np.arange(1, n + 1) / n)
    low, high = median_bounds(np.arange(n).tolist(), resamples=5000)
    assert low == pytest.approx(np.searchsorted(below, 0.025), abs=1.6)
    assert high == pytest.approx(np.searchsorted(below, 0.975), abs=1.6)


# -- in turn -------------------------------------------------------------------------------------


class Machine:
    """A clock on which every draw takes its cell's time, and longer with every draw."""

    def __init__(self, times: dict[str, float], drift: float = 0.0) -> None:
        self.times, self.drift, self.draws = times, drift, 0
        self.visits: list[tuple[str, int]] = []

    def __call__(self, source: Any, size: int, index: int) -> Any:
        self.draws += 1
        self.visits.append((source.name, size))
        seconds = self.times[source.name] * size * (1 + self.drift * self.draws)
        return seconds, source.batch(size, index)


def turns_of(names: str) -> Turns:
    turns = Turns(lambda name: None)
    turns.taken = [
        Taken(name, f"key-{name}", FakeSource(name), lambda: None)  # type: ignore[arg-type]
        for name in names
    ]
    return turns


@pytest.mark.parametrize("names", ["A", "AB", "ABC", "ABCDE"])
def test_the_order_is_there_and_back(names: str) -> None:
    turns, clock = turns_of(names), Machine(dict.fromkeys(names, 1.0))
    for _ in range(2):
        turns.round(4, clock)
    batches = "".join(name for name, size in clock.visits if size == 4)
    assert batches == 2 * (names + names[::-1])
    # Each visit is one untimed image, the batch and a single image.
    assert [size for _, size in clock.visits] == [1, 4, 1] * 4 * len(names)
    assert all(len(cell.batch_ms) == len(cell.single_ms) == 4 for cell in turns.taken)


def test_a_drifting_machine_leaves_the_ratios_alone() -> None:
    turns, clock = turns_of("ABC"), Machine({"A": 6.0, "B": 3.0, "C": 2.0}, drift=0.01)
    for _ in range(10):
        turns.round(4, clock)
    a, b, c = (cell.result(4) for cell in turns.taken)
    found = {(r.one, r.other): r for r in interleaved.ratios([a, b, c])}
    assert found["A", "B"].ms_per_image.median == pytest.approx(2)
    assert found["A", "C"].ms_per_image.high == pytest.approx(3)
    assert found["B", "C"].latency_ms.low == pytest.approx(1.5)
    # The medians of each alone have the drift of the whole in their intervals.
    assert a.ms_per_image.high > 1.2 * a.ms_per_image.low
    assert (a.ms_per_image.repeats, a.latency_ms.batch) == (20, 1)


def test_equal_cells_do_not_separate() -> None:
    rng = np.random.default_rng(1)
    apart = 0
    for _ in range(100):
        one, other = rng.lognormal(0, 0.05, (2, 20))
        found = interleaved.ratio(one.tolist(), other.tolist())
        apart += not found.low <= 1 <= found.high
    assert apart <= 12


def test_a_cell_that_fails_leaves_the_others_their_turns() -> None:
    turns, clock = turns_of("ABC"), Machine({"A": 1.0, "B": 1.0, "C": 1.0})

    def broken(source: Any, size: int, index: int) -> Any:
        if source.name == "B" and index == 3:
            raise RuntimeError("a planted fault\nof two lines")
        return clock(source, size, index)

    for _ in range(5):
        turns.round(4, broken)
    assert [len(cell.batch_ms) for cell in turns.taken] == [10, 10]
    assert turns.failed == {"B": "RuntimeError: a planted fault of two lines"}


def test_a_cell_that_ends_the_process_is_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = []

    def run(request: Any, body: Any, display: Any) -> Any:
        names = [Path(cell).name for cell in body["cells"]]
        asked.append(names)
        code = -9 if "b" in names else 0
        end = End(code, *explain_end(code, "log"), pid=1, seconds=1.0, was_asked=False)
        return (None, "b", end) if code else (fake_timing("x", names), "c", end)

    monkeypatch.setattr(interleave, "run", run)
    cells = [tmp_path / name for name in "abc"]
    request: Any = None
    found = interleave.without_the_fallen(request, {}, cells, Display())
    assert asked == [["a", "b", "c"], ["a", "c"]]
    assert "SIGKILL" in found.failed["b"]
    with pytest.raises(UserError, match="timing ended at b"):
        interleave.without_the_fallen(request, {}, cells[1:2], Display())


# -- whether the machine was fit -----------------------------------------------------------------

BEFORE = Reading(
    at=100.0, cores=2.0, machine_cores=2, threads=1, busy=500.0, own=50.0, stolen=3.0,
    throttled=7, held_back=1.0, swapped_in=0, celsius=50.0, celsius_limit=100.0, on_battery=False,
    gpu=Gpu(celsius=60.0, reasons=[], slowed={"thermal slowdown": 5.0}, others=0,
            watts_limit=700.0, watts_limit_default=700.0),
)  # fmt: skip
AFTER = replace(BEFORE, at=110.0, busy=510.1, own=60.0)


def gpu(**changes: Any) -> Gpu:
    assert AFTER.gpu is not None
    return replace(AFTER.gpu, **changes)


@pytest.mark.parametrize(
    ("changes", "reasons"),
    [
        ({}, []),
        ({"busy": 519.0}, ["other processes used 0.9 of 2 cores"]),
        ({"busy": 511.9}, []),
        ({"busy": 519.0, "machine_cores": 64, "stolen": 3.0}, []),
        ({"busy": 519.0, "own": None}, []),
        ({"busy": 519.0, "at": 100.4}, []),  # Too short to tell.
        ({"busy": 400.0}, []),  # A counter that went back tells nothing.
        ({"threads": 4}, ["4 threads on 2 core(s)"]),
        ({"threads": 1, "cores": 0.5}, ["1 threads on 0.5 core(s)"]),
        ({"stolen": 5.4}, ["steal time 12 %"]),
        ({"stolen": 3.2}, []),
        ({"stolen": None}, []),
        ({"throttled": 10}, ["the CPU was throttled 3 time(s)"]),
        ({"throttled": None}, []),
        ({"held_back": 4.2}, ["a CPU quota held it back for 3.2 of 10 s"]),
        ({"swapped_in": 120 * 2**20}, ["120 MiB were read back from swap"]),
        ({"swapped_in": 2**20, "swap_used": 2**30}, []),
        ({"celsius": 101.0}, ["CPU at 101 C, its limit is 100 C"]),
        ({"celsius": 101.0, "celsius_limit": None}, []),
        ({"on_battery": True}, ["on battery power"]),
        ({"mhz": 800.0, "mhz_max": 3000.0, "governor": ["powersave"]}, []),
        (
            {"gpu": gpu(celsius=89.0, reasons=["power cap", "thermal slowdown"])},
            ["GPU at 89 C, thermal slowdown active"],
        ),
        ({"gpu": gpu(reasons=["power cap", "idle", "application clocks"])}, []),
        (
            {"gpu": gpu(celsius=None, reasons=["power brake"])},
            ["power brake active"],
        ),
        (
            {"gpu": gpu(slowed={"thermal slowdown": 8.2})},
            ["the GPU was under thermal slowdown for 3.2 of 10 s"],
        ),
        ({"gpu": gpu(slowed={"thermal slowdown": 5.05})}, []),
        ({"gpu": gpu(others=1)}, ["another process held the GPU"]),
        ({"gpu": gpu(others=3)}, ["3 others held the GPU"]),
        ({"gpu": gpu(others=None, reasons=None, slowed=None)}, []),
        (
            {"gpu": gpu(watts_limit=300.0, reasons=["power cap"])},
            ["the GPU was held to 300 W of its 700 W"],
        ),
        ({"gpu": gpu(watts_limit=300.0, reasons=[])}, []),
        ({"gpu": None}, []),
        ({"threads": 4, "throttled": 8}, ["4 threads on 2 core(s)",
                                          "the CPU was throttled 1 time(s)"]),
    ],
)  # fmt: skip
def test_facts_become_reasons(changes: dict[str, Any], reasons: list[str]) -> None:
    assert unfit(BEFORE, replace(AFTER, **changes)) == reasons


def test_what_is_not_told_is_no_reason() -> None:
    assert unfit(Reading(at=0.0), Reading(at=10.0)) == []
    change = between(Reading(at=0.0), Reading(at=10.0))
    assert (change.seconds, change.other_cores, change.stolen, change.throttled) == (
        10, None, None, None,
    )  # fmt: skip


# -- what the machine tells ----------------------------------------------------------------------


def put(path: Path, text: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")


def test_throttling_is_read_from_every_core_and_once_a_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readings, "SYSTEM", tmp_path)
    assert readings.read_throttling() == readings.read_governor() == {}
    cores = tmp_path / "devices/system/cpu"
    for core in range(2):
        put(cores / f"cpu{core}/thermal_throttle/core_throttle_count", core + 1)
        put(cores / f"cpu{core}/thermal_throttle/package_throttle_count", 4)
        put(cores / f"cpu{core}/cpufreq/scaling_governor", "performance")
    assert readings.read_throttling() == {"throttled": 7}
    assert readings.read_governor() == {"governor": ["performance"]}


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "50000 100000"}, 0.5),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu/cpu.cfs_quota_us": 150000, "cpu/cpu.cfs_period_us": 100000}, 1.5),
        ({"cpu/cpu.cfs_quota_us": -1, "cpu/cpu.cfs_period_us": 100000}, None),
        ({}, None),
    ],
)
def test_a_quota_is_read_of_either_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, Any], cores: float | None
) -> None:
    monkeypatch.setattr(readings, "CGROUPS", tmp_path)
    for name, text in files.items():
        put(tmp_path / name, text)
    assert readings.quota() == cores
    if cores == 0.5:
        assert readings.read_cores()["cores"] == 0.5


def test_the_time_that_a_quota_took_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readings, "CGROUPS", tmp_path)
    put(tmp_path / "cpu.stat", "usage_usec 12\nnr_throttled 3\nthrottled_usec 2500000")
    assert readings.read_held_back() == {"held_back": 2.5}


def test_sensors_are_read_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    sensor = namedtuple("sensor", ["label", "current", "high", "critical"])
    here = {"a": [sensor("", 90.0, None, None), sensor("", 40.0, 50.0, 45.0)],
            "b": [sensor("", 80.0, 90.0, 100.0)]}  # fmt: skip
    monkeypatch.setattr(psutil, "sensors_temperatures", lambda: here, raising=False)
    assert readings.read_heat() == {"celsius": 40.0, "celsius_limit": 45.0}
    here["a"].pop()
    here["b"].clear()
    assert readings.read_heat() == {"celsius": 90.0}
    plugged = SimpleNamespace(power_plugged=False)
    monkeypatch.setattr(psutil, "sensors_battery", lambda: plugged, raising=False)
    assert readings.read_power() == {"on_battery": True}


@pytest.mark.parametrize("error", [OSError("no"), NotImplementedError(), psutil.AccessDenied(1)])
def test_a_machine_that_does_not_tell_is_no_trouble(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(*arguments: object, **options: object) -> Any:
        raise error

    for name in ("cpu_times", "cpu_freq", "swap_memory", "sensors_temperatures", "cpu_count"):
        monkeypatch.setattr(psutil, name, refuse, raising=False)
    found = readings.take(CPU)
    assert (found.busy, found.mhz, found.swapped_in, found.machine_cores) == (None,) * 4
    assert found.threads == 1


def test_a_warning_that_a_number_is_made_up_is_heeded(monkeypatch: pytest.MonkeyPatch) -> None:
    import warnings

    def made_up() -> Any:
        warnings.warn("set to 0", RuntimeWarning, stacklevel=1)
        return SimpleNamespace(used=1, sin=0)

    monkeypatch.setattr(psutil, "swap_memory", made_up)
    assert readings.take(CPU).swapped_in is None


@pytest.mark.usefixtures("processes")
def test_work_of_our_own_is_not_other_load() -> None:
    """A child's seconds are ours, while it runs and after."""
    before = readings.own_seconds()
    spin = "import time\nwhile time.process_time() < 0.3: pass"
    subprocess.run([sys.executable, "-c", spin], check=True)
    assert readings.own_seconds() - before > 0.25


def test_a_watch_lasts_long_enough_to_tell_the_load() -> None:
    with Watch(CPU) as watch:
        pass
    facts = watch.facts()
    assert facts["seconds"] >= SHORTEST
    assert json.loads(json.dumps(facts)) == facts
    if sys.platform == "linux":
        assert facts["other_cores"] is not None
        assert facts["after"]["busy"] >= facts["before"]["busy"] > 0


# -- the GPU -------------------------------------------------------------------------------------

CUDA = torch.device("cuda")
FACTS: dict[str, Any] = {
    "nvmlSystemGetDriverVersion": "580.1",
    "nvmlDeviceGetName": "NVIDIA H100",
    ("nvmlDeviceGetClockInfo", 1): 1980,
    ("nvmlDeviceGetClockInfo", 2): 2619,
    ("nvmlDeviceGetMaxClockInfo", 1): 1980,
    ("nvmlDeviceGetTemperature", 0): 89,
    "nvmlDeviceGetPowerManagementLimit": 700_000,
    "nvmlDeviceGetPowerManagementDefaultLimit": 700_000,
    "nvmlDeviceGetPerformanceState": 0,
    "nvmlDeviceGetMigMode": [0, 0],
    "nvmlDeviceGetCurrentClocksEventReasons": 0x24,
}
"""What a made driver tells; it does not support what is not here, such as the power drawn."""
COUNTED = {269: (0, 3, 2_500_000_000), 270: (0, 3, 0), 271: (3, 3, 7)}
"""Fields of it: return code, type and value. The last one is not supported."""


class MadeNvml(ModuleType):
    """A made pynvml: a driver that knows some facts and some fields."""

    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0
    NVML_SUCCESS, NVML_VALUE_TYPE_UNSIGNED_LONG_LONG = 0, 3
    NVML_FI_DEV_CLOCKS_EVENT_REASON_SW_THERM_SLOWDOWN = 269
    NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_THERM_SLOWDOWN = 270
    NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_POWER_BRAKE_SLOWDOWN = 271

    class NVMLError(Exception):
        pass

    def __init__(
        self,
        facts: dict[Any, Any],
        fields: dict[int, tuple[int, int, int]],
        pids: Sequence[int] = (),
        sleep: float = 0.0,
    ) -> None:
        super().__init__("pynvml")
        self.facts, self.fields, self.pids, self.sleep = facts, fields, pids, sleep
        self.is_open = False

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if not name.startswith("nvml"):
            raise AttributeError(name)

        def ask(*arguments: object) -> Any:
            assert self.is_open
            key = (name, *arguments[1:]) if len(arguments) > 1 else name
            if key not in self.facts:
                raise self.NVMLError("Not Supported")
            return self.facts[key]

        return ask

    def nvmlInit(self) -> None:
        if not self.facts:
            raise self.NVMLError("Driver Not Loaded")
        self.is_open = True

    def nvmlShutdown(self) -> None:
        self.is_open = False

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        time.sleep(self.sleep)
        if uuid != "GPU-12-34":
            raise self.NVMLError("Not Found")
        return uuid

    def nvmlDeviceGetComputeRunningProcesses(self, gpu: str) -> list[SimpleNamespace]:
        return [SimpleNamespace(pid=pid) for pid in self.pids]

    def nvmlDeviceGetFieldValues(self, gpu: str, ids: Sequence[int]) -> list[SimpleNamespace]:
        told = [self.fields.get(number, (2, 0, 0)) for number in ids]
        return [
            SimpleNamespace(nvmlReturn=code, valueType=kind, value=SimpleNamespace(ullVal=value))
            for code, kind, value in told
        ]


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Callable[..., MadeNvml]:
    """A machine whose driver knows some facts."""
    told = SimpleNamespace(uuid="12-34")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: told)

    def install(*arguments: Any, **options: Any) -> MadeNvml:
        made = MadeNvml(*arguments, **options)
        monkeypatch.setitem(sys.modules, "pynvml", made)
        return made

    return install


def test_a_recent_driver_tells_all(nvml: Callable[..., MadeNvml]) -> None:
    made = nvml(FACTS, COUNTED, pids=[os.getpid(), 4242])
    found = read_gpu(CUDA, {os.getpid()})
    assert found == Gpu(
        name="NVIDIA H100", driver="580.1", cuda=torch.version.cuda, mhz=1980.0, mhz_max=1980.0,
        memory_mhz=2619.0, celsius=89.0, watts=None, watts_limit=700.0, watts_limit_default=700.0,
        state="P0", mig="Disabled", reasons=["power cap", "thermal slowdown"],
        slowed={"thermal slowdown": 2.5, "hardware thermal slowdown": 0.0}, others=1,
    )  # fmt: skip
    assert not made.is_open


def test_an_older_driver_tells_less(nvml: Callable[..., MadeNvml]) -> None:
    """It knows the reasons by another name, and has other facts where the counters are today."""
    facts = {name: told for name, told in FACTS.items() if "EventReasons" not in name}
    facts["nvmlDeviceGetCurrentClocksThrottleReasons"] = 0x1
    nvml(facts, {269: (0, 1, 12), 270: (0, 1, 12), 271: (2, 0, 0)})
    found = read_gpu(CUDA, {1})
    assert found.reasons == ["idle"]
    assert (found.slowed, found.others, found.mhz) == (None, None, 1980)


def test_the_gpu_is_kept_at_work_while_it_is_asked(nvml: Callable[..., MadeNvml]) -> None:
    nvml(FACTS, COUNTED, sleep=0.1)
    calls: list[float] = []
    read_gpu(CUDA, {1}, lambda: calls.append(time.sleep(0.01)))  # type: ignore[arg-type,func-returns-value]
    assert len(calls) >= 6


def test_without_an_answer_it_is_said_why(
    nvml: Callable[..., MadeNvml], monkeypatch: pytest.MonkeyPatch
) -> None:
    nvml({}, {})
    assert read_gpu(CUDA, {1}) == Gpu(cuda=torch.version.cuda, unread="NVML: Driver Not Loaded")
    made = nvml(FACTS, COUNTED)
    made.nvmlDeviceGetHandleByUUID = lambda uuid: made.nvmlNothing()  # type: ignore[method-assign]
    assert read_gpu(CUDA, {1}) == Gpu(cuda=torch.version.cuda, unread="NVML: Not Supported")
    assert not made.is_open
    monkeypatch.setitem(sys.modules, "pynvml", None)
    found = read_gpu(CUDA, {1})
    assert found == Gpu(cuda=torch.version.cuda, unread=found.unread)
    assert "scorebench[gpu]" in str(found.unread)


def test_the_record_says_that_a_gpu_was_not_read(
    nvml: Callable[..., MadeNvml], monkeypatch: pytest.MonkeyPatch
) -> None:
    nvml(FACTS, COUNTED)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with Watch(CUDA, least=0.0) as watch:
        pass
    assert "scorebench[gpu]" in watch.facts()["before"]["gpu"]["unread"]
    assert "scorebench[gpu]" in watch.facts()["after"]["gpu"]["unread"]


def test_the_facts_are_asked_for_by_names_that_nvml_has() -> None:
    pynvml = pytest.importorskip("pynvml")
    named = [key if isinstance(key, str) else key[0] for key in FACTS]
    made = [name for name in vars(MadeNvml) if name.lower().startswith("nvml")]
    asked = re.findall(r"nvml\.(nvml\w+|NVML\w+)", inspect.getsource(gpu_module))
    assert [name for name in {*named, *made, *asked} if not hasattr(pynvml, name)] == []
    assert all(getattr(pynvml, name) == getattr(MadeNvml, name) for name in made if "NVML_" in name)


@pytest.mark.parametrize(
    ("pids", "others"),
    [
        ([], None),
        ([1], 0),
        ([1, 2], 0),  # We and our child.
        ([1, 77], 1),
        ([900], 0),  # We, by the number that the host has for us.
        ([900, 901], 1),
    ],
)
def test_who_else_holds_the_gpu(pids: list[int], others: int | None) -> None:
    assert other_holders(pids, {1, 2}) == others


# -- the table -----------------------------------------------------------------------------------

BUSY = "other processes used 0.9 of 2 cores"
HOT = "the CPU was throttled 3 time(s)"


def fake_timing(study: str, names: Sequence[str], **changes: Any) -> Timing:
    """A timing in which the n-th cell takes n + 1 ms an image."""
    cells = [
        TimedCell(
            cell=name,
            key=f"key-{name.replace('-seed', '-')}",
            batch_ms=[float(place + 1)] * 10,
            single_ms=[float(10 * place + 10)] * 10,
            ms_per_image=interval([float(place + 1)] * 10, batch=100),
            latency_ms=interval([float(10 * place + 10)] * 10, batch=1),
        )
        for place, name in enumerate(names)
    ]
    here = {"device": "cpu: fake processor", "threads": 2, "commit": "0123456789abcdef0123"}
    fields: dict[str, Any] = {
        "study": study, "started": "2026-01-01T10:00:00+00:00", "rounds": 5, "batch": 100,
        "ended": "2026-01-01T10:05:00+00:00", "cells": cells, "environment": here,
        "ratios": interleaved.ratios(cells),
    }  # fmt: skip
    return Timing(**(fields | changes))


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return fake_study.write_study(tmp_path / "fake", methods=("cdm", "sde"), failed=None)


def mark_cell(study: Path, cell: str, *reasons: str) -> None:
    row = record.load(study / cell)
    assert row is not None
    row.cost.unfit = list(reasons)
    row.cost.timing = {"seconds": 3.0, "before": {"governor": ["a", "b"], "gpu": None}}
    record.save(row, study / cell)


def row_of(text: str, method: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith(f"| {method} "))
    return [part.strip() for part in line.split("|")[1:-1]]


def times_of(text: str, method: str) -> list[str]:
    return row_of(text, method)[-8:-6]


def test_an_unfit_cell_marks_its_method_s_times(study: Path) -> None:
    mark_cell(study, "sde-seed1", BUSY, HOT)
    text = table(study)
    assert sum(MARK in part for part in row_of(text, "sde")) == 2
    assert all(part.endswith(f"] {MARK}") for part in times_of(text, "sde"))
    assert not any(MARK in part for part in row_of(text, "cdm"))
    assert f"- {MARK} sde: timed while the machine was not fit ({BUSY}; {HOT})." in text


def test_the_mark_goes_into_every_format(study: Path) -> None:
    mark_cell(study, "sde-seed1", BUSY)
    tex = next(line for line in table(study, "latex").splitlines() if line.startswith("sde "))
    assert tex.count(r"{$\dagger$}") == 1
    rows = {row["cell"]: row for row in csv.DictReader(io.StringIO(table(study, "csv")))}
    assert (rows["sde-seed1"]["unfit"], rows["sde-seed0"]["unfit"]) == (BUSY, "")
    assert rows["sde-seed1"]["timed"] == "alone"
    cells = {row["cell"]: row for row in json.loads(table(study, "json"))["cells"]}
    assert cells["sde-seed1"]["unfit"] == BUSY


def test_a_fit_machine_leaves_no_mark(study: Path) -> None:
    mark_cell(study, "sde-seed1")
    assert MARK not in table(study)
    assert "dagger" not in table(study, "latex")
    content = PlottedStudy.of(StudyReport.read(study))
    assert "not fit" not in quality(content, "fd_digits_500", TIME).get_supxlabel()


def test_an_unfinished_cell_marks_nothing(tmp_path: Path) -> None:
    folder = fake_study.write_study(tmp_path / "fake", methods=("cdm", "smm"))
    mark_cell(folder, "smm-seed2", BUSY)
    assert MARK not in table(folder)


def test_methods_of_the_same_trouble_share_a_note(study: Path) -> None:
    for cell in ("sde-seed1", "cdm-seed0"):
        mark_cell(study, cell, BUSY)
    assert f"{MARK} cdm, sde: timed while" in table(study)
    mark_cell(study, "sde-seed2", "a", "b", "c")
    assert f"{MARK} sde: timed while the machine was not fit ({BUSY}; a; b; 1 more in" in table(
        study
    )


def test_a_plot_of_times_says_where_the_machine_was_not_fit(study: Path) -> None:
    mark_cell(study, "sde-seed1", BUSY)
    content = PlottedStudy.of(StudyReport.read(study))
    timed_plot = quality(content, "fd_digits_500", TIME)
    assert timed_plot.get_supxlabel().endswith("Machine not fit: sde.")
    flops = quality(content, "fd_digits_500", FLOPS)
    assert "not fit" not in flops.get_supxlabel()


def test_interleaved_times_stand_in_the_table(study: Path) -> None:
    interleaved.save(fake_timing("fake", ["sde-seed0", "sde-seed1", "sde-seed2"]), study)
    text = table(study)
    assert times_of(text, "sde") == ["2.00 [1.00, 3.00]", "20.0 [10.0, 30.0]"]
    assert times_of(text, "cdm")[0].startswith("2.22")
    assert "ms of sde-seed0, sde-seed1, sde-seed2: interleaved, bench time" in text
    frame = StudyReport.read(study).frame.set_index("cell")
    assert frame.loc["sde-seed1", "timed"] == "interleaved"
    assert frame.loc["cdm-seed1", "timed"] == "alone"
    write_tables(StudyReport.read(study))


def test_the_mark_is_that_of_the_times_that_stand(study: Path) -> None:
    mark_cell(study, "sde-seed1", BUSY)
    names = [f"{method}-seed{seed}" for method in ("cdm", "sde") for seed in range(3)]
    interleaved.save(fake_timing("fake", names), study)
    assert MARK not in table(study)
    assert "ms of all cells: interleaved" in table(study)
    interleaved.save(fake_timing("fake", names, unfit=[HOT]), study)
    assert f"{MARK} cdm, sde: timed while the machine was not fit ({HOT})" in table(study)


@pytest.mark.parametrize(
    "change",
    [
        {"environment": {"device": "another", "threads": 2}},
        {"environment": {"device": "cpu: fake processor", "threads": 1}},
        {"batch": 50},
        "key",
    ],
)
def test_times_of_something_else_are_not_used(study: Path, change: Any) -> None:
    names = ["sde-seed0", "sde-seed1", "sde-seed2"]
    if change == "key":
        found = fake_timing("fake", names)
        found.cells = [cell.model_copy(update={"key": "older"}) for cell in found.cells]
    else:
        found = fake_timing("fake", names, **change)
    before = table(study)
    interleaved.save(found, study)
    assert table(study) == before


def test_a_timing_that_cannot_be_read_is_named(study: Path) -> None:
    (study / interleaved.FILE).write_text("{")
    with pytest.raises(
        UserError, match=r"timing\.json' cannot be read .*; remove it and time again"
    ):
        table(study)


def test_the_page_has_every_pair_both_ways() -> None:
    found = fake_timing("fake", ["a", "b"], unfit=[HOT], failed={"c": "gone"})
    found.cells[1].unfit = WarmUp(100, 30, 9.0, stable=False, change=0.2).reasons
    text = render_timing(found)
    assert row_of(text.split("row over column")[1], "a") == ["a", "—", "0.500 [0.500, 0.500]"]
    assert row_of(text.split("row over column")[1], "b") == ["b", "2.00 [2.00, 2.00]", "—"]
    assert text.count(MARK) == 2 + 2
    assert "- Not timed: c: gone." in text
    assert "b: the time of a batch of 100 still changed by +20% after 30 batches" in text


# -- the command ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--rounds", "0"], "--rounds 0: give at least 6"),
        (["--rounds", "5"], "95 % interval"),
        (["--batch", "0"], "--batch 0: give a number of images"),
        (["--cells", "a,a"], "name at least one, and each once"),
    ],
)
def test_bad_input_is_one_line(
    study: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    assert cli.main(["time", "fake", "--results", str(study.parent), *arguments]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


def test_cells_that_are_not_there_or_not_finished_are_refused(study: Path) -> None:
    with pytest.raises(UserError, match="unknown cell of study 'fake' 'sde-seed9'"):
        interleave.choose(study, ["sde-seed9"], "x")
    for path, row in record.cells(study):
        row.status, row.cost = Status.FAILED, Cost()
        record.save(row, path)
    with pytest.raises(UserError, match="sde-seed0: it is not finished but failed; run it again"):
        interleave.choose(study, ["sde-seed0"], "x")
    with pytest.raises(UserError, match="has no finished cell to time"):
        interleave.choose(study, None, "x")


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, smoke: Path) -> Path:
    """A study of two cells, really run."""
    place = tmp_path_factory.mktemp("real")
    leave = shutil.ignore_patterns("cdm-*", "dlsm-*", "sde-*", "mlflow*")
    return (
        Path(shutil.copytree(smoke / "results", place / "results", ignore=leave)) / "digits-smoke"
    )


@pytest.mark.xdist_group("timing")
def test_a_cell_s_record_says_what_the_machine_was_like(real: Path) -> None:
    for cell in ("smm-seed0", "smm-seed1"):
        row = record.load(real / cell)
        assert row is not None
        facts = row.cost.timing
        assert facts["seconds"] >= SHORTEST
        assert facts["before"]["threads"] == facts["after"]["threads"] == 1
        assert facts["warm_up"]["batch"]["size"] == 20
        assert facts["warm_up"]["latency"]["batches"] >= 2
        assert facts["batches_of_earlier_processes"] == 0
        assert row.cost.ms_per_image is not None
        assert row.cost.latency_ms is not None
        assert min(row.cost.ms_per_image.repeats, row.cost.latency_ms.repeats) >= 10
        text = table(real)
        assert (MARK in "".join(times_of(text, row.method))) == bool(row.cost.unfit)


@pytest.mark.xdist_group("timing")
def test_finished_cells_are_timed_together(
    real: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in real.glob("*-seed0/*")}
    asked = ["time", "--rounds", "6", "--results", str(real.parent), "--no-tracking"]
    monkeypatch.setattr(plots, "write_plots", lambda study: [])
    monkeypatch.setattr("bench.commands.lifecycle.heed_signals", lambda: None)
    monkeypatch.setattr(sys, "argv", ["bench", *asked])
    assert cli.main(asked) == 0
    told = capsys.readouterr().out
    assert {path: path.read_bytes() for path in real.glob("*-seed0/*")} == before
    found = interleaved.read(real)
    assert found is not None
    assert [cell.cell for cell in found.cells] == ["smm-seed0", "smm-seed1"]
    assert {len(cell.batch_ms) for cell in found.cells} == {12}
    assert found.environment["command"].startswith("bench time --rounds 6")
    assert found.environment["commit"]
    assert found.machine["before"]["threads"] == 1
    (pair,) = found.ratios
    assert 0.2 < pair.ms_per_image.median < 5  # The same method twice.
    page = (real / "timing.md").read_text()
    assert page.strip() in told
    assert "ms of all cells: interleaved, bench time" in (real / "table.md").read_text()

    # One that cannot be loaded is named, the other is timed; what was there is kept.
    checkpoint = real / "smm-seed0" / "checkpoint.pt"
    moved = shutil.move(checkpoint, real / "kept.pt")
    checkpoint.write_bytes(b"broken")
    try:
        assert cli.main(asked) == 1
    finally:
        shutil.move(moved, checkpoint)
    error = capsys.readouterr().err
    assert "bench: smm-seed0: " in error
    assert "Traceback" not in error
    again = interleaved.read(real)
    assert again is not None
    assert [cell.cell for cell in again.cells] == ["smm-seed1"]
    (old,) = (real / "replaced").glob("timing-*.json")
    assert Timing.model_validate_json(old.read_bytes()) == found
