"""How long do the dashboard's pages take with a run of many devices and rounds, and how much memory?

Makes two runs from simple laws where the folder has none yet (minutes at full size), serves them with `dfl-ray
dashboard`, and opens the pages in headless Chromium. A page stands when every figure in view and every table that comes
later is drawn. A first visit has a new browser, and a new server where the row says so; the best, the middle and the
worst of several tries are printed, since other work on the machine makes all of it slower.

    python -m benchmarks.dashboard_speed FOLDER --devices 10000 --rounds 100 --tries 3
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.result import with_origin
from tests.fake_run import Fake, write_fake_run

STANDS = (
    "(() => { const near = [...document.querySelectorAll('.figure')].filter("
    "holder => holder.getBoundingClientRect().top < innerHeight + 300);"
    " return near.every(holder => holder.drawn) && !document.querySelector('[data-later] .faint'); })()"
)
LIST, RUN, DEVICE, COMPARED = "", "run?run=one", "device?run=one&device=3", "compare?run=one&run=other"


@contextmanager
def served(runs: Path) -> Iterator[tuple[str, int]]:
    """`dfl-ray dashboard` of a folder in a process of its own.

    Args:
        runs: The folder.

    Yields:
        Its address and its process number.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "dfl_ray", "dashboard", str(runs), "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        said = process.stdout.readline()
        found = re.search(r"http://\S+", said)
        if found is None:
            raise SystemExit(f"The dashboard did not start: {said}")
        yield found[0], process.pid
    finally:
        process.terminate()
        process.wait(20)


def peak_mb(process: int) -> float:
    """Largest resident memory so far, from /proc (Linux).

    Args:
        process: Its number.

    Returns:
        Megabytes.
    """
    status = Path(f"/proc/{process}/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) / 1024


def visit_s(page: Any, address: str) -> float:
    """Open a page and wait until all in view stands.

    Args:
        page: A page of playwright.
        address: Where to go.

    Returns:
        Seconds from the click.
    """
    begun = time.perf_counter()
    page.goto(address)
    while not page.evaluate(STANDS):
        page.wait_for_timeout(10)
    return time.perf_counter() - begun


def one_try(runs: Path, browser: Callable[[], Any]) -> tuple[dict[str, float], float]:
    """Visit all pages once.

    Args:
        runs: Folder of runs.
        browser: Starts one.

    Returns:
        Page -> seconds, and the server's peak memory in megabytes.
    """
    took: dict[str, float] = {}
    with served(runs) as (place, process):
        for name, pages in {
            "list of runs, new server and browser": {"": LIST},
            "a run, new browser": {"": RUN, ", once more": RUN},
            "a device, new browser": {"": DEVICE, ", once more": DEVICE},
            "two runs compared, new browser": {"": COMPARED, ", once more": COMPARED},
        }.items():
            opened = browser()
            page = opened.new_page(viewport={"width": 1280, "height": 900})
            for how, address in pages.items():
                took[name + how] = visit_s(page, place + address)
            opened.close()
        memory = peak_mb(process)
    with served(runs) as (place, _):
        opened = browser()
        took["a run, new server and browser"] = visit_s(
            opened.new_page(viewport={"width": 1280, "height": 900}), place + RUN
        )
        opened.close()
    return took, memory


def make_runs(folder: Path, devices: int, rounds: int) -> None:
    """Make the two runs that are shown, where they are not there.

    Args:
        folder: Where.
        devices: Devices of each.
        rounds: Rounds of each.
    """
    for name, method in (("one", "sparse_orthogonal"), ("other", "dlora")):
        if not (folder / name).exists():
            write_fake_run(folder, name, Fake(devices=devices, rounds=rounds, every=10, method=method))


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder for the made-up runs; kept")
    parser.add_argument("--devices", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--tries", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    options = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("There is no Chromium on this machine (Debian: apt-get install chromium).")
    make_runs(options.folder, options.devices, options.rounds)
    from playwright.sync_api import sync_playwright

    load = os.getloadavg()[0]
    with sync_playwright() as driver:
        tries = [
            one_try(
                options.folder,
                lambda: driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"]),
            )
            for _ in range(options.tries)
        ]
    print(f"{options.devices:,} devices, {options.rounds} rounds, {options.tries} tries; load {load:.1f}")
    print("| | best s | median s | worst s |\n|---|---:|---:|---:|")
    for name in tries[0][0]:
        seconds = [took[name] for took, _ in tries]
        print(f"| {name} | {min(seconds):.2f} | {median(seconds):.2f} | {max(seconds):.2f} |")
    print(f"Peak memory of the server: {max(memory for _, memory in tries):.0f} MB")
    if options.json:
        pages = {name: [took[name] for took, _ in tries] for name in tries[0][0]}
        print(json.dumps(with_origin({"load": load, "pages_s": pages})))


if __name__ == "__main__":
    main()
