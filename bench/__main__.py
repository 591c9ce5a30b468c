"""``python -m bench`` is ``bench``."""

import sys
from pathlib import Path

if not sys.flags.safe_path and Path(sys.path[0]).resolve() != Path(__file__).resolve().parents[1]:
    # Python puts the current folder first, of which nothing is to be imported.
    del sys.path[0]

from bench.cli import script

script()
