"""MLflow's own pages in a real browser, opened by the link that ``bench ui`` prints."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.tracking.store import URI
from bench.tracking.ui import _show_links, serving

from .fake_study import make_record, write_cell
from .stores import reopen, runs

LEAD = "quality/fd_digits_500"


@pytest.fixture
def page() -> Iterator[Any]:
    """A page of the installed Chromium, wide enough for all columns."""
    api = pytest.importorskip("playwright.sync_api", reason="there is no playwright here")
    if not (path := shutil.which("chromium") or shutil.which("chromium-browser")):
        pytest.skip("there is no chromium here")
    with api.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser.new_page(viewport={"width": 2600, "height": 1000})
        browser.close()


@pytest.mark.slow
@pytest.mark.usefixtures("processes")
def test_the_printed_links_open_on_quality_against_cost(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], page: Any
) -> None:
    monkeypatch.delenv(URI, raising=False)
    study = results / "quick"
    for method in ("sde", "smm"):
        row = make_record(study, method, 0, data={"sha256": "ab" * 32})
        name = LEAD.partition("/")[2]
        row.metrics[name] = row.metrics[name].model_copy(update={"error": 0.25})
        write_cell(study / row.cell, row)
    tracker = reopen(results)
    assert tracker.sync_study(study), tracker.trouble
    for run in runs(tracker):
        assert run.inputs.dataset_inputs
        assert {
            "mlflow.source.name",
            "mlflow.source.git.commit",
            "mlflow.user",
        } <= run.data.tags.keys()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with serving(results, port) as (base, _):
        _show_links(tracker.client, base, is_opened=False)
        charts, table = (line.split(": ", 1)[1] for line in capsys.readouterr().out.splitlines())
        page.goto(charts)
        for axis in ("cost/train_flops", "timing/ms_per_image"):
            page.locator(f".xtitle:has-text('{axis}')").wait_for(timeout=30_000)
        assert page.locator(".ytitle").all_text_contents() == [LEAD, LEAD]
        bars = page.locator(".barlayer .point")
        bars.first.wait_for(timeout=30_000)
        # The others are folded away.
        assert bars.count() == 2
        page.goto("about:blank")
        page.goto(table)
        for column in (f"metrics.`{LEAD}`", f"metrics.`{LEAD}_error`", "tags.`method`"):
            page.locator(f'.ag-header-cell[col-id="{column}"]').wait_for(timeout=30_000)
        cells = page.locator(f'.ag-row .ag-cell[col-id="metrics.`{LEAD}_error`"]')
        cells.first.wait_for(timeout=30_000)
        assert [text for text in cells.all_inner_texts() if text != "-"] == ["0.25", "0.25"]
        methods = page.locator('.ag-row .ag-cell[col-id="tags.`method`"]')
        assert [text for text in methods.all_inner_texts() if text != "-"] == ["sde", "smm"]
