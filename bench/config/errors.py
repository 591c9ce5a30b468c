"""Errors that are the user's to mend, each told in one line."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input: the message names what was given, what is allowed and what to do next.

    The command prints the message as one line and exits with code 2.
    """


class MissingDataError(UserError):
    """The data are nowhere to be found; whatever else was asked for may be right."""


def nearest(given: str, allowed: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the closest allowed name, or an empty string."""
    match = difflib.get_close_matches(given, list(allowed), n=1, cutoff=0.5)
    return f" (did you mean '{match[0]}'?)" if match else ""


def unknown(kind: str, given: str, allowed: Iterable[str]) -> UserError:
    """Build the error for a name that is not among the allowed ones."""
    allowed = sorted(allowed)
    return UserError(
        f"unknown {kind} '{given}'{nearest(given, allowed)}; choose from: {', '.join(allowed)}"
    )
