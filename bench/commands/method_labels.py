"""Methods and variants by their labels, ``cdm`` or ``cdm:semi``, and what is set for them."""

import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from typing import Any

from bench import config
from bench.config import Preset, UserError, blocks, heads, one_line, resolve_method, unknown
from bench.records.plugins import method_class
from bench.report.frame import flatten
from methods import registry

WORDS = {*config.SECTIONS, "common", "all"}
"""Words that ``--set`` and ``bench check`` read in another way."""


def check_labels(labels: Sequence[str] | None) -> list[str]:
    """Return the labels, all built-in methods for ``None``; UserError if one is of no method."""
    faults = plugin_faults()
    known = [name for name in registry.names() if name in registry.BUILTIN or name not in faults]
    labels = list(registry.BUILTIN) if labels is None else labels
    if not labels:
        raise UserError(f"no method is named; choose from: {', '.join(known)}")
    for label in labels:
        name, _, variants = label.partition(":")
        if name in faults:
            if name not in registry.BUILTIN:
                raise UserError(faults[name])
            print(f"note: {faults[name]}", file=sys.stderr)
        if name not in known:
            raise unknown("method", name, known)
        for variant in variants.split("+") if variants else ():
            config.check_name(f"variant of {name}", variant, signs="-_")
        if labels.count(label) > 1:
            raise UserError(f"method '{label}' is named twice; name each once")
    return list(labels)


def plugin_faults() -> dict[str, str]:
    """Return the names of plug-ins by which no method can be had, each with the reason.

    A name is a word of ``--methods`` and ``--set`` and, with a variant's name, a cell's folder.
    """
    points, faults = entry_points(group=registry.GROUP), {}
    for name in points.names:
        others = [other for other in registry.names() if name.startswith(f"{other}-")]
        told = ", ".join(point.value for point in points.select(name=name))
        try:
            if name in registry.BUILTIN:
                raise UserError("its name is that of a built-in method, which is taken")
            if len(points.select(name=name)) > 1:
                raise UserError("they have one name; uninstall all but one")
            if others:
                raise UserError(f"its cells would lie where those of variants of {others[0]} do")
            config.check_name("its name", name, taken=WORDS, signs="-_")
        except UserError as error:
            faults[name] = f"plug-in '{name}' ({told}): {error}"
    return faults


def find_broken(labels: Sequence[str]) -> dict[str, str]:
    """Return the methods that cannot be loaded, each with the reason in one line."""
    found = {}
    for label in labels:
        try:
            method_class(label)
        except registry.BrokenMethodError as error:
            found[label] = one_line(error)
    return found


def load_method(label: str) -> Any:
    """Load the class of a method or variant; UserError if its plug-in is broken."""
    try:
        return method_class(label)
    except registry.BrokenMethodError as error:
        raise UserError(one_line(error)) from error


def check_variant(label: str) -> list[Mapping[str, Any]]:
    """Return the settings of a label's variants; UserError if there is no such variant."""
    name, known = registry.base(label), method_class(label).variants
    try:
        return registry.variants(label)
    except KeyError as error:
        if not known:
            raise UserError(f"'{label}': {name} has no variants; write {name}") from error
        raise unknown(f"variant of {name}", error.args[0], known) from error


def resolve_label(label: str, preset: Preset) -> dict[str, Any]:
    """Resolve the settings of a method or variant; UserError if there is no such variant."""
    method = load_method(label)
    return resolve_method(method.Config, preset, label, check_variant(label))


def check_overrides(overrides: Mapping[str, Any], labels: Sequence[str], preset: Preset) -> None:
    """Refuse a ``--set`` for a method that does not run, or one that is undone by what follows it.

    ``preset`` is as it was before the overrides.
    """
    reached = {head for label in labels for head in heads(label)}
    for name in overrides:
        if registry.base(name) in registry.names() and name not in reached:
            raise UserError(f"--set names '{name}', no method of this study; add it or drop it")
    for label in labels:
        check_reach(label, overrides, preset)


def check_reach(label: str, overrides: Mapping[str, Any], preset: Preset) -> None:
    """Refuse a ``--set HEAD.KEY`` that a variant, or its block, would undo without a word."""
    order = ["common", *heads(label)]
    after = [(head, key) for head, block in blocks(preset, label, check_variant(label))
             if ":" in head for key in flatten("", block)]  # fmt: skip
    for place, head in enumerate(order):
        later = order[place + 1 :]
        said = {key for name in later for key in flatten("", overrides.get(name, {}))}
        for key in flatten("", overrides.get(head, {})).keys() - said:
            for mine in [mine for name, mine in after if name in later]:
                kind = mine.endswith(".kind") and key.startswith(mine.removesuffix("kind"))
                if key == mine or kind:
                    raise UserError(
                        f"'{label}' sets {mine} itself, which --set {head}.{key} does not "
                        f"change; write --set {label}.{key}=... as well to say what it shall be"
                    )


def check_training(
    overrides: Mapping[str, Any], own: Mapping[str, Mapping[str, Any]], labels: Sequence[str]
) -> None:
    """Refuse a ``--set training.KEY`` that a method's ``own`` recipe would undo without a word."""
    given = overrides.get("training", {})
    for method in dict.fromkeys(map(registry.base, labels)):
        said = given.get("per_method", {}).get(method, {})
        for key in sorted(given.keys() & own.get(method, {}).keys() - said.keys()):
            raise UserError(
                f"'{method}' is trained with {key} {own[method][key]} of its own, which --set "
                f"training.{key} does not change; write --set "
                f"training.per_method.{method}.{key}=... as well to say what it shall be"
            )


def check_common(overrides: Mapping[str, Any], labels: Sequence[str]) -> None:
    """Refuse a ``--set common.key`` that no chosen method has."""
    known = {key for label in labels for key in load_method(label).Config.model_fields}
    for key in overrides.get("common", {}):
        if key not in known:
            raise unknown("key in --set common", key, known)
