"""How processes are started: an executor has ``python -m TASK JOB.json`` run; see README.md."""

# fmt: off
# isort: off
from bench.executors.executor import (
    BAD_INPUT, DONE, FAILED, INTERRUPTED, NO_DATA, End, Executor, Handle, Told, explain_end, follow,
)
from bench.executors.job import Job, Limits
from bench.executors.local import LocalExecutor
from bench.executors.serve import serve
