"""One documented frozen dataclass a command: it is parsed, built by hand, and shown as help."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from cyclopts import App

import bench.commands
from bench import data
from bench.cli import main
from bench.cli.app import app
from bench.commands.evaluate import EvaluateOptions
from bench.commands.options import parse_seeds
from bench.commands.run import RunOptions
from bench.commands.run.request import resolve
from bench.commands.sample import SampleOptions
from bench.commands.show.command import UiOptions
from bench.commands.time.command import TimeOptions
from bench.config.errors import UserError
from bench.study import Request
from bench.worker.build import build_method

GROUPS = {
    "Run": {"run"},
    "Look": {"studies", "table", "plot", "report", "compare", "export", "remove", "ui", "sync"},
    "Measure again": {
        "draw",
        "sample",
        "time",
        "evaluate",
        "reference",
        "sensitivity",
        "reproduce",
    },
    "Extend": {"methods", "datasets", "new", "check", "data", "completion"},
}


def option_classes() -> list[type[Any]]:
    """Every dataclass of options: of a command's package, its ``command.py`` or ``options.py``."""
    found = []
    root = Path(bench.commands.__file__).parent
    for path in sorted(root.rglob("*.py")):
        if path.stem not in {"__init__", "command", "options"} or "template" in path.parts:
            continue
        parts = path.relative_to(Path(bench.__file__).parent.parent).with_suffix("").parts
        module = importlib.import_module(".".join(parts).removesuffix(".__init__"))
        found += [
            kind
            for kind in vars(module).values()
            if dataclasses.is_dataclass(kind) and kind.__module__ == module.__name__
        ]
    return found


def documented(kind: type[Any]) -> dict[str, str]:
    """The docstrings below the fields that a class itself has."""
    (body,) = ast.parse(inspect.cleandoc(inspect.getsource(kind))).body
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, text in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
            assert isinstance(field.target, ast.Name)
            assert isinstance(text.value, ast.Constant)
            found[field.target.id] = text.value.value
    return found


def commands() -> Iterator[tuple[str, App, type[Any] | None]]:
    """Every command with its options, those of ``bench data`` too."""
    for name in set().union(*GROUPS.values()) - {"data"}:
        yield name, app[name], parameter(app[name])
    yield "data prepare", app["data"]["prepare"], parameter(app["data"]["prepare"])


def parameter(command: App) -> type[Any] | None:
    function = command.default_command
    assert function is not None
    kinds = [*inspect.get_annotations(function, eval_str=True).items()]
    given = [kind for name, kind in kinds if name != "return"]
    assert len(given) <= 1
    return given[0] if given else None


def help_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main([*arguments, "--help"]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("kind", option_classes(), ids=lambda kind: kind.__name__)
def test_options_are_frozen_and_documented_field_by_field(kind: type[Any]) -> None:
    assert kind.__dataclass_params__.frozen
    assert kind.__doc__
    assert not kind.__doc__.startswith(f"{kind.__name__}(")
    own = inspect.get_annotations(kind).keys() - {"_"}
    assert documented(kind).keys() == own


def test_every_command_takes_its_options_and_shows_each(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    renamed = {"overrides": "--set", "name": "--as"}
    seen = set()
    for name, _, kind in commands():
        shown = help_of(capsys, *name.split())
        told = " ".join(shown.replace("│", " ").split())
        if kind is None:
            continue
        seen.add(kind)
        for field in dataclasses.fields(kind):
            option = f"--{field.name.replace('_', '-')}"
            if kind in {RunOptions, EvaluateOptions}:
                option = renamed.get(field.name, option)
            assert f"{option} " in shown, (name, option)
            owner = next(k for k in kind.__mro__ if field.name in documented(k))
            text = " ".join(documented(owner)[field.name].replace("`", "").split())
            assert text[:30] in told, (name, text)
    bases = {kind for kind in option_classes() if kind.__subclasses__()}
    assert seen | bases == {*option_classes()}


@pytest.mark.parametrize("width", ["80", "120"])
def test_the_commands_stand_in_groups(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: str
) -> None:
    monkeypatch.setenv("COLUMNS", width)
    shown = help_of(capsys)
    assert max(map(len, shown.splitlines())) <= int(width)
    heads = {title: shown.index(f"─ {title} ─") for title in GROUPS}
    assert list(heads.values()) == sorted(heads.values())
    panels = {title: shown[start:].split("╰")[0] for title, start in heads.items()}
    for title, names in GROUPS.items():
        rows = [line.strip("│ ").split("  ")[0] for line in panels[title].splitlines()[1:]]
        assert {row for row in rows if " " not in row} >= names
    assert "rerun" not in shown


def test_rerun_is_another_word_for_reproduce(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = []
    for word in ("reproduce", "rerun"):
        assert main([word, "s/sde-seed0", "--results", str(tmp_path)]) == 2
        told.append(capsys.readouterr().err)
    assert told[0] == told[1]
    assert "has no record.json" in told[0]


def test_what_is_typed_is_what_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[RunOptions] = []
    monkeypatch.setattr("bench.commands.run.command.run", lambda options: seen.append(options) or 0)
    arguments = (
        "run --methods sde,cdm:semi --seeds 0-2,5 --set a.b=1 --set c.d=[1,2] --memory 8GiB "
        "--weights x.pt --rerun all --jobs 2 --timeout 3 --no-tracking --curve --study s"
    )
    assert main(arguments.split()) == 0
    assert seen == [
        RunOptions(
            methods=("sde", "cdm:semi"), seeds=(0, 1, 2, 5), overrides=("a.b=1", "c.d=[1,2]"),
            memory=2**33, weights=("x.pt",), rerun=("all",), jobs=2, timeout=3, tracking=False,
            curve=True, study="s",
        )
    ]  # fmt: skip
    assert main(["run"]) == 0
    assert seen[1] == RunOptions()


@pytest.mark.parametrize(
    ("build", "told"),
    [
        (lambda: RunOptions(seeds=(0, 0)), "--seeds '0,0'"),
        (lambda: RunOptions(seeds=()), "--seeds ''"),
        (lambda: RunOptions(jobs=0), "--jobs 0"),
        (lambda: RunOptions(timeout=float("nan")), "--timeout nan"),
        (lambda: RunOptions(timeout=float("inf")), "--timeout inf"),
        (lambda: SampleOptions(cells=()), "--cells ''"),
        (
            lambda: SampleOptions(nfe=(5, 0)),
            "--nfe 0: give a number of network evaluations, at least 1",
        ),
        (lambda: SampleOptions(samples=1), "--samples 1"),
        (lambda: TimeOptions(rounds=5), "--rounds 5"),
        (lambda: TimeOptions(batch=0), "--batch 0"),
        (lambda: EvaluateOptions(path="x", metrics=("fd", "fd")), "--metrics 'fd,fd'"),
        (lambda: EvaluateOptions(path="x", samples=1), "--samples 1"),
        (lambda: parse_seeds("1-"), "--seeds '1-'"),
        (lambda: parse_seeds("0-9999999999"), "--seeds 10000000000: give a number of seeds, at"),
        (lambda: parse_seeds("0-9999,0-9999"), "--seeds 20000"),
        (lambda: parse_seeds("9" * 5000), "write seeds as"),
        (lambda: RunOptions(seeds=(-1,)), "seed -1"),
        (lambda: RunOptions(seeds=(0.5,)), "seed 0.5"),
        (lambda: RunOptions(seeds=(2**63,)), "seed 9223372036854775808"),
        (lambda: RunOptions(jobs=10**9), "--jobs 1000000000"),
        (lambda: RunOptions(timeout=1e300), "--timeout 1e+300"),
        (lambda: SampleOptions(nfe=(10**10,)), "--nfe 10000000000"),
        (lambda: SampleOptions(samples=10**12), "at most 10000000"),
        (lambda: TimeOptions(rounds=10**12), "--rounds 1000000000000"),
        (lambda: TimeOptions(batch=10**12), "--batch 1000000000000"),
        (lambda: EvaluateOptions(path="x", seed=-1), "seed -1"),
        (lambda: EvaluateOptions(path="x", samples=10**12), "--samples 1000000000000"),
        (lambda: UiOptions(port=70_000), "--port 70000"),
    ],
)
def test_options_that_make_no_sense_are_refused_however_they_are_built(
    build: Any, told: str
) -> None:
    with pytest.raises(UserError) as caught:
        build()
    assert told in str(caught.value)


@pytest.mark.parametrize(
    "arguments",
    [
        "run --jobs 1.5", "run --jobs 0x10", "run --jobs 1_0", "run --seeds 0-99999999999",
        "run --memory 9e99GB", "run --timeout inf", "sample --samples 2.5", "sample --nfe 1e3",
        f"sample --nfe {'9' * 5000}", "time --rounds 6.5", "evaluate x --seed 0b1", "ui --port 1.5",
    ],
)  # fmt: skip
def test_numbers_are_taken_as_typed_or_refused(
    capsys: pytest.CaptureFixture[str], arguments: str
) -> None:
    assert main(arguments.split()) == 2
    told = capsys.readouterr().err
    assert arguments.split()[-2] in told
    assert (told.count("\n"), len(told) < 300) == (1, True)


@pytest.mark.usefixtures("processes")
def test_commands_that_only_read_import_no_torch() -> None:
    code = (
        "import sys\n"
        "import bench.commands.show.command\n"
        "import bench.commands.compare.command\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# Values as they are typed


def resolved(*overrides: str) -> Request:
    return resolve(RunOptions(methods=("sde",), preset="smoke", device="cpu", overrides=overrides))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("training.batch=8", 8), ("training.batch=010", 10), ("training.batch=1e3", 1000),
        ("training.clip=1e-4", 1e-4), ("training.clip=1", 1.0), ("training.clip=null", None),
        ("training.clip=~", None), ("training.clip=", None), ("training.flip=yes", True),
        ("training.flip=false", False), ("training.precision=bf16", "bf16"),
        ("evaluation.extractor=010", "010"), ("evaluation.extractor=1:30", "1:30"),
        ("evaluation.extractor=true", "true"),
        ("evaluation.also=[no, 2020-01-01]", ("no", "2020-01-01")),
        ("training.per_method={sde: {flip: yes, batch: 010, clip: 1}}",
         {"sde": {"flip": True, "batch": 10, "clip": 1}}),
    ],
)  # fmt: skip
def test_what_is_typed_is_read_by_the_settings_own_type(text: str, value: object) -> None:
    section, _, rest = text.partition(".")
    found = getattr(getattr(resolved(text).settings, section), rest.partition("=")[0])
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    "text",
    [
        "training.batch=1:30", "training.batch=true", "training.batch=yes", "training.batch=0x10",
        "training.batch=1.5", "training.batch=inf", "training.batch=", "training.batch=null",
        "training.clip=yes", "training.clip=true", "training.clip=.inf", "training.clip=inf",
        "training.clip=1e999", "training.clip=nan", "training.flip=2", "training.flip=",
        "training.precision=1", "evaluation.also=", "evaluation.also=x", "evaluation.extractor=",
        "evaluation.also.x=1", "sde.optimizer.lr=inf", "sde.optimizer.lr=true",
        "training.batch=99999999999", "evaluation.samples=1e18", "sampling.batch=1e400",
        "common.optimizer.lr=.nan", "training.per_method=",
        "training.per_method={sde: {batch: yes}}",
    ],
)  # fmt: skip
@pytest.mark.parametrize("weights", [(), ("digits=test_options.py",)])
def test_what_is_not_of_the_settings_type_is_refused(
    monkeypatch: pytest.MonkeyPatch, text: str, weights: tuple[str, ...]
) -> None:
    monkeypatch.chdir(Path(__file__).parent)
    options = RunOptions(
        methods=("sde",), preset="smoke", device="cpu", overrides=(text,), weights=weights
    )
    with pytest.raises(UserError) as caught:
        resolve(options)
    assert any(part in str(caught.value) for part in text.partition("=")[0].split(".")[1:])
    assert "\n" not in str(caught.value)


def test_a_network_too_large_to_be_counted_is_refused() -> None:
    config = resolved(f"sde.network.channels={10**12}").methods["sde"]
    digits = data.load("digits", cache=Path("unused"))
    with torch.device("meta"), pytest.raises(UserError, match="settings of sde: Storage size"):
        build_method("sde", config, digits)


def test_a_value_that_a_method_s_own_recipe_would_undo_is_refused() -> None:
    """The paper's ``smm`` has a batch of its own; both may be said."""

    def ask(*overrides: str, method: str = "smm") -> Any:
        options = RunOptions(
            methods=(method,), dataset="cifar10", preset="paper", device="cpu", overrides=overrides
        )
        return resolve(options).settings.training

    with pytest.raises(UserError, match=r"'smm' is trained with batch 64 of its own.*per_method"):
        ask("training.batch=32", method="smm:main")
    assert ask("training.flip=true").of("smm").batch == 64
    assert ask("training.batch=32", method="sde").of("sde").batch == 32
    assert ask("training.batch=32", "training.per_method.smm.batch=16").of("smm").batch == 16


def test_a_presets_and_a_typed_recipe_are_the_same_settings() -> None:
    typed = resolved("training.per_method.sde.batch=16", "training.per_method.sde.flip=true")
    assert typed.settings.training.per_method == {"sde": {"batch": 16, "flip": True}}
    assert typed.settings.training.of("sde").batch == 16


def test_the_name_alone_says_what_one_does_first(capsys: pytest.CaptureFixture[str]) -> None:
    """Each line of it is a command with options that there are."""
    assert main([]) == 0
    said = capsys.readouterr().out
    lines = [line.split("   ")[0].split() for line in said.splitlines() if line[:7] == "  bench"]
    assert len(lines) == 4
    for _, *words in lines:
        app.parse_args(words, exit_on_error=False, print_error=False)


def test_an_unknown_command_lists_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tabel"]) == 2
    said = capsys.readouterr().err
    assert "unknown command 'tabel' (did you mean 'table'?)" in said
    listed = said.split("choose from: ")[1].split(" (see")[0].split(", ")
    assert {*listed} == set().union(*GROUPS.values())


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_every_command_and_option(
    shell: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for word in [*set().union(*GROUPS.values()), "budget", "dry-run", "samplers"]:
        assert word in script
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=script, text=True, check=True)
