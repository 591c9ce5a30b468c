"""``tox -e speed``: is the current tree slower than the one before it?

Measures the current tree and a base revision in one job, interleaved, by the benchmarks of
``test_speed.py``; prints a table; writes ``speed.md``, ``speed.json`` and pytest-benchmark's own
files below ``.benchmarks/``. Exit code 1 if a benchmark became slower, does more work, is missing
or does not run; 2 for bad input.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from bench.config.errors import UserError
from bench.config.names import unknown
from tests.speed import faults, interleave, revisions, tables
from tests.speed.jobs import Settings, compare_trees
from tests.speed.verdicts import FLOOR, Job, Row, judge


class Parser(argparse.ArgumentParser):
    """Errors take one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see --help")


def parser() -> Parser:
    result = Parser(prog="python -m tests.speed", description=(__doc__ or "").partition("\n")[0])
    add = result.add_argument
    add("--base", metavar="REV", help="default: the last tag, else where the branch began")
    add("--only", metavar="TEXT", action="append", help="benchmarks whose name holds TEXT")
    add(
        "--accept",
        metavar="NAME",
        action="append",
        default=[],
        help="a benchmark that may be red: reported, but not failed for",
    )
    add("--floor", metavar="PERCENT", type=positive, default=100 * FLOOR)
    add(
        "--seconds",
        type=positive,
        default=Settings.seconds,
        help="CPU time of each of the four processes for each benchmark (default: %(default)s)",
    )
    add("--output", metavar="DIR", type=Path, default=Path(".benchmarks"))
    add("--self-test", action="store_true", help="plant slowdowns, and compare equal trees")
    add("--tries", type=count, default=20, help="comparisons of equal trees (default: 20)")
    return result


def positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError
    return value


def count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def selector(parts: Sequence[str] | None) -> Callable[[str], bool]:
    return lambda name: not parts or any(part in name for part in parts)


def check(root: Path, given: argparse.Namespace, folder: Path) -> int:
    """Compare the tree with its base; print and write the report."""
    base = revisions.choose(root, given.base)
    tell(f"base: {base}")
    trees = (
        revisions.export(root, base.commit, folder / "base"),
        revisions.copy(root, folder / "current"),
    )
    settings = Settings(given.seconds, given.floor / 100)
    started = time.monotonic()
    job = compare_trees(*trees, selector(given.only), settings, folder=folder / "job", tell=tell)
    remarks = ["the two trees hold the same code"] if revisions.same_code(*trees) else []
    load, cores = os.getloadavg()[0], os.cpu_count()
    remarks.append(f"{time.monotonic() - started:.0f} s, load {load:.1f} of {cores} cores")
    report = tables.Report(str(base), current_name(root), rows(job, given), remarks, failure(job))
    write(report, given.output, folder / "job")
    print(tables.markdown(report))
    return 1 if report.is_red else 0


def current_name(root: Path) -> str:
    head = revisions.commit_of(root, "HEAD") or ""
    return f"{head[:10]}{' with changes' if revisions.is_dirty(root) else ''}"


def rows(job: Job, given: argparse.Namespace) -> list[Row]:
    result = judge(job, floor=given.floor / 100, accepted=given.accept)
    names = [row.name for row in result]
    for name in given.accept:
        if name not in names:
            raise unknown("benchmark", name, names)
    return result


def failure(job: Job) -> str | None:
    """Say why there is nothing to judge, if there is not."""
    wrong = job.first.uncollected
    if "current" in wrong:
        return f"the benchmarks cannot be collected: {wrong['current']}"
    if not any(len(times) == 2 for times in job.first.times.values()):
        return f"nothing could be compared: {wrong.get('base', 'no benchmark ran on both sides')}"
    return None


def write(report: tables.Report, output: Path, job: Path) -> None:
    """Write the report and pytest-benchmark's files, in place of those of the last check."""
    raw = output / "raw"
    shutil.rmtree(raw, ignore_errors=True)
    raw.mkdir(parents=True)
    for folder in sorted(path for path in job.iterdir() if path.is_dir()):
        interleave.keep_raw(folder, raw)
    (output / "speed.md").write_text(tables.markdown(report))
    (output / "speed.json").write_text(tables.as_json(report))


def run(arguments: Sequence[str]) -> int:
    given = parser().parse_args(arguments)
    root = revisions.find_root(Path(__file__).parent)
    with tempfile.TemporaryDirectory(prefix="speed-") as name:
        folder = Path(name)
        if given.self_test:
            settings = Settings(given.seconds, given.floor / 100)
            passed = faults.self_test(
                root,
                folder,
                tries=given.tries,
                settings=settings,
                tell=lambda line: print(line, flush=True),
            )
            return 0 if passed else 1
        return check(root, given, folder)


def main(arguments: Sequence[str] | None = None) -> int:
    # A scheduler's signal too shall leave neither processes nor folders behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        return run(sys.argv[1:] if arguments is None else arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
