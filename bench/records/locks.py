"""One process at a time works on a cell.

A lock is of an open file (``flock``): a command takes it, the cell's process inherits it, and the
system frees it when the last of the two is gone, however they ended. It lies beside the cells, in
``<study>/.locks/``, since a cell's folder may be moved.
"""

import fcntl
import json
import os
import shlex
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from bench.config import UserError, without_secrets

FOLDER = ".locks"


def given_command() -> str:
    """The command line that the present process was given, to be pasted into a shell."""
    ours = Path(sys.argv[0]).name == "bench" or sys.argv[0].endswith("bench/__main__.py")
    return without_secrets(shlex.join(["bench", *sys.argv[1:]] if ours else sys.argv))


class CellLock:
    """The lock of one cell.

    Not filelock's: that one unlocks when it is released, which would take the lock from the
    process that has inherited it. Closing the file leaves it to that process.
    """

    def __init__(self, cell: Path) -> None:
        self.path = cell.parent / FOLDER / f"{cell.name}.lock"
        self.descriptor: int | None = None

    def acquire(self) -> bool:
        """Take the lock if it is free; whether it was."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        self.descriptor = descriptor
        # Who has it, for the message of whoever finds it taken.
        who = {"pid": os.getpid(), "host": socket.gethostname(), "command": given_command()}
        # A full disk must not keep a cell from being marked as what it is.
        with suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(who).encode(), 0)
        return True

    @property
    def is_held(self) -> bool:
        """Whether a process has the lock; nothing is written, and the lock is left as it is."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def close(self) -> None:
        """Let go; the lock is free once no process that inherited it lives either."""
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None

    @property
    def holder(self) -> str:
        """Who has the lock, in words: a command, or the process that one has left behind."""
        try:
            who = json.loads(self.path.read_bytes())
            told = f"process {who['pid']} on {who['host']}: {who['command']}"
            is_over = who["host"] == socket.gethostname() and not psutil.pid_exists(who["pid"])
        except (OSError, ValueError, KeyError, TypeError):
            return "another process"
        left = [pid for pid in psutil.pids() if self._is_open_in(pid)] if is_over else []
        if not left:
            return told
        pids = " ".join(map(str, left))
        return f"process {pids}, left behind by {told}, which has ended; to end it: kill {pids}"

    def _is_open_in(self, pid: int) -> bool:
        with suppress(OSError):
            folder = Path(f"/proc/{pid}/fd")
            return any(file.resolve() == self.path.resolve() for file in folder.iterdir())
        return False


@contextmanager
def hold(cells: Sequence[Path]) -> Iterator[None]:
    """Keep all other processes off these cells; UserError if one works on any of them."""
    with ExitStack() as held:
        for cell in cells:
            lock = CellLock(cell)
            if not lock.acquire():
                raise UserError(
                    f"cell '{cell.name}' is being worked on by another command ({lock.holder}); "
                    "wait for it to end"
                )
            held.callback(lock.close)
        yield


@contextmanager
def in_use(folder: Path, *, alone: bool = False) -> Iterator[None]:
    """Be one of the commands that work on a study, however many; ``alone``: the only one.

    UserError where that cannot be: nobody works on a study that is being removed.
    """
    path = folder / FOLDER / "study"
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"study '{folder.name}' is in use by another command; wait for it to end"
            ) from error
        yield
    finally:
        os.close(descriptor)


@contextmanager
def only_command(folder: Path, wait: Callable[[], object] | None = None) -> Iterator[None]:
    """Hold a study as a whole against other commands, while it is prepared or measured.

    Where one holds it already, call ``wait`` and wait for it; without ``wait``, UserError.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"'{folder}' cannot be made: {error.strerror}") from error
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        if wait is None:
            raise UserError(
                f"study '{folder.name}' is in use by another command; wait for it to end, "
                "or give another --study name"
            ) from error
        wait()
        lock.acquire()
    try:
        yield
    except BaseException:
        with suppress(OSError):
            if [path.name for path in folder.iterdir()] == [".lock"]:
                (folder / ".lock").unlink()
                folder.rmdir()
        raise
    finally:
        lock.release()
