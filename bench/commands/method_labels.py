"""Methods and variants by their labels, ``cdm`` or ``cdm:semi``, and what is set for them."""

from collections.abc import Mapping, Sequence
from typing import Any

from bench.config import Preset, UserError, one_line, resolve_method, unknown
from bench.report.frame import flatten
from methods import registry


def check_labels(labels: Sequence[str] | None) -> list[str]:
    """Return the labels, all built-in methods for ``None``; UserError if one is of no method."""
    if labels is None:
        return list(registry.BUILTIN)
    if not labels:
        known = ", ".join(registry.names())
        raise UserError(f"--methods '' names none; choose from: {known}")
    for label in labels:
        if registry.base(label) not in registry.names():
            raise unknown("method", registry.base(label), registry.names())
        if labels.count(label) > 1:
            raise UserError(f"--methods names '{label}' twice; name each method once")
    return list(labels)


def find_broken(labels: Sequence[str]) -> dict[str, str]:
    """Return the methods that cannot be loaded, each with the reason in one line."""
    found = {}
    for label in labels:
        try:
            registry.load(label)
        except registry.BrokenMethodError as error:
            found[label] = one_line(error)
    return found


def load_method(label: str) -> Any:
    """Load the class of a method or variant; UserError if its plug-in is broken."""
    try:
        return registry.load(label)
    except registry.BrokenMethodError as error:
        raise UserError(one_line(error)) from error


def check_variant(label: str) -> list[Mapping[str, Any]]:
    """Return the settings of a label's variants; UserError if there is no such variant."""
    try:
        return registry.variants(label)
    except KeyError as error:
        name, known = registry.base(label), registry.load(label).variants
        if not known:
            raise UserError(f"'{label}': {name} has no variants; write {name}") from error
        raise unknown(f"variant of {name}", error.args[0], known) from error


def resolve_label(label: str, preset: Preset) -> dict[str, Any]:
    """Resolve the settings of a method or variant; UserError if there is no such variant."""
    method = load_method(label)
    return resolve_method(method.Config, preset, label, check_variant(label))


def check_overrides(overrides: Mapping[str, Any], labels: Sequence[str]) -> None:
    """Refuse a ``--set`` for a method that does not run, or one that a variant would undo."""
    reached = {*labels, *map(registry.base, labels)}
    for name in overrides:
        if registry.base(name) in registry.names() and name not in reached:
            raise UserError(f"--set names '{name}', which --methods leaves out; add it or drop it")
    for label in labels:
        check_reach(label, overrides)


def check_reach(label: str, overrides: Mapping[str, Any]) -> None:
    """Refuse a ``--set METHOD.KEY`` or ``common.KEY`` that a variant would undo without a word."""
    said = flatten("", overrides.get(label, {}))
    own = [key for settings in check_variant(label) for key in flatten("", settings)]
    for head in ("common", registry.base(label)) if own else ():
        for key in flatten("", overrides.get(head, {})).keys() - said.keys():
            for mine in own:
                kind = mine.endswith(".kind") and key.startswith(mine.removesuffix("kind"))
                if key == mine or kind:
                    raise UserError(
                        f"'{label}' sets {mine} itself, which --set {head}.{key} does not "
                        f"change; write --set {label}.{key}=... as well to say what it shall be"
                    )


def check_common(overrides: Mapping[str, Any], labels: Sequence[str]) -> None:
    """Refuse a ``--set common.key`` that no chosen method has."""
    known = {key for label in labels for key in load_method(label).Config.model_fields}
    for key in overrides.get("common", {}):
        if key not in known:
            raise unknown("key in --set common", key, known)
