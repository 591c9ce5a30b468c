"""What a rule of the interface is, and how one is broken."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from bench.commands.check.subject import Subject

Look = Callable[[Subject], str | None]
"""Looks at a subject: raises BrokenRuleError, or returns a note or nothing."""


class BrokenRuleError(Exception):
    """A rule is broken; the message says what was found."""


@dataclass(frozen=True)
class InterfaceRule:
    """One line of the interface."""

    name: str
    required: str
    source: str
    """Where the requirement is written down."""
    needs: tuple[str, ...]
    """Rules without which this one says nothing."""
    look: Look


RULES: list[InterfaceRule] = []


def rule(source: str, *, needs: Sequence[str] = ()) -> Callable[[Look], Look]:
    """Put a function into the list of rules; its docstring is what the interface requires."""

    def register(look: Look) -> Look:
        name = look.__name__.removesuffix("_rule").replace("_", " ")
        text = str(look.__doc__).partition("\n")[0].removesuffix(".")
        required = text if text[1].isupper() else text[0].lower() + text[1:]
        RULES.append(InterfaceRule(name, required, source, tuple(needs), look))
        return look

    return register


def demand(holds: object, found: str) -> None:
    """Raise BrokenRuleError with what was found, unless the condition holds."""
    if not holds:
        raise BrokenRuleError(found)


def describe(value: object) -> str:
    """A value's type, and a tensor's shape, for a message."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} of shape {tuple(value.shape)}"
    return f"a {type(value).__name__}"


def some(names: Sequence[str], most: int = 3) -> str:
    """The first of many names, and how many there are beside."""
    shown = ", ".join(f"'{name}'" for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")
