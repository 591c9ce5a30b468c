"""A tracker in a thread of its own."""

import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bench.tracking.store import PAUSE
from bench.tracking.tracker import PATIENCE, NullTracker, Tracker, Warn, in_one_line, to_stderr

Opener = Callable[[Warn], Tracker | NullTracker]


class Background:
    """Does what a ``Tracker`` does in a thread of its own, so that no caller ever waits.

    What is asked for waits in line, once for each folder. What fails, the opening of the store
    too, is tried again every ``PAUSE`` seconds: a store that comes back is caught up with.
    """

    def __init__(self, opener: Opener, warn: Warn = to_stderr, again: str = "bench sync") -> None:
        """Start the thread, which opens the store; ``again`` completes what is left undone."""
        self.trouble: str | None = None
        """What went wrong last, in one line; ``None`` when the last step did all it should."""
        self.seconds = 0.0
        """Time spent beside the caller."""
        self._opener, self._warn, self._again = opener, warn, again
        self._warned = self._closing = self._ended = False
        self._tracker: Tracker | NullTracker | None = None
        self._reopen = 0.0
        """The ``monotonic`` moment from which on the store may be opened again."""
        self._waiting: dict[tuple[str, Path], float] = {}
        """What is to be logged, and the ``monotonic`` moment from which on it may be tried."""
        self._failed: set[tuple[str, Path]] = set()
        self._state = threading.Condition()
        threading.Thread(target=self._work, name="tracking", daemon=True).start()

    def sync_cell(self, folder: Path) -> None:
        """Have a cell's run brought up to date with its folder, and return at once."""
        self._ask(("cell", folder))

    def sync_study(self, study: Path) -> None:
        """Have all of a study's runs brought up to date, and return at once."""
        with self._state:
            for job in [job for job in self._waiting if job[1].parent == study]:
                del self._waiting[job]
            self._ask(("study", study))

    def close(self, patience: float = PATIENCE) -> bool:
        """Wait for what is left, as long as something gets done; whether all of it was.

        Gives up where nothing was logged for ``patience`` seconds, and after three times as long
        in any case; then a line says how to complete it.
        """
        begun = time.monotonic()
        with self._state:
            self._closing = True
            self._waiting = dict.fromkeys(self._waiting, 0.0)
            self._state.notify_all()
            while not self._ended:
                moved = max(begun, 0.0 if self._tracker is None else self._tracker.moved)
                if time.monotonic() >= min(moved + patience, begun + 3 * patience):
                    break
                self._state.wait(0.05)
            done = self._ended and not self._failed
        if not done:
            why = f" ({self.trouble})" if self.trouble and not self._warned else ""
            lacks = f"MLflow lacks some of what the folders say{why}"
            self._warn(f"{lacks}; complete it: {self._again}")
        elif self._warned:
            self._warn("MLflow has caught up and lacks nothing")
        self.drop()
        return done

    def drop(self) -> None:
        """Leave undone what is not done, without another word: the command ends."""
        with self._state:
            self._warn = lambda line: None
            self._closing = True
            self._waiting.clear()
            self._state.notify_all()

    def _ask(self, job: tuple[str, Path]) -> None:
        with self._state:
            self._waiting.setdefault(job, time.monotonic())
            self._state.notify_all()

    def _work(self) -> None:
        try:
            self._charge(self._open)
            while (job := self._next()) is not None:
                self._note(job, done=self._charge(partial(self._do, *job)))
        finally:
            with self._state:
                self._ended = True
                self._state.notify_all()

    def _charge(self, step: Callable[[], bool]) -> bool:
        started = time.perf_counter()
        try:
            return step()
        except Exception as error:
            self.trouble = f"MLflow could not be logged to ({in_one_line(error)})"
            return False
        finally:
            self.seconds += time.perf_counter() - started

    def _next(self) -> tuple[str, Path] | None:
        """Wait for the next thing to do; ``None`` when all is done and no more will come."""
        with self._state:
            while self._waiting or not self._closing:
                job = min(self._waiting, key=self._waiting.__getitem__, default=None)
                left = None if job is None else self._waiting[job] - time.monotonic()
                if job is not None and left is not None and left <= 0:
                    del self._waiting[job]
                    return job
                self._state.wait(left)
        return None

    def _do(self, what: str, folder: Path) -> bool:
        if self._tracker is None or self._tracker.is_lost:
            # One try for all that waits, and one more at the end.
            if time.monotonic() < self._reopen and not self._closing:
                return False
            self._open()
        assert self._tracker is not None
        sync = self._tracker.sync_study if what == "study" else self._tracker.sync_cell
        done = sync(folder)
        self.trouble = None if done else self._tracker.trouble
        return done

    def _open(self) -> bool:
        try:
            self._tracker = self._opener(self._say_once)
        finally:
            self._reopen = time.monotonic() + PAUSE
        self.trouble = self._tracker.trouble
        return self.trouble is None

    def _note(self, job: tuple[str, Path], *, done: bool) -> None:
        """Keep what failed for another try; at the end there is none."""
        with self._state:
            if done:
                # A study's cells are done with it.
                self._failed -= {left for left in self._failed if left[1].parent == job[1]} | {job}
                return
            self._failed.add(job)
            if not self._closing:
                self._waiting.setdefault(job, time.monotonic() + PAUSE)

    def _say_once(self, line: str) -> None:
        if not self._warned:
            self._warned = True
            self._warn(line)
