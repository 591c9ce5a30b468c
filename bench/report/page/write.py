"""Writing ``report.html`` into a study, and ``index.html`` beside all studies."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from bench.records import write_text
from bench.report.page.content import page_content
from bench.report.page.pictures import pictures
from bench.report.study_report import StudyReport
from bench.report.table.rows import PUBLISHED
from bench.version import __version__

PAGE, INDEX = "report.html", "index.html"
DRAWN = {
    "training": "Over training",
    "samples": "Samples",
    "nfe": "Quality against network evaluations",
    "costs": "Costs",
}
"""Sections of pictures, in their order on the page."""
MEANING = "± is half of the 95 % t interval over seeds; (se) the standard error within one seed."


@lru_cache
def _environment() -> Environment:
    loader = PackageLoader("bench.report.page", ".")
    return Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip


def write_page(report: StudyReport) -> Path:
    """Write a study's page, which needs nothing beside it; return its path."""
    path = report.folder / PAGE
    write_text(path, render_page(report))
    return path


def render_page(report: StudyReport) -> str:
    """Return a study's page: the same records give the same text."""
    shown = list(pictures(report))
    there = {picture.section for picture in shown}
    content = page_content(report)
    drawn = [(key, title) for key, title in DRAWN.items() if key in there]
    if content["timing"] and "costs" not in there:
        drawn.append(("costs", DRAWN["costs"]))
    return _render(
        "page.html.j2", **content, drawn=drawn, pictures=shown, published_head=PUBLISHED,
        meaning=MEANING, sections=list(_sections(content, drawn)),
    )  # fmt: skip


def _sections(content: dict[str, Any], drawn: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """List the sections that the page has, for its own navigation."""
    data = content["data"]
    found: list[tuple[str, str, Any]] = [
        ("answer", "Answer", True),
        ("scoreboard", "Scoreboard", content["scoreboard"]["rows"]),
        ("quality", "Quality against cost", data["methods"] and data["metrics"]),
    ]
    found += [(key, title, True) for key, title in drawn]
    found += [
        ("certainty", "Certainty", content["certainty"]),
        ("published", "Published", content["published"]),
        ("misses", "What metrics miss", content["misses"]),
        ("reproduce", "Reproduce", True),
        ("failures", "Without a result", content["unfinished"]),
    ]
    return [(key, title) for key, title, there in found if there]


def write_index(results: Path, lines: Sequence[Sequence[str]], head: Sequence[str]) -> Path:
    """Write the list of all studies of a results folder, each a link to its page if it has one."""
    has_page = [(results / line[0] / PAGE).exists() for line in lines]
    text = _render("index.html.j2", head=head, rows=list(zip(lines, has_page, strict=True)))
    write_text(results / INDEX, text)
    return results / INDEX


def _render(template: str, **content: Any) -> str:
    environment = _environment()
    style, script = (
        environment.loader.get_source(environment, name)[0]  # type: ignore[union-attr]
        for name in ("style.css", "page.js")
    )
    from markupsafe import Markup

    shared = {"style": Markup(style), "script": Markup(script), "version": __version__}
    return environment.get_template(template).render(**content, **shared)
