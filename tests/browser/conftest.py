"""The headless browser that the tests of pages share."""

from __future__ import annotations

import os
import shutil

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="session")
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    flags = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with playwright.sync_playwright() as driver:
        instance = driver.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield instance
        instance.close()


NOTHING_IS_CUT = """() => [...document.querySelectorAll(".figure h3, .xtitle, .legendtext")].every(title => {
    const box = title.getBoundingClientRect(), frame = title.closest('.figure').getBoundingClientRect()
    return box.left >= frame.left - 1 && box.right <= frame.right + 1 && box.top >= frame.top - 1
})"""


@pytest.fixture(scope="session")
def nothing_is_cut():
    """Tells whether every title, legend and name of an axis of a page lies inside its own figure."""
    return lambda page: page.evaluate(NOTHING_IS_CUT)
