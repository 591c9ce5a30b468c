"""What the machine is like while something is timed: clocks, heat, throttling, other load."""

from bench.costs.machine.fitness import SHORTEST, Watch, between, unfit
from bench.costs.machine.gpu import Gpu
from bench.costs.machine.readings import Reading, oom_kills, take

__all__ = ["SHORTEST", "Gpu", "Reading", "Watch", "between", "oom_kills", "take", "unfit"]
