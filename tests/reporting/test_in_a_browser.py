"""The page in a real browser: it is driven like a reader would, and must not ask for anything or break its own policy."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from fxquant.reporting.report import write_report
from support.reporting import called, compiled_pair, draw

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
BROWSER = os.environ.get("FXQUANT_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)

playwright = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed: pip install 'fxquant[browser]'"
)
pytestmark = pytest.mark.skipif(
    BROWSER is None, reason=f"no browser: none of {', '.join(NAMES)} is on the PATH, and FXQUANT_CHROMIUM is not set"
)


@dataclass
class Visit:
    """A page that is open, with everything it asked for or complained about."""

    page: Any
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def shown(self, selector: str) -> list[str]:
        """What can be read of the elements that are to be seen."""
        visible = "found => found.filter(e => e.checkVisibility()).map(e => e.innerText ?? e.tagName)"
        return self.page.eval_on_selector_all(selector, visible)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_report(compiled_pair("encoder")[1], tmp_path_factory.mktemp("report") / "r.html", draw=draw).as_uri()


def opened(browser: Any, address: str, **options: Any) -> Visit:
    visit = Visit(browser.new_page(**options))
    visit.page.on("request", lambda request: visit.requests.append(request.url))
    visit.page.on("console", lambda message: visit.complaints.append(message.text))
    visit.page.on("pageerror", lambda error: visit.complaints.append(str(error)))
    visit.page.on("dialog", lambda dialog: (visit.complaints.append(dialog.message), dialog.dismiss()))
    visit.page.goto(address)
    return visit


@pytest.fixture
def visit(browser: Any, report: str) -> Iterator[Visit]:
    visit = opened(browser, report, viewport={"width": 1400, "height": 900})
    yield visit
    assert visit.requests == [report], "the page asked for something"
    assert visit.complaints == []
    visit.page.close()


def test_a_heading_sorts_its_column_both_ways_and_says_so(visit):
    heading = visit.page.locator("#ledger-table th[data-key=sqnr]")
    cells = "#ledger-table tbody td:nth-child(6)"
    heading.locator("button").click()
    numbers = [float(text.split()[0]) for text in visit.shown(cells) if text]
    assert numbers == sorted(numbers) and len(set(numbers)) > 5
    assert heading.get_attribute("aria-sort") == "ascending"
    heading.locator("button").press("Enter")
    assert [float(text.split()[0]) for text in visit.shown(cells) if text] == sorted(numbers, reverse=True)
    assert heading.get_attribute("aria-sort") == "descending"
    visit.page.locator("#ledger-table th[data-key=module] button").click()
    assert heading.get_attribute("aria-sort") is None
    names = visit.shown("#ledger-table tbody th")
    assert names == sorted(names)


def test_the_filter_box_the_chips_and_the_toggle_agree(visit):
    rows = "#ledger-table tbody tr"
    every = len(visit.shown(rows))
    visit.page.locator("#only-float").click()
    floats = visit.shown(rows)
    assert 0 < len(floats) < every and all("FXQ20" in text for text in floats)
    visit.page.locator("[data-chip=code][data-value=FXQ208]").click()
    assert {text.split("\t")[2] for text in visit.shown(rows)} == {"GELU"}
    visit.page.locator("#ledger-filter").fill("layers.0 gelu")
    assert len(visit.shown(rows)) == 1
    assert visit.page.locator("#ledger-count").inner_text() == f"1 of {every} layers"
    visit.page.locator("#ledger-filter").fill("no such layer")
    assert visit.shown(rows) == [] and visit.page.locator("#ledger-empty").is_visible()
    visit.page.locator("#ledger-reset").click()
    assert len(visit.shown(rows)) == every
    assert visit.page.locator("[aria-pressed=true]").count() == 0


def test_a_code_folds_out_its_page_in_the_row(visit):
    fold = visit.page.locator("details.code").first
    assert not fold.locator("h4").first.is_visible()
    fold.locator("summary").click()
    assert fold.locator("h4").all_inner_texts() == ["Why", "What to do", "Example"]


def test_two_stages_are_chosen_and_their_diff_is_shown(visit):
    visit.page.locator("#diff-from").select_option("prepared")
    visit.page.locator("#diff-to").select_option("converted")
    assert [text.split(" →")[0] for text in visit.shown("details.pair > summary")] == ["prepared"]
    assert visit.page.locator("#diff-prepared-converted").is_visible()
    visit.page.locator("#diff-to").select_option("traced")
    assert visit.page.locator("#diff-from").input_value() == "traced"
    assert visit.shown("details.pair > summary")[0].startswith("traced → prepared")
    visit.page.locator("#diff-to").select_option("traced")
    assert visit.shown("details.pair > summary") == []
    assert "nothing differs" in visit.page.locator("#diff-told").inner_text()


def test_the_panel_shows_the_layer_that_is_pointed_at_or_reached_by_keyboard(visit):
    row = visit.page.locator("#layers-table tr[data-layer='7']")
    row.hover()
    assert visit.page.locator("#panel-module").inner_text() == row.locator("th").inner_text()
    assert visit.page.locator("#panel-sqnr").inner_text() in row.inner_text()
    visit.page.locator("#layers-table tr[data-layer='9'] button").focus()
    assert visit.page.locator("#layers-table tr.chosen").get_attribute("data-layer") == "9"
    assert visit.page.locator("#panel-chart svg").count() == 1


def test_a_picture_is_zoomed_by_its_buttons(visit):
    figure = visit.page.locator("#final")
    before = figure.locator(".canvas svg").bounding_box()["width"]
    figure.locator("[data-zoom=in]").click()
    assert figure.locator(".canvas svg").bounding_box()["width"] == pytest.approx(1.3 * before, rel=0.01)
    figure.locator("[data-zoom=real]").click()
    assert figure.locator(".zoom-level").inner_text() == "133 %"


@pytest.mark.parametrize("width", [390, 1400])
def test_the_page_is_no_wider_than_the_window(browser, report, width):
    visit = opened(browser, report, viewport={"width": width, "height": 800})
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
    visit.page.close()


def test_without_scripts_every_table_and_picture_is_still_there(browser, report):
    visit = opened(browser, report, java_script_enabled=False)
    assert len(visit.shown("#ledger-table tbody tr")) == len(compiled_pair("encoder")[1].ledger.layers)
    assert len(visit.shown("details.pair > summary")) == 15 and visit.shown("svg.histogram")
    assert visit.shown("#ledger-filter, .zoom, .panel") == []
    visit.page.close()


def test_hostile_names_run_nothing_and_stand_there_as_text(browser, tmp_path):
    name = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
    address = write_report(called(name), tmp_path / "r.html", draw=draw).as_uri()
    visit = opened(browser, address)
    assert visit.page.locator("h1").inner_text() == name
    assert visit.requests == [address] and visit.complaints == []
    visit.page.close()


def test_the_browser_holds_the_page_to_its_policy(browser, report, tmp_path):
    text = tmp_path / "changed.html"
    source = Path(report.removeprefix("file://"))
    text.write_text(
        source.read_text(encoding="utf-8").replace("</main>", "</main><script>document.title = 'broken'</script>"),
        encoding="utf-8",
    )
    visit = opened(browser, text.as_uri())
    assert visit.page.title() != "broken" and any("Content Security Policy" in told for told in visit.complaints)
    visit.page.close()
