"""Applies the rules to a method."""

import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import torch

import methods
from bench.commands.check import sampling_rules  # noqa: F401  # It adds to RULES.
from bench.commands.check.rules import RULES, BrokenRuleError, InterfaceRule
from bench.commands.check.subject import Subject
from bench.config import UserError, choose_preset, one_line, unknown
from bench.data.catalogue import KNOWN
from bench.records.plugins import contained, method_class
from bench.training.checkpoint import generators_kept
from methods import registry
from methods.base import DataSpec, Method

LOADED: set[str] = set()
"""Modules that are files of a user's."""
OTHER_SHAPE = DataSpec(channels=3, size=16, classes=3)
"""Data beside the preset's: in colour, of another size, and without labels if none are needed."""


@dataclass(frozen=True)
class Finding:
    """What came of one rule: ``pass``, ``note``, ``FAIL`` or ``skip``, and why."""

    rule: InterfaceRule
    outcome: str
    text: str = ""

    @property
    def failed(self) -> bool:
        """Whether the rule is broken."""
        return self.outcome == "FAIL"

    def __str__(self) -> str:
        return f"{self.outcome:<4}  {self.rule.name:<17}  {self.text}".rstrip()


def check(
    method: str | type[Method], *, dataset: str = "digits", preset: str = "smoke"
) -> list[Finding]:
    """Hold a method against every rule: a class, or a label such as ``sde`` or ``cdm:semi``.

    Raises UserError for a data set or preset that there is not, and what
    :func:`methods.registry.load` and :func:`methods.registry.variants` raise.
    """
    findings: list[Finding] = []
    with generators_kept():
        torch.set_num_threads(1)
        subjects = make_subjects(method, dataset, preset)
        for rule in RULES:
            broken = {each.rule.name for each in findings if each.outcome in {"FAIL", "skip"}}
            findings.append(apply(rule, subjects, broken))
    return findings


def make_subjects(method: str | type[Method], dataset: str, preset: str) -> list[Subject]:
    """Prepare the method for the preset's data and for those of another shape."""
    _, chosen = choose_preset(dataset, preset, "cpu")
    if dataset not in KNOWN:
        raise unknown("data set of a known shape", dataset, KNOWN)
    known = KNOWN[dataset]
    data = DataSpec(channels=known.channels, size=known.size, classes=len(known.classes))
    if isinstance(method, str):
        kind, label, variants = method_class(method), method, registry.variants(method)
    else:
        kind, label, variants = method, getattr(method, "name", method.__name__), []
    first = Subject(kind, label, variants, chosen, data)
    other = OTHER_SHAPE
    with suppress(Exception):  # A rule says what is wrong with the constructor.
        if not first.build().needs_labels:
            other = replace(OTHER_SHAPE, classes=0)
    return [first, replace(first, data=other, may_refuse=True)]


def apply(rule: InterfaceRule, subjects: Sequence[Subject], broken: set[str]) -> Finding:
    """Apply one rule to every subject, unless it needs one that is broken."""
    missing = [name for name in rule.needs if name in broken]
    if missing:
        return Finding(rule, "skip", f"needs '{missing[0]}'")
    notes: list[str] = []
    for subject in subjects:
        if rule.name not in {"config", "building"} and subject.refusal:
            continue
        try:
            with contained():
                note = rule.look(subject)
        except Exception as error:
            found = str(error) if isinstance(error, BrokenRuleError) else f"it raises {told(error)}"
            text = f"{found}; required: {rule.required} ({rule.source}) [{subject}]"
            return Finding(rule, "FAIL", one_line(text))
        if note and note not in notes:
            notes.append(note)
    return Finding(rule, "note" if notes else "pass", "; ".join(notes))


def told(error: BaseException) -> str:
    """An exception in one line, with the last line of the method's own code that it came from."""
    ours = [Path(__file__).parents[2], Path(methods.__file__).parent, Path(torch.__file__).parent]
    places = [
        f" at {path.name}:{frame.lineno}"
        for frame in traceback.extract_tb(error.__traceback__)
        if (path := Path(frame.filename)) and not any(folder in path.parents for folder in ours)
    ]
    return one_line(f"{type(error).__name__}: {error}")[:300] + (places[-1] if places else "")


def load_file(path: Path) -> type[Method]:
    """Import a file that is not installed, and return the one method that is written in it.

    UserError if it cannot be imported or holds none or several.
    """
    spec = spec_from_file_location(path.stem, path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise UserError(f"'{path}' is no Python file; give one, or a method's name")
    if path.stem in sys.modules.keys() - LOADED:
        raise UserError(f"'{path}': there is a module '{path.stem}' already; rename the file")
    LOADED.add(path.stem)
    module = module_from_spec(spec)
    sys.modules[path.stem] = module  # Annotations of settings are looked up there.
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        with contained():
            spec.loader.exec_module(module)
    except Exception as error:
        raise registry.BrokenMethodError(f"'{path}': {told(error)}") from error
    finally:
        sys.path.pop(0)
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Method) and value.__module__ == path.stem
    ]
    if len(found) != 1:
        names = ", ".join(kind.__name__ for kind in found) or "none"
        raise UserError(f"'{path}' must hold one subclass of methods.base.Method; found: {names}")
    return found[0]
