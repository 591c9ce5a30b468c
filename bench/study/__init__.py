"""A study: its request, its plan of cells, and running them, each in a process of its own."""

from bench.records.record import LOG
from bench.study.cells import CellWork
from bench.study.execute import execute
from bench.study.folders import replace
from bench.study.plan import NAMES, Planned, cell_folder, cell_key, decide, plan, portable
from bench.study.preparation import wait_for_answer
from bench.study.request import RERUN, Request, check_study, request_of
from bench.study.runner import Runner, deaf, stopping

__all__ = [
    "LOG",
    "NAMES",
    "RERUN",
    "CellWork",
    "Planned",
    "Request",
    "Runner",
    "cell_folder",
    "cell_key",
    "check_study",
    "deaf",
    "decide",
    "execute",
    "plan",
    "portable",
    "replace",
    "request_of",
    "stopping",
    "wait_for_answer",
]
