"""Makes the dashboard's pictures in the documentation: a short film and three stills, from a headless Chromium.

    python benchmarks/dashboard_pictures.py RUNS RUN --other RUN [-o docs/pictures]

RUNS is a folder of runs, RUN the one that is shown, the other the one that it is compared with. Needs playwright,
pillow and a Chromium. The film: the list, a run, the router, the map played over the rounds, the schedule, a device, a
comparison.
"""

from __future__ import annotations

import argparse
import io
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

WIDTH, HEIGHT = 1000, 720
FILM_WIDTH = 900
STILL_HEIGHT = 1_500
COLOURS = 255
STILL_MS, MOVING_MS = 1_800, 350


@contextmanager
def dashboard(runs: Path) -> Iterator[str]:
    """Serve the dashboard of a folder.

    Args:
        runs: The folder.

    Yields:
        Its address.
    """
    import uvicorn

    from dfl_ray.dashboard.server import make_app, open_socket

    opened = open_socket(0)
    server = uvicorn.Server(uvicorn.Config(make_app(runs), log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{opened.getsockname()[1]}/"
    server.should_exit = True
    thread.join(timeout=10)


class Film:
    """Screenshots one after the other, each with the time for which it is shown.

    Args:
        page: A page of playwright.
        place: Address of the dashboard.
    """

    def __init__(self, page: Any, place: str) -> None:
        self.page, self._place = page, place
        self._frames: list[Any] = []
        self._times_ms: list[int] = []

    def go(self, address: str) -> None:
        """Open a page and wait for all its figures."""
        self.page.goto(self._place + address)
        self.page.evaluate(
            "document.querySelectorAll('.figure').forEach(holder => { if (!holder.ticket) draw(holder); })"
        )
        self.wait()

    def wait(self) -> None:
        """Wait until every figure and table stands."""
        while not self.page.evaluate(
            "[...document.querySelectorAll('.figure')].every(holder => holder.drawn)"
            " && !document.querySelector('[data-later] .faint')"
        ):
            self.page.wait_for_timeout(30)
        self.page.wait_for_timeout(200)

    def show(self, figure: str) -> None:
        """Scroll to a figure."""
        self.page.evaluate(
            "name => { scrollTo(0, document.querySelector(`.figure[data-name=${name}]`).offsetTop - 70); }",
            figure,
        )
        self.page.wait_for_timeout(150)

    def take(self, time_ms: int = STILL_MS) -> None:
        """Add what is seen now."""
        from PIL import Image

        shot = Image.open(io.BytesIO(self.page.screenshot())).convert("RGB")
        height = round(shot.height * FILM_WIDTH / shot.width)
        self._frames.append(shot.resize((FILM_WIDTH, height), Image.Resampling.LANCZOS))
        self._times_ms.append(time_ms)

    def still(self, out: Path) -> None:
        """Write what is seen from here in a higher window."""
        self.page.set_viewport_size({"width": WIDTH, "height": STILL_HEIGHT})
        self.page.wait_for_timeout(500)
        self.page.screenshot(path=out)
        self.page.set_viewport_size({"width": WIDTH, "height": HEIGHT})
        self.page.wait_for_timeout(500)

    def save(self, out: Path) -> None:
        """Write the film as a GIF that repeats; all frames share one palette."""
        from PIL import Image

        frames = self._frames
        whole = Image.new("RGB", (FILM_WIDTH, sum(frame.height for frame in frames)))
        for index, frame in enumerate(frames):
            whole.paste(frame, (0, index * frame.height))
        # Colours of thin lines count as much as those of large areas.
        palette = whole.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        drawn = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
        drawn[0].save(
            out, save_all=True, append_images=drawn[1:], duration=self._times_ms, loop=0, optimize=True
        )


def play(film: Film, step: int) -> None:
    """Move map and schedule over the rounds, every `step` of them."""
    last = int(film.page.evaluate("document.querySelector('#play input').max"))
    for number in [*range(1, last, step), last]:
        film.page.evaluate("round => setRound(round)", number)
        film.take(MOVING_MS if number < last else STILL_MS)


def make(runs: Path, run: str, other: str, device: int, chromium: str, out: Path) -> None:
    """Take all pictures.

    Args:
        runs: Folder of runs.
        run: The run that is shown.
        other: The run that it is compared with.
        device: The device that is shown.
        chromium: The browser.
        out: Folder for the pictures.
    """
    from playwright.sync_api import sync_playwright

    of_run, of_device = f"run?run={quote(run)}", f"device?run={quote(run)}&device={device}"
    with dashboard(runs) as place, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        film = Film(page, place)
        film.go("")
        film.take()
        film.go(of_run)
        film.take()
        film.still(out / "dashboard_run.png")
        film.show("accuracy_over_rounds")
        film.take()
        film.show("routing")
        film.take()
        film.show("device_map")
        play(film, 2)
        page.screenshot(path=out / "dashboard_map.png")
        film.show("schedule")
        film.take()
        film.go(of_device)
        film.take()
        film.show("device_experts")
        film.take()
        film.go(f"compare?run={quote(run)}&run={quote(other)}")
        film.take()
        film.show("accuracy_over_bytes")
        film.take()
        film.save(out / "dashboard.gif")
        page.close()
        page = browser.new_page(viewport={"width": 400, "height": 800}, color_scheme="dark")
        phone = Film(page, place)
        phone.go(of_device)
        phone.show("device_experts")
        page.screenshot(path=out / "dashboard_phone.png")
        browser.close()


def main() -> None:
    """Read the command line and take the pictures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", type=Path, help="folder of runs")
    parser.add_argument("run", help="name of the run that is shown")
    parser.add_argument("--other", required=True, help="name of the run that it is compared with")
    parser.add_argument("--device", type=int, default=3, help="device that is shown")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("docs/pictures"), help="folder for the pictures"
    )
    options = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("There is no Chromium on this machine (Debian: apt-get install chromium).")
    options.output.mkdir(parents=True, exist_ok=True)
    make(options.runs, options.run, options.other, options.device, chromium, options.output)
    size = (options.output / "dashboard.gif").stat().st_size
    print(f"Pictures: {options.output} (the film has {size / 1e6:.2f} MB)")


if __name__ == "__main__":
    main()
