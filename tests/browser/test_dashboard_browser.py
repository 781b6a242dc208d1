"""The dashboard in headless Chromium: every figure draws at two widths, a new round is seen, nothing complains."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from benchmarks.dashboard_pictures import dashboard
from dfl_ray.views import FIGURES
from dfl_ray.views.catalog import DEVICE_FIGURES
from tests.fake_run import Fake, write_fake_run, write_next_round

pytestmark = [pytest.mark.browser, pytest.mark.slow]

DRAWN = "[...document.querySelectorAll('.figure')].every(holder => holder.drawn)"
LIVE = Fake(rounds=3, every=1, state="running")
HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        write_fake_run(folder, f"one-{seed}", Fake(rounds=2, every=1, seed=seed, tasks=(HOSTILE, "sum")))
    write_fake_run(folder, "live", LIVE)
    return folder


@pytest.fixture(scope="module")
def place(runs: Path):
    with dashboard(runs) as address:
        yield address


class Visit:
    """One tab, with what it asked for and what it complained about; kept, so that plotly.js is read but once."""

    def __init__(self, browser, place: str) -> None:
        self.place = place
        self.page = browser.new_page(viewport={"width": 1280, "height": 900})
        self.page.set_default_timeout(240_000)
        self.complaints: list[str] = []
        self.asked: list[str] = []
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on(
            "console", lambda m: self.complaints.append(m.text) if m.type in ("error", "warning") else None
        )
        self.page.on("dialog", lambda dialog: self.complaints.append(dialog.message))
        self.page.on("request", lambda request: self.asked.append(request.url))

    def go(self, address: str) -> None:
        self.asked.clear()
        self.page.set_viewport_size({"width": 1280, "height": 900})
        self.page.goto(self.place + address)

    def until(self, script: str, within_s: float = 240.0) -> None:
        # `wait_for_function` would need `eval`, which the pages forbid.
        end = time.monotonic() + within_s
        while not self.page.evaluate(script):
            assert time.monotonic() < end, f"never: {script}; {self.complaints}"
            self.page.wait_for_timeout(30)

    def show(self, name: str) -> None:
        """Scroll to a figure and wait until nothing moves: all in view is drawn, the figure too and still in view."""
        holder = f"document.querySelector('.figure[data-name={name}]')"
        for wanted in (f"inView.has({holder})", "[...inView].every(one => one.drawn)"):
            self.page.evaluate(f"{holder}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
            self.until(wanted)
        self.page.evaluate(f"{holder}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
        self.until(f"inView.has({holder}) && [...inView].every(one => one.drawn)")

    def draw_all(self) -> list[str]:
        """Scroll through the page until all is drawn; the names of the figures."""
        self.page.evaluate(
            "document.querySelectorAll('.figure').forEach(holder => { if (!holder.ticket) draw(holder); })"
        )
        self.until(DRAWN)
        return self.page.evaluate(
            "[...document.querySelectorAll('.figure')].map(holder => holder.dataset.name)"
        )


@pytest.fixture(scope="module")
def visit(browser, place: str) -> Visit:
    return Visit(browser, place)


def test_every_figure_of_every_page_is_drawn_wide_and_narrow(visit: Visit, nothing_is_cut):
    several = [name for name, entry in FIGURES.items() if entry.several is not None]
    for address, wanted in (
        ("run?run=one-0", list(FIGURES)),
        ("device?run=one-0&device=3", list(DEVICE_FIGURES)),
        ("compare?run=one-0&run=one-1", several),
        ("", []),
    ):
        visit.go(address)
        assert visit.draw_all() == wanted
        assert visit.page.evaluate("document.documentElement.scrollWidth") == 1280, address
        visit.page.set_viewport_size({"width": 400, "height": 900})
        visit.until(
            "[...document.querySelectorAll('.figure .main-svg')].every(svg => svg.clientWidth <= 400)"
        )
        assert visit.page.evaluate("document.documentElement.scrollWidth") == 400, address
        assert nothing_is_cut(visit.page), address
        assert all(url.startswith((visit.place, "data:")) for url in visit.asked)
        assert visit.page.locator("img").count() == 0
    assert not visit.complaints


def test_a_new_round_is_seen_without_loading_the_page_anew_and_the_map_plays(visit: Visit, runs: Path):
    visit.go("run?run=live")
    visit.until("document.querySelector('.figure').drawn")
    visit.page.evaluate("window.mark = 1")
    write_next_round(runs / "live", LIVE)
    last = "Math.max(...document.querySelector('.figure').spec.data.at(-2).x)"
    visit.until(f"{last} === 4")
    assert visit.page.evaluate("window.mark") == 1
    assert visit.page.locator("#play output").inner_text() == "round 4"
    visit.show("device_map")
    visit.asked.clear()
    visit.page.locator("#play button").click()
    visit.until("document.querySelector('#play output').textContent === 'round 4' && !playing")
    asked = {url.split("round=")[1] for url in visit.asked if "name=device_map" in url and "round=" in url}
    assert asked == {"1", "2", "3", "4"} and not visit.complaints
