"""A study: its request, its plan of cells, and running them, each in a process of its own."""

from bench.records import LOG
from bench.study.cells import CellWork, replace
from bench.study.execute import execute
from bench.study.plan import NAMES, Planned, cell_key, decide, plan, portable
from bench.study.request import RERUN, Request, check_study, differing, request_of
from bench.study.runner import Runner, Work, deaf, stopping
