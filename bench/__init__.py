"""scorebench: a comparative benchmarking suite for score-based generative models.

The Python interface, see ``bench.api``: ``run``, ``open_study`` and ``evaluate``. It is loaded when
it is first used; importing ``bench`` loads nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.version import __version__

if TYPE_CHECKING:
    from bench.api import FailedCellsError, Study, StudyCell, evaluate, open_study, run

__all__ = [
    "FailedCellsError", "Study", "StudyCell", "__version__", "evaluate", "open_study", "run",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'bench' has no attribute '{name}'")
    from bench import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
