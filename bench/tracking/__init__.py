"""MLflow: a live view of the records, which can be rebuilt from them at any time (see README.md).

One code path logs, while a study runs and in ``bench sync``. It may be repeated at will, cut off
anywhere, and done by several processes at once: a lock lets one at a time log a run, and each asks
the store what it has before it adds to it. A cell's run is found again by the tags ``origin`` (a
number that the results folder keeps, so that two people's runs on one server stay apart),
``study``, ``cell`` and ``key``, and by the moment it was started; a study's by ``kind=study``.
"""

from bench.tracking.background import Background
from bench.tracking.store import has_store, store_uri
from bench.tracking.tracker import NullTracker, Tracker, Warn
