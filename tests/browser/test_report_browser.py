"""The report in headless Chromium: every picture draws, nothing is fetched, nothing complains."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from dfl_ray.views import write_report
from tests.fake_run import TASKS, Fake, write_fake_run

pytestmark = [pytest.mark.browser, pytest.mark.slow]

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    flags = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with playwright.sync_playwright() as driver:
        instance = driver.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield instance
        instance.close()


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
    return page, [url for url in asked if not url.startswith("file:")], complaints


def inside(page, selector: str) -> bool:
    """Whether every matching title lies inside its own figure, that is, is not cut off."""
    script = """selector => [...document.querySelectorAll(selector)].every(title => {
        const box = title.getBoundingClientRect(), frame = title.closest('.figure').getBoundingClientRect()
        return box.left >= frame.left - 1 && box.right <= frame.right + 1 && box.top >= frame.top - 1
    })"""
    return page.evaluate(script, selector)


@pytest.mark.parametrize("devices", [10, 2000])
def test_report_draws_everything_and_fetches_nothing(browser, tmp_path: Path, devices: int):
    run = write_fake_run(tmp_path, fake=Fake(devices=devices, rounds=4, every=2))
    page, asked, complaints = open_report(browser, write_report([run], tmp_path / "report.html"))
    assert not asked and not complaints
    assert page.locator(".figure").count() == 11
    titles = page.locator(".gtitle").all_text_contents()
    assert "Accuracy per task over rounds" in titles and "Devices, clusters and links" in titles
    assert inside(page, ".gtitle") and inside(page, ".xtitle") and inside(page, ".legendtext")
    first = page.locator(".figure").first
    assert first.locator(".scatterlayer .trace").count() == len(TASKS) + 2
    page.close()


def test_comparison_draws_one_curve_a_run(browser, tmp_path: Path):
    runs = [
        write_fake_run(tmp_path, method, Fake(rounds=4, every=2, method=method))
        for method in ("sparse_orthogonal", "dlora")
    ]
    page, asked, complaints = open_report(browser, write_report(runs, tmp_path / "report.html"))
    assert not asked and not complaints
    assert page.locator(".figure").first.locator(".scatterlayer .trace").count() == 2
    page.close()
