"""``--set`` and variants: from a preset to the settings of each method."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import yaml
from pydantic import BaseModel

from bench.config.errors import UserError
from bench.config.names import unknown
from bench.config.presets import merge
from bench.config.schema import Evaluation, Preset, Sampling, Training
from bench.config.text import TypedLoader
from bench.config.validation import build


def parse_set(texts: Iterable[str]) -> dict[str, Any]:
    """Parse ``a.b=value`` overrides into a nested mapping, values as ``TypedLoader`` has them."""
    result: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        path = key.strip().split(".")
        if not equals or len(path) < 2 or not all(path):
            raise UserError(
                f"cannot read --set '{text}'; write METHOD.KEY=VALUE or SECTION.KEY=VALUE, "
                "such as smm.r1_gamma=0.1 or training.batch=64"
            )
        try:
            parsed = yaml.load(value, Loader=TypedLoader)
        except yaml.YAMLError as error:
            raise UserError(f"cannot read the value of --set '{text}': not valid YAML") from error
        result = put_setting(result, key.strip(), parsed)
    return result


def put_setting(settings: Mapping[str, Any], path: str, value: Any) -> dict[str, Any]:
    """Return nested settings with the one at ``path``, as ``sampler.steps``, at another value."""
    for part in reversed(path.split(".")):
        value = {part: value}
    return merge(settings, value)


SECTIONS = {"training": Training, "sampling": Sampling, "evaluation": Evaluation}


def apply_overrides(preset: Preset, overrides: Mapping[str, Any], methods: Sequence[str]) -> Preset:
    """Put ``--set`` values into a preset: into a section, ``common``, or a method's settings.

    ``methods`` are labels; ``cdm`` reaches all variants of it that run, ``cdm:semi`` those with it,
    alone or joined.
    """
    body = preset.model_dump()
    methods = list(dict.fromkeys(head for label in methods for head in heads(label)))
    for head, value in overrides.items():
        if head in SECTIONS or head == "common":
            body[head] = merge(body[head], value)
        elif head in methods:
            body["methods"][head] = merge(body["methods"].get(head, {}), value)
        else:
            raise unknown("section or method in --set", head, [*SECTIONS, "common", *methods])
    return Preset.model_validate(body)


def heads(label: str) -> list[str]:
    """What names the blocks that reach a label, in order: its method, each variant, the label."""
    method, _, joined = label.partition(":")
    parts = [f"{method}:{part}" for part in joined.split("+")] if joined else []
    return list(dict.fromkeys([method, *parts, label]))


def blocks(
    preset: Preset, label: str, variants: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The settings that come over a label's defaults, in order, each with the head it is under."""
    # The last is of a label that joins several.
    owns: list[Mapping[str, Any]] = [{}, *variants, {}]
    for head, own in zip(heads(label), owns, strict=False):
        yield head, own
        yield head, preset.methods.get(head, {})


def resolve_method(
    config: type[Any], preset: Preset, label: str, variants: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """Resolve the settings of a method or a variant of it, ``cdm`` or ``cdm:semi``.

    Its defaults, then ``common``, the method's block; for each of the ``variants`` in the label its
    settings and the preset's block of it, ``cdm:semi``; at last the block of a label that joins
    several.
    """
    fields = config.model_fields
    # A nested block states only what differs from the method's own default for it.
    defaults = {
        key: default.model_dump()
        for key, field in fields.items()
        if isinstance(default := field.get_default(call_default_factory=True), BaseModel)
    }
    values = merge(defaults, {k: v for k, v in preset.common.items() if k in fields})
    for _, block in blocks(preset, label, variants):
        values = merge(values, block)
    resolved: BaseModel = build(config, values, f"settings of {label}")
    return resolved.model_dump(mode="json")
