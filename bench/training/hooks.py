"""What the trainer calls back, and how training ends before its budget does."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

from bench.training.checkpoint import State
from methods.base import Stage


class DivergedError(Exception):
    """A loss or a sample is not finite; the message says which and when."""


class InterruptedTrainingError(Exception):
    """The run was asked to stop; its checkpoint has been written."""


class SharedStage(Protocol):
    """Where the result of one stage is kept."""

    def load(self) -> State | None:
        """Return what :meth:`save` was given, by this cell or by another; ``None`` before that."""

    def save(self, result: State) -> None:
        """Keep the result for others."""


@dataclass
class Hooks:
    """What the trainer calls back; all may take as long as they like, on another account.

    What is not given does nothing.
    """

    log: Callable[[dict[str, Any]], None] = lambda point: None
    snapshot: Callable[[dict[str, Any]], None] = lambda place: None
    checkpoint: Callable[[State], None] = lambda state: None
    progress: Callable[[dict[str, Any]], None] = lambda place: None
    stopping: Callable[[], bool] = lambda: False
    shared: Callable[[Stage], AbstractContextManager[SharedStage | None]] = lambda stage: (
        nullcontext(None)
    )
    """Holds the place where a stage with an identity is kept for other cells, if there is one."""
