"""The screen that a command prints to: whatever it cannot take, it never ends the command."""

import codecs
import errno
import io
import os
import sys

from bench.config.text import PLAIN


class Outlet(io.FileIO):
    """An open descriptor that swallows what nobody can read any more, and keeps the reason."""

    lost: OSError | None = None

    def write(self, data: object, /) -> int:
        """Write, to nowhere after the first failure."""
        try:
            return super().write(data)  # type: ignore[arg-type]
        except BlockingIOError:
            raise
        except OSError as error:
            self.lost = error
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            return memoryview(data).nbytes  # type: ignore[arg-type]


def steady(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    """Return a stream to the same descriptor and in the same encoding that never fails."""
    stream.flush()
    codecs.register_error("plain", plain)
    return io.TextIOWrapper(
        io.BufferedWriter(Outlet(stream.fileno(), "w", closefd=False)),
        encoding=stream.encoding,
        errors="plain",
        # As with PYTHONUNBUFFERED=1, else lines would wait in the buffer beneath.
        line_buffering=stream.line_buffering or stream.write_through,
    )


def plain(error: UnicodeError) -> tuple[str, int]:
    """Write what cannot be encoded in plain letters; a handler of errors for ``codecs``."""
    assert isinstance(error, UnicodeEncodeError)
    return "".join(
        PLAIN.get(sign, "?") for sign in error.object[error.start : error.end]
    ), error.end


def open_screen() -> None:
    """Let standard output and standard error never fail; one that is closed is nowhere."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # Else the next file that is opened would be the screen.
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            setattr(sys, name, steady(stream))


def close_screen() -> str:
    """Print what is left; say why some did not arrive, if not because its reader has gone."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        stream.flush()
        lost = getattr(getattr(getattr(stream, "buffer", None), "raw", None), "lost", None)
        if lost is not None and lost.errno != errno.EPIPE:
            return f"not all of the output could be written: {lost.strerror}"
    return ""
