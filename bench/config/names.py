"""Names: which may become folders, files or columns, and what an unknown one may have meant."""

import difflib
import re
from collections.abc import Collection, Iterable

from bench.config.errors import UserError

PLAIN = re.compile(r"[^\W_][\w.-]*")
LONGEST = 100
"""Bytes of a name: what is added to it must fit into a file's name too."""


def check_name(
    what: str, name: str, *, taken: Collection[str] = (), signs: Collection[str] = "-_."
) -> None:
    """Raise UserError, which calls the name ``what``, unless it is plain and not ``taken``.

    Letters with their accents are one sign each, so that two names never look alike for these.
    """
    plain = PLAIN.fullmatch(name) and {*name} & {*"-_."} <= {*signs}
    if not plain or len(name.encode()) > LONGEST or name in taken:
        allowed = ", ".join(f"'{sign}'" for sign in signs)
        others = f", and none of {', '.join(sorted(taken))}" if taken else ""
        raise UserError(
            f"{what} '{name[:LONGEST]}': use letters, digits and {allowed}, a letter or digit "
            f"first, {LONGEST} at most{others}"
        )


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
