"""Running the command: exit codes, and errors in one line."""

import os
import sys
from itertools import pairwise
from typing import Any

from cyclopts import CycloptsError, MissingArgumentError, UnknownCommandError

from bench.cli.app import COMMANDS, app, first
from bench.cli.screen import close_screen, open_screen
from bench.config import UserError, one_line, unknown, without_secrets
from bench.records import given_command

STOPPED = 130
"""Exit code of a command that a signal has stopped, as shells have it for Ctrl-C."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command; bad input ends in one line on standard error and exit code 2."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if fault := fault_of(arguments):
        return complain(fault)
    parse: dict[str, Any] = {"exit_on_error": False, "print_error": False}
    try:
        result = app(arguments, result_action="return_value", **parse) if arguments else first()
    except CycloptsError as error:
        return complain(f"{told(error)} (see `bench --help`)")
    except UserError as error:
        return complain(str(error))
    except OSError as error:
        complain(f"{error.strerror or error}: {error.filename or 'see above'}")
    except SystemExit as error:
        complain(f"a plug-in would have ended the command by {error!r}; leave it out")
    except KeyboardInterrupt:
        print(f"stopped; the same command continues: {given_command()}", file=sys.stderr)
        return STOPPED
    else:
        return result if isinstance(result, int) else 0
    return 1


def told(error: CycloptsError) -> str:
    """Say what is wrong with a line; what is typed without its option is told without it."""
    if isinstance(error, UnknownCommandError) and error.app is app:
        return str(unknown("command", (error.unused_tokens or [""])[0], COMMANDS))
    text, lacking = one_line(error), getattr(error, "argument", None)
    if isinstance(error, MissingArgumentError) and lacking and lacking.index is not None:
        needed = f"needs {lacking.name[2:].upper()}"
        return text.replace(f"parameter {lacking.name} requires an argument", needed)
    return text


def fault_of(arguments: list[str]) -> str:
    """Say which argument is empty, or cannot be read; nothing where none is so."""
    for before, given in pairwise(["", *arguments]):
        option, equals, value = given.partition("=")
        if not given or (option.startswith("--") and equals and not value):
            what = option or (before if before.startswith("--") else "an argument")
            return f"{what} '': give a value, or leave it out"
        if given.encode(errors="replace").decode() != given:
            coding = sys.getfilesystemencoding()
            return f"{given!r} cannot be read as {coding}; set PYTHONUTF8=1, or rename it"
    return ""


def complain(line: str) -> int:
    """Print the one line of an error."""
    print(f"bench: {one_line(without_secrets(line))}", file=sys.stderr)
    return 2


def script() -> None:
    """Entry point of the installed command."""
    open_screen()
    code = main()
    if lost := close_screen():
        complain(lost)
        code = code or 1
    if code == STOPPED:
        # A scheduler's patience is short, and large libraries take seconds to be taken down.
        os._exit(code)
    sys.exit(code)
