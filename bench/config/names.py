"""The one rule for names that become folders, files, columns or words of a command line."""

import re
from collections.abc import Collection

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
