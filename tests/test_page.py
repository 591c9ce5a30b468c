"""A study's page: what it says, that it needs nothing beside it, and what it does in a browser."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bench.commands.lifecycle import finish
from bench.records import record
from bench.report.page.content import answer, page_content
from bench.report.page.pictures import pictures
from bench.report.page.references import MISSES, bibtex
from bench.report.page.write import render_page, write_index, write_page
from bench.report.ranking import rank_by
from bench.report.study_report import StudyReport
from methods import registry

from .conftest import Bench
from .fake_study import write_study


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four methods and three seeds, of which one cell failed; read only."""
    return write_study(tmp_path_factory.mktemp("page") / "results" / "digits-quick")


@pytest.fixture(scope="module")
def page(study: Path) -> str:
    return render_page(StudyReport.read(study))


def data_of(page: str) -> Any:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    assert found is not None
    return json.loads(found[1])


def section(page: str, name: str) -> str:
    """The text of a section, without tags."""
    found = re.search(rf'<section id="{name}">(.*?)</section>', page, re.S)
    assert found is not None, name
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", found[1])).split())


# What it is ---------------------------------------------------------------------------------------


def test_the_same_records_give_the_same_bytes(study: Path, page: str, tmp_path: Path) -> None:
    copy = shutil.copytree(study, tmp_path / "elsewhere" / study.name)
    assert render_page(StudyReport.read(Path(copy))) == page


def test_it_needs_nothing_beside_it_and_is_small(page: str) -> None:
    assert len(page) < 2 * 2**20
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert sources
    assert all(source.startswith(("data:", "#")) for source in sources)
    assert not re.findall(r"@import|url\(", page)
    anchors = [source[1:] for source in sources if source.startswith("#")]
    assert all(f'id="{anchor}"' in page for anchor in anchors)


def test_every_picture_says_what_it_shows(study: Path, page: str) -> None:
    drawn = list(pictures(StudyReport.read(study)))
    assert {"quality", "training", "samples", "costs"} <= {picture.section for picture in drawn}
    assert all(picture.alt for picture in drawn)
    for alt in re.findall(r'<img [^>]*alt="([^"]*)"', page):
        assert len(alt) > 10


def test_what_is_typed_is_shown_and_never_run(tmp_path: Path) -> None:
    study = write_study(tmp_path / 'a"<b>&')
    wild = "</script><script>alert(1)</script>"
    row = record.load(study / "smm-seed2")
    assert row is not None
    record.save(row.model_copy(update={"reason": wild}), study / "smm-seed2")
    (study / "smm-seed2" / "log.txt").write_text(wild)
    page = render_page(StudyReport.read(study))
    assert wild not in page
    assert page.count("</script>") == 2
    assert section(page, "failures").count(wild) == 2


# What it says -------------------------------------------------------------------------------------


def test_the_scatter_has_the_table_s_numbers(study: Path, page: str) -> None:
    report = StudyReport.read(study)
    data = data_of(page)
    rows = {row["method"]: row for row in report.method_rows}
    assert [one["name"] for one in data["methods"]] == list(rows)
    for one in data["methods"]:
        row = rows[one["name"]]
        assert one["costs"]["cost.train_flops"] == row["cost.train_flops"]
        assert one["costs"]["time.ms_per_image.median"] == row["time.ms_per_image.median"]
        quality = one["metrics"]["fd_digits_500"]
        assert quality["value"] == row["metrics.fd_digits_500"]
        assert quality["half"] == row["metrics.fd_digits_500:half"]
    assert data["levels"]["fd_digits_500"] == report.levels("fd_digits_500")


def test_the_scoreboard_has_at_most_eight_columns_and_the_others_on_demand(page: str) -> None:
    heads = re.findall(r"<th scope=\"col\" data-key=\"([^\"]+)\"( class=\"extra\")?", page)
    shown = [key for key, extra in heads if not extra]
    assert len(shown) == 8
    assert shown[:4] == ["method", "rank", "metrics.fd_digits_500", "metrics.is_digits_500"]
    assert len(heads) == 9  # Accuracy on demand.


def frame_of(values: dict[str, list[float]]) -> pd.DataFrame:
    cells = [(name, seed, value) for name, row in values.items() for seed, value in enumerate(row)]
    frame = pd.DataFrame(cells, columns=["method", "seed", "metrics.fd_digits_500"])
    return frame.assign(kind="cell", status="finished", source="s")


class Report:
    """What an answer asks of a report."""

    def __init__(self, values: dict[str, list[float]]) -> None:
        self.metrics = ["fd_digits_500"]
        self.method_rows = [
            {"method": name, "metrics.fd_digits_500": sum(row) / len(row)}
            for name, row in values.items()
        ]


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"a": [1.0, 1.1, 1.05], "b": [9.0, 9.4, 9.1]}, "first is a, 1.050; better than b."),
        ({"a": [1.0, 2.0, 3.0], "b": [2.0, 2.1, 2.2]},
         r"first is a, 2.000; not told apart from b \(100 seeds would do\)."),
        ({"a": [1.0, 1.1, 1.05], "b": [1.1, 1.15, 1.06], "c": [9.0, 9.4, 9.1]},
         r"first is a, 1.050; better than c, not told apart from b \(\d+ seeds would do\)."),
        ({"a": [1.0, 1.1], "b": [9.0, 9.4]},
         "the best mean has a, 1.050; fewer than 3 seeds that two methods share, so no order is "
         "claimed."),
        ({x: [1.0, 2.0, 3.0 + i] for i, x in enumerate("abcdef")},
         r"first is a, 2.000; not told apart from 5 others \(43 seeds would separate the first of "
         r"them\)."),
        # The mean of a is the larger, by one seed that b has not; where both are, a is better.
        ({"a": [1.0, 1.01, 1.03, 6.0], "b": [2.0, 2.1, 2.04]}, "first is a, 2.260; better than b."),
        ({"a": [1.0], "b": [2.0, 2.1, 2.05], "c": [9.0, 9.1, 9.3]},
         "first is b, 2.050; better than c. Not compared: a, of too few shared seeds, or mixed."),
        ({"a": [1.0, 1.1, 1.05], **{x: [9.0, 9.4, 9.1 + i] for i, x in enumerate("bcde")}},
         "first is a, 1.050; better than 4 others."),
    ],
)  # fmt: skip
def test_the_answer_is_a_sentence(values: dict[str, list[float]], text: str) -> None:
    found = answer(Report(values), rank_by(frame_of(values), "fd_digits_500"))  # type: ignore[arg-type]
    assert re.fullmatch(rf"Fréchet distance \(digits, 500 samples\): {text}", found["text"])


def test_a_page_tells_no_place_of_its_author(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s")
    row = record.load(study / "smm-seed2")
    assert row is not None
    environment = row.environment | {"command": "bench run --data /home/me/images --seeds 0"}
    told = {"reason": "no /home/me/x here", "environment": environment}
    record.save(row.model_copy(update=told), study / "smm-seed2")
    (study / "smm-seed2" / "log.txt").write_text("File /home/me/y.py, line 3")
    page = render_page(StudyReport.read(study))
    assert "/home/me" not in page
    assert str(tmp_path) not in page
    assert "bench run --data images --seeds 0" in page


def test_cells_without_a_result_are_on_the_page(study: Path, page: str) -> None:
    assert "1 cell has no result" in section(page, "answer")
    assert "smm-seed2: diverged" in section(page, "failures")


def test_a_study_without_any_result_has_a_page(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", ("sde",), failed=None)
    for folder, row in record.cells(study):
        failed = {"status": record.Status.FAILED, "metrics": {}, "reason": "it broke"}
        record.save(row.model_copy(update=failed), folder)
    page = render_page(StudyReport.read(study))
    assert "No cell has finished yet" in section(page, "answer")
    assert section(page, "failures").count("it broke") == 3
    assert data_of(page)["methods"] == []


def test_a_study_of_one_method_has_a_page(tmp_path: Path) -> None:
    page = render_page(StudyReport.read(write_study(tmp_path / "s", ("sde",), failed=None)))
    assert "There are no two methods to compare" in section(page, "answer")
    assert len(data_of(page)["methods"]) == 1


def test_every_method_is_cited_and_every_family_has_its_warning() -> None:
    from bench.records import HIGHER_IS_BETTER, LOWER_IS_BETTER

    for method in registry.BUILTIN:
        text = bibtex([method])
        entries = re.findall(r"^@(?:article|inproceedings)\{(\w+),$", text, re.M)
        assert entries, method
        assert text.count("{") == text.count("}")
        assert len(re.findall(r"^  (?:title|author|year) +=", text, re.M)) == 3 * len(entries)
    assert bibtex(["sde", "sde", "nosuch"]) == bibtex(["sde"])
    families = {*LOWER_IS_BETTER, *HIGHER_IS_BETTER}
    by_class = {family for family in families if family.endswith("c") and family[:-1] in families}
    assert MISSES.keys() >= families - by_class - {"fidc"}


@pytest.mark.parametrize("place", ["/a/b", "'/a b/c'", "x=y"])
@pytest.mark.parametrize("sign", [" ", "="])
def test_commands_are_told_without_their_places(study: Path, place: str, sign: str) -> None:
    report = StudyReport.read(study)
    for _, row in report.cells:
        row.environment["command"] = f"bench run --results{sign}{place} --seeds 0-2"
    assert page_content(report)["commands"] == ["bench run --seeds 0-2"]


def test_all_studies_are_listed(study: Path, tmp_path: Path) -> None:
    (tmp_path / "a b").mkdir()
    (tmp_path / "a b" / "report.html").write_text("")
    path = write_index(tmp_path, [["a b", "x"], ["<c>", "y"]], ["study", "data"])
    text = path.read_text()
    assert 'href="a%20b/report.html"' in text
    assert "&lt;c&gt;" in text
    assert text.count("<a ") == 1


def test_the_command_writes_pages_and_the_list(study: Path, call_bench: Bench) -> None:
    results = str(study.parent)
    done = call_bench("report", "digits-quick", "--results", results)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [f"{results}/digits-quick/report.html", f"{results}/index.html"]
    assert call_bench("report", "nosuch", "--results", results).returncode == 2


def test_a_command_ends_with_the_page_and_the_list(study: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(study, tmp_path / "results" / "s"))
    finish(copy)
    assert render_page(StudyReport.read(copy)) == (copy / "report.html").read_text()
    assert 'href="s/report.html"' in (tmp_path / "results" / "index.html").read_text()


# In a browser -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's Chromium, without any network."""
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("there is no chromium here")
    api = pytest.importorskip("playwright.sync_api", reason="there is no playwright here")
    with api.sync_playwright() as started:
        yield started.chromium.launch(executable_path=path, args=["--no-sandbox"])


class Visit:
    """A page that is open, and what it has said and asked for."""

    def __init__(self, browser: Any, path: Path, **options: Any) -> None:
        self.context = browser.new_context(offline=True, **options)
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.said.append(request.url))
        self.page.goto(path.as_uri())
        self.said = [text for text in self.said if not text.startswith(("file:", "data:"))]

    def column(self, key: str) -> list[str]:
        """The scoreboard's texts under a heading, or its names."""
        at = self.page.locator(f"th[data-key='{key}']").evaluate("x => x.cellIndex + 1")
        texts = self.page.locator(f"#scores tbody tr > :nth-child({at})").all_inner_texts()
        return [str(text) for text in texts]

    def drawn(self) -> list[str]:
        """The methods in the chart."""
        found = self.page.locator("#chart [data-method]")
        return [str(one.get_attribute("data-method")) for one in found.all()]


@pytest.fixture(scope="module")
def written(study: Path) -> Path:
    return write_page(StudyReport.read(study))


@pytest.fixture
def visit(browser: Any, written: Path) -> Iterator[Visit]:
    made = Visit(browser, written)
    yield made
    assert made.said == []
    made.context.close()


pytestmark = pytest.mark.xdist_group("page")
in_browser = pytest.mark.process


@in_browser
def test_sorting_puts_rows_in_order_and_anchors_last(visit: Visit) -> None:
    head = visit.page.locator("th[data-key='cost.train_flops'] button")
    for place in (0, -1):
        head.click()
        names = visit.column("method")
        assert names[-2:] == ["noise", "real (held-out)"]
        rows = {one["name"]: one["costs"] for one in data_of(visit.page.content())["methods"]}
        costs = [rows[name]["cost.train_flops"] for name in names[:-2]]
        assert costs == sorted(costs, reverse=place == -1)
    assert visit.page.locator("[aria-sort]").get_attribute("aria-sort") == "descending"


@in_browser
def test_axes_scales_and_hiding_do_what_they_say(visit: Visit) -> None:
    names = [one["name"] for one in data_of(visit.page.content())["methods"]]
    assert visit.drawn() == names
    for cost, title in (("cost.nfe", "network evaluations"), ("ledger.train", "training time")):
        visit.page.select_option("#cost", cost)
        assert title in str(visit.page.locator("#chart svg").get_attribute("aria-label"))
    visit.page.select_option("#metric", "is_digits_500")
    assert "Inception Score" in str(visit.page.locator("#chart svg").get_attribute("aria-label"))
    before = visit.page.locator(f"#chart [data-method='{names[0]}']").get_attribute("transform")
    visit.page.uncheck("#log-x")
    after = visit.page.locator(f"#chart [data-method='{names[1]}']").get_attribute("transform")
    assert before != after
    visit.page.click(f"#legend [data-method='{names[0]}']")
    assert visit.drawn() == names[1:]
    visit.page.click(f"#legend [data-method='{names[1]}']", modifiers=["Shift"])
    assert visit.drawn() == [names[1]]
    visit.page.click(f"#legend [data-method='{names[1]}']", modifiers=["Shift"])
    assert visit.drawn() == names
    visit.page.hover(f"#chart [data-method='{names[1]}']")
    assert visit.page.locator("#hover").inner_text().startswith(f"{names[1]}: Inception Score")


@in_browser
def test_the_front_is_of_what_nothing_is_better_and_cheaper_than(visit: Visit) -> None:
    path = str(visit.page.locator("#chart .front").get_attribute("d"))
    methods = data_of(visit.page.content())["methods"]
    points = [
        (one["costs"]["cost.train_flops"], one["metrics"]["fd_digits_500"]["value"])
        for one in methods
    ]
    best = [p for p in points if not any(q[0] <= p[0] and q[1] <= p[1] and q != p for q in points)]
    assert path.count("H") + 1 == len(best)


@in_browser
def test_copies_are_what_is_shown(visit: Visit) -> None:
    visit.context.grant_permissions(["clipboard-read", "clipboard-write"])

    def copied(selector: str) -> str:
        visit.page.click(selector)
        visit.page.locator(selector, has_text="Copied").wait_for()
        return str(visit.page.evaluate("navigator.clipboard.readText()"))

    rows = copied("[data-table=markdown]").splitlines()
    assert [line.split(" | ")[0].strip("| ") for line in rows[2:]] == visit.column("method")
    assert all(line.count("|") == 9 for line in rows)
    assert len(copied("[data-table=csv]").splitlines()) == len(rows) - 1
    latex = copied("[data-table=latex]")
    assert latex.count(r"\\") == len(rows) - 1
    assert r"$\pm$" in latex
    visit.page.check("#all-metrics")
    assert copied("[data-table=markdown]").splitlines()[0].count("|") == 10


@in_browser
def test_everything_is_reached_by_the_keyboard(visit: Visit) -> None:
    reached = set()
    for _ in range(80):
        visit.page.keyboard.press("Tab")
        reached.add(visit.page.evaluate(
            "(document.activeElement.dataset.method ?? document.activeElement.id)"
            " || document.activeElement.closest('th')?.dataset.key"
            " || document.activeElement.textContent"
        ))  # fmt: skip
    names = {one["name"] for one in data_of(visit.page.content())["methods"]}
    assert {"cost", "metric", "all-metrics", "log-y", "ledger.train", "method", *names} <= reached
    visit.page.locator("th[data-key='cost.nfe'] button").focus()
    visit.page.keyboard.press("Enter")
    assert visit.page.locator("th[data-key='cost.nfe']").get_attribute("aria-sort") == "ascending"


@in_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_has_no_known_fault_of_access(browser: Any, written: Path, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="there is no axe")
    made = Visit(browser, written, color_scheme=scheme)
    made.page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true })")
    found = axe.Axe().run(made.page).response["violations"]
    assert [(one["id"], one["nodes"][0]["html"][:200]) for one in found] == []
    assert made.said == []


@in_browser
def test_without_scripts_and_on_paper_the_answer_is_there(browser: Any, written: Path) -> None:
    made = Visit(browser, written, java_script_enabled=False)
    assert made.page.locator("noscript img, #quality img").count() >= 1
    assert not made.page.locator("#all-metrics").is_visible()
    made.page.emulate_media(media="print")
    assert made.page.locator("#answer").is_visible()
    assert not made.page.locator("nav").is_visible()


def test_the_content_is_strict_json(study: Path) -> None:
    json.dumps(page_content(StudyReport.read(study)), allow_nan=False)
