"""The report page in a real headless Chromium: drawn, sorted, filtered, shared by link, and quiet on the console.

    pip install '.[browser]' && apt-get install chromium && python -m pytest -m browser tests/browser

Skipped where either is not there.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ray_warmup.scripts.reports.report_page import report_page
from ray_warmup.warmup.engines.reports.report import EngineReport, KindReport, NodeReport
from tests.page_reports import report

pytestmark = pytest.mark.browser

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
MAX_BYTES = 3_000_000
BUSY_S = 2.0
SIZES = ((1, 39), (8, 84), (256, 5000))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One headless Chromium."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra `browser`)")
    if CHROMIUM is None:
        pytest.skip("no chromium on the path (Debian's package `chromium`)")
    with playwright.sync_playwright() as api:
        running = api.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


class Page:
    """One page, and whatever its console said."""

    def __init__(self, browser: Any, path: Path, **context: Any) -> None:
        self.said: list[str] = []
        self.asked: list[str] = []
        self._context = browser.new_context(**({"viewport": {"width": 1280, "height": 900}} | context))
        self.page = self._context.new_page()
        self._cdp = self._context.new_cdp_session(self.page)
        self._cdp.send("Performance.enable", {"timeDomain": "threadTicks"})
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.path = path

    def open(self, anchor: str = "") -> float:
        """Load it until everything is drawn, and return after how many ms the table of tasks could be used."""
        self.page.goto("about:blank")
        self.page.goto(f"file://{self.path}{anchor}")
        self.page.wait_for_selector("body[data-drawn='yes']")
        return float(self.page.evaluate("Number(document.body.dataset.interactive)"))

    def busy_s(self) -> float:
        """CPU seconds of the page's main thread since it was first opened, which other processes do not change."""
        found = {row["name"]: row["value"] for row in self._cdp.send("Performance.getMetrics")["metrics"]}
        return float(found["TaskDuration"])

    def column(self, field: str) -> list[str]:
        """Texts of the rows that are drawn."""
        found: list[str] = self.page.locator(
            f"#tasks-table .tabulator-row .tabulator-cell[tabulator-field='{field}']"
        ).all_inner_texts()
        return found

    def close(self) -> None:
        """Close it, and assert that nothing was said and nothing was fetched."""
        self._context.close()
        assert self.said == []
        assert [url for url in self.asked if not url.startswith(("file://", "about:", "data:"))] == []


def write(tmp_path: Path, num_ranks: int, num_tasks: int, *, is_ready: bool = True) -> Path:
    """The page of a run of this size."""
    path = tmp_path / "report.html"
    path.write_bytes(report_page(report(num_ranks, num_tasks, is_ready=is_ready)))
    return path


@pytest.mark.parametrize(("num_ranks", "num_tasks"), SIZES)
def test_a_run_of_any_size_is_soon_interactive(browser: Any, tmp_path: Path, num_ranks: int, num_tasks: int) -> None:
    """Everything is drawn within two seconds of the main thread's CPU time, and every section is."""
    path = write(tmp_path, num_ranks, num_tasks)
    page = Page(browser, path)
    interactive_ms = page.open()
    busy_s = page.busy_s()
    size = path.stat().st_size
    print(
        f"{num_ranks} ranks, {num_tasks} tasks: {size} bytes; interactive after {interactive_ms:.0f} ms, "
        f"all drawn with {busy_s:.2f} s of CPU time"
    )
    assert size < MAX_BYTES
    assert busy_s < BUSY_S
    assert page.page.locator(".rank").count() == num_ranks
    assert page.page.locator("main section[hidden]").count() == 0
    assert page.page.locator("#shown").inner_text() == f"{num_tasks} of {num_tasks} tasks"
    page.close()


def test_text_of_a_report_stays_text(browser: Any, tmp_path: Path) -> None:
    """A warning, a model's name and an error that close the script element run nothing and are shown as they are."""
    page = Page(browser, write(tmp_path, 8, 84, is_ready=False))
    page.open()
    assert page.page.title().endswith(": FAILED")
    assert page.page.locator("#outcome").inner_text() == "FAILED"
    assert "</script><img src=x" in page.page.locator("#error").inner_text()
    assert "</script><img src=x" in page.page.locator("#warnings li").first.inner_text()
    assert page.page.locator("img").count() == 0
    page.close()


def test_tasks_are_sorted_by_a_click(browser: Any, tmp_path: Path) -> None:
    """By number, in both directions."""
    page = Page(browser, write(tmp_path, 8, 84))
    page.open()
    header = page.page.locator("#tasks-table .tabulator-col[tabulator-field='ratio']")
    seen = []
    for _ in range(2):
        header.click()
        seen.append([float(text) for text in page.column("ratio") if text])
    assert seen[0] == sorted(seen[0])
    assert seen[1] == sorted(seen[1], reverse=True)
    assert seen[0][0] < seen[1][0]
    page.close()


def test_tasks_are_filtered_and_shared_by_link(browser: Any, tmp_path: Path) -> None:
    """Another browser that opens the link sees the same rows in the same order."""
    page = Page(browser, write(tmp_path, 8, 84))
    page.open()
    page.page.select_option("#decision", "slower")
    page.page.fill("#find", "fp8")
    page.page.locator("#tasks-table .tabulator-col[tabulator-field='bucket']").click()
    rows = page.column("task")
    assert rows
    assert set(page.column("decision")) == {"slower"}
    assert all("fp8" in row for row in rows)
    link = page.page.evaluate("location.hash")

    other = Page(browser, page.path)
    other.open(link)
    assert other.column("task") == rows
    assert other.page.locator("#shown").inner_text() == page.page.locator("#shown").inner_text()
    other.page.fill("#find", "")
    other.page.select_option("#decision", "")
    assert other.page.locator("#shown").inner_text() == "84 of 84 tasks"
    page.close()
    other.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_a_page_fits_its_screen(browser: Any, tmp_path: Path, width: int, scheme: str) -> None:
    """Nothing is wider than the screen, and text differs from its background in both schemes."""
    context = {"viewport": {"width": width, "height": 900}, "color_scheme": scheme}
    page = Page(browser, write(tmp_path, 256, 5000), **context)
    page.open()
    page.page.screenshot(path=tmp_path / f"{scheme}-{width}.png", full_page=True)
    assert page.page.evaluate("document.documentElement.scrollWidth") <= width
    task = page.page.locator("#tasks-table .tabulator-cell[tabulator-field='task']").first
    assert task.evaluate("cell => cell.scrollWidth <= cell.clientWidth"), task.inner_text()
    assert "k=256,n=1024@1" in task.inner_text()
    colors = page.page.evaluate(
        "[...document.querySelectorAll('body, .tabulator-row, .tabulator-col')].map((element) => {"
        "const style = getComputedStyle(element); return [style.color, style.backgroundColor]; })"
    )
    light = {luminance(color) > 128 for color, _ in colors}
    dark = {luminance(background) > 128 for _, background in colors}
    assert (light, dark) == ({scheme == "dark"}, {scheme == "light"})
    page.close()


def luminance(color: str) -> float:
    """Of `rgb(r, g, b)`, from 0 to 255."""
    red, green, blue = (float(part) for part in color.strip("rgba()").split(",")[:3])
    return 0.299 * red + 0.587 * green + 0.114 * blue


def test_the_page_of_a_real_engine(browser: Any, tmp_path: Path) -> None:
    """Cold and warm starts as bars, and a row for each node, rank and kind; there are no tasks."""
    kinds = tuple(KindReport(0, kind, 12, 40, 40, 12, 0) for kind in ("torch_compile", "triton"))
    nodes = tuple(
        NodeReport(f"{number}" * 56, f"10.0.0.{number}", "installed", "ab" * 32, kinds, "now", 17.7, 0.4, ())
        for number in range(2)
    )
    path = tmp_path / "engine.html"
    document = EngineReport("engine-1", {"engine": {"args": {"model": "m"}}}, {"RECORDING": 150.0}, nodes, 143.7)
    path.write_bytes(report_page(document))
    page = Page(browser, path)
    page.page.goto(f"file://{path}")
    page.page.wait_for_selector("body[data-drawn='yes']")
    assert page.page.locator("#kinds-table .tabulator-row").count() == 4
    assert page.page.locator("#starts-plot").is_visible()
    assert not page.page.locator("#tasks").is_visible()
    assert "126.0 s" in page.page.locator("#facts").inner_text()
    page.close()
