"""The commands of docs/cluster.md, section "On one machine first", against a Ray of `ray start`."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dfl_ray.records import comparable, load_run

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.ray, pytest.mark.exhaustive, pytest.mark.timeout(1800)]


def free_port() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


class Page:
    """The page's commands with ports and folders of this test, in its folder and with its Python."""

    def __init__(self, tmp_path: Path) -> None:
        text = (ROOT / "docs/cluster.md").read_text().split("## On one machine first")[1]
        blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
        ports = {"6399": free_port(), "8299": free_port()}
        self.runs = tmp_path / "runs"
        self.start, *rest = [
            re.sub("6399|8299", lambda m: ports[m[0]], block)
            .replace("$PWD/runs", str(self.runs))
            .splitlines()
            for block in blocks
        ]
        self.commands = [line for block in rest for line in block]
        hidden = ("RAY_ADDRESS", "PYTHONPATH")
        self.environment = {k: v for k, v in os.environ.items() if k not in hidden} | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "WANDB_MODE": "disabled",
        }  # fmt: skip

    def run(self, command: str) -> str:
        done = subprocess.run(
            command,
            shell=True,
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    """The page with its cluster up; it is ended by the process that started it, no other Ray is touched."""
    made = Page(tmp_path)
    (command,) = made.start
    short = tempfile.mkdtemp(prefix="dfl")  # the path of a socket has 107 bytes at most
    log = (tmp_path / "ray.txt").open("w")
    process = subprocess.Popen(
        f"exec {command} --temp-dir={short}", shell=True, cwd=ROOT, env=made.environment, stdout=log,
        stderr=log, start_new_session=True,
    )  # fmt: skip
    try:
        for _ in range(3000):
            said = (tmp_path / "ray.txt").read_text()
            if "Ray runtime started" in said:
                break
            assert process.poll() is None, said
            time.sleep(0.1)
        yield made
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(60)
        finally:
            os.killpg(process.pid, signal.SIGKILL) if process.poll() is None else None
            log.close()
            shutil.rmtree(short, ignore_errors=True)


def test_the_commands_do_what_the_page_says(page: Page) -> None:
    first, again, submitted = page.commands
    page.run(first)
    assert "is done already" in page.run(again)
    page.run(submitted)
    joined, job = load_run(page.runs / "joined"), load_run(page.runs / "submitted")
    assert joined.info["state"] == job.info["state"] == "done"
    assert comparable(joined.rounds).equals(comparable(job.rounds)) and joined.last_round == 2
