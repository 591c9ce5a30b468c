"""Code of third parties within a process that is not theirs: loaded, and kept from ending it."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from methods import registry

if TYPE_CHECKING:
    from methods.base import Method

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class LeavingError(Exception):
    """Code of a third party would have ended the process that it ran in, without a word."""


@contextmanager
def contained() -> Iterator[None]:
    """Make a LeavingError of what would end this process, unless a signal has asked for that."""
    thread, leave, heard = threading.get_ident(), os._exit, list[int]()
    handlers: dict[int, Any] = {number: signal.getsignal(number) for number in STOPS}
    before = {number: handler for number, handler in handlers.items() if callable(handler)}

    def refuse(code: int) -> None:
        if threading.get_ident() != thread:
            leave(code)
        raise LeavingError(f"it would end the command by os._exit({code})")

    def hear(number: int, frame: Any) -> None:
        heard.append(number)
        before[number](number, frame)

    # Signals are heard in the main thread alone, and can be set there only.
    with suppress(ValueError):
        for number in before:
            signal.signal(number, hear)
    os._exit = refuse  # type: ignore[assignment]
    try:
        yield
    except (SystemExit, KeyboardInterrupt) as error:
        if heard:
            raise
        raise LeavingError(f"it would end the command by {error!r}") from error
    finally:
        os._exit = leave
        with suppress(ValueError):
            for number, handler in before.items():
                signal.signal(number, handler)


def method_class(label: str) -> "type[Method]":
    """Import a label's class; KeyError if there is none, BrokenMethodError if it cannot be."""
    try:
        with contained():
            return registry.load(label)
    except LeavingError as error:
        name = registry.base(label)
        reason = f"plug-in '{name}' ({registry.source(name)}): {error}"
        raise registry.BrokenMethodError(reason) from error
