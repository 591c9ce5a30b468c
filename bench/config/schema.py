"""``configs/NAME.yaml`` and the command line make one frozen, validated configuration."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from bench.errors import UserError, nearest, unknown

PLACES = (Path(__file__).parent / "configs", Path(__file__).parent.parent / "configs")
"""Where the presets are: inside the package when installed, beside it in a checkout."""
UNITS = {"kimg": 1e3, "s": 1.0, "flop": 1.0}
WHEREABOUTS = {"data", "weights", "reference"}
"""Settings that tell where files lie, on which nothing but their content depends."""


class Section(BaseModel):
    """Base of all sections: frozen, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Budget(Section):
    """How much training a method gets: images seen, seconds of training, or FLOPs."""

    amount: float = Field(gt=0)
    unit: Literal["kimg", "s", "flop"]

    def __str__(self) -> str:
        return f"{self.amount:g}{self.unit}"


def parse_budget(text: object) -> object:
    """Parse ``50kimg``, ``600s`` or ``1e15flop``; ValueError says what is allowed."""
    if not isinstance(text, str):
        return text
    for unit in UNITS:
        number = text.removesuffix(unit)
        if number != text:
            try:
                amount = float(number)
            except ValueError:
                break
            if 0 < amount < float("inf"):
                return {"amount": amount, "unit": unit}
    raise ValueError("a budget is a positive number and a unit: 50kimg, 600s or 1e15flop")


class Training(Section):
    """The training loop's settings, the same for every method."""

    batch: int = Field(512, ge=1)
    """Images a step."""
    flip: bool = False
    """Mirror each image with probability 1/2."""
    clip: float | None = Field(None, gt=0)
    """Largest norm of a network's gradient; ``null``: no clipping."""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """Arithmetic of the networks, in training and sampling."""
    compile: bool = False
    """Train with torch.compile, from the second step of each stage; sampling stays uncompiled."""
    log_kimg: float = Field(1.0, gt=0)
    """Thousands of images between points of the loss curves."""
    snapshots: int = Field(0, ge=0)
    """Evenly spaced moments of training at which the metrics are taken for the curves."""
    checkpoint_seconds: float = Field(60.0, gt=0)
    """Seconds between checkpoints."""
    share_stages: bool = True
    """Whether cells that have a first stage in common train it once; each is charged in full."""
    per_method: dict[str, dict[str, Any]] = {}
    """What a method's own recipe has otherwise: ``smm: {batch: 64}``."""

    @model_validator(mode="after")
    def _recipes_are_valid(self) -> Training:
        for method in self.per_method:
            self.of(method)
        return self

    def of(self, label: str) -> Training:
        """The settings of one method or variant."""
        own = self.per_method.get(label.split(":", maxsplit=1)[0], {})
        return Training.model_validate(self.model_dump(exclude={"per_method"}) | own)


class Sampling(Section):
    """How samples are drawn and timed."""

    batch: int = Field(500, ge=1)
    """Images at a time: the protocol's batch, at which throughput is measured."""
    timed_batches: int = Field(10, ge=10)
    """Fewest batches to time, after warm-up."""
    latency_repeats: int = Field(10, ge=10)
    """Single images to time for the latency at batch 1, after a warm-up of their own."""


class Evaluation(Section):
    """What quality is measured with."""

    extractor: str
    """Name of the feature extractor; see ``bench datasets``."""
    also: tuple[str, ...] = ()
    """Further extractors of the final samples, each with values under its own name."""
    samples: int = Field(50_000, ge=2)
    """Samples a method draws; part of the metrics' names."""
    reference_images: int | None = Field(None, ge=2)
    """Training images that make the reference; ``null``: all."""
    snapshot_samples: int = Field(500, ge=2)
    """Samples at each snapshot of the curves."""
    batch: int = Field(250, ge=1)
    """Images through the extractor at a time."""
    diagnostic_samples: int = Field(64, ge=2)
    """Paths on which a denoiser's martingale violation is measured, and draws of its score error;
    some 250 network evaluations each."""

    @property
    def extractors(self) -> tuple[str, ...]:
        """All extractors, the one that leads the tables and curves first."""
        return (self.extractor, *self.also)

    @model_validator(mode="after")
    def _extractors_differ(self) -> Evaluation:
        for name in self.also:
            if self.extractors.count(name) > 1:
                raise ValueError(f"extractor '{name}' stands twice; name each once")
        return self


class Settings(Section):
    """One fully resolved preset: what every cell of a study shares."""

    dataset: str
    preset: str
    data: Path | None = None
    """A file or folder given by the user; ``null``: the default place."""
    size: int | None = Field(None, ge=4, le=1024)
    """Side in pixels to which images of one's own are cropped and resized; ``null``: none are."""
    weights: Annotated[dict[str, Path], BeforeValidator(lambda given: given or {})] = {}
    """Files of extractors' weights, given by the user; others lie where they belong."""
    reference: Path | None = None
    """Statistics (.npz) made elsewhere, in place of the training split's own."""
    device: str
    threads: int | None = Field(None, ge=1)
    """CPU threads a cell; ``null``: as many as torch takes."""
    budget: Annotated[Budget, BeforeValidator(parse_budget)]
    training: Training = Training()
    sampling: Sampling = Sampling()
    evaluation: Evaluation


class CellConfig(Section):
    """Everything that decides a cell's result, stored as ``config.yaml`` beside it."""

    settings: Settings
    method: str
    method_config: dict[str, Any]
    """The method's own settings, resolved."""
    seed: int


class Preset(Section):
    """A preset as written in a file, before it is resolved."""

    extends: str | None = None
    source: str = ""
    size: int | None = None
    budget: str | None = None
    threads: int | None = None
    training: dict[str, Any] = {}
    sampling: dict[str, Any] = {}
    evaluation: dict[str, Any] = {}
    common: dict[str, Any] = {}
    """Settings for every method that has such a key."""
    methods: dict[str, dict[str, Any]] = {}


class _Loader(yaml.SafeLoader):
    """YAML without silent surprises: a key that stands twice is an error."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    loader.flatten_mapping(node)
    keys = [loader.construct_object(key) for key, _ in node.value]
    for key in keys:
        if keys.count(key) > 1:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key '{key}' stands twice", node.start_mark
            )
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def config_folder() -> Path:
    """Return the folder of the presets."""
    for place in PLACES:
        if place.is_dir():
            return place
    raise UserError(f"no presets found at {' or '.join(map(str, PLACES))}; install scorebench anew")


def datasets() -> list[str]:
    """Return the names of the data sets that have presets."""
    return sorted(path.stem for path in config_folder().glob("*.yaml"))


def presets(dataset: str) -> dict[str, Preset]:
    """Read a data set's presets, with ``extends`` resolved."""
    if dataset not in datasets():
        raise unknown("data set", dataset, datasets())
    path = config_folder() / f"{dataset}.yaml"
    try:
        raw = yaml.load(path.read_text(), Loader=_Loader)
        written = {name: Preset.model_validate(body) for name, body in raw.items()}
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {one_line(error)}") from error
    except ValidationError as error:
        raise UserError(f"{path}: {explain(error, Preset)}") from error
    return {name: _resolve_extends(name, written) for name in written}


def _resolve_extends(name: str, written: Mapping[str, Preset]) -> Preset:
    preset = written[name]
    if preset.extends is None:
        return preset
    if preset.extends not in written:
        raise unknown("preset to extend", preset.extends, written)
    base = _resolve_extends(preset.extends, written).model_dump(exclude={"extends"})
    own = preset.model_dump(exclude={"extends"}, exclude_unset=True)
    return Preset.model_validate(merge(base, own))


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge nested mappings; ``over`` wins, lists are replaced whole.

    A block of another ``kind`` replaces the block instead: its keys mean something else.
    """
    if "kind" in over and over["kind"] != base.get("kind", over["kind"]):
        return dict(over)
    result = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merge(result[key], value) if both else value
    return result


def choose_preset(dataset: str, name: str | None, device: str) -> tuple[str, Preset]:
    """Return the preset asked for; by default ``quick`` on a CPU and ``gpu`` on CUDA."""
    available = presets(dataset)
    name = name or ("gpu" if device.startswith("cuda") else "quick")
    if name not in available:
        raise unknown(f"preset of {dataset}", name, available)
    return name, available[name]


def parse_set(texts: Iterable[str]) -> dict[str, Any]:
    """Parse ``a.b=value`` overrides (values as YAML) into a nested mapping."""
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
            parsed = yaml.load(value, Loader=_Loader)
        except yaml.YAMLError as error:
            raise UserError(f"cannot read the value of --set '{text}': not valid YAML") from error
        for part in reversed(path):
            parsed = {part: parsed}
        result = merge(result, parsed)
    return result


SECTIONS = {"training": Training, "sampling": Sampling, "evaluation": Evaluation}


def apply_overrides(preset: Preset, overrides: Mapping[str, Any], methods: Sequence[str]) -> Preset:
    """Put ``--set`` values into a preset: into a section, ``common``, or a method's settings.

    ``methods`` are labels; ``cdm`` reaches all variants of it that run, ``cdm:semi`` one.
    """
    body = preset.model_dump()
    methods = list(dict.fromkeys([*(label.split(":")[0] for label in methods), *methods]))
    for head, value in overrides.items():
        if head in SECTIONS or head == "common":
            body[head] = merge(body[head], value)
        elif head in methods:
            body["methods"][head] = merge(body["methods"].get(head, {}), value)
        else:
            raise unknown("section or method in --set", head, [*SECTIONS, "common", *methods])
    return Preset.model_validate(body)


def build(kind: type[Any], values: Mapping[str, Any], where: str) -> Any:
    """Validate ``values`` as ``kind``; UserError names the key, the value and what is allowed."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{where}: {explain(error, kind)}") from error


def resolve_method(
    config: type[Any], preset: Preset, label: str, variants: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """Resolve the settings of a method or a variant of it, ``cdm`` or ``cdm:semi``.

    Its defaults, then ``common``, the method's block, the variants', the block of the whole label.
    """
    fields = config.model_fields
    # A nested block states only what differs from the method's own default for it.
    defaults = {
        key: default.model_dump()
        for key, field in fields.items()
        if isinstance(default := field.get_default(call_default_factory=True), BaseModel)
    }
    values = merge(defaults, {k: v for k, v in preset.common.items() if k in fields})
    for block in (
        preset.methods.get(label.split(":", maxsplit=1)[0], {}),
        *variants,
        preset.methods.get(label, {}) if ":" in label else {},
    ):
        values = merge(values, block)
    resolved: BaseModel = build(config, values, f"settings of {label}")
    return resolved.model_dump(mode="json")


def explain(error: ValidationError, kind: type[BaseModel]) -> str:
    """Say in one line what the first problem is, and how many more there are."""
    first = error.errors()[0]
    path, holder = _walk(kind, first["loc"])
    if first["type"] == "extra_forbidden":
        allowed = sorted(holder.model_fields) if holder else []
        given = str(first["loc"][-1])
        text = f"unknown key '{path}'{nearest(given, allowed)}; choose from: {', '.join(allowed)}"
    elif first["type"] == "union_tag_invalid":
        tag, allowed = (
            first["ctx"]["tag"],
            first["ctx"]["expected_tags"].replace("'", "").split(", "),
        )
        text = f"{path}.kind = '{tag}'{nearest(tag, allowed)}; choose from: {', '.join(allowed)}"
    else:
        given = first["input"]
        # What is wrong with a whole block, its message says better than its content.
        shown = "" if isinstance(given, Mapping) else f" = {json.dumps(given, default=str)}"
        reason = first["msg"].removeprefix("Value error, ")
        text = f"{path}{shown}: {reason}" if path else reason
    more = error.error_count() - 1
    return one_line(text) + (f" (and {more} more)" if more else "")


def _walk(
    kind: type[BaseModel], location: Sequence[int | str]
) -> tuple[str, type[BaseModel] | None]:
    """Return an error's dotted path, without the tags of unions, and the model that it is in."""
    parts: list[str] = []
    holder: type[BaseModel] | None = kind
    choices: dict[str, type[BaseModel]] = {}
    for index, part in enumerate(map(str, location)):
        if part in choices:
            holder, choices = choices[part], {}
            continue
        parts.append(part)
        field = holder.model_fields.get(part) if holder else None
        if field is not None and index < len(location) - 1:
            choices = {_tag(model): model for model in _models(field.annotation)}
            holder = next(iter(choices.values()), None)
            choices = choices if len(choices) > 1 else {}
    return ".".join(parts), holder


def _models(annotation: Any) -> list[type[BaseModel]]:
    """Return the models among a field's types."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]


def _tag(model: type[BaseModel]) -> str:
    field = model.model_fields.get("kind")
    return str(field.default) if field else model.__name__


def one_line(text: object) -> str:
    """Join a text's lines and squeeze its spaces."""
    return " ".join(str(text).split())


def digest(value: object) -> str:
    """Return the SHA-256 of a JSON-like value, independent of the order of keys."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def to_yaml(value: BaseModel) -> str:
    """Write a configuration as YAML that reads back as the same configuration."""
    return yaml.safe_dump(value.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def read_cell(path: Path) -> CellConfig:
    """Read a cell's ``config.yaml``."""
    return CellConfig.model_validate(yaml.load(path.read_text(), Loader=_Loader))
