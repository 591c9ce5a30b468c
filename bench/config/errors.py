"""Errors that are the user's to mend, each told in one line."""


class UserError(Exception):
    """Bad input: the message names what was given, what is allowed and what to do next.

    The command prints the message as one line and exits with code 2.
    """


class MissingDataError(UserError):
    """The data are nowhere to be found; whatever else was asked for may be right."""
