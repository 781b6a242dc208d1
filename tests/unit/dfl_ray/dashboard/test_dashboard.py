"""The dashboard's server without a browser: who may ask, what is escaped, what is kept; and figures of one device."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from starlette.testclient import TestClient

from dfl_ray.cli import main
from dfl_ray.config.yamlio import parse
from dfl_ray.dashboard.ahead import Ahead
from dfl_ray.dashboard.library import Kept, Library
from dfl_ray.dashboard.pages import runs_table
from dfl_ray.dashboard.server import make_app, open_socket
from dfl_ray.errors import InputError
from dfl_ray.records import Run, load_run
from dfl_ray.records.info import read_info, write_info
from dfl_ray.records.states import RunState, run_state
from dfl_ray.views.catalog import DEVICE_FIGURES, FIGURES, draw
from dfl_ray.views.device import device_times, received_models
from tests.fake_run import Fake, write_fake_run, write_next_round

HOSTILE = "<script>alert(1)</script>"
FAKE = Fake(devices=6, rounds=3, every=1, tasks=(HOSTILE, "sum"))


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    write_fake_run(folder, "one", FAKE)
    write_fake_run(folder / "sweep", "two", Fake(devices=4, rounds=1, every=1))
    info = folder / "one" / "run.json"
    write_info(info, {**read_info(info), "name": HOSTILE})
    return folder


@pytest.fixture(scope="module")
def run(root: Path) -> Run:
    return load_run(root / "one")


@pytest.fixture(scope="module")
def client(root: Path) -> TestClient:
    return TestClient(make_app(root), base_url="http://127.0.0.1:8700")


PAGES = (
    "/",
    "/run?run=one",
    "/device?run=one&device=3",
    "/compare?run=one&run=sweep/two",
    "/tables?run=one&run=sweep/two",
    "/state?run=one&version=",
)


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8700", "127.0.0.1.evil.example", ""])
def test_a_foreign_host_is_refused(client: TestClient, host: str):
    assert client.get("/run?run=one", headers={"host": host}).status_code == 400


@pytest.mark.parametrize("host", ["localhost:9999", "127.0.0.1:8700", "[::1]:8700"])
def test_a_tunnel_with_another_port_is_served(client: TestClient, host: str):
    assert client.get("/", headers={"host": host}).status_code == 200


def test_nothing_but_reading_is_offered(client: TestClient):
    assert client.post("/run?run=one").status_code == 405
    assert client.delete("/").status_code == 405


@pytest.mark.parametrize("page", PAGES)
def test_pages_escape_what_a_run_says_name_no_host_and_run_no_foreign_script(client: TestClient, page: str):
    answer = client.get(page)
    assert answer.status_code == 200 and HOSTILE not in answer.text.replace("\\u003c", "<").replace(
        '\\"', '"'
    )
    assert "://" not in answer.text and "127.0.0.1" not in answer.text
    assert "script-src 'self';" in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "name", ["../one", "/etc", "..", "", "one/../../x", "one/devices.parquet", "sweep/two/x", "a\0b"]
)
def test_no_path_leads_out_of_the_folder(root: Path, client: TestClient, name: str):
    outside = root.parent / "one"
    outside.mkdir(exist_ok=True)
    (outside / "run.json").write_text("{}")
    assert client.get("/run", params={"run": name}).status_code == 404
    assert client.get("/figure", params={"run": name, "name": "loss"}).status_code == 404


def test_a_log_that_points_elsewhere_is_not_shown(root: Path, tmp_path: Path):
    secret = tmp_path / "secret"
    secret.write_text("secret")
    library = Library(root)
    (root / "one" / "log.txt").symlink_to(secret)
    assert library.log_tail("one") == ""
    (root / "one" / "log.txt").unlink()
    (root / "one" / "log.txt").write_text("x\n" * 40_000 + "end\n")
    assert library.log_tail("one").endswith("end\n") and len(library.log_tail("one")) <= 32_768


def test_a_run_that_cannot_be_read_is_listed_with_the_reason(tmp_path: Path):
    for name, text in (("broken", "{"), ("newer", '{"schema_version": 99}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(text)
    os.truncate(tmp_path / "broken" / "run.json", 20 << 20)
    client = TestClient(make_app(tmp_path), base_url="http://localhost")
    text = client.get("/").text
    assert text.count('class="state unreadable"') == 2 and "newer dfl-ray" in text and "16,777,216" in text
    assert client.get("/run?run=newer").status_code == 404


def test_a_run_that_writes_while_the_list_is_made_keeps_its_own_row(tmp_path: Path):
    for name in ("one", "two"):
        write_fake_run(tmp_path, name, Fake(devices=4, rounds=1, every=1))
    os.utime(tmp_path / "one" / "run.json", (2e9, 2e9))
    library = Library(tmp_path)
    state = library.state

    def writing(name: str) -> RunState:
        os.utime(tmp_path / "two" / "run.json", (2.1e9, 2.1e9))
        return state(name)

    library.state = writing  # type: ignore[method-assign]
    rows = re.findall(r'name="run" value="(\w+)".*?<a href="run\?run=(\w+)">(\w+)</a>', runs_table(library))
    assert rows == [("one", "one", "one"), ("two", "two", "two")]


WRONG = (
    "name=nothing", "name=loss&round=1", "name=schedule&round=9", "name=schedule&round=x", "name=device_links",
    "name=device_links&device=6",
)  # fmt: skip


@pytest.mark.parametrize("query", WRONG)
def test_a_wrong_figure_is_answered_with_one_sentence(client: TestClient, query: str):
    answer = client.get(f"/figure?run=one&{query}")
    assert answer.status_code == 404 and answer.headers["content-type"].startswith("text/plain")


def test_figures_are_those_of_the_catalogue(client: TestClient, run: Run):
    for name in FIGURES:
        assert client.get(f"/figure?run=one&name={name}").json()["layout"]["title"]["text"]
    found = client.get("/figure?run=one&name=schedule&round=2").json()
    assert found == json.loads(str(draw("schedule", [run], round=2).to_json()))
    assert found["layout"]["title"]["text"] == "Schedule of round 2"


def test_a_new_round_is_told_once_and_drawn_anew(tmp_path: Path):
    fake = Fake(devices=4, rounds=2, every=1, state="running")
    write_fake_run(tmp_path, "live", fake)
    client = TestClient(make_app(tmp_path), base_url="http://localhost")
    first = client.get("/state?run=live&version=").json()
    again = client.get(f"/state?run=live&version={first['version']}").json()
    assert first["last_round"] == 2 and "live" in first and "live" not in again
    before = client.get("/figure?run=live&name=loss").json()
    write_next_round(tmp_path / "live", fake)
    third = client.get(f"/state?run=live&version={first['version']}").json()
    after = client.get("/figure?run=live&name=loss").json()
    assert third["last_round"] == 3 and third["version"] != first["version"]
    assert len(before["data"][0]["x"]["bdata"]) <= len(after["data"][0]["x"]["bdata"]) and before != after


def test_a_figure_is_drawn_once_while_the_records_stay_the_same(client: TestClient, monkeypatch):
    from dfl_ray.dashboard import figures

    drawn: list[str] = []
    monkeypatch.setattr(
        figures, "draw", lambda name, runs, **more: drawn.append(name) or draw(name, runs, **more)
    )
    for _ in range(3):
        client.get("/figure?run=one&name=schedule&round=1")
    assert drawn == ["schedule"]


def test_what_is_kept_has_a_bound():
    kept: Kept[bytes] = Kept(10, len)
    for key in range(5):
        kept.put(key, b"1234")
    assert [kept.get(key) for key in range(5)] == [None, None, None, b"1234", b"1234"]


def test_the_port_is_local_and_a_taken_one_is_refused(tmp_path: Path, capsys):
    with open_socket(0) as opened:
        address, port = opened.getsockname()
        assert address == "127.0.0.1"
        socket.create_connection((address, port), timeout=5).close()  # before a server runs
        with pytest.raises(InputError, match="--port"):
            open_socket(port)
    assert main(["dashboard", str(tmp_path / "none")]) == 2
    assert main(["dashboard", str(tmp_path), "--port", "70000"]) == 2
    assert "--port" in capsys.readouterr().err


@pytest.mark.parametrize("name", DEVICE_FIGURES)
def test_every_figure_of_a_device_is_drawn_and_names_its_device(run: Run, name: str):
    picture = draw(name, [run], device=3)
    assert picture.data and "3" in picture.layout.title.text


def test_the_times_of_a_device_add_up_to_the_rounds(run: Run):
    table = device_times(run, 2)
    rounds = run.rounds
    length = np.diff(rounds["simulated_s"], prepend=0.0)
    np.testing.assert_allclose(table[["compute_s", "send_s", "wait_s"]].sum(axis=1), length)
    air = run.attempts[(run.attempts["source"] == 2) & (run.attempts["round"] == 1)]
    grid = np.linspace(0, air["end_s"].max(), 200_001)
    busy = np.zeros(len(grid), bool)
    for row in air.itertuples():
        busy |= (grid >= row.start_s) & (grid < row.end_s)
    sent = busy.mean() * air["end_s"].max()
    assert table["send_s"][0] == pytest.approx(min(sent, length[0] - table["compute_s"][0]), rel=1e-3)


def test_the_age_of_what_a_device_holds_counts_from_its_arrival(tmp_path: Path):
    # With six tasks some links join devices without a common task: these carry experts.
    run = load_run(write_fake_run(tmp_path, "six", Fake(devices=12, rounds=3, every=3)))
    rows = run.transfers
    receivers = rows["receiver"][rows["delivered"] & (rows["kind"] == "expert")]
    device = int(receivers.iloc[0])
    found = received_models(run, device).set_index("what")
    own = {name for name in found.index if name.endswith("(own)")}
    arrived = rows[rows["delivered"] & (rows["receiver"] == device) & (rows["kind"] == "expert")]
    newest = arrived.groupby("task")["round"].max()
    assert set(found.index) - own == set(newest.index) and len(own) == 2
    for task in newest.index:
        assert found["age_rounds"][task] == run.last_round - newest[task]
    assert (found.loc[list(own), "age_rounds"] == 0).all()


def test_a_device_shows_which_experts_it_held_at_the_last_evaluation_and_their_age(run: Run):
    six = draw("device_experts", [load_run(run.path.parent / "sweep/two")], device=0)
    words = dict(zip(six.data[0].y, six.data[0].text, strict=True))
    assert words == {
        "parity (own)": "its own", "lookup (own)": "its own", "agree": "0, from device 2", "sum": "0, from device 3",
        "reverse": "0, from device 0", "topic": "none has arrived",
    }  # fmt: skip


def test_without_experts_the_adapters_of_the_senders_are_listed(run: Run):
    rows = run.transfers
    arrived = rows[rows["delivered"] & (rows["receiver"] == 1)]
    newest = arrived.groupby("origin")["round"].max()
    found = received_models(run, 1)
    others = found[found["origin"] != 1].set_index("origin")["round"]
    assert others.to_dict() == newest.to_dict() and set(arrived["kind"]) == {"adapter"}


def test_a_device_that_only_sketches_have_reached_is_drawn(run: Run, monkeypatch: pytest.MonkeyPatch):
    of_device = Run.of_device

    def sketches_only(self: Run, name: str, *rest: Any, **more: Any) -> pd.DataFrame:
        rows = of_device(self, name, *rest, **more)
        return rows.assign(kind="sketch") if name == "transfers" else rows.iloc[:0]

    monkeypatch.setattr(Run, "of_device", sketches_only)
    found = received_models(run, 1)
    assert (found["origin"] == 1).all()  # its own alone
    assert len(draw("device_experts", [run], device=1).data)


@pytest.mark.parametrize(
    ("page", "query"),
    [
        ("/run?run=one", "run=one"),
        ("/device?run=one&device=3", "run=one&device=3"),
        ("/compare?run=one&run=sweep/two", "run=one&run=sweep/two"),
    ],
)
def test_what_is_seen_first_is_drawn_before_it_is_asked_for(root: Path, monkeypatch, page: str, query: str):
    drawn: list[str] = []

    def watched(name: str, *args, **named):
        drawn.append(name)
        return draw(name, *args, **named)

    monkeypatch.setattr("dfl_ray.dashboard.figures.draw", watched)
    client = TestClient(make_app(root), base_url="http://127.0.0.1:8700")
    text = client.get(page).text
    client.get("/state?run=one&version=")  # waits for what was begun before
    firsts = re.findall(r'data-name="([a-z_]+)"', text)[:2]
    assert drawn == firsts
    for name in firsts:
        assert client.get(f"/figure?name={name}&{query}").status_code == 200
    assert drawn == firsts


def test_what_cannot_be_made_ahead_is_left_to_whoever_asks():
    made: list[int] = []
    ahead = Ahead()
    ahead.settle()
    ahead.make(lambda: 1 // 0, lambda: made.append(1))
    ahead.settle()
    assert made == [1]


def test_what_has_ended_is_read_once_however_many_runs_there_are(tmp_path: Path, monkeypatch):
    first = write_fake_run(tmp_path, "run-0", Fake(devices=2, rounds=1, every=1))
    for number in range(1, 30):
        shutil.copytree(first, tmp_path / f"run-{number}")
    asked: list[Path] = []
    monkeypatch.setattr("dfl_ray.dashboard.library.FEWEST_STATES", 4)
    monkeypatch.setattr(
        "dfl_ray.dashboard.library.run_state", lambda path: asked.append(path) or run_state(path)
    )
    library = Library(tmp_path)
    opened = [library.run(name) for name in sorted(library.ids())]
    assert all(library.run(name) is run for name, run in zip(sorted(library.ids()), opened, strict=True))
    tables = [runs_table(library) for _ in range(2)]
    assert tables[0] == tables[1] and len(asked) == 30


def test_the_configuration_of_a_running_run_is_read_again_only_when_it_has_changed(
    tmp_path: Path, monkeypatch
):
    path = write_fake_run(tmp_path, "one", Fake(devices=2, rounds=1, every=1, state="running"))
    parsed: list[str] = []
    monkeypatch.setattr("dfl_ray.config.yamlio.parse", lambda text: parsed.append(text) or parse(text))
    assert [run_state(path).devices for _ in range(3)] == [2, 2, 2] and len(parsed) == 1
    file = path / "config.yaml"
    file.write_text(file.read_text().replace("count: 2", "count: 20"))
    assert run_state(path).devices == 20
