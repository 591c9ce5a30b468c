"""The check of ``tox -e speed``: what it concludes, its base, its trees, and its bad input.

Times are made up here; ``python -m tests.speed --self-test`` measures.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from bench.config.errors import UserError
from tests.speed import __main__ as command
from tests.speed import faults, interleave, jobs, revisions, tables
from tests.speed.interleave import Code, Measured, Times
from tests.speed.verdicts import (
    Job,
    Row,
    Verdict,
    common_noise,
    compare,
    compare_all,
    judge,
    suspects,
)

NAMES = [f"test_{index}" for index in range(12)]


def noisy(
    rng: np.random.Generator, ratio: float = 1.0, *, process: float = 0.02, rounds: int = 20
) -> Times:
    """Times of two processes a side: biased by process, slowed together by load, with outliers."""
    load = 1 + 0.2 * rng.random(rounds) ** 3

    def one(seconds: float) -> list[float]:
        jitter = np.exp(0.03 * rng.standard_normal(rounds)) * (1 + (rng.random(rounds) < 0.05))
        biased = seconds * np.exp(process * rng.standard_normal())
        return list(biased * load * jitter)

    return {"base": [one(0.1), one(0.1)], "current": [one(0.1 * ratio), one(0.1 * ratio)]}


def job_of(rng: np.random.Generator, slow: dict[str, float], **noise: float) -> Job:
    """A check of ``NAMES``, red ones measured once more."""

    def measured(names: list[str]) -> Measured:
        times = {name: noisy(rng, slow.get(name, 1.0), **noise) for name in names}
        return Measured({"base": list(names), "current": list(names)}, times=times)

    first = measured(NAMES)
    return Job(first, measured(sorted(suspects(first, 0.1))))


def verdicts(job: Job, **how: object) -> dict[str, Verdict]:
    return {row.name: row.verdict for row in judge(job, **how)}  # type: ignore[arg-type]


# -- what it concludes --------------------------------------------------------------------------


@pytest.mark.slow
def test_equal_code_stays_green_over_many_noisy_checks() -> None:
    """60 checks of twelve benchmarks: none red, though processes of one code differ by 3 %."""
    rng = np.random.default_rng(0)
    red = sum(any(row.red for row in judge(job_of(rng, {}, process=0.03))) for _ in range(60))
    assert red == 0


@pytest.mark.slow
def test_noise_beyond_the_floor_raises_the_threshold() -> None:
    """With processes 15 % apart the floor alone would cry wolf in most checks."""
    rng = np.random.default_rng(1)
    jobs_seen = [job_of(rng, {}, process=0.15) for _ in range(40)]
    by_floor = sum(
        any(found.ratio > 1.1 for found in compare_all(job.first, 0.1).values())
        for job in jobs_seen
    )
    red = sum(any(row.red for row in judge(job)) for job in jobs_seen)
    assert by_floor > 20
    assert red <= 2


@pytest.mark.slow
@pytest.mark.parametrize(("ratio", "least"), [(1.15, 27), (1.3, 30)])
def test_a_slowdown_turns_red_and_is_named(ratio: float, least: int) -> None:
    rng = np.random.default_rng(2)
    found = [verdicts(job_of(rng, {"test_3": ratio}, process=0.01)) for _ in range(30)]
    assert sum(each["test_3"] is Verdict.SLOWER for each in found) >= least
    assert all(v is not Verdict.SLOWER for each in found for n, v in each.items() if n != "test_3")


def test_the_floor_is_respected() -> None:
    """Without any noise a benchmark 8 % slower passes at a floor of 10 %, not at one of 5 %."""
    exact = {"base": [[1.0] * 5] * 2, "current": [[1.08] * 5] * 2}
    first = Measured({"base": ["a"], "current": ["a"]}, times={"a": exact})
    assert verdicts(Job(first), floor=0.1) == {"a": Verdict.SAME}
    assert verdicts(Job(first), floor=0.05) == {"a": Verdict.SLOWER}


def test_red_once_is_not_red() -> None:
    first = Measured({"base": ["a"], "current": ["a"]}, times={"a": exact_times(1.5)})
    (row,) = judge(Job(first, Measured(times={"a": exact_times(1.0)})))
    assert row.verdict is Verdict.SAME
    assert row.again is not None
    assert "slower at first" in row.notes[0]
    (row,) = judge(Job(first, Measured(times={"a": exact_times(1.5)})))
    assert row.red


def test_a_speed_up_is_told() -> None:
    first = Measured({"base": ["a"], "current": ["a"]}, times={"a": exact_times(0.5)})
    assert verdicts(Job(first)) == {"a": Verdict.FASTER}


def exact_times(ratio: float) -> Times:
    return {"base": [[1.0] * 5] * 2, "current": [[ratio] * 5] * 2}


@pytest.mark.slow
def test_the_noise_has_the_variance_of_the_ratio() -> None:
    """Over many benchmarks: the spread of the ratio is what processes of the same code tell."""
    rng = np.random.default_rng(3)
    times = [noisy(rng, process=0.05, rounds=50) for _ in range(600)]
    logs = [np.log(compare(each, 0.0).ratio) for each in times]
    assert common_noise(times) == pytest.approx(np.var(logs), rel=0.2)


# -- what is there, and what is not -------------------------------------------------------------


def test_missing_new_and_renamed_are_reported() -> None:
    first = Measured(
        {"base": ["step[a-old]", "gone"], "current": ["step[a-new]"]},
        times={"step[a-new]": {"current": [[1.0] * 3] * 2}},
    )
    rows = {row.name: row for row in judge(Job(first, own=frozenset({"gone", "removed"})))}
    assert rows["step[a-new]"].verdict is Verdict.NEW
    assert not rows["step[a-new]"].red
    assert {name for name, row in rows.items() if row.red} == {"step[a-old]", "gone", "removed"}
    assert "renamed to step[a-new]?" in rows["step[a-old]"].notes
    assert not any("renamed" in note for note in rows["gone"].notes)


def test_what_either_side_cannot_run_is_told_apart() -> None:
    both = {"base": ["a", "b", "c"], "current": ["a", "b", "c"]}
    errors = {"a": {"base": "TypeError: old"}, "b": {"current": "TypeError: new"}}
    rows = {row.name: row for row in judge(Job(Measured(both, errors=errors)))}
    assert (rows["a"].verdict, rows["a"].red) == (Verdict.INCOMPARABLE, False)
    assert rows["a"].notes == ("base: TypeError: old",)
    assert (rows["b"].verdict, rows["b"].red) == (Verdict.BROKEN, True)
    assert rows["c"].verdict is Verdict.BROKEN, "one that was never run cannot be green"


def test_accepted_red_is_reported_and_does_not_fail() -> None:
    first = Measured({"base": ["a"], "current": []})
    (row,) = judge(Job(first), accepted=["a"])
    assert row.verdict is Verdict.MISSING
    assert not row.red
    assert "(accepted)" in tables.markdown(tables.Report("b", "c", [row]))


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        (100.0, 101.0, Verdict.MORE_WORK),
        (100.0, 99.0, Verdict.SAME),
        (100.0, 100.0, Verdict.SAME),
        (100.0, None, Verdict.SAME),
    ],
)
def test_counts_are_compared_exactly(before: float, after: float | None, verdict: Verdict) -> None:
    counts = {
        "base": {"NFE": before},
        "current": {} if after is None else {"NFE": after},
    }
    both = {"base": ["a"], "current": ["a"]}
    (row,) = judge(Job(Measured(both, times={"a": exact_times(1.0)}, counts={"a": counts})))
    assert row.verdict is verdict
    shown = "-" if after is None else f"{after:g}"
    assert row.notes == (() if after == before else (f"NFE: 100 -> {shown}",))


# -- the report ---------------------------------------------------------------------------------


def test_the_report_names_what_is_red() -> None:
    both = {"base": ["good", "bad"], "current": ["good", "bad"]}
    times = {"good": exact_times(1.0), "bad": exact_times(1.4)}
    report = tables.Report("base", "now", judge(Job(Measured(both, times=times))))
    assert report.is_red
    assert report.conclusion == "red: bad (SLOWER)"
    text = tables.markdown(report)
    assert (
        "| bad       |    1000 |       1400 | 1.400 | 1.40 to 1.40 |      1.10 | SLOWER  |" in text
    )
    stored = json.loads(tables.as_json(report))
    assert stored["red"] == ["bad"]
    assert stored["benchmarks"][1]["first"]["ratio"] == pytest.approx(1.4)


def test_nothing_compared_is_not_green() -> None:
    alone = Measured({"base": [], "current": ["a"]}, {"base": "ImportError: old"})
    alone.times["a"] = {"current": [[1.0] * 3] * 2}
    assert command.failure(Job(alone)) == "nothing could be compared: ImportError: old"
    (row,) = judge(Job(alone))
    assert row.verdict is Verdict.INCOMPARABLE
    broken = Measured({"base": ["a"], "current": []}, {"current": "ImportError: new"})
    assert "ImportError: new" in str(command.failure(Job(broken)))


# -- the base -----------------------------------------------------------------------------------

Git = Callable[..., str]


@pytest.fixture
def git(tmp_path: Path) -> Git:
    """A repository with two commits on ``main``."""
    root = tmp_path / "repository"
    root.mkdir()
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    plain = [*identity, "-c", "commit.gpgsign=false", "-c", "tag.gpgsign=false"]

    def run(*arguments: str) -> str:
        result = subprocess.run(
            ["git", *plain, *arguments], cwd=root, capture_output=True, text=True, check=True
        )
        return result.stdout.strip()

    run("init", "-q", "-b", "main")
    (root / ".gitignore").write_text("*.pyc\n")
    (root / "bench").mkdir()
    for text in ("one", "two"):
        (root / "bench" / "code.py").write_text(text)
        run("add", ".")
        run("commit", "-qm", text)
    return run


@pytest.fixture
def root(git: Git) -> Path:
    return Path(git("rev-parse", "--show-toplevel"))


def commit(git: Git, root: Path, text: str) -> str:
    (root / "bench" / "code.py").write_text(text)
    git("commit", "-qam", text)
    return git("rev-parse", "HEAD")


def test_base_on_the_default_branch_is_the_parent_or_head(git: Git, root: Path) -> None:
    assert revisions.choose(root).commit == git("rev-parse", "HEAD^")
    (root / "README").write_text("what is not measured is no change")
    assert revisions.choose(root).commit == git("rev-parse", "HEAD^")
    (root / "bench" / "new.py").write_text("")
    found = revisions.choose(root)
    assert found.commit == git("rev-parse", "HEAD")
    assert "has changes" in found.why


def test_base_of_a_branch_is_where_it_left(git: Git, root: Path) -> None:
    start = git("rev-parse", "HEAD")
    git("switch", "-qc", "work")
    for text in ("three", "four"):
        commit(git, root, text)
    assert revisions.choose(root) == revisions.Base(start, "where the branch left main")
    git("update-ref", "refs/remotes/origin/trunk", "HEAD^")
    git("symbolic-ref", "refs/remotes/origin/HEAD", "refs/remotes/origin/trunk")
    assert revisions.choose(root).why == "where the branch left origin/trunk"


def test_base_is_the_last_tag_before_the_tree(git: Git, root: Path) -> None:
    git("tag", "v1", "HEAD^")
    git("tag", "v2")
    assert revisions.choose(root).why == "the last tag, v1"
    (root / "bench" / "code.py").write_text("changed")
    assert revisions.choose(root).why == "the last tag, v2"
    commit(git, root, "three")
    found = revisions.choose(root)
    assert (found.commit, found.why) == (git("rev-parse", "v2"), "the last tag, v2")


def test_base_that_is_named(git: Git, root: Path) -> None:
    assert revisions.choose(root, "main~1").commit == git("rev-parse", "HEAD^")
    with pytest.raises(UserError, match="unknown base 'v9'"):
        revisions.choose(root, "v9")
    with pytest.raises(UserError, match="unknown base '--all'"):
        revisions.choose(root, "--all")


def test_no_base_is_told(git: Git, root: Path, tmp_path: Path) -> None:
    git("checkout", "-q", "--orphan", "alone")
    with pytest.raises(UserError, match="no commit yet"):
        revisions.choose(root)
    git("commit", "-qm", "root")
    git("branch", "-qD", "main")
    with pytest.raises(UserError, match="has no parent here"):
        revisions.choose(root)
    with pytest.raises(UserError, match="in no git repository"):
        revisions.find_root(tmp_path)


def test_git_is_needed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="git is not installed"):
        revisions.find_root(tmp_path)


def test_trees_hold_what_is_there(git: Git, root: Path, tmp_path: Path) -> None:
    """The copy has changed and new files, not deleted and ignored ones; the export has HEAD's."""
    (root / "bench" / "old.py").write_text("")
    git("add", ".")
    commit(git, root, "three")
    base = revisions.export(root, "HEAD", tmp_path / "base")
    assert revisions.same_code(base, revisions.copy(root, tmp_path / "equal"))
    (root / "bench" / "code.py").write_text("changed")
    (root / "bench" / "new.py").write_text("")
    (root / "bench" / "code.pyc").write_text("")
    (root / "bench" / "old.py").unlink()
    current = revisions.copy(root, tmp_path / "current")
    assert {path.name for path in (current / "bench").iterdir()} == {"code.py", "new.py"}
    assert (current / "bench" / "code.py").read_text() == "changed"
    assert (base / "bench" / "code.py").read_text() == "three"
    assert not revisions.same_code(base, current)


# -- processes ----------------------------------------------------------------------------------

BENCHMARKS = """
import os
import time
import pytest
import bench

pytestmark = pytest.mark.benchmark(timer=time.process_time)


@pytest.mark.parametrize("name", {names})
def test_sum(benchmark, name):
    benchmark.extra_info["counts"] = {{"work": bench.WORK}}
    benchmark(lambda: sum(range(1000 * bench.TIME)))


def test_other(benchmark):
    {other}
    benchmark.pedantic(sum, [range(1000)], rounds=5)
"""


def tree(
    folder: Path, *, work: int = 1, time: int = 1, names: Sequence[str] = "a", other: str = ""
) -> Path:
    """A tree with next to no code, and benchmarks of it."""
    for package in ("bench", "methods"):
        (folder / package).mkdir(parents=True)
        (folder / package / "__init__.py").write_text(f"WORK = {work}\nTIME = {time}\n")
    definitions = folder / jobs.DEFINITIONS
    definitions.parent.mkdir(parents=True)
    definitions.write_text(BENCHMARKS.format(names=list(names), other=other))
    return folder


def everything(name: str) -> bool:
    return True


def checked(base: Path, current: Path, folder: Path) -> tuple[Job, dict[str, Row]]:
    settings = jobs.Settings(seconds=0.01)
    job = jobs.compare_trees(base, current, everything, settings, folder=folder)
    return job, {row.name: row for row in judge(job)}


@pytest.mark.usefixtures("processes")
def test_both_trees_run_the_current_benchmarks(tmp_path: Path) -> None:
    """Each side measures its own code; a process that dies takes one benchmark with it."""
    base = tree(tmp_path / "base", names=["a", "gone"])
    dies = "if bench.WORK == 2: os._exit(7)"
    current = tree(tmp_path / "current", work=2, time=3, names=["a", "b"], other=dies)
    job, rows = checked(base, current, tmp_path / "job")
    assert rows["test_sum[gone]"].verdict is Verdict.MISSING
    assert rows["test_sum[b]"].first is not None, "by the definition that the base lacks"
    assert rows["test_other"].verdict is Verdict.BROKEN
    assert "exit code 7" in rows["test_other"].notes[0]
    slow = rows["test_sum[a]"]
    assert slow.verdict is Verdict.SLOWER
    assert slow.notes == ("work: 1 -> 2",)
    assert slow.again is not None
    times = job.first.times["test_sum[a]"]
    assert {side: len(processes) for side, processes in times.items()} == {"base": 2, "current": 2}
    assert len({len(rounds) for side in times.values() for rounds in side}) == 1


@pytest.mark.usefixtures("processes")
def test_what_the_base_cannot_run_it_runs_by_its_own_definition(tmp_path: Path) -> None:
    base = tree(tmp_path / "base")
    current = tree(tmp_path / "current", other="bench.new_name")
    (current / "bench" / "__init__.py").write_text("WORK = TIME = new_name = 1\n")
    job, rows = checked(base, current, tmp_path / "job")
    assert job.by_own == {"test_other"}
    assert set(job.first.times["test_other"]) == {"base", "current"}
    assert "each side by its own definition" in rows["test_other"].notes


@pytest.mark.usefixtures("processes")
def test_code_from_elsewhere_is_never_measured(tmp_path: Path) -> None:
    """A tree without the packages would measure the installed ones."""
    current = tree(tmp_path / "current")
    (tmp_path / "base").mkdir()
    sides = {
        "base": Code(tmp_path / "base", current / jobs.DEFINITIONS),
        "current": Code(current, current / jobs.DEFINITIONS),
    }
    measured = interleave.measure(sides, "test_other".__eq__, seconds=0.01, folder=tmp_path / "job")
    assert measured.collected["base"] == []
    assert "bench" in measured.uncollected["base"]
    assert set(measured.times["test_other"]) == {"current"}


def test_turns_alternate() -> None:
    """Over four rounds each process is as often early as late, and no side always first."""
    places: dict[str, list[int]] = {name: [] for name in "abcd"}
    for index in range(4):
        for place, name in enumerate(interleave.order(list("abcd"), index)):  # type: ignore[type-var]
            places[name].append(place)
    assert {sum(seen) for seen in places.values()} == {6}


def test_rounds_fill_the_time_asked_for() -> None:
    assert interleave.plan([0.05, 0.02], 2.0) == {"calls": 5, "rounds": 20}
    assert interleave.plan([3.0], 2.0) == {"calls": 1, "rounds": interleave.FEWEST}
    assert interleave.plan([1e-4], 1e9)["rounds"] == interleave.MOST


@pytest.mark.usefixtures("processes")
def test_faults_fit_the_code(tmp_path: Path) -> None:
    """What the self-test slows is there, and runs slower."""
    trees = faults.prepare(Path(__file__).parent.parent, tmp_path, 9.0)
    code = (
        "import time, torch, methods.smm as smm, bench.training as training\n"
        "assert smm.SMM.sample.__wrapped__ and training.Trainer._step.__wrapped__\n"
        "slow = smm._slowed(lambda: sum(range(10**6)))\n"
        "started = time.process_time(); slow.__wrapped__(); plain = time.process_time() - started\n"
        "started = time.process_time(); slow(); assert time.process_time() - started > 3 * plain\n"
    )
    result = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env=interleave.environment(trees.slow),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr


# -- the command --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--base", "no-such-revision"], "unknown base 'no-such-revision'"),
        (["--floor", "-1"], "invalid positive value: '-1'"),
        (["--seconds", "nan"], "invalid positive value: 'nan'"),
        (["--tries", "0"], "invalid count value: '0'"),
        (["--nonsense"], "unrecognized arguments: --nonsense"),
    ],
)
def test_bad_input_takes_one_line(
    arguments: list[str],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    root: Path,
) -> None:
    monkeypatch.setattr(command.revisions, "find_root", lambda folder: root)
    assert command.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert told in error
    assert error.count("\n") == 1


@pytest.mark.usefixtures("processes")
def test_one_check_from_end_to_end(
    git: Git,
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A repository whose code does more work than its last commit's: exit 1, and both reports."""
    (root / "bench" / "code.py").unlink()
    (root / "bench").rmdir()
    tree(root)
    git("add", ".")
    git("commit", "-qm", "benchmarks")
    (root / "bench" / "__init__.py").write_text("WORK = 2\nTIME = 1\n")
    monkeypatch.setattr(command.revisions, "find_root", lambda folder: root)
    output = tmp_path / "out"
    given = ["--seconds", "0.01", "--floor", "900", "--only", "sum", "--output", str(output)]
    assert command.main(given) == 1
    out = capsys.readouterr().out
    assert "HEAD, for the tree has changes" in out
    assert "red: test_sum[a] (MORE WORK)" in out
    assert (output / "speed.md").read_text() in out
    assert json.loads((output / "speed.json").read_text())["red"] == ["test_sum[a]"]
    (raw, *_) = (output / "raw").glob("*-current-1.json")
    stored = json.loads(raw.read_text())["benchmarks"][0]["stats"]
    assert len(stored["data"]) >= interleave.FEWEST


def test_only_known_names_are_accepted() -> None:
    job = Job(Measured({"base": ["test_a"], "current": []}))
    (row,) = command.rows(job, command.parser().parse_args(["--accept", "test_a"]))
    assert not row.red
    with pytest.raises(UserError, match=r"unknown benchmark 'test_b' \(did you mean 'test_a'"):
        command.rows(job, command.parser().parse_args(["--accept", "test_b"]))
