"""What actors tell of calls that take minutes, without Ray's processes."""

from __future__ import annotations

import subprocess
import sys

import pytest
from ray.experimental import internal_kv

from actors.progress import Teller, Told, forget, read_told, together


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Ray's key-value store."""
    kept: dict[str, bytes] = {}

    def put(key: str, value: str, *, namespace: str) -> None:
        kept[key] = value.encode()

    def delete(key: str, *, del_by_prefix: bool, namespace: str) -> None:
        for name in [n for n in kept if n.startswith(key)]:
            del kept[name]

    monkeypatch.setattr(internal_kv, "_internal_kv_put", put)
    monkeypatch.setattr(internal_kv, "_internal_kv_get", lambda key, namespace: kept.get(key))
    monkeypatch.setattr(internal_kv, "_internal_kv_del", delete)
    return kept


def test_an_actor_tells_at_most_every_other_second(store: dict[str, bytes]) -> None:
    now = [10.0]
    teller = Teller("run/0", lambda: now[0])
    for at, done in ((10.0, 0), (11.0, 1), (12.5, 2), (13.0, 3)):
        now[0] = at
        teller(done, 9)
    assert store == {"run/0": b"2 9"} and read_told("run/0") == Told(2, 9)
    assert read_told("run/1") is None
    store["other/0"] = b"1 2"
    forget("run/")
    assert store == {"other/0": b"1 2"}


def test_a_store_out_of_reach_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object, **__: object) -> None:
        raise RuntimeError("no connection")

    for name in ("put", "get", "del"):
        monkeypatch.setattr(internal_kv, f"_internal_kv_{name}", gone)
    Teller("run/0")(1, 2)
    assert read_told("run/0") is None
    forget("run/")


def test_the_fork_server_imports_actors_without_ray() -> None:
    """Ray reads how it authenticates when it is imported, and a worker's environment comes later."""
    code = "import sys, actors.device, actors.channel; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0


@pytest.mark.parametrize(
    ("told", "answered", "found"),
    [
        ([None, None], 1, (1, 3)),
        ([Told(30, 100), Told(50, 100)], 0, (80, 200)),
        ([Told(30, 100), None], 2, (230, 400)),
        ([], 3, (3, 3)),
    ],
)
def test_several_actors_together(told, answered, found) -> None:
    assert together(told, answered) == found
