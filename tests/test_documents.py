"""The documents hold: commands run as typed, snippets work, links and paths lead somewhere."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from configparser import ConfigParser
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from cyclopts import App, CycloptsError
from matplotlib import pyplot
from PIL import Image

import bench
from bench.cli.app import app
from bench.metrics.protocol import PROTOCOL

from .conftest import Bench
from .documents import (
    ACTIVATE,
    DOCUMENTS,
    ROOT,
    Block,
    blocks,
    links,
    name,
    ours,
    prose,
    spans,
)

SHELL = [pytest.param(block, id=str(block)) for block in blocks("sh")]
PYTHON = [pytest.param(block, id=str(block)) for block in blocks("python")]
ALL = [pytest.param(document, id=name(document)) for document in DOCUMENTS]
CHANGELOG = ROOT / "bench" / "CHANGELOG.md"

NOT_IN_THE_TREE = re.compile(
    r"results/(?!reference)|(config|study|NAME)\.yaml|(configs|published)/NAME|nfe-curve|sensitivity\.md"
    r"|my_|X-|(train|test|replaced)/"
)
"""Paths that are a run's or the user's."""


# -- commands -------------------------------------------------------------------------------------


def all_options(command: App) -> set[str]:
    """Return the options of a command and of all below it."""
    found = {"--help", "--version"}
    if command.default_command is not None:
        for argument in command.assemble_argument_collection():
            found |= {option for option in argument.names if option.startswith("--")}
    for below in command:
        if not below.startswith("-"):
            found |= all_options(command[below])
    return found


def parse(words: list[str]) -> Any:
    """Parse a command as the command line does; CycloptsError if it cannot be."""
    return app.parse_args(words, exit_on_error=False, print_error=False)


def environments() -> set[str]:
    """Return the names of tox's environments."""
    tox = ConfigParser(interpolation=None)
    tox.read(ROOT / "tox.ini")
    return {
        name for section in tox.sections() for name in factors(section.removeprefix("testenv:"))
    }


def factors(section: str) -> list[str]:
    """Return the environments of a section: ``a{1,2}`` is ``a1`` and ``a2``."""
    before, brace, rest = section.partition("{")
    inner, _, after = rest.partition("}")
    return [before + part + after for part in inner.split(",")] if brace else [section]


def extras() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return set(project["optional-dependencies"])


def check_command(words: list[str], *, active: bool) -> None:
    """Fail where a command names a program, option, module or environment that there is not."""
    program, arguments = words[0], words[1:]
    path, _, program = program.rpartition("/")
    assert active or path or program in {"python3", "source"}, f"{words}: activate first"
    assert path in {"", ".venv/bin", ".venv-tox/bin"}, words
    match program:
        case "bench":
            parse(arguments)
        case "source":
            assert " ".join(words) == ACTIVATE
        case "python" | "python3" if arguments[:1] == ["-m"]:
            assert find_spec(arguments[1]), words
        case "pip" if arguments[:1] == ["install"]:
            asked = {e for text in arguments for e in re.findall(r"\.\[(.*)\]", text)}
            assert {extra for text in asked for extra in text.split(",")} <= extras(), words
        case "tox" if arguments[:1] == ["run"]:
            chosen = [name for flag, name in pairwise(arguments) if flag == "-e"]
            assert {e for names in chosen for e in names.split(",")} <= environments(), words
        case "pre-commit":
            assert arguments == ["install"]
        case _:
            pytest.fail(f"no rule for {words}")


@pytest.mark.parametrize("block", SHELL)
def test_every_command_is_one_that_there_is(block: Block) -> None:
    active = False
    for words in block.commands():
        check_command(words, active=active)
        active = active or " ".join(words) == ACTIVATE


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("bench frob", CycloptsError),
        ("bench table --format pdf", CycloptsError),
        ("bench run --metods sde", CycloptsError),
        ("tox run -e slow", AssertionError),
        ("pip install .[everything]", AssertionError),
        ("python -m bench.nothing", AssertionError),
        ("make", pytest.fail.Exception),
    ],
)
def test_a_wrong_command_fails(line: str, error: type[BaseException]) -> None:
    with pytest.raises(error):
        check_command(line.split(), active=True)


def test_a_command_that_needs_an_environment_fails_without() -> None:
    with pytest.raises(AssertionError, match="activate first"):
        check_command(["bench", "table"], active=False)


@pytest.mark.parametrize("document", ALL)
def test_commands_and_options_in_the_text_are_there(document: Path) -> None:
    options, commands = all_options(app), {n for n in app if not n.startswith("-")}
    for span in spans(document):
        words = span.split()
        if words[0] == "bench" and len(words) > 1 and not words[1].startswith("-"):
            assert words[1] in commands, span
            known = all_options(app[words[1]])
        else:
            known = options
        if words[0] in {"bench"} or words[0].startswith("--"):
            said = {word.partition("=")[0] for word in words if word.startswith("--")}
            assert said <= known, span


def test_every_command_is_described() -> None:
    text = (ROOT / "bench" / "commands" / "README.md").read_text()
    headings = " ".join(re.findall(r"^## (.*)$", text, re.MULTILINE))
    said = set(re.findall(r"\w+", headings))
    assert {n for n in app if not n.startswith("-")} <= said | {"rerun"}  # reproduce's old name


# -- commands, run --------------------------------------------------------------------------------


class Started(BaseException):
    """A command has got so far as to start a process: all that was typed is valid."""


class Gate(subprocess.Popen[Any]):
    """Starts anything but Python."""

    def __init__(self, args: Any, *rest: Any, **how: Any) -> None:
        if Path(args[0]).name.startswith("python"):
            raise Started
        super().__init__(args, *rest, **how)


@pytest.fixture
def place(smoke_copy: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the placeholders stand for."""
    folder = smoke_copy.parent.parent
    monkeypatch.chdir(folder)
    shutil.copytree(smoke_copy, smoke_copy.parent / "other")
    (folder / "file").write_text("something")
    (folder / "images").mkdir()
    for index in range(120):
        pixels = np.random.default_rng(index).integers(256, size=(8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{index}.png")
    return folder


def install(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Do what ``pip install -e`` does: make the module and its entry point found."""
    about = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    info = project / f"{about['name']}-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {about['name']}\nVersion: 0\n")
    points = [f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in found.items())
              for group, found in about["entry-points"].items()]  # fmt: skip
    (info / "entry_points.txt").write_text("\n".join(points))
    monkeypatch.syspath_prepend(project)


@pytest.mark.slow
@pytest.mark.usefixtures("short", "no_plots")
@pytest.mark.parametrize("block", SHELL)
def test_commands_run_as_typed(
    block: Block, place: Path, call_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each in this process, in order, to its end or to where it would start a process."""
    monkeypatch.setattr(subprocess, "Popen", Gate)
    monkeypatch.delitem(sys.modules, "my_flow", raising=False)  # another block's
    for cell in place.glob("results/*/*-seed*"):  # two are enough, and quicker
        if cell.name not in {"sde-seed0", "smm-seed0"}:
            shutil.rmtree(cell)
    for words in block.commands():
        program, *arguments = map(ours, words)
        if program == "pip" and arguments[:2] == ["install", "-e"]:
            install(place / arguments[2], monkeypatch)
        if program.rpartition("/")[2] != "bench":
            continue
        try:
            done = call_bench(*arguments)
        except Started:
            continue
        assert done.returncode == 0, f"{words}: {done.stderr}"


# -- snippets -------------------------------------------------------------------------------------

SMALL = {
    "seeds=[0, 1, 2]": 'seeds=[0, 1], preset="smoke"',
    "fd_digits_500": "fd_digits_100",
    "samples(64": "samples(4",
}
"""What makes the snippets quick, on the study that is there already."""


def small(text: str) -> str:
    for said, put in SMALL.items():
        text = text.replace(said, put)
    return ours(text)


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("block", PYTHON)
def test_snippets_run(block: Block, place: Path) -> None:
    exec(compile(small(block.text), str(block), "exec"), {"__name__": "snippet"})
    pyplot.close("all")


# -- links, paths and form ------------------------------------------------------------------------


@pytest.mark.parametrize("document", [*ALL, pytest.param(CHANGELOG, id="CHANGELOG")])
def test_links_lead_somewhere(document: Path) -> None:
    for link in links(document):
        assert (document.parent / link.partition("#")[0]).exists(), link


def is_path(span: str) -> bool:
    """Whether a span of code names a file or a folder of the tree."""
    if not re.fullmatch(r"[\w./-]+", span) or NOT_IN_THE_TREE.match(span):
        return False
    return span.endswith(("/", ".py", ".yaml", ".toml", ".ini", ".md")) and not span.startswith("/")


def finds(document: Path, span: str) -> bool:
    """Whether a path is there, seen from the document, the root or the harness."""
    places = (document.parent, ROOT, ROOT / "bench", ROOT / "bench" / "commands", ROOT / "tests")
    return any((place / span).exists() for place in places)


@pytest.mark.parametrize("document", ALL)
def test_paths_in_the_text_are_there(document: Path) -> None:
    assert not [span for span in spans(document) if is_path(span) and not finds(document, span)]


def test_every_file_of_tests_stands_in_the_list() -> None:
    said = {span.removesuffix(".py") for span in spans(ROOT / "tests" / "README.md")}
    listed = [span for span in said if re.fullmatch(r"test_\w+\*?", span)]
    found = {span: {path.stem for path in (ROOT / "tests").glob(f"{span}.py")} for span in listed}
    assert not [span for span in listed if not found[span]]
    assert set().union(*found.values()) == {p.stem for p in (ROOT / "tests").glob("test_*.py")}


@pytest.mark.parametrize("document", ALL)
def test_modules_in_the_text_are_there(document: Path) -> None:
    for dotted in re.findall(r"`(?:python -m )?((?:bench|methods)(?:\.\w+)+)", prose(document)):
        parts = dotted.split(".")
        module, names = bench_module(parts)
        for part in names:
            module = getattr(module, part)


def bench_module(parts: list[str]) -> tuple[Any, list[str]]:
    """Import as much of a dotted name as is modules; return it, and the names that are left."""
    for end in range(len(parts), 0, -1):
        try:
            found = find_spec(".".join(parts[:end]))
        except ModuleNotFoundError:
            found = None
        if found is not None and parts[end - 1] != "__main__":
            return import_module(".".join(parts[:end])), parts[end:]
    raise AssertionError(f"no module: {'.'.join(parts)}")


@pytest.mark.parametrize("document", ALL)
def test_the_first_line_says_what_a_folder_is_for(document: Path) -> None:
    first = document.read_text(encoding="utf-8").splitlines()[0]
    assert re.fullmatch(r"# .{40,118}", first), first
    if document.parent not in {ROOT, ROOT / ".github"}:
        assert first.startswith(f"# {document.parent.relative_to(ROOT).as_posix()}/: ")


@pytest.mark.parametrize("document", ALL)
def test_lines_are_short(document: Path) -> None:
    lines = document.read_text(encoding="utf-8").splitlines()
    assert not [line for line in lines if len(line) > 120 and not line.startswith("|")]


def test_the_front_page_is_short() -> None:
    assert len((ROOT / "README.md").read_bytes()) < 4500


def test_the_list_of_rooms_is_the_rule_of_imports() -> None:
    text = (ROOT / "bench" / "README.md").read_text()
    listed = re.findall(r"^\| `(\w+)/` \|", text, re.MULTILINE)
    rules = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    layers = next(rule["layers"] for rule in rules["contracts"] if rule["type"] == "layers")
    assert listed == [
        layer for layer in layers if (ROOT / "bench" / layer / "__init__.py").exists()
    ]


# -- versions, workflow ---------------------------------------------------------------------------


def test_the_changelog_has_this_version_and_protocol() -> None:
    text = CHANGELOG.read_text()
    section = text.partition(f"## [{bench.__version__}]")[2].partition("\n## [")[0]
    assert f"Protocol {PROTOCOL}" in section
    versions = re.findall(r"^## \[(.+?)\]", text, re.MULTILINE)
    assert versions[0] == bench.__version__
    assert versions == sorted(versions, key=lambda v: [int(n) for n in v.split(".")], reverse=True)


def test_the_workflow_calls_what_there_is() -> None:
    flow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    steps = [step for job in flow["jobs"].values() for step in job["steps"]]
    lines = [step["run"] for step in steps if "run" in step]
    assert ".ci/run" in lines
    assert (ROOT / ".ci" / "run").exists()
    assert "tox run -e ${{ matrix.environment }}" in lines
    chosen = {row["environment"] for row in flow["jobs"]["smoke"]["strategy"]["matrix"]["include"]}
    assert chosen <= environments()
