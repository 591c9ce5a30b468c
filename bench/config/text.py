"""Texts: strict YAML that settings are read from, digests, single lines, lines to be pasted."""

import hashlib
import json
import os
import re
import shlex
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

SECRETS = (
    # A password in an address ends at the last @: one that was not encoded may hold a / or another.
    re.compile(r"(?<=://)(?:[^\s/?#@:]*:[^\s'\"]*|[^\s/?#@'\"]+)(?=@)"),
    re.compile(r"(?i)(?<=[?&;])([\w-]*(?:passw|pwd|secret|token|key)[\w-]*=)[^\s&;'\"]+"),
)
SECRET_NAME = re.compile(r"PASSW|SECRET|TOKEN|_KEY$")
"""Names of environment variables whose values are never to be read anywhere else."""
PLAIN = {
    "±": "+-", "↓": "v", "↑": "^", "—": "-", "†": "#", "‡": "##", "≈": "~", "…": "...",
    "é": "e", "─": "-", "│": "|", "╭": "+", "╮": "+", "╰": "+", "╯": "+", "•": "*",
}  # fmt: skip
"""What stands for our signs where an encoding lacks them; ``?`` for all others."""


class StrictLoader(yaml.SafeLoader):
    """YAML without silent surprises: a key that stands twice is an error."""


def _mapping(loader: StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    loader.flatten_mapping(node)
    keys = [loader.construct_object(key) for key, _ in node.value]
    for key in keys:
        if keys.count(key) > 1:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key '{key}' stands twice", node.start_mark
            )
    return loader.construct_mapping(node, deep=True)


StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


class TypedLoader(StrictLoader):
    """YAML of which only null and plain decimal numbers are read; all other words stay as typed.

    What a word means, ``true``, ``010`` or ``1:30``, is for the type of the setting to say.
    """


TypedLoader.yaml_implicit_resolvers = {}
_NUMBER = r"[-+]?(0|[1-9]\d{0,17})"
for _tag, _words in {
    "null": r"~|null|Null|NULL|",
    "int": _NUMBER,
    "float": rf"{_NUMBER}(\.\d*([eE][-+]?\d+)?|[eE][-+]?\d+)",
}.items():
    TypedLoader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_words})$"), None
    )


def number_typed(text: str) -> int | float | None:
    """Return the plain decimal number that a word is, as ``--set`` reads it; ``None`` if none."""
    try:
        found = yaml.load(text, Loader=TypedLoader)
    except yaml.YAMLError:
        return None
    return found if isinstance(found, int | float) else None


def one_line(text: object) -> str:
    """Join a text's lines, squeeze its spaces, and leave out where in memory objects lie."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", " ".join(str(text).split()))


def plain(text: str) -> str:
    """Write a text in plain letters, for where an encoding has no others."""
    return "".join(PLAIN.get(sign, sign) for sign in text).encode("ascii", "replace").decode()


def without_secrets(text: object) -> str:
    """Put *** in place of users, passwords and tokens in addresses, and of the environment's."""
    said = str(text)
    for name, value in os.environ.items():
        if SECRET_NAME.search(name) and len(value) >= 8:
            said = said.replace(value, "***")
    return SECRETS[1].sub(r"\1***", SECRETS[0].sub("***", said))


def bench_command(*words: object, results: Path | None = None) -> str:
    """Write a command to be pasted into a shell here: quoted, and with the place of the results."""
    is_usual = results is None or results.resolve() == Path("results").resolve()
    return shlex.join(["bench", *map(str, [*words, *([] if is_usual else ["--results", results])])])


def digest(value: object) -> str:
    """Return the SHA-256 of a JSON-like value, independent of the order of keys."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def to_yaml(value: BaseModel) -> str:
    """Write a configuration as YAML that reads back as the same configuration."""
    return yaml.safe_dump(value.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
