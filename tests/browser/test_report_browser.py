"""The report in headless Chromium: every picture draws, nothing is fetched, nothing complains."""

from __future__ import annotations

from pathlib import Path

import pytest

from dfl_ray.views import FIGURES, write_report
from tests.fake_run import TASKS, Fake, write_fake_run

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def open_report(browser, report: Path):
    page = browser.new_page(viewport={"width": 1150, "height": 900})
    asked: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.goto(report.as_uri())
    count = page.locator(".figure").count()
    page.wait_for_function(
        f"document.querySelectorAll('.figure .main-svg').length >= {count}", timeout=60_000
    )
    return page, lambda: complaints + [url for url in asked if not url.startswith("file:")]


def fits_a_phone_and_paper(page, nothing_is_cut) -> bool:
    """Narrow the page: it must not scroll sideways; then print it: its closed parts must open."""
    page.set_viewport_size({"width": 400, "height": 900})
    page.wait_for_function(
        "[...document.querySelectorAll('.figure .main-svg')].every(svg => svg.clientWidth <= 400)"
    )
    narrow = page.evaluate("document.documentElement.scrollWidth") == 400 and nothing_is_cut(page)
    page.emulate_media(media="print")
    return narrow and page.evaluate(
        "(dispatchEvent(new Event('beforeprint')), document.querySelector('details').open)"
    )


def test_a_report_draws_everything_and_fetches_nothing(browser, nothing_is_cut, tmp_path: Path):
    run = write_fake_run(tmp_path, fake=Fake(rounds=2, every=1))
    page, complaints = open_report(browser, write_report([run], tmp_path / "report.html"))
    assert page.locator(".figure").count() == len(FIGURES)
    titles = page.locator(".figure h3").all_text_contents()
    assert "Accuracy per task over rounds" in titles and "Devices, clusters and links" in titles
    first = page.locator(".figure").first
    assert first.locator(".scatterlayer .trace").count() == len(TASKS) + 2
    assert nothing_is_cut(page) and fits_a_phone_and_paper(page, nothing_is_cut) and not complaints()
    page.close()
