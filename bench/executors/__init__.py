"""How processes are started: a :class:`Job` is given to an :class:`Executor`.

An executor writes the job's file, has ``python -m TASK JOB.json`` run somewhere and gives a handle
for it. The task's module calls :func:`serve`. Progress goes through a file of the job's folder.
"""

# A face, as dense as its ``__all__``.
# fmt: off
# isort: off
from bench.executors.executor import (
    BAD_INPUT, DONE, FAILED, INTERRUPTED, NO_DATA, End, Executor, Handle, Told, explain_end, follow,
)
from bench.executors.job import Job, Limits
from bench.executors.local import LocalExecutor
from bench.executors.serve import serve

__all__ = [
    "BAD_INPUT", "DONE", "FAILED", "INTERRUPTED", "NO_DATA", "End", "Executor", "Handle", "Job",
    "Limits", "LocalExecutor", "Told", "explain_end", "follow", "serve",
]
