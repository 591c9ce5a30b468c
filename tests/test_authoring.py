"""A method of one's own: ``bench new``, ``bench check`` and the example of methods/README.md."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
import tomllib
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from pydantic import BaseModel
from torch import Tensor, nn

from bench.check import Finding, check, load_file
from bench.cli import main
from bench.commands.check import sampling_rules
from bench.commands.check.rules import RULES
from bench.commands.check.running import make_subjects
from bench.commands.new.command import check_name, write_project
from bench.config.errors import UserError
from bench.records import record
from methods import registry
from methods.base import Batch, DataSpec, Method, Stage
from methods.mixtures import GaussianMixture
from methods.noise import per_image
from methods.sde import SDE
from methods.smm import SMM

from .conftest import Bench, install_here, python_path

VARIANTS = {
    f"{name}:{variant}": settings.keys() <= registry.load(name).sampling_settings
    for name in registry.BUILTIN
    for variant, settings in sorted(registry.load(name).variants.items())
}
"""Every variant's label, and whether it is sampled otherwise and trained alike."""
SAMPLED = [label for label, alike in VARIANTS.items() if alike]
TRAINED = [label for label, alike in VARIANTS.items() if not alike]
README = Path(__file__).parent.parent / "methods" / "README.md"


def failed(findings: list[Finding]) -> dict[str, str]:
    return {finding.rule.name: finding.text for finding in findings if finding.failed}


# -- bench check: what is sound passes ------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", registry.BUILTIN)
def test_the_methods_keep_every_rule_on_images(name: str) -> None:
    findings = check(name)
    assert {finding.outcome for finding in findings} <= {"pass", "note"}, "\n".join(
        map(str, findings)
    )


@pytest.mark.slow
@pytest.mark.parametrize("label", TRAINED)
def test_the_variants_keep_every_rule_on_points(label: str) -> None:
    findings = check(label, dataset="gmm2d", preset="smoke")
    assert {finding.outcome for finding in findings} <= {"pass", "note"}, "\n".join(
        map(str, findings)
    )


@pytest.mark.parametrize("label", SAMPLED)
def test_what_is_sampled_otherwise_has_the_same_losses(label: str) -> None:
    """To the bit, so that the rules of training hold for it where they do for its method."""
    values = []
    for name in (label.partition(":")[0], label):
        subject = make_subjects(name, "gmm2d", "smoke")[0]
        method = subject.build()
        values.append(
            [subject.evaluate(method, loss) for s in method.stages() for loss in s.objectives]
        )
    assert values[0] == values[1]
    assert values[0]


@pytest.mark.slow
@pytest.mark.parametrize("label", SAMPLED)
def test_what_is_sampled_otherwise_keeps_the_rules_of_sampling(
    label: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = {"config", "building", "stages"}
    rules = [
        rule
        for rule in RULES
        if rule.name in first or rule.look.__module__ == sampling_rules.__name__
    ]
    monkeypatch.setattr("bench.commands.check.running.RULES", rules)
    findings = check(label, dataset="gmm2d", preset="smoke")
    assert len(findings) == len(rules) >= 12
    assert {finding.outcome for finding in findings} <= {"pass", "note"}, "\n".join(
        map(str, findings)
    )


@pytest.mark.slow
def test_what_needs_no_judgement_is_said(build: Any) -> None:
    said = {finding.rule.name: finding.text for finding in check("dlsm:on_sde", dataset="gmm2d")}
    assert said["stages"] == "shares sum to 1.5: charged in full"
    assert said["identity"] == "first stage shared with sde"
    assert "NFE 12" in said["cost of sampling"]


# -- bench check: planted faults ------------------------------------------------------------------


class Thawed(SDE):
    """Lets its configuration be changed."""

    class Loose(BaseModel):
        network: Any = None
        noise: Any = None

    Config: ClassVar[Any] = Loose


class Unsettled(SDE):
    """Starts from numbers of its own."""

    calls = 0

    def __init__(self, config: Any, data: DataSpec) -> None:
        super().__init__(config, data)
        Unsettled.calls += 1
        with torch.no_grad():
            next(self.denoiser.parameters()).add_(Unsettled.calls)


class Shareless(SDE):
    """Has a stage of no share."""

    def score_stage(self, *settings: Any, **more: Any) -> Any:
        return super().score_stage(*settings, share=0.0)


class SameNames(SMM):
    """Gives two objectives of a stage one name; the trainer would count FLOPs forever."""

    def stages(self) -> Any:
        (stage,) = super().stages()
        object.__setattr__(stage, "objectives", [stage.objectives[0]] * 2)
        return [stage]


class LossOfEach(SDE):
    """Forgets to average."""

    def loss(self, batch: Batch) -> Tensor:
        return super().loss(batch) * torch.ones(len(batch.x))


class InPlace(SDE):
    """Adds the noise to the images that the next objective gets too."""

    def loss(self, batch: Batch) -> Tensor:
        batch.x += 0.1
        return super().loss(batch)


class LogsGraph(SDE):
    """Keeps every step's graph alive."""

    def loss(self, batch: Batch) -> Tensor:
        loss = super().loss(batch)
        batch.logs["error"] = loss
        return loss


class Leaks(SMM):
    """The generator's loss trains the score network too."""

    def generator_loss(self, batch: Batch) -> Tensor:
        self.score.requires_grad_(True)
        return super().generator_loss(batch)


class Bf16(SDE):
    """Divides by 1 - 0.999, which is 0 in bfloat16."""

    def loss(self, batch: Batch) -> Tensor:
        raw = self.denoiser.network(batch.x, torch.zeros(len(batch.x)))
        return super().loss(batch) + (raw / (1 - raw.new_tensor(0.999))).square().mean()


class TwiceDifferentiated(SDE):
    """Penalises a gradient and does not say so."""

    def loss(self, batch: Batch) -> Tensor:
        x = batch.x.clone().requires_grad_()
        total = self.denoiser(x * 1, torch.ones(len(x))).sum()
        (gradient,) = torch.autograd.grad(total, x, create_graph=True)
        return super().loss(batch) + gradient.square().mean()


class GlobalLossNoise(SDE):
    """Draws the loss's noise from torch's global generator."""

    def loss(self, batch: Batch) -> Tensor:
        x = batch.x + torch.randn(batch.x.shape)
        return (self.denoiser(x, torch.ones(len(x))) - batch.x).square().mean()


class Impostor(SDE):
    """Changes what is learned behind the baseline's loss, and would be given its weights."""

    def noised(self, batch: Batch) -> Any:
        batch = Batch(x=batch.x * 0.5, labels=batch.labels, generator=batch.generator)
        return super().noised(batch)

    def score_stage(self, *arguments: Any) -> Stage:
        # A subclass from elsewhere has no identity unless it claims one, as this one does.
        config = self.config.model_copy()
        honest = SDE(config, self.data).score_stage(*arguments)
        return replace(super().score_stage(*arguments), identity=honest.identity)


class Counts(SDE):
    """Keeps a count that no checkpoint holds."""

    def __init__(self, config: Any, data: DataSpec) -> None:
        super().__init__(config, data)
        self.steps = 0

    def loss(self, batch: Batch) -> Tensor:
        self.steps += self.denoiser.training
        return super().loss(batch) * (1 + self.steps)


class Flat(SDE):
    """Drops the channels."""

    def sample(self, n: int, **settings: Any) -> Tensor:
        return super().sample(n, **settings)[:, 0]


class Doubles(SDE):
    """Samples in double precision."""

    def sample(self, n: int, **settings: Any) -> Tensor:
        return super().sample(n, **settings).double()


class OneSeed(SDE):
    """Draws the same images for every seed."""

    def sample(self, n: int, **settings: Any) -> Tensor:
        return super().sample(n, **settings | {"generator": torch.Generator().manual_seed(0)})


class GlobalNoise(SDE):
    """Draws its samples from torch's global generator."""

    def sample(self, n: int, **settings: Any) -> Tensor:
        generator = torch.Generator().manual_seed(int(torch.randint(2**31, ())))
        return super().sample(n, **settings | {"generator": generator})


class Reseeds(SDE):
    """Seeds the global generators on the way, and so decides what comes after."""

    def sample(self, n: int, **settings: Any) -> Tensor:
        torch.manual_seed(0)
        return super().sample(n, **settings)


class Meddles(SDE):
    """Changes its weights by sampling."""

    def sample(self, n: int, **settings: Any) -> Tensor:
        drawn = super().sample(n, **settings)
        for parameter in self.denoiser.parameters():
            parameter.mul_(0.99)
        return drawn


class Freezes(SDE):
    """Leaves its network frozen, so that training after a snapshot would learn nothing."""

    def sample(self, n: int, **settings: Any) -> Tensor:
        self.denoiser.requires_grad_(False)
        return super().sample(n, **settings)


class Hidden(SDE):
    """Calls a network in its loss that nobody moves, stores or counts."""

    def __init__(self, config: Any, data: DataSpec) -> None:
        super().__init__(config, data)
        self.features = nn.Linear(math.prod(data.shape), 4)

    def loss(self, batch: Batch) -> Tensor:
        return super().loss(batch) + self.features(batch.x.flatten(1)).square().mean()


class HiddenParameter(SDE):
    """Means to train a number that is in no network."""

    def __init__(self, config: Any, data: DataSpec) -> None:
        super().__init__(config, data)
        self.scale = nn.Parameter(torch.ones(()))

    def loss(self, batch: Batch) -> Tensor:
        return super().loss(batch) * self.scale


class Forgets(SDE):
    """Keeps a number of its own beside the networks."""

    def __init__(self, config: Any, data: DataSpec) -> None:
        super().__init__(config, data)
        self.shift = torch.rand(())

    def sample(self, n: int, **settings: Any) -> Tensor:
        return super().sample(n, **settings) + self.shift


class Uncounted(SDE):
    """Calls the network's forward, which no hook sees."""

    def denoiser_for(self, labels: Any) -> Any:
        return self.denoiser.forward


class PartOf(SDE):
    """Calls a part of the network once too often for the count."""

    def sample(self, n: int, **settings: Any) -> Tensor:
        x = super().sample(n, **settings)
        return x + self.denoiser.network(x, torch.zeros(n))


class Blames(SDE):
    """Fails without labels, but not so that one knew."""

    needs_labels = True

    def sample(self, n: int, *, labels: Any = None, generator: Any) -> Tensor:
        return super().sample(n, labels=labels + 0, generator=generator)

    def denoiser_for(self, labels: Any) -> Any:
        return self.denoiser


class Chooses(Blames):
    """Draws of class 0 where nobody said which."""

    def sample(self, n: int, *, labels: Any = None, generator: Any) -> Tensor:
        labels = torch.zeros(n, dtype=torch.int64) if labels is None else labels
        x = SDE.sample(self, n, labels=labels, generator=generator)
        return x + per_image(F.one_hot(labels, self.data.classes)[:, 0].float())


class ScalarOnly(SDE):
    """Has a denoiser that reads one level and takes it for all."""

    def denoiser_for(self, labels: Any) -> Any:
        def D(x: Tensor, sigma: Tensor) -> Tensor:
            return self.denoiser(x, sigma) if sigma.dim() == 0 else x

        return D


FAULTS: dict[type[Method], tuple[str, str]] = {
    Thawed: ("config", "'no_such_setting' was accepted"),
    Unsettled: ("building", "start otherwise under the same global seed"),
    Shareless: ("stages", "stage 'score' has the share 0"),
    SameNames: ("stages", "two objectives of stage 'adversarial' are called 'score'"),
    LossOfEach: ("loss", "the loss 'denoiser' is float32 of shape (8,)"),
    InPlace: ("loss", "changed batch.x in place"),
    LogsGraph: ("logs", "logs 'error' with its graph"),
    Leaks: ("gradients", "the loss 'generator' reaches"),
    TwiceDifferentiated: ("second order", "second_order is empty"),
    Bf16: ("bf16", "not finite"),
    GlobalLossNoise: ("noise of losses", "follows a global generator's seed"),
    Impostor: ("identity", "the identity of 'sde' and another loss"),
    Counts: ("training", "after interruptions"),
    Flat: ("samples", "the method gave (4, 1, 1) float32; asked for (4, 2, 1, 1) float"),
    Doubles: ("samples", "float64"),
    OneSeed: ("seed", "another seed gave the same samples"),
    GlobalNoise: ("global generators", "follow a global generator's seed"),
    Reseeds: ("global generators", "moved a global generator"),
    Meddles: ("side effects", "sample changed 'denoiser."),
    Freezes: ("side effects", "froze parameters of 'denoiser'"),
    Hidden: ("networks", "the loss 'denoiser' calls 'Linear', not in networks"),
    HiddenParameter: ("networks", "moves 1 parameters not in networks"),
    Forgets: ("save and load", "same weights gives other samples"),
    Uncounted: ("cost of sampling", "parts of a network ('Linear') are called around it"),
    PartOf: ("cost of sampling", "parts of a network ('Linear') are called around it"),
    Blames: ("labels", "samples without labels end in TypeError"),
    Chooses: ("labels", "classes that nobody asked for"),
    ScalarOnly: ("denoiser", "give different D(x, sigma)"),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", FAULTS, ids=lambda kind: kind.__name__)
def test_a_planted_fault_is_caught_by_the_rule_meant_for_it(kind: type[Method]) -> None:
    name, expected = FAULTS[kind]
    found = failed(check(kind, dataset="gmm2d"))
    assert found.keys() == {name}
    assert expected in found[name]
    # One line that says what was found, what is required and where that stands.
    assert re.fullmatch(
        r"[^\n]+; required: [^\n]+ \((methods|bench)\.[\w.]+\) \[[^\n]+\]", found[name]
    )


def test_every_rule_has_a_planted_fault() -> None:
    from bench.commands.check.running import RULES

    untested = {rule.name for rule in RULES} - {name for name, _ in FAULTS.values()}
    assert untested == {"cost of training"}  # Needs arithmetic that torch does not count.


def test_sources_of_the_rules_exist() -> None:
    from importlib import import_module

    from bench.commands.check.running import RULES

    for rule in RULES:
        parts = rule.source.split(".")
        modules = [".".join(parts[:end]) for end in range(2, len(parts))]
        module = next(m for m in reversed(modules) if not m.rpartition(".")[2][0].isupper())
        value: Any = import_module(module)
        for part in rule.source.removeprefix(f"{module}.").split("."):
            known = {**getattr(value, "__annotations__", {}), **vars(value)}
            assert part in known, rule.source
            value = getattr(value, part, None)


def test_a_raise_is_told_with_its_line() -> None:
    class Raises(SDE):
        def loss(self, batch: Batch) -> Tensor:
            raise RuntimeError("a planted fault\nof two lines")

    findings = check(Raises, dataset="gmm2d")
    assert failed(findings).keys() == {"loss"}
    text = failed(findings)["loss"]
    assert "it raises RuntimeError: a planted fault of two lines at test_authoring.py:" in text
    skipped = {f.rule.name: f.text for f in findings if f.outcome == "skip"}
    assert skipped["bf16"] == "needs 'gradients'"


def test_a_method_may_refuse_another_shape() -> None:
    class PointsOnly(SDE):
        def __init__(self, config: Any, data: DataSpec) -> None:
            if data.size > 1:
                raise ValueError("for points alone")
            super().__init__(config, data)

    findings = {f.rule.name: f for f in check(PointsOnly, dataset="gmm2d")}
    assert not failed(list(findings.values()))
    assert findings["building"].text == "refuses 3x16x16, no labels: for points alone"


def test_checking_leaves_global_generators_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    check("smm", dataset="gmm2d")
    assert torch.equal(before, torch.get_rng_state())


# -- bench check: the command ---------------------------------------------------------------------

POINTS = ("--dataset", "gmm2d")


@pytest.mark.usefixtures("faulty")
def test_check_names_what_is_broken_and_goes_on(call_bench: Bench) -> None:
    done = call_bench("check", "broken,unfit,smm", *POINTS)
    assert done.returncode == 1
    assert "broken\nFAIL  plug-in 'broken' (no_such_module:Method): ModuleNotFound" in done.stdout
    assert re.search(r"^FAIL  samples .* not finite; required: ", done.stdout, re.MULTILINE)
    assert re.search(r"^smm\npass  config", done.stdout, re.MULTILINE)
    assert done.stderr == "bench: broken, unfit failed\n"


BAD = {
    "method": (["check", "smn"], "did you mean 'smm'"),
    "variant": (["check", "cdm:smi"], "did you mean 'semi'"),
    "data set": (["check", "sde", "--dataset", "digit"], "did you mean 'digits'"),
    "preset": (["check", "sde", "--preset", "smok"], "did you mean 'smoke'"),
    "file": (["check", "nothing.py"], "'nothing.py' is no Python file"),
    "file of none": (["check", "empty.py"], "must hold one subclass of methods.base.Method"),
    "capitals": (["new", "MyFlow"], "'MyFlow' cannot name a method"),
    "keyword": (["new", "lambda"], "'lambda' cannot name a method"),
    "path": (["new", "a/b"], "'a/b' cannot name a method"),
    "taken": (["new", "sde"], "there is a method 'sde' already"),
    "module": (["new", "torch"], "there is a Python module 'torch' already"),
    "section": (["new", "training"], "'training' means something else"),
    "folder": (["new", "full"], "'full' exists already"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    case: str,
) -> None:
    arguments, expected = BAD[case]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.py").write_text("")
    (tmp_path / "full").mkdir()
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert expected in printed.err
    assert len(printed.err.splitlines()) == 1
    left = {path.name for path in tmp_path.rglob("*") if "__pycache__" not in path.parts}
    assert left == {"empty.py", "full"}


# -- bench new ------------------------------------------------------------------------------------


def install(project: Path, target: Path) -> None:
    """Install a project offline into a folder for PYTHONPATH: by pip, or by hand as pip would."""
    if find_spec("hatchling") is None:
        install_by_hand(project, target)
        return
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-build-isolation"]
    command += ["--no-deps", "--no-index", "--target", str(target), str(project)]
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)


def install_by_hand(project: Path, target: Path) -> None:
    """Copy the module and write what an installer writes of the entry points."""
    stated = tomllib.loads((project / "pyproject.toml").read_text())
    name, wheel = stated["project"]["name"], stated["tool"]["hatch"]["build"]["targets"]["wheel"]
    info = target / f"{name}-0.1.dist-info"
    info.mkdir(parents=True)
    for file in wheel["only-include"]:
        (target / file).write_text((project / file).read_text())
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1\n")
    points = stated["project"]["entry-points"]["bench.methods"].items()
    lines = ["[bench.methods]", *(f"{name} = {value}" for name, value in points)]
    (info / "entry_points.txt").write_text("\n".join([*lines, ""]))


@pytest.fixture(scope="module")
def written(
    tmp_path_factory: pytest.TempPathFactory, processes: None
) -> tuple[Path, dict[str, str]]:
    """A new method, and the environment in which it is installed."""
    place = tmp_path_factory.mktemp("new")
    project = write_project("my_flow", place)
    install(project, place / "site")
    return project, python_path(place / "site")


@pytest.mark.xdist_group("new")
@pytest.mark.usefixtures("forks", "no_plots")
def test_a_new_method_is_listed_checked_and_run(
    written: tuple[Path, dict[str, str]],
    call_bench: Bench,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install_here(written[0].parent / "site", monkeypatch)
    listed = call_bench("methods")
    assert "my_flow  One line that `bench methods` shows.  [my_flow:MyFlow (my_flow)]" in (
        listed.stdout
    )
    checked = call_bench("check", "my_flow")
    assert checked.returncode == 0, checked.stdout
    assert "FAIL" not in checked.stdout
    arguments = ["--dataset", "digits", "--preset", "smoke", "--no-tracking"]
    done = call_bench("run", "--methods", "my_flow,sde", *arguments)
    assert done.returncode == 0, done.stderr
    for name in ("my_flow", "sde"):
        row = record.load(tmp_path / "results" / "digits-smoke" / f"{name}-seed0")
        assert row is not None
        assert row.status == record.Status.FINISHED


@pytest.mark.xdist_group("new")
def test_a_new_method_s_own_test_passes(written: tuple[Path, dict[str, str]]) -> None:
    project, env = written
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "."],
        cwd=project, env={**os.environ, **env}, capture_output=True, text=True,
        timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout


@pytest.mark.usefixtures("processes")
def test_a_new_method_s_own_test_finds_a_wrong_sampler(tmp_path: Path) -> None:
    project = write_project("off_centre", tmp_path)
    path = project / "off_centre.py"
    text = path.read_text()
    assert "return samplers.draw(" in text
    path.write_text(text.replace("return samplers.draw(", "return 0.9 * samplers.draw("))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "exact", "."],
        cwd=project, env={**os.environ, **python_path(project)}, capture_output=True, text=True,
        timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "1 failed" in done.stdout


def test_a_file_is_checked_before_it_is_installed(tmp_path: Path, call_bench: Bench) -> None:
    write_project("my_flow", tmp_path)
    done = call_bench("check", "my_flow/my_flow.py", *POINTS)
    assert done.returncode == 0, done.stdout + done.stderr
    (tmp_path / "broken.py").write_text("import no_such_module\n")
    done = call_bench("check", "broken.py")
    assert done.returncode == 1
    assert "FAIL  'broken.py': ModuleNotFoundError" in done.stdout


@pytest.mark.parametrize("name", ["a", "my_flow", "sm2", "adam", "stage", "loss"])
def test_names_are_put_everywhere(tmp_path: Path, name: str) -> None:
    """Also names that the template uses for something else."""
    project = write_project(name, tmp_path)
    assert {path.name for path in project.iterdir()} == {
        f"{name}.py", f"test_{name}.py", "pyproject.toml",
    }  # fmt: skip
    text = "".join(path.read_text() for path in project.iterdir())
    assert not re.search("my_?method", text, re.IGNORECASE)
    kind = load_file(project / f"{name}.py")
    assert kind.name == name
    sys.modules.pop(name)
    points = tomllib.loads((project / "pyproject.toml").read_text())["project"]["entry-points"]
    assert points == {"bench.methods": {name: f"{name}:{kind.__name__}"}}
    for path in project.glob("*.py"):
        compile(path.read_text(), str(path), "exec")
        assert max(map(len, path.read_text().splitlines())) <= 100


def test_nothing_is_written_over(tmp_path: Path) -> None:
    project = write_project("my_flow", tmp_path)
    (project / "my_flow.py").write_text("mine")
    with pytest.raises(UserError, match="exists already"):
        write_project("my_flow", tmp_path)
    assert (project / "my_flow.py").read_text() == "mine"


@pytest.mark.parametrize("name", ["", "1st", "a-b", "_a", "a_", "ä", "a b", "a.b", "A"])
def test_bad_names_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="cannot name a method"):
        check_name(name)


# -- the README's example -------------------------------------------------------------------------


def block(language: str) -> str:
    text = README.read_text(encoding="utf-8").partition("## A method of your own")[2]
    found = re.search(rf"```{language}\n(.*?)```", text, re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture(scope="module")
def readme_plugin(tmp_path_factory: pytest.TempPathFactory, processes: None) -> Path:
    """The README's method, installed as its entry point says."""
    folder = tmp_path_factory.mktemp("readme")
    project = write_project("flow", folder)
    (project / "flow.py").write_text(block("python"))
    text = (project / "pyproject.toml").read_text()
    points = text.partition("[project.entry-points")[2].partition("\n\n")[0]
    # The README shows the very section that `bench new` writes.
    assert block("toml") == f"[project.entry-points{points}\n"
    install(project, folder / "site")
    return folder / "site"


@pytest.fixture
def flow(tmp_path: Path) -> Any:
    (tmp_path / "flow.py").write_text(block("python"))
    kind = load_file(tmp_path / "flow.py")
    settings = {"network": {"kind": "mlp", "width": 8}, "steps": 60}
    return kind(kind.Config.model_validate(settings), DataSpec(channels=2, size=1))


@pytest.mark.xdist_group("readme")
def test_the_readme_s_method_is_short_and_keeps_every_rule(
    readme_plugin: Path, call_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_here(readme_plugin, monkeypatch)
    assert len(block("python").splitlines()) < 60
    done = call_bench("check", "flow", *POINTS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "FAIL" not in done.stdout


def gaussian(s: float) -> GaussianMixture:
    one = torch.ones(1)
    return GaussianMixture(one, torch.zeros(1, 2), s**2 * torch.eye(2)[None], torch.zeros(1).long())


def exact_velocity(truth: GaussianMixture) -> Any:
    """``E[y - n | x_t] = (D(x / t, (1 - t) / t) - x) / (1 - t)``; at the ends their limits."""

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        t = t.expand(len(x)).clamp(1e-4, 1 - 1e-4)
        denoised = truth.denoise(x / per_image(t), (1 - t) / t)
        return (denoised - x) / per_image(1 - t)

    return velocity


def test_the_readme_s_sampler_follows_the_exact_flow(flow: Any) -> None:
    """The flow of N(0, s^2) carries each noise n to s n."""
    flow.velocity = exact_velocity(gaussian(0.4))
    drawn = flow.sample(500, generator=torch.Generator().manual_seed(3))
    noise = torch.randn(500, 2, 1, 1, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(drawn, 0.4 * noise, atol=5e-3, rtol=0)


def test_the_readme_s_loss_is_the_posterior_variance_at_the_exact_velocity(flow: Any) -> None:
    """``Var[y - n | x_t] = s^2 / ((1 - t)^2 + t^2 s^2)`` a pixel: over t it integrates to s pi/2.

    Any other velocity's loss is larger by its mean squared error.
    """
    s, n = 0.4, 200_000
    generator = torch.Generator().manual_seed(0)
    x = s * torch.randn(n, 2, 1, 1, generator=generator)
    exact = exact_velocity(gaussian(s))
    for error in (0.0, 0.3):
        flow.velocity = lambda x, t, error=error: exact(x, t) + error
        loss = float(flow.loss(Batch(x=x, labels=None, generator=generator)))
        assert loss == pytest.approx(s * math.pi / 2 + error**2, rel=0.01)


def test_the_readme_s_denoiser_is_that_of_its_velocity(flow: Any) -> None:
    truth = gaussian(0.4)
    flow.velocity = exact_velocity(truth)
    x, sigma = torch.randn(8, 2, 1, 1), torch.logspace(-1.5, 1.5, 8)
    torch.testing.assert_close(flow.denoiser_for(None)(x, sigma), truth.denoise(x, sigma))


@pytest.mark.xdist_group("readme")
@pytest.mark.usefixtures("forks", "no_plots")
def test_the_readme_s_method_learns(
    readme_plugin: Path, call_bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the README to a Fréchet distance and a score far from noise's, within seconds."""
    settings = ["training.snapshots=0", "evaluation.samples=2000", "flow.steps=15"]
    settings += ["evaluation.diagnostic_samples=512", "common.network.width=64"]
    install_here(readme_plugin, monkeypatch)
    done = call_bench(
        "run", "--methods", "flow", *POINTS, "--preset", "quick", "--budget", "200kimg",
        *(part for setting in settings for part in ("--set", setting)),
        "--no-tracking", "--study", "learns",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    study = tmp_path / "results" / "learns"
    row = record.load(study / "flow-seed0")
    assert row is not None
    anchors = record.Anchors.model_validate_json((study / record.ANCHORS).read_bytes()).rows
    (name,) = (name for name in row.metrics if name.startswith("fd_gmm2d"))
    assert row.cost.nfe == 30
    assert row.metrics[name].value < anchors["noise"][name].value / 30
    assert row.metrics["score_error"].value < 0.1  # Against the closed form; 1 without a score.
