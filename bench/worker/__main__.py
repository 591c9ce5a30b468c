"""``python -m bench.worker JOB.json`` runs one cell."""

from bench.executors import serve
from bench.worker.run import run_cell

serve(run_cell)
