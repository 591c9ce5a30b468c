"""The one list of methods: the built-in ones and those of installed plug-ins.

A third party adds a method by an entry point in the group ``bench.methods`` that names a subclass
of :class:`methods.base.Method`. A plug-in that cannot be loaded is reported, never fatal.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import Distribution, EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from methods.base import Method

GROUP = "bench.methods"
BUILTIN = {
    "sde": "methods.sde:SDE",
    "cdm": "methods.cdm:CDM",
    "dlsm": "methods.dlsm:DLSM",
    "smm": "methods.smm:SMM",
}


class BrokenMethodError(Exception):
    """A plug-in's method cannot be loaded; the message says which and why, in one line."""


def _plugins() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP) if point.name not in BUILTIN}


def names() -> list[str]:
    """Return the names of all methods, built-in ones first, without importing any."""
    return [*BUILTIN, *sorted(_plugins())]


def base(label: str) -> str:
    """Return the method's name in a label: ``cdm`` for ``cdm:semi``."""
    return label.split(":", maxsplit=1)[0]


def variants(label: str) -> list[Mapping[str, Any]]:
    """Return the settings of each variant in a label, in order; several are joined by ``+``.

    ``sde:conditional+heun`` is ``conditional`` and then ``heun``. Raises KeyError with the part
    that is no variant of the method, and what :func:`load` raises.
    """
    _, colon, rest = label.partition(":")
    return [load(label).variants[part] for part in rest.split("+")] if colon else []


def source(name: str) -> str:
    """Return where a method comes from: ``module:Class``, and the distribution of a plug-in."""
    if name in BUILTIN:
        return BUILTIN[name]
    point = _plugins()[name]
    return f"{point.value} ({point.dist.name})" if point.dist else point.value


def distribution(name: str) -> Distribution | None:
    """Return the installed distribution that a plug-in's method is of; ``None`` for our own."""
    return None if base(name) in BUILTIN else _plugins()[base(name)].dist


def load(name: str) -> type[Method]:
    """Import the class of a method or of a variant's method.

    Raises KeyError if it is unknown, BrokenMethodError if it fails to load.
    """
    from methods.base import Method

    name = base(name)

    if name in BUILTIN:
        module, attribute = BUILTIN[name].split(":")
        loaded = getattr(import_module(module), attribute)
    else:
        point = _plugins()[name]
        try:
            loaded = point.load()
        except Exception as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise BrokenMethodError(f"plug-in '{name}' ({point.value}): {reason}") from error
    if not (isinstance(loaded, type) and issubclass(loaded, Method)):
        raise BrokenMethodError(f"plug-in '{name}' ({source(name)}) is not a Method")
    return loaded
